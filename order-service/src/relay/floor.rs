//! Below which id a shard need not be read: everything there was taken in hand, and nothing can appear there. Pure.
//!
//! Deleted rows stay in table and index until a vacuum may remove them, which an old snapshot anywhere can put off for
//! hours; a read from the very head walks over all of them each time. So reads begin at a floor, which is no cursor: it
//! passes an id only when no transaction can still bring a row at or below it.
//!
//! *Settled ids.* A sample reads the sequence's last id and takes a transaction id; with it comes the oldest transaction
//! still running. Let sample 1 see last id `s`, and sample 2, begun after it was answered, take transaction id `x`. Whoever
//! took an outbox id up to `s` had a transaction id by then (it holds its order's lock), so one below `x`. Once a later
//! sample sees that nothing older than `x` runs, all of these have ended: every id up to `s` is settled, for good. No clock
//! is in this, nor how long a commit may take, which no timeout of a session bounds (a commit waits for a synchronous standby
//! as long as it takes). A transaction that stays open only keeps the floor where it is.
//!
//! *Floor.* Let a read of a shard begin when `s` is settled, and `last` be the last id of its page if that was full. Of the
//! ids up to `min(s, last)`, no new row can appear; every visible one was in hand, or the read found it and it came into
//! hand, or it was below the floor before. Rows leave the hand by being deleted, or by being let go, and when one is let go
//! all floors return to zero. So, always, every row below the floor is in hand. A shard of which an order is crowded keeps
//! its floor, for rows of that order were left out; letting a parked order go returns the floors to zero.
//!
//! A failover that lost transactions breaks that proof: ids are given out again. Any failure of the database returns the floors to zero,
//! and so does a sample with a lower sequence. A row that gets the id of another order's in hand is left out of reads with it, and an
//! event of its order that came later may pass it; the delete that does not find the one in hand ([`super::acknowledge`]) returns the
//! floors to zero, too. As a net, a read from zero runs every minute.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Samples that may wait to be settled: while a transaction stays open for long, newer ones settle no more than older ones.
const MARKS: usize = 64;
/// Time from one read from the very head to the next: a net below the proof above.
const FULL_EVERY: Duration = Duration::from_secs(60);

/// What a look at sequence and transactions saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// The last outbox id that was given out.
    pub last_id: i64,
    /// A transaction id that was given out by the look itself.
    pub next_xid: i64,
    /// The oldest transaction that was running; all below it have ended.
    pub oldest_xid: i64,
}

/// Where reads begin.
#[derive(Debug)]
pub struct Floors {
    settled: i64,
    /// Ids to settle, with the transaction id below which all must have ended.
    marks: VecDeque<(i64, Option<i64>)>,
    last_seen: i64,
    floors: BTreeMap<i16, i64>,
    /// As of which letting-go of rows the floors are.
    generation: u64,
    /// Counts the returns to zero, so that a read from before one raises nothing after it.
    lowered: u64,
    full_at: Instant,
}

/// A floor to be, from before a read until after it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Start {
    /// Where the read of each shard begins.
    pub floors: Vec<i64>,
    settled: i64,
    lowered: u64,
}

impl Start {
    /// Where the read of `shard` begins, `shards` being those that are read; the end for any other.
    #[must_use]
    pub fn floor(&self, shards: &[i16], shard: i16) -> i64 {
        let position = shards.iter().position(|read| *read == shard);
        position.and_then(|position| self.floors.get(position)).copied().unwrap_or(i64::MAX)
    }
}

