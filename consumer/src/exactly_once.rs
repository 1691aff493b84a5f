//! Exactly once: one assigned partition's worker. The sink applies a batch and moves the group's place in one step, and only for
//! who claimed the partition last.
//!
//! So nothing depends on when offsets are committed to Kafka, and a member that was frozen, cut off or merely slow can't apply
//! anything after its partition went to another one: its claim no longer holds.

use std::collections::VecDeque;
use std::time::Duration;

use order_events::OrderId;

use crate::breaker::Changes;
use crate::dead_letter::Cause;
use crate::deliver::{follows, refused, undecodable};
use crate::done_map::Runs;
use crate::record::Record;
use crate::serial::{Serial, Stopped};
use crate::sink::{Applied, Claimed, Decoded, SinkError};
use crate::versions::{Seen, Versions};
use crate::worker::Report;

/// A member whose claim was taken has usually lost the partition, and hears of it when it next talks with the group: within the
/// session's timeout. If it still has the partition after this, it is not the group that took it, and it joins anew.
const LOSS_IS_HEARD_WITHIN: Duration = Duration::from_secs(20);

/// The worker of one lease of an exactly-once group.
pub struct ExactlyOnce {
    serial: Serial,
    /// Its right to the partition, and the place from which the next batch moves it.
    claimed: Claimed,
    /// The log was made anew, and where the place is from the old one is yet to be found out.
    is_log_new: bool,
    /// What the group had done under another guarantee. It is not read, so the place moves over it with what comes before it.
    done: Runs,
    versions: Versions,
}

/// Why it goes no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// It was told to stop.
    Stopped,
    /// Somebody else claimed the partition.
    Fenced,
    /// The claim holds, but the place is here, where this member did not leave it: the sink has lost something, or a call that
    /// was given up was carried out all the same.
    Elsewhere(i64),
}

/// What comes first of a batch.
enum First {
    /// Events for the sink.
    Events(Vec<Decoded>),
    /// A record for the dead-letter topic.
    Dead(Dead),
    /// An event that was delivered before.
    Repeated(Record),
}

struct Dead {
    record: Record,
    cause: Cause,
    /// The event in it, by its order and version.
    event: Option<(OrderId, i64)>,
}

impl Dead {
    fn of(Decoded { record, event }: &Decoded, cause: Cause) -> Self {
        Self { record: record.clone(), cause, event: Some((event.order_id, event.version)) }
    }
}

impl From<Stopped> for End {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl ExactlyOnce {
    /// A worker whose right is `claimed`, in a log that may have been made anew since, and of which so much is done.
    #[must_use]
    pub fn new(serial: Serial, claimed: Claimed, is_log_new: bool, done: Runs) -> Self {
        Self { serial, claimed, is_log_new, done, versions: Versions::default() }
    }

    /// Works until the queue is closed, `stop` is cancelled or the claim is lost.
    pub async fn run(mut self) {
        let mut changes = self.serial.deliverer.breaker.changes();
        let mut end = Ok(());
        while end.is_ok()
            && let Some(first) = self.serial.next_record().await
        {
            // A log that begins before the place is another one, about whose records nothing is known.
            if first.offset < self.claimed.place {
                self.done = Runs::default();
            }
            let batch = self.serial.fill(first);
            end = self.work(batch.into(), &mut changes).await;
        }
        match end {
            Err(End::Fenced) => self.hear_of_the_loss().await,
            Err(End::Elsewhere(place)) => self.begin_anew(place).await,
            Err(End::Stopped) | Ok(()) => {}
        }
    }

    async fn work(&mut self, mut batch: VecDeque<Record>, changes: &mut Changes) -> Result<(), End> {
        while let Some(first) = self.take_first(&mut batch) {
            match first {
                First::Events(events) => self.offer(events, changes).await?,
                First::Dead(dead) => self.bury(&dead, changes).await?,
                First::Repeated(record) => {
                    self.serial.deliverer.metrics.repeated.inc();
                    self.pass_over(&record, changes).await?;
                }
            }
        }
        Ok(())
    }

    /// The events that come first; or, if none does, what does.
    fn take_first(&self, batch: &mut VecDeque<Record>) -> Option<First> {
        let mut events = Vec::new();
        while let Some(record) = batch.pop_front() {
            match self.look(record, &events) {
                First::Events(event) => events.extend(event),
                other if events.is_empty() => return Some(other),
                First::Dead(Dead { record, .. }) | First::Repeated(record) => {
                    batch.push_front(record);
                    break;
                }
            }
        }
        (!events.is_empty()).then_some(First::Events(events))
    }

    fn look(&self, record: Record, before: &[Decoded]) -> First {
        let event = match record.decode() {
            Ok(event) => event,
            Err(error) => return First::Dead(Dead { cause: undecodable(&error), record, event: None }),
        };
        let is_stuck =
            record.key.as_ref().is_some_and(|key| self.serial.deliverer.stuck.keys().contains(key));
        let is_again = |Decoded { event: earlier, .. }: &Decoded| {
            earlier.order_id == event.order_id && earlier.version >= event.version
        };
        if self.versions.look(event.order_id, event.version) == Seen::Repeated || before.iter().any(is_again)
        {
            return First::Repeated(record);
        }
        let decoded = Decoded { record, event };
        if is_stuck { First::Dead(Dead::of(&decoded, follows())) } else { First::Events(vec![decoded]) }
    }

