//! What people do with dead letters: `consumer dead-letters …`, in a pod of the group, which has the settings already.

mod replay;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args as ClapArgs, Subcommand};
use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;

use crate::config::Config;
use crate::dead_letter::DeadLetters;
use crate::dead_letter::headers::Origin;
use crate::dead_letter::mark::{Ending, Mark};
use crate::dead_letter::reader::DeadLetterReader;
use crate::dead_letter::shelf::{Selection, Shelf};

/// A member that runs has seen a mark within this, and sends what comes after it to the sink again.
const SETTLED: Duration = Duration::from_secs(2);
/// Letters may arrive while others are replayed: so often it is looked for more.
const MOST_ROUNDS: u32 = 20;

/// What the program does other than to consume.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Look at the group's dead letters, deliver them again, or let their keys go.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
}

/// What to do with dead letters. Letters belong to a key (an order); once one of a key is there, its later records follow, until the
/// key is replayed, released or discarded.
#[derive(Clone, Debug, Subcommand)]
pub enum DeadLettersCommand {
    /// Keys with open letters, and why.
    List(Filter),
    /// The open letters of a key, with their bytes.
    Show {
        /// The key.
        key: String,
    },
    /// Deliver open letters again, each key's in order, and let the keys go.
    Replay {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// All keys with open letters.
        #[arg(long)]
        all: bool,
        /// Say what would be delivered, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Let keys go without delivering their letters: their later records are delivered again.
    Release {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
        /// Why, for the ledger.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let keys go because nobody wants their letters.
    Discard {
        /// The keys.
        #[arg(required = true)]
        keys: Vec<String>,
        /// Why, for the ledger.
        #[arg(long)]
        reason: String,
    },
    /// What was replayed, released and discarded: the ledger.
    History,
}

/// Which keys.
#[derive(Clone, Default, Debug, ClapArgs)]
pub struct Filter {
    /// This key; may be given several times.
    #[arg(long = "key")]
    keys: Vec<String>,
    /// Keys with a letter for this reason, such as Rejected or Schema.
    #[arg(long)]
    error: Option<String>,
    /// Keys with a letter since then: a time (2026-01-31T12:00:00Z) or how long ago (2h).
    #[arg(long, value_parser = since)]
    since: Option<Timestamp>,
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Timestamp::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    text.parse().map_err(|error| format!("neither a time nor a duration: {error}"))
}

impl Filter {
    fn selection(&self) -> Selection {
        let keys = self.keys.iter().map(|key| Bytes::from(key.clone())).collect();
        Selection { keys, reason: self.error.clone(), since: self.since }
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.error.is_none() && self.since.is_none()
    }
}

/// The group's dead-letter topic, and how to write to it.
struct Desk {
    config: Config,
    reader: DeadLetterReader,
    writer: DeadLetters,
    runtime: Handle,
}

/// Runs `command` and writes what it has to say to `out`.
///
/// # Errors
/// When Kafka or the sink does not answer, or something could not be done for all that were asked for.
pub async fn run(
    command: Command,
    config: Config,
    mut out: impl Write + Send + 'static,
) -> anyhow::Result<()> {
    let Command::DeadLetters(command) = command;
    let (subscription, topic) = (&config.subscription, &config.dead_letter_topic);
    let client_id = format!("{}-command", subscription.client_id);
    let origin = Origin { topic: subscription.topic.clone(), group: subscription.group.clone() };
    let desk = Desk {
        reader: DeadLetterReader::new(&config.kafka, &client_id, &subscription.group, topic)?,
        writer: DeadLetters::new(&config.kafka, &client_id, topic, origin)?,
        runtime: Handle::current(),
        config,
    };
    // The Kafka client blocks.
    tokio::task::spawn_blocking(move || desk.run(command, &mut out)).await?
}

impl Desk {
    fn run(&self, command: DeadLettersCommand, out: &mut impl Write) -> anyhow::Result<()> {
        match command {
            DeadLettersCommand::List(filter) => show::list(&self.shelf()?, &filter.selection(), out),
            DeadLettersCommand::Show { key } => self.show(key.as_bytes(), out),
            DeadLettersCommand::Replay { filter, all, dry_run } => {
                if filter.is_empty() && !all {
                    bail!("nothing is selected: give --key, --error or --since, or --all");
                }
                self.replay(filter.selection(), dry_run, out)
            }
            DeadLettersCommand::Release { keys, reason } => {
                self.end(&keys, Ending::Released, reason.as_deref(), out)
            }
            DeadLettersCommand::Discard { keys, reason } => {
                self.end(&keys, Ending::Discarded, Some(&reason), out)
            }
            DeadLettersCommand::History => show::history(&self.shelf()?, out),
        }
    }

    fn shelf(&self) -> anyhow::Result<Shelf> {
        let mut shelf = Shelf::default();
        self.reader.read(|record| {
            shelf.put(&record);
            Ok(())
        })?;
        Ok(shelf)
    }

    /// Marks the open letters of `keys` as ended. Records of a key that a member read before it saw the mark follow the letters all
    /// the same; so it is looked again until there are none.
    fn end(
        &self,
        keys: &[String],
        ending: Ending,
        reason: Option<&str>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
        for _round in 0..MOST_ROUNDS {
            let shelf = self.shelf()?;
            let open: Vec<_> =
                keys.iter().filter_map(|key| Some((key, shelf.open.get(key.as_bytes())?))).collect();
            if open.is_empty() {
                return told(keys, &ended, ending, out);
            }
            for (key, letters) in open {
                let partitions: BTreeSet<i32> = letters.iter().map(|letter| letter.place.0).collect();
                for partition in partitions {
                    let places =
                        letters.iter().map(|letter| letter.place).filter(|place| place.0 == partition);
                    self.mark(key.as_bytes(), partition, places.map(|place| place.1), (ending, reason))?;
                }
                *ended.entry(key).or_default() += letters.len();
            }
            thread::sleep(SETTLED);
        }
        bail!("letters of these keys kept arriving: is the group's consumer running and up to date?");
    }

    fn mark(
        &self,
        key: &[u8],
        partition: i32,
        offsets: impl Iterator<Item = i64>,
        (ending, reason): (Ending, Option<&str>),
    ) -> anyhow::Result<()> {
        let offsets: Vec<i64> = offsets.collect();
        let through = *offsets.iter().max().context("no letters")?;
        let letters = offsets.len() as u64;
        let mark = Mark { ending, through, letters, at: Timestamp::now(), reason: reason.map(str::to_owned) };
        self.runtime.block_on(self.writer.mark(key, partition, &mark))?;
        Ok(())
    }
}

fn told(
    keys: &[String],
    ended: &BTreeMap<&str, usize>,
    ending: Ending,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    for key in keys {
        match ended.get(key.as_str()) {
            Some(letters) => writeln!(out, "{key}: {letters} letters {}", ending.name())?,
            None => writeln!(out, "{key}: no open letters")?,
        }
    }
    let missing = keys.iter().filter(|key| !ended.contains_key(key.as_str())).count();
    if missing > 0 {
        bail!("{missing} of {} keys have no open letters", keys.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_and_a_duration_both_say_since_when() {
        assert_eq!(since("1970-01-01T00:00:05Z"), Ok(Timestamp::from_second(5).unwrap()));
        let ago = since("2h").expect("a duration").duration_until(Timestamp::now());
        assert!((SignedDuration::from_mins(119)..SignedDuration::from_mins(121)).contains(&ago), "{ago:?}");
        assert!(since("yesterday").is_err());
    }
}
