//! One turn of the lanes: some records of some keys, given to the sink together, and what became of each.
//!
//! Dead letters are sticky: once a record of a key is in the dead-letter topic, the later ones follow it there, so that replaying
//! them gives the sink the key's events in their order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use order_events::OrderId;
use runtime::shutdown::CancellationToken;

use crate::breaker::{LONGEST_PAUSE, Pass, Permit};
use crate::dead_letter::Cause;
use crate::dead_letter::tail::Stuck;
use crate::deliver::{Blocked, Deliverer, follows, refused, undecodable};
use crate::keys::Key;
use crate::record::Record;
use crate::sink::{Decoded, SinkError};

/// A record on its way.
#[derive(Debug)]
pub struct Work {
    content: Content,
    tries: Tries,
    /// There while the dead-letter topic does not take it.
    blocked: Option<Blocked>,
}

#[derive(Debug)]
enum Content {
    /// For the sink.
    Event(Decoded),
    /// For the dead-letter topic.
    Dead(Dead),
}

#[derive(Debug)]
struct Dead {
    record: Record,
    cause: Cause,
    /// The event that the sink refused, by its order and version.
    event: Option<(OrderId, i64)>,
}

/// How often it was tried in vain.
#[derive(Clone, Copy, Default, Debug)]
struct Tries {
    /// The sink refused it: these are its attempts.
    refused: u32,
    /// The sink or the dead-letter topic was not available.
    failed: u32,
}

/// What is dealt with: the event in it, if there is one, by its order and version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Its offset.
    pub offset: i64,
    /// What is in it, where that tells what became of its order.
    pub event: Option<(OrderId, i64)>,
    /// Whether the sink has it; if not, it is in the dead-letter topic.
    pub delivered: bool,
}

/// The part of a turn that belongs to one key.
#[derive(Debug)]
pub struct Portion {
    /// The key.
    pub key: Key,
    /// What is not done, in order.
    pub left: VecDeque<Work>,
    /// What is.
    pub done: Vec<Done>,
    /// The key goes on after this.
    pub pause: Option<Duration>,
    /// The key is in the dead-letter topic: what comes now follows.
    is_stuck: bool,
}

impl Work {
    /// A record as it was read.
    #[must_use]
    pub fn of(record: Record) -> Self {
        let content = match record.decode() {
            Ok(event) => Content::Event(Decoded { record, event }),
            Err(error) => Content::Dead(Dead { record, cause: undecodable(&error), event: None }),
        };
        Self { content, tries: Tries::default(), blocked: None }
    }

    /// What it will be when it is done.
    #[must_use]
    pub fn done(&self) -> Done {
        match &self.content {
            Content::Event(Decoded { record, event }) => {
                let event = Some((event.order_id, event.version));
                Done { offset: record.offset, event, delivered: true }
            }
            Content::Dead(dead) => Done { offset: dead.record.offset, event: dead.event, delivered: false },
        }
    }
}

impl Portion {
    /// Work of `key`, in order.
    #[must_use]
    pub fn new(key: Key, left: VecDeque<Work>, stuck: &Stuck) -> Self {
        let is_stuck = match &key {
            Key::Of(key) => stuck.keys().contains(key),
            Key::None(_) => false,
        };
        Self { key, left, done: Vec::new(), pause: None, is_stuck }
    }

    /// The events that come first, with the tries of the very first; none where it goes alone because it was refused before.
    fn take_leading(&mut self) -> (Vec<Decoded>, Tries) {
        let tries = self.left.front().map(|work| work.tries).unwrap_or_default();
        let mut leading = Vec::new();
        while tries.refused == 0
            && !self.is_stuck
            && let Some(work) = self.left.pop_front_if(|work| matches!(work.content, Content::Event(_)))
            && let Content::Event(decoded) = work.content
        {
            leading.push(decoded);
        }
        (leading, tries)
    }

    fn take_one(&mut self) -> Option<(Decoded, Tries)> {
        if self.is_stuck {
            return None;
        }
        let work = self.left.pop_front_if(|work| matches!(work.content, Content::Event(_)))?;
        match work.content {
            Content::Event(decoded) => Some((decoded, work.tries)),
            Content::Dead(_) => None,
        }
    }

    /// What comes first, if it is for the dead-letter topic.
    fn first_dead(&mut self) -> Option<&mut Work> {
        let is_stuck = self.is_stuck;
        let first = self.left.front_mut()?;
        if is_stuck && let Content::Event(Decoded { record, event }) = &first.content {
            let event = Some((event.order_id, event.version));
            first.content = Content::Dead(Dead { record: record.clone(), cause: follows(), event });
        }
        matches!(first.content, Content::Dead(_)).then_some(first)
    }

    fn give_back(&mut self, events: Vec<Decoded>, mut tries: Tries) {
        let works: Vec<Work> = events
            .into_iter()
            .map(|decoded| Work {
                content: Content::Event(decoded),
                tries: std::mem::take(&mut tries),
                blocked: None,
            })
            .collect();
        works.into_iter().rev().for_each(|work| self.left.push_front(work));
    }

