//! The consumer loop: one thread that owns the Kafka client, its offsets and the assignment.

mod release;
mod reports;

use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use runtime::health::Health;
use runtime::shutdown::CancellationToken;

use crate::assignment::{Assignment, Dispatched};
use crate::config::{Delivery, Subscription};
use crate::connection::Connection;
use crate::dead_letter::tail::Tail;
use crate::member::{Member, MemberError};
use crate::metrics::{ConsumerMetrics, gauge};
use crate::offsets::Commit;
use crate::oldest::Oldest;
use crate::rebalance::Change;
use crate::record::Record;
use crate::start_offsets::{Claimant, Place, StartError, starting_at};
use crate::worker::Report;

/// Name of the loop's heartbeat.
pub const HEARTBEAT: &str = "poll loop";
/// The loop goes round within this. The longest step is a commit that waits for a broker that does not answer
/// (`socket.timeout.ms`, three times); draining and claiming beat by themselves.
pub(crate) const HEARTBEAT_BOUND: Duration = Duration::from_secs(60);
/// Longest wait for something to happen: how late a stop signal may be seen.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// Events of the group, records of a partition, and reports, taken in a row before the loop looks at everything else.
const BURST: usize = 500;
/// Between two tries of a last commit, or of an answer to a rebalance.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What the loop works with.
pub struct PollLoop {
    /// The group's member.
    pub member: Member,
    /// What it knows of the dead-letter topic.
    pub tail: Tail,
    /// Who it is.
    pub subscription: Subscription,
    /// Whom it asks for places that the sink keeps.
    pub claimant: Claimant,
    /// Whether somebody who is not of the group has claimed a partition at the sink.
    pub fenced: bool,
    /// What it has.
    pub assignment: Assignment,
    /// What of that stands still.
    pub oldest: Oldest,
    /// What workers tell.
    pub reports: Receiver<Report>,
    /// What is known of the connection.
    pub connection: Connection,
    /// Where the loop shows that it lives.
    pub health: Health,
    /// Where it counts.
    pub metrics: ConsumerMetrics,
    /// When to stop.
    pub shutdown: CancellationToken,
    /// How long draining may take after that.
    pub shutdown_drain: Duration,
    /// How long a partition that goes to another member may finish what it has in hand.
    pub revoke_drain: Duration,
}

