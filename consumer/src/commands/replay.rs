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
    /// Where delivered letters came from: one that was written twice is delivered once.
    delivered: BTreeSet<(i32, i64)>,
    letters: u64,
    /// Letters of keys that have some in several partitions, since the dead-letter topic grew: their order is that of versions.
    spread: BTreeMap<Bytes, Vec<Record>>,
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
            let mut pass = Pass {
                shelf: &shelf,
                selected: &wanted,
                failed: BTreeMap::new(),
                delivered: BTreeSet::new(),
                letters: 0,
                spread: BTreeMap::new(),
            };
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
        if !pass.delivered.insert((decoded.record.partition, decoded.record.offset)) {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        let (event, mut failed) = ([decoded], 0);
        loop {
            match self.runtime.block_on(sink.deliver(&event)) {
                Ok(()) => {
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
