//! Delivers dead letters again: each key's in order, then the key is let go.
//!
//! Later records of a key go on arriving in the dead-letter topic until the members have seen the mark; so it is looked again until
//! there are no more.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use bytes::Bytes;
use sqlx::types::Uuid;

use super::show::text;
use super::{Desk, MOST_ROUNDS, SETTLED};
use crate::dead_letter::letter::original;
use crate::dead_letter::mark::Ending;
use crate::dead_letter::shelf::{Selection, Shelf};
use crate::record::Record;
use crate::run::open;
use crate::sink::{Decoded, Sink, SinkError};

/// How long an unavailable sink is tried for one letter.
const PATIENCE: Duration = Duration::from_secs(60);

/// One pass over the topic.
struct Pass<'a> {
    shelf: &'a Shelf,
    selected: &'a BTreeSet<Bytes>,
    /// Keys that can't be replayed further, and why.
    failed: BTreeMap<Bytes, String>,
    /// Events that were delivered: one whose letter was written twice is delivered once. Where a letter was read does not tell:
    /// in a topic that was made anew another event stands there.
    delivered: BTreeSet<Uuid>,
    letters: u64,
    /// Letters of keys that have some in several partitions, since the dead-letter topic grew: their order is that of versions.
    spread: BTreeMap<Bytes, Vec<Record>>,
}

impl<'a> Pass<'a> {
    fn over(shelf: &'a Shelf, selected: &'a BTreeSet<Bytes>) -> Self {
        Self {
            shelf,
            selected,
            failed: BTreeMap::new(),
            delivered: BTreeSet::new(),
            letters: 0,
            spread: BTreeMap::new(),
        }
    }
}

impl Desk {
    /// Replays what is selected, or says what that would be.
    pub(super) fn replay(
        &self,
        selection: Selection,
        dry_run: bool,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        if dry_run {
            return self.would_replay(&selection, out);
        }
        let sink = open(&self.config.sink, &self.config.subscription)?;
        let mut selected = None;
        let (mut letters, mut keys) = (0, BTreeSet::new());
        for _round in 0..MOST_ROUNDS {
            let shelf = self.shelf()?;
            // Later rounds are about the same keys, and only those.
            let wanted: BTreeSet<Bytes> = match &selected {
                None => shelf.select(&selection),
                Some(known) => shelf.select(&Selection::default()).intersection(known).cloned().collect(),
            };
            selected.get_or_insert_with(|| wanted.clone());
            if wanted.is_empty() {
                writeln!(out, "{letters} letters of {} keys replayed", keys.len())?;
                return Ok(());
            }
            let mut pass = Pass::over(&shelf, &wanted);
            self.reader.read(|record| self.pass(&mut pass, &*sink, record))?;
            self.pass_spread(&mut pass, &*sink)?;
            letters += pass.letters;
            if !pass.failed.is_empty() {
                for (key, why) in &pass.failed {
                    writeln!(out, "{}: stays: {why}", text(key))?;
                }
                bail!("{letters} letters replayed; {} keys stay as they are", pass.failed.len());
            }
            keys.extend(wanted);
            thread::sleep(SETTLED);
        }
        bail!(
            "letters of these keys kept arriving while they were replayed: is the group's consumer up to date?"
        );
    }

    fn would_replay(&self, selection: &Selection, out: &mut impl Write) -> anyhow::Result<()> {
        let shelf = self.shelf()?;
        let selected = shelf.select(selection);
        let (mut good, mut bad) = (0, 0);
        self.reader.read(|record| {
            if !is_open(&shelf, &selected, &record) {
                return Ok(());
            }
            let key = record.key.as_ref().map(text).unwrap_or_default();
            match decoded(&record) {
                Ok(Decoded { event, .. }) => {
                    good += 1;
                    writeln!(
                        out,
                        "{key}: would deliver version {} ({})",
                        event.version,
                        event.event_type.name()
                    )?;
                }
                Err(why) => {
                    bad += 1;
                    writeln!(out, "{key}: can't be delivered: {why}")?;
                }
            }
            Ok(())
        })?;
        writeln!(out, "{good} letters of {} keys would be delivered, {bad} can't be", selected.len())?;
        Ok(())
    }

    /// Delivers `record`, if it is an open letter of a selected key, and lets the key go after its last one.
    fn pass(&self, pass: &mut Pass<'_>, sink: &dyn Sink, record: Record) -> anyhow::Result<()> {
        let Some(key) = record.key.clone().filter(|_| is_open(pass.shelf, pass.selected, &record)) else {
            return Ok(());
        };
        if pass.failed.contains_key(&key) {
            return Ok(());
        }
        let letters = pass.shelf.open.get(&key).map(Vec::as_slice).unwrap_or_default();
        if letters.iter().any(|letter| letter.place.0 != record.partition) {
            pass.spread.entry(key).or_default().push(record);
            return Ok(());
        }
        if let Err(why) = self.deliver(pass, sink, &record) {
            pass.failed.insert(key, why);
            return Ok(());
        }
        let offsets = letters.iter().map(|letter| letter.place.1);
        if offsets.clone().max() == Some(record.offset) {
            self.mark(&key, record.partition, offsets, (Ending::Replayed, None))?;
        }
        Ok(())
    }