    /// Together, and where the sink refuses them so, one by one: only the bad one is affected.
    async fn offer(&mut self, events: Vec<Decoded>, changes: &mut Changes) -> Result<(), End> {
        let Err(error) = self.apply(&events, changes).await? else { return Ok(()) };
        if events.len() == 1 {
            return self.offer_again(&events, error, changes).await;
        }
        for event in events.chunks(1) {
            let key = event[0].record.key.as_ref();
            if key.is_some_and(|key| self.serial.deliverer.stuck.keys().contains(key)) {
                self.bury(&Dead::of(&event[0], follows()), changes).await?;
            } else if let Err(error) = self.apply(event, changes).await? {
                self.offer_again(event, error, changes).await?;
            }
        }
        Ok(())
    }

    /// An event that was refused once: until it is taken, or its attempts are spent.
    async fn offer_again(
        &mut self,
        event: &[Decoded],
        mut error: SinkError,
        changes: &mut Changes,
    ) -> Result<(), End> {
        let mut refusals = 0;
        while refusals + 1 < self.serial.deliverer.retry.max_attempts {
            self.serial.pause(&mut refusals).await?;
            match self.apply(event, changes).await? {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        let Some(event) = event.first() else { return Ok(()) };
        self.bury(&Dead::of(event, refused(&error)), changes).await
    }

    /// First the letter, then the place: a crash between the two writes the letter again, and loses nothing. Before both, whether
    /// the claim still holds: who has lost it writes no letter of what another deals with.
    async fn bury(&mut self, dead: &Dead, changes: &mut Changes) -> Result<(), End> {
        self.move_alone(&dead.record, None, changes).await?;
        self.serial.bury(&dead.record, &dead.cause).await?;
        if let Some((order, _)) = dead.event {
            self.versions.forget(order);
        }
        self.pass_over(&dead.record, changes).await
    }

    async fn pass_over(&mut self, record: &Record, changes: &mut Changes) -> Result<(), End> {
        let until = self.done.first_open(record.offset + 1);
        self.move_alone(record, Some(until), changes).await?;
        self.serial.reporter.done(vec![record.offset]);
        Ok(())
    }

    /// Because of `record`, without its event.
    async fn move_alone(
        &mut self,
        record: &Record,
        until: Option<i64>,
        changes: &mut Changes,
    ) -> Result<(), End> {
        let mut refused = 0;
        while let Err(error) = self.advance(&[], until, changes).await? {
            tracing::warn!(
                partition = record.partition, offset = record.offset, %error,
                "the sink refuses to move the place alone; trying again"
            );
            self.serial.pause(&mut refused).await?;
        }
        Ok(())
    }

    /// `Ok(Err)` where the sink refuses the events.
    async fn apply(
        &mut self,
        events: &[Decoded],
        changes: &mut Changes,
    ) -> Result<Result<(), SinkError>, End> {
        let Some(last) = events.last() else { return Ok(Ok(())) };
        let until = self.done.first_open(last.record.offset + 1);
        if let Err(error) = self.advance(events, Some(until), changes).await? {
            return Ok(Err(error));
        }
        for Decoded { record, event } in events {
            let version = (event.order_id, event.version);
            self.serial.deliverer.count_missing(&self.versions, record.partition, version);
            self.versions.record(event.order_id, event.version);
        }
        self.serial.report_done(events);
        Ok(Ok(()))
    }

    /// Moves the place to `until`, or to where it is: then it only asks whether the claim holds. Stays on it while the sink is
    /// down. An answer that was lost shows in the place: it is where this call would move it. A place that is anywhere else is
    /// not gone on from: what lies between it and the events in hand would never be applied, or be applied again.
    async fn advance(
        &mut self,
        events: &[Decoded],
        until: Option<i64>,
        changes: &mut Changes,
    ) -> Result<Result<(), SinkError>, End> {
        let mut failed = 0;
        loop {
            let until = until.unwrap_or(self.claimed.place);
            let permit = self.serial.permit(changes).await?;
            match self.serial.deliverer.apply(&self.claimed, events, until, permit).await {
                Ok(Applied::Moved) => {}
                Ok(Applied::Found(place)) if place == until => {}
                // Where the worker of the old log left it: it moves from there into the new one.
                Ok(Applied::Found(place)) if std::mem::take(&mut self.is_log_new) => {
                    self.claimed.place = place;
                    continue;
                }
                Ok(Applied::Found(place)) => return Err(End::Elsewhere(place)),
                Ok(Applied::Fenced) => return Err(End::Fenced),
                Err(error @ SinkError::Rejected { .. }) => return Ok(Err(error)),
                Err(SinkError::Unavailable { .. }) => {
                    self.serial.pause(&mut failed).await?;
                    continue;
                }
            }
            self.claimed.place = until;
            self.is_log_new = false;
            return Ok(Ok(()));
        }
    }

    /// The partition is claimed again, and read from where the place is.
    async fn begin_anew(&self, place: i64) {
        let Serial { reporter, deliverer, stop, .. } = &self.serial;
        deliverer.metrics.place_jumps.inc();
        tracing::warn!(
            partition = reporter.lease.partition,
            place,
            left_at = self.claimed.place,
            "the sink's place is not where this member left it; reading again from there"
        );
        reporter.send(Report::Fenced { lease: reporter.lease });
        stop.cancelled().await;
    }

    async fn hear_of_the_loss(&self) {
        let Serial { reporter, deliverer, stop, .. } = &self.serial;
        deliverer.metrics.fenced.inc();
        tracing::warn!(
            partition = reporter.lease.partition,
            "somebody else claimed the partition at the sink; nothing more is applied here"
        );
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOSS_IS_HEARD_WITHIN) => {}
        }
        reporter.send(Report::Fenced { lease: reporter.lease });
        stop.cancelled().await;
    }
}

#[cfg(test)]
mod tests;