    fn finish(&mut self, events: &[Decoded]) {
        self.done.extend(events.iter().map(|Decoded { record, event }| Done {
            offset: record.offset,
            event: Some((event.order_id, event.version)),
            delivered: true,
        }));
    }
}

impl Deliverer {
    /// Deals with `portions`: their first events go to the sink together, and where it refuses them so, one by one; what is no
    /// event, or was refused for good, goes to the dead-letter topic when it comes first. Whatever can't be done now is left.
    /// After `stop` it begins nothing new.
    pub async fn turn(
        &self,
        mut portions: Vec<Portion>,
        permit: Permit,
        stop: &CancellationToken,
    ) -> Vec<Portion> {
        self.offer_together(&mut portions, permit, stop).await;
        for portion in &mut portions {
            self.bury_first(portion, stop).await;
        }
        portions
    }

    async fn offer_together(&self, portions: &mut [Portion], permit: Permit, stop: &CancellationToken) {
        let (mut batch, mut parts) = (Vec::new(), Vec::new());
        for portion in portions.iter_mut() {
            let (events, tries) = portion.take_leading();
            parts.push((events.len(), tries));
            batch.extend(events);
        }
        let is_one = batch.len() == 1;
        // What was refused before goes alone, by the leave that this turn has: it may be the trial that everyone waits for.
        let (outcome, mut unused) = match batch.is_empty() {
            true => (Ok(()), Some(permit)),
            false => (self.call(&batch, permit).await, None),
        };
        let mut rest = batch.into_iter();
        for (portion, (count, mut tries)) in portions.iter_mut().zip(parts) {
            let events: Vec<Decoded> = rest.by_ref().take(count).collect();
            if events.is_empty() {
                continue;
            }
            match &outcome {
                Ok(()) => portion.finish(&events),
                Err(error @ SinkError::Rejected { .. }) if is_one => {
                    self.refuse_first(portion, events, tries, error);
                }
                // Together is not alone: nobody's attempt is spent.
                Err(SinkError::Rejected { .. }) => portion.give_back(events, tries),
                Err(SinkError::Unavailable { .. }) => {
                    portion.pause = Some(self.retry.wait(tries.failed, None).min(LONGEST_PAUSE));
                    tries.failed = tries.failed.saturating_add(1);
                    portion.give_back(events, tries);
                }
            }
        }
        for portion in portions.iter_mut().filter(|portion| portion.pause.is_none()) {
            self.offer_each(portion, &mut unused, stop).await;
        }
    }

    /// One by one: only the bad one is affected.
    async fn offer_each(&self, portion: &mut Portion, unused: &mut Option<Permit>, stop: &CancellationToken) {
        while portion.pause.is_none()
            && !stop.is_cancelled()
            && let Some((decoded, mut tries)) = portion.take_one()
        {
            let event = vec![decoded];
            let pass = unused.take().map_or_else(|| self.breaker.pass(Instant::now()), Pass::Go);
            let Pass::Go(permit) = pass else { return portion.give_back(event, tries) };
            match self.call(&event, permit).await {
                Ok(()) => portion.finish(&event),
                Err(error @ SinkError::Rejected { .. }) => {
                    self.refuse_first(portion, event, tries, &error);
                    return;
                }
                Err(SinkError::Unavailable { .. }) => {
                    portion.pause = Some(self.retry.wait(tries.failed, None).min(LONGEST_PAUSE));
                    tries.failed = tries.failed.saturating_add(1);
                    portion.give_back(event, tries);
                }
            }
        }
    }

    /// Spends an attempt of the event; the last one makes a dead letter of it.
    fn refuse_first(&self, portion: &mut Portion, event: Vec<Decoded>, mut tries: Tries, error: &SinkError) {
        tries.refused += 1;
        if tries.refused < self.retry.max_attempts {
            portion.pause = Some(self.retry.wait(tries.refused - 1, None));
            self.metrics.retries.inc();
            return portion.give_back(event, tries);
        }
        for Decoded { record, event } in event {
            let dead = Dead { record, cause: refused(error), event: Some((event.order_id, event.version)) };
            let (content, tries) = (Content::Dead(dead), Tries::default());
            portion.left.push_front(Work { content, tries, blocked: None });
        }
    }

    /// Writes to the dead-letter topic for as long as what comes first is for it.
    async fn bury_first(&self, portion: &mut Portion, stop: &CancellationToken) {
        while portion.pause.is_none()
            && !stop.is_cancelled()
            && let Some(Work { content: Content::Dead(dead), tries, blocked }) = portion.first_dead()
        {
            let Dead { record, cause, event } = dead;
            match self.bury(record, cause).await {
                Ok(()) => {
                    let done = Done { offset: record.offset, event: *event, delivered: false };
                    portion.done.push(done);
                    portion.left.pop_front();
                    portion.is_stuck = matches!(portion.key, Key::Of(_));
                }
                Err(error) => {
                    let pause = self.retry.wait(tries.failed, None);
                    tries.failed = tries.failed.saturating_add(1);
                    if blocked.is_none() {
                        *blocked = Some(Blocked::begin(&self.metrics, record, cause, error));
                    }
                    portion.pause = Some(pause);
                }
            }
        }
    }
}