    /// All letters of such a key or, for the ledger, none: its marks come when the last one is delivered.
    fn pass_spread(&self, pass: &mut Pass<'_>, sink: &dyn Sink) -> anyhow::Result<()> {
        for (key, mut letters) in std::mem::take(&mut pass.spread) {
            letters.sort_by_key(|letter| decoded(letter).map_or(i64::MAX, |decoded| decoded.event.version));
            if let Err(why) = letters.iter().try_for_each(|letter| self.deliver(pass, sink, letter)) {
                pass.failed.insert(key, why);
                continue;
            }
            let partitions: BTreeSet<i32> = letters.iter().map(|letter| letter.partition).collect();
            for partition in partitions {
                let offsets = letters.iter().filter(|letter| letter.partition == partition);
                let offsets = offsets.map(|letter| letter.offset);
                self.mark(&key, partition, offsets, (Ending::Replayed, None))?;
            }
        }
        Ok(())
    }

    fn deliver(&self, pass: &mut Pass<'_>, sink: &dyn Sink, record: &Record) -> Result<(), String> {
        let decoded = decoded(record)?;
        let id = decoded.event.event_id;
        if pass.delivered.contains(&id) {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        let (event, mut failed) = ([decoded], 0);
        loop {
            match self.runtime.block_on(sink.deliver(&event)) {
                Ok(()) => {
                    pass.delivered.insert(id);
                    pass.letters += 1;
                    return Ok(());
                }
                Err(SinkError::Unavailable { retry_after, .. }) if Instant::now() < deadline => {
                    thread::sleep(self.config.retry.wait(failed, retry_after).min(PATIENCE));
                    failed += 1;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn is_open(shelf: &Shelf, selected: &BTreeSet<Bytes>, record: &Record) -> bool {
    let Some(key) = record.key.as_ref().filter(|key| selected.contains(*key)) else { return false };
    let place = (record.partition, record.offset);
    shelf.open.get(key).is_some_and(|letters| letters.iter().any(|letter| letter.place == place))
}

fn decoded(record: &Record) -> Result<Decoded, String> {
    let record = original(record)?;
    let event = record.decode().map_err(|error| error.to_string())?;
    Ok(Decoded { record, event })
}

#[cfg(test)]
mod tests {
    use order_events::OrderEvent;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::dead_letter::headers::{Detail, Origin, headers};
    use crate::dead_letter::reader::DeadLetterReader;
    use crate::dead_letter::{Cause, DeadLetters};
    use crate::deliver::tests::{Scripted, config};
    use crate::record::tests::{event, record};

    fn origin() -> Origin {
        Origin { topic: "t".to_owned(), group: "g".to_owned() }
    }

    /// A desk that nobody listens to but the sink.
    fn desk(runtime: &Runtime) -> Desk {
        let config = config();
        let (kafka, topic) = (&config.kafka, &config.dead_letter_topic);
        Desk {
            reader: DeadLetterReader::new(kafka, "c", "g", topic).expect("a client"),
            writer: DeadLetters::new(kafka, "c", topic, origin()).expect("a producer"),
            runtime: runtime.handle().clone(),
            config,
        }
    }

    /// The letter at `place` of `event`, which was read at `from`.
    fn letter(event: &OrderEvent, from: i64, place: i64) -> Record {
        let read = record(event, from);
        let cause = Cause { reason: "Rejected", class: "C", message: "HTTP status 422".to_owned() };
        let headers = headers(&read, &origin(), &cause, Detail::Full);
        Record { offset: place, headers, ..read }
    }

    /// What became of each of `letters`, and the offsets that the sink, which answers so, was called with.
    fn replayed(answers: Vec<Result<(), SinkError>>, letters: &[Record]) -> (Vec<bool>, Vec<Vec<i64>>) {
        let runtime = Runtime::new().expect("a runtime");
        let (sink, mut calls) = Scripted::answering(answers);
        let (desk, shelf, selected) = (desk(&runtime), Shelf::default(), BTreeSet::new());
        let mut pass = Pass::over(&shelf, &selected);
        let ended = letters.iter().map(|letter| desk.deliver(&mut pass, &sink, letter).is_ok()).collect();
        (ended, std::iter::from_fn(|| calls.try_recv().ok()).collect())
    }

    #[test]
    fn two_events_that_stood_at_one_place_of_a_topic_that_was_made_anew_are_both_delivered() {
        let letters = [letter(&event(1), 7, 0), letter(&event(1), 7, 1)];
        let (ended, calls) = replayed(vec![Ok(()), Ok(())], &letters);
        assert_eq!((ended, calls), (vec![true, true], vec![vec![7], vec![7]]));
    }

    #[test]
    fn an_event_with_several_letters_is_delivered_once_wherever_they_were_read() {
        let event = event(1);
        let letters = [letter(&event, 7, 0), letter(&event, 7, 1), letter(&event, 9, 2)];
        let (ended, calls) = replayed(vec![Ok(())], &letters);
        assert_eq!((ended, calls), (vec![true, true, true], vec![vec![7]]));
    }

    #[test]
    fn an_event_that_the_sink_refused_does_not_count_as_delivered() {
        let event = event(1);
        let refused = Err(SinkError::rejected("ClientError", "HTTP status 422"));
        let letters = [letter(&event, 7, 0), letter(&event, 7, 1)];
        let (ended, calls) = replayed(vec![refused, Ok(())], &letters);
        assert_eq!((ended, calls), (vec![false, true], vec![vec![7], vec![7]]));
    }
}
