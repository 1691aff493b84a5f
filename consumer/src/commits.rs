//! How what is done becomes committed: regularly without waiting, and with waiting where the next step depends on it.
//!
//! rdkafka's asynchronous commit never calls back (librdkafka answers it only through `offset_commit_cb`, which rdkafka
//! does not set), so nobody would learn that one failed. Here a thread of its own makes synchronous ones, one at a
//! time: every commit is answered, and none overtakes another.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::assignment::Assignment;
use crate::config::{Delivery, Subscription};
use crate::done_map::kept_by_sink;
use crate::metrics::ConsumerMetrics;
use crate::offsets::Commit;
use crate::rebalance::GroupContext;

/// Between two commits of what was done. A crash repeats what was done since the last one that the broker took, and what is in
/// flight: in quiet times that much; longer where a commit is awaited, at most `socket.timeout.ms`, or a partition is drained. A
/// member costs the broker at most five writes a second.
const COMMIT_INTERVAL: Duration = Duration::from_millis(200);

/// Partitions and the offsets to commit.
type Offsets = Vec<(i32, Commit)>;

/// The group's commits.
pub struct Commits {
    delivery: Delivery,
    metrics: ConsumerMetrics,
    group: String,
    requests: Sender<Offsets>,
    answers: Receiver<Answer>,
    thread: JoinHandle<()>,
    asked: Option<Instant>,
    awaited: bool,
}

struct Answer {
    offsets: Offsets,
    result: KafkaResult<()>,
    took: Duration,
}

/// A commit that the broker did not take, or did not say so. It is counted and logged already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotCommitted;

impl Commits {
    /// Starts the thread that commits for `consumer`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(
        consumer: Arc<BaseConsumer<GroupContext>>,
        subscription: &Subscription,
        metrics: ConsumerMetrics,
    ) -> std::io::Result<Self> {
        let (requests, requested) = channel::<Offsets>();
        let (answered, answers) = channel();
        let (topic, delivery) = (subscription.topic.clone(), subscription.delivery);
        let thread = thread::Builder::new().name("commits".to_owned()).spawn(move || {
            for offsets in requested {
                let asked = Instant::now();
                let result = commit(&consumer, &topic, delivery, &offsets);
                if answered.send(Answer { offsets, result, took: asked.elapsed() }).is_err() {
                    break;
                }
            }
        })?;
        let (delivery, group) = (subscription.delivery, subscription.group.clone());
        Ok(Self { delivery, metrics, group, requests, answers, thread, asked: None, awaited: false })
    }

    /// Asks for a commit of what was done since the last time, if it is time. At most once has nothing to do here: it
    /// commits before it delivers, batch by batch.
    pub fn progress(&mut self, assignment: &mut Assignment) {
        if let Ok(answer) = self.answers.try_recv() {
            // The one before is the one awaited; whether it failed, the next look at what is not committed shows.
            let _ = self.apply(answer, assignment);
        }
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= COMMIT_INTERVAL);
        if self.delivery == Delivery::AtMostOnce || self.awaited || !due {
            return;
        }
        let offsets = assignment.to_commit();
        if !offsets.is_empty() {
            self.ask(offsets);
        }
    }

    /// Commits `offsets` and waits for the answer, at most about `socket.timeout.ms`, or twice that where another
    /// commit is under way.
    ///
    /// # Errors
    /// [`NotCommitted`].
    pub fn now(&mut self, offsets: Offsets, assignment: &mut Assignment) -> Result<(), NotCommitted> {
        self.settle(assignment);
        self.ask(offsets);
        let answer = self.answers.recv().map_err(|_ended| NotCommitted)?;
        self.apply(answer, assignment)
    }

    /// Waits for the answer to the commit under way, if there is one: whoever is about to forget a partition must not
    /// take that answer for one about its successor.
    pub fn settle(&mut self, assignment: &mut Assignment) {
        if self.awaited
            && let Ok(answer) = self.answers.recv()
        {
            let _ = self.apply(answer, assignment);
        }
    }

    /// Ends the thread, so that nobody but the caller has the consumer.
    pub fn end(self) {
        drop(self.requests);
        // It has no way to panic; if it did, the group is left all the same.
        let _ = self.thread.join();
    }

    fn ask(&mut self, offsets: Offsets) {
        self.asked = Some(Instant::now());
        self.awaited = self.requests.send(offsets).is_ok();
    }

    fn apply(&mut self, answer: Answer, assignment: &mut Assignment) -> Result<(), NotCommitted> {
        let Answer { offsets, result, took } = answer;
        self.awaited = false;
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        match result {
            Ok(()) => {
                offsets.iter().for_each(|(partition, commit)| assignment.committed(*partition, commit));
                Ok(())
            }
            Err(error) => {
                self.failed(&error);
                Err(NotCommitted)
            }
        }
    }

    fn failed(&self, error: &KafkaError) {
        self.metrics.commit_errors.inc();
        tracing::warn!(group = self.group, %error, "commit failed; the next one covers it");
    }
}

/// Brokers may be told to keep less metadata than what is said here (`offset.metadata.max.bytes`): then the offset alone is
/// committed, and what is done beyond it may be repeated.
fn commit(
    consumer: &BaseConsumer<GroupContext>,
    topic: &str,
    delivery: Delivery,
    offsets: &Offsets,
) -> KafkaResult<()> {
    let full = |commit: &Commit| match delivery {
        Delivery::ExactlyOnce => kept_by_sink(&commit.metadata),
        Delivery::AtMostOnce | Delivery::AtLeastOnce => commit.metadata.clone(),
    };
    let committed = consumer.commit(&list(topic, offsets, full)?, CommitMode::Sync);
    match committed.as_ref().map_err(KafkaError::rdkafka_error_code) {
        Err(Some(RDKafkaErrorCode::OffsetMetadataTooLarge)) => {
            tracing::debug!("the broker keeps less metadata than what is done beyond the watermark");
            let short = |_: &Commit| match delivery {
                Delivery::ExactlyOnce => kept_by_sink(""),
                Delivery::AtMostOnce | Delivery::AtLeastOnce => String::new(),
            };
            consumer.commit(&list(topic, offsets, short)?, CommitMode::Sync)
        }
        Ok(()) | Err(_) => committed,
    }
}

fn list(
    topic: &str,
    offsets: &[(i32, Commit)],
    metadata: impl Fn(&Commit) -> String,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (partition, commit) in offsets {
        let mut element = list.add_partition(topic, *partition);
        element.set_offset(Offset::Offset(commit.offset))?;
        let metadata = metadata(commit);
        if !metadata.is_empty() {
            element.set_metadata(metadata);
        }
    }
    Ok(list)
}