/// Why the loop ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// librdkafka gave the client up.
    #[error("failed to poll: the client can't go on")]
    Fatal(#[source] KafkaError),
    /// The member heard of no broker, and there is none to take its place.
    #[error("failed to replace the group's member")]
    Replace(#[source] MemberError),
    /// The reader of dead letters could not be made anew.
    #[error("failed to replace the reader of dead letters")]
    Tail(#[source] KafkaError),
    /// A rebalance could not be answered.
    #[error("failed to change the assignment")]
    Assign(#[source] KafkaError),
    /// A worker ended by a defect. The process ends too: going on would leave its partition behind unnoticed.
    #[error("failed to work on partition {partition}: its worker ended (panicked: {panicked})")]
    Worker {
        /// Which.
        partition: i32,
        /// Whether it panicked.
        panicked: bool,
    },
}

impl PollLoop {
    /// Consumes until the stop signal, then drains, commits and leaves the group.
    ///
    /// # Errors
    /// [`PollError`]; the group is left then too, and what is not committed is repeated by who takes over.
    pub fn run(mut self) -> Result<(), PollError> {
        let outcome = self.consume().and_then(|()| self.drain_all());
        self.leave();
        outcome
    }

    fn consume(&mut self) -> Result<(), PollError> {
        let mut is_more = true;
        while !self.shutdown.is_cancelled() {
            self.health.beat(HEARTBEAT, HEARTBEAT_BOUND);
            let first = self.wait(is_more);
            self.apply_reports(first)?;
            self.poll_group()?;
            self.answer_rebalances()?;
            is_more = self.take_records()?;
            self.follow_dead_letters()?;
            self.member.commits.progress(&mut self.assignment);
            self.connection.probe(&self.member.client);
            self.replace_member_in_vain()?;
            self.show();
        }
        Ok(())
    }

    fn answer_rebalances(&mut self) -> Result<(), PollError> {
        while let Some(change) = self.member.client.context().next_change() {
            match change {
                Change::Assign(list) => {
                    if !self.assign(&list)? {
                        // The group waits; so do we, but alive.
                        self.member.client.context().put_back(Change::Assign(list));
                        thread::sleep(RETRY_PAUSE);
                        return Ok(());
                    }
                }
                Change::Revoke(list) => self.revoke(&list)?,
                Change::Lost(list) => self.lose(&list)?,
            }
        }
        Ok(())
    }

    /// `false` when it is not known yet where to start, or which keys are stuck.
    fn assign(&mut self, list: &TopicPartitionList) -> Result<bool, PollError> {
        // Nothing of what comes first is worth doing again and again while the sink is down.
        if self.subscription.delivery == Delivery::ExactlyOnce && list.count() > 0 && !self.claimant.may_ask()
        {
            self.connection.waits("the sink is down");
            return Ok(false);
        }
        if list.count() > 0 && self.subscription.delivery != Delivery::AtMostOnce {
            match self.tail.catch_up() {
                Ok(true) => {}
                Ok(false) => {
                    self.connection.waits("the dead-letter topic is not read to its end");
                    return Ok(false);
                }
                Err(error) => {
                    self.connection.waits(&format!("the dead-letter topic can't be read: {error}"));
                    self.connection.poll_failed(&error);
                    return Ok(false);
                }
            }
        }
        let places = match starting_at(&self.member.client, &self.subscription, &self.claimant, list) {
            Ok(places) => places,
            Err(StartError::Kafka(error)) => {
                self.connection.poll_failed(&error);
                return Ok(false);
            }
            Err(error) => {
                self.connection.waits(&format!("{:#}", anyhow::Error::from(error)));
                return Ok(false);
            }
        };
        self.connection.waits_no_more();
        let list = self.starting_list(&places).map_err(PollError::Assign)?;
        let partitions = partitions(&list);
        for partition in &partitions {
            self.member.queues.split(&self.member.client, *partition);
        }
        self.member.client.incremental_assign(&list).map_err(PollError::Assign)?;
        for Place { partition, start, guarantee, .. } in places {
            self.assignment.assign(partition, start, guarantee);
        }
        tracing::info!(group = self.subscription.group, ?partitions, "partitions assigned");
        Ok(true)
    }

    fn starting_list(&self, places: &[Place]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(places.len());
        for Place { partition, from, .. } in places {
            list.add_partition_offset(&self.subscription.topic, *partition, *from)?;
        }
        Ok(list)
    }

    /// Serves what concerns the whole group: rebalances, which are written down, and troubles of the connection. Tells the
    /// brokers, too, that this member is alive (`max.poll.interval.ms`).
    fn poll_group(&mut self) -> Result<(), PollError> {
        for _ in 0..BURST {
            match self.member.client.poll(Duration::ZERO) {
                None => return Ok(()),
                // Records have queues of their own. One that comes here all the same is nobody's to drop.
                Some(Ok(message)) => {
                    let record = Record::copied_from(&message);
                    drop(message);
                    self.dispatch(record);
                }
                Some(Err(error)) => self.failed(error)?,
            }
        }
        Ok(())
    }

    /// Hands what the brokers sent to the workers that have room. Returns whether more may be there for one that has.
    fn take_records(&mut self) -> Result<bool, PollError> {
        let mut is_more = false;
        for partition in self.assignment.owned() {
            is_more |= self.take_records_of(partition)?;
        }
        Ok(is_more)
    }

    fn take_records_of(&mut self, partition: i32) -> Result<bool, PollError> {
        for _ in 0..BURST {
            if !self.assignment.has_room(partition) {
                return Ok(false);
            }
            match self.member.queues.next(partition) {
                None => return Ok(false),
                Some(Ok(record)) => self.dispatch(record),
                Some(Err(error)) => self.failed(error)?,
            }
        }
        Ok(true)
    }

    fn failed(&mut self, error: KafkaError) -> Result<(), PollError> {
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(PollError::Fatal(error));
        }
        self.connection.poll_failed(&error);
        Ok(())
    }

    fn dispatch(&mut self, record: Record) {
        let (partition, offset) = (record.partition, record.offset);
        match self.assignment.dispatch(record) {
            Dispatched::Taken | Dispatched::NotOurs => {}
            Dispatched::Done => {
                self.metrics.already_done.inc();
            }
            Dispatched::Rewound(record) => {
                // The broker has another log than before: the topic was made anew, or truncated by a leader that
                // lacked its end. What it holds now is read from where it begins, not taken for a repetition.
                tracing::warn!(
                    partition,
                    offset,
                    "the log starts again before what was read; starting with it"
                );
                self.member.commits.settle(&mut self.assignment);
                let undone = self.assignment.restart(partition);
                self.count_lost(partition, undone);
                self.assignment.dispatch(*record);
            }
        }
    }

    /// As partitions are lost: what is in flight is repeated.
    fn replace_member_in_vain(&mut self) -> Result<(), PollError> {
        let is_fenced = std::mem::take(&mut self.fenced);
        if !self.connection.is_deaf() && !is_fenced {
            return Ok(());
        }
        // Either is logged already; silence repeats this for as long as it lasts.
        tracing::debug!(group = self.subscription.group, is_fenced, "going on with a new client");
        let owned = self.assignment.owned();
        self.assignment.stop(&owned);
        self.forget(&owned);
        self.connection.replaced();
        self.tail.replace().map_err(PollError::Tail)?;
        self.member.replace().map_err(PollError::Replace)
    }

    fn follow_dead_letters(&mut self) -> Result<(), PollError> {
        if self.subscription.delivery == Delivery::AtMostOnce {
            return Ok(());
        }
        self.tail.follow().map_err(PollError::Tail)
    }

    fn show(&mut self) {
        self.metrics.stuck_keys.set(gauge(self.tail.stuck_keys()));
        self.metrics.in_flight.set(gauge(self.assignment.undone()));
        self.metrics.assigned_partitions.set(gauge(self.assignment.owned().len()));
        let now = Instant::now();
        if self.oldest.is_due(now) {
            let time = self.oldest.look(self.assignment.oldest(), now);
            self.metrics.oldest_in_hand_seconds.set(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        }
    }

    fn commit_now(&mut self, offsets: &[(i32, Commit)]) -> bool {
        self.member.commits.now(offsets.to_vec(), &mut self.assignment).is_ok()
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}