impl Floors {
    /// Floors at zero.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let (marks, floors) = (VecDeque::new(), BTreeMap::new());
        Self { settled: 0, marks, last_seen: 0, floors, generation: 0, lowered: 0, full_at: now + FULL_EVERY }
    }

    /// Takes a sample in; each begins after the one before was answered.
    pub fn see(&mut self, Sample { last_id, next_xid, oldest_xid }: Sample) {
        if last_id < self.last_seen {
            self.reset();
        }
        self.last_seen = last_id;
        for (_, xid) in &mut self.marks {
            xid.get_or_insert(next_xid);
        }
        while let Some((id, _)) = self.marks.pop_front_if(|(_, xid)| xid.is_some_and(|xid| xid <= oldest_xid))
        {
            self.settled = id;
        }
        if self.marks.len() < MARKS {
            self.marks.push_back((last_id, None));
        }
    }

    /// Nothing is known any more: the database failed, or is another one.
    pub fn reset(&mut self) {
        self.lower();
        self.marks.clear();
        (self.settled, self.last_seen) = (0, 0);
    }

    /// Rows that were left out may be read again.
    pub fn lower(&mut self) {
        self.floors.clear();
        self.lowered += 1;
    }

    /// Where to read `shards` from now, as of a `generation` of what is in hand.
    pub fn start(&mut self, shards: &[i16], generation: u64, now: Instant) -> Start {
        if generation != self.generation {
            self.lower();
            self.generation = generation;
        }
        let full = self.full_at <= now;
        if full {
            self.full_at = now + FULL_EVERY;
        }
        let floor = |shard| if full { 0 } else { self.floors.get(shard).copied().unwrap_or(0) };
        Start { floors: shards.iter().map(floor).collect(), settled: self.settled, lowered: self.lowered }
    }

    /// What a read from `start` found of `shard` is in hand: all of it up to and including `last`, or all there is.
    pub fn raise(&mut self, start: &Start, shard: i16, last: Option<i64>) {
        if start.lowered != self.lowered {
            return;
        }
        let floor = last.map_or(start.settled, |last| last.min(start.settled)) + 1;
        let raised = self.floors.entry(shard).or_default();
        *raised = floor.max(*raised);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(last_id: i64, next_xid: i64, oldest_xid: i64) -> Sample {
        Sample { last_id, next_xid, oldest_xid }
    }

    #[test]
    fn an_id_is_settled_once_all_who_could_have_it_have_ended() {
        let mut floors = Floors::new(Instant::now());
        floors.see(sample(10, 100, 90));
        floors.see(sample(12, 101, 101));
        assert_eq!(floors.settled, 10, "whoever had an id up to 10 had a transaction below 101");
        floors.see(sample(12, 102, 95));
        floors.see(sample(15, 103, 95));
        assert_eq!(floors.settled, 10, "95 may have 11 or 12");
        floors.see(sample(15, 110, 103));
        assert_eq!(floors.settled, 12);
    }

    fn floors_of(floors: &mut Floors, shards: &[i16], now: Instant) -> Vec<i64> {
        floors.start(shards, floors.generation, now).floors
    }

    fn settled_at_ten(now: Instant) -> Floors {
        let mut floors = Floors::new(now);
        floors.see(sample(10, 100, 100));
        floors.see(sample(10, 101, 101));
        floors
    }

    #[test]
    fn a_floor_rises_to_what_was_read_and_settled() {
        let now = Instant::now();
        let mut floors = settled_at_ten(now);
        let start = floors.start(&[0, 1], 0, now);
        assert_eq!(start.floors, [0, 0]);
        floors.raise(&start, 0, Some(7));
        floors.raise(&start, 1, None);
        assert_eq!(floors_of(&mut floors, &[0, 1, 2], now), [8, 11, 0]);
        assert_eq!(floors.start(&[0, 1], 1, now).floors, [0, 0], "rows were let go");
        floors.raise(&start, 1, None);
        assert_eq!(floors_of(&mut floors, &[1], now), [0], "that read began before");
    }

    #[test]
    fn every_minute_a_read_begins_at_the_head() {
        let now = Instant::now();
        let mut floors = settled_at_ten(now);
        let start = floors.start(&[0], 0, now);
        floors.raise(&start, 0, None);
        let found = [59, 60, 61].map(|after| floors_of(&mut floors, &[0], now + Duration::from_secs(after)));
        assert_eq!(found, [[11], [0], [11]]);
    }

    #[test]
    fn a_sequence_that_went_back_returns_every_floor_to_the_head() {
        let now = Instant::now();
        let mut floors = settled_at_ten(now);
        let start = floors.start(&[0], 0, now);
        floors.raise(&start, 0, None);
        assert_eq!(floors_of(&mut floors, &[0], now), [11]);
        floors.see(sample(9, 102, 102));
        assert_eq!((floors_of(&mut floors, &[0], now), floors.settled), (vec![0], 0));
    }
}
