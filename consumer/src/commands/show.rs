//! Dead letters as text for people.

use std::io::Write;

use anyhow::bail;
use bytes::Bytes;

use super::Desk;
use crate::dead_letter::letter::Letter;
use crate::dead_letter::mark::Kind;
use crate::dead_letter::shelf::{Selection, Shelf};
use crate::record::Record;

/// Bytes of a payload that are shown.
const PAYLOAD_BYTES: usize = 4096;
/// Characters of a message in a list.
const MESSAGE_CHARS: usize = 80;

/// One line for each selected key.
pub(super) fn list(shelf: &Shelf, selection: &Selection, out: &mut impl Write) -> anyhow::Result<()> {
    let selected = shelf.select(selection);
    writeln!(out, "{:<38} {:>7}  {:<24} {:<14} MESSAGE", "KEY", "LETTERS", "SINCE", "REASON")?;
    for key in &selected {
        let Some(letters) = shelf.open.get(key) else { continue };
        let Some(first) = letters.first() else { continue };
        let message: String = first.message.chars().take(MESSAGE_CHARS).collect();
        writeln!(
            out,
            "{:<38} {:>7}  {:<24} {:<14} {message}",
            text(key),
            letters.len(),
            at(first),
            first.reason
        )?;
    }
    let letters: usize = selected.iter().filter_map(|key| shelf.open.get(key)).map(Vec::len).sum();
    writeln!(out, "{} keys, {letters} open letters", selected.len())?;
    if !shelf.keyless.is_empty() {
        writeln!(out, "{} more letters have no key; nothing waits for them", shelf.keyless.len())?;
    }
    Ok(())
}

/// One line for each mark.
pub(super) fn history(shelf: &Shelf, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{:<38} {:>7}  {:<24} {:<10} REASON", "KEY", "LETTERS", "AT", "ENDING")?;
    for (key, mark) in &shelf.marks {
        let reason = mark.reason.as_deref().unwrap_or("-");
        let at = format!("{:.0}", mark.at);
        writeln!(out, "{:<38} {:>7}  {at:<24} {:<10} {reason}", text(key), mark.letters, mark.ending.name())?;
    }
    Ok(())
}

impl Desk {
    /// The open letters of `key`, each with what it says and its payload.
    pub(super) fn show(&self, key: &[u8], out: &mut impl Write) -> anyhow::Result<()> {
        let shelf = self.shelf()?;
        let Some(open) = shelf.open.get(key) else { bail!("the key has no open letters") };
        self.reader.read(|record| {
            let is_open = open.iter().any(|letter| letter.place == (record.partition, record.offset));
            if is_open && Kind::of(&record) == Kind::Letter {
                letter(&record, out)?;
            }
            Ok(())
        })
    }
}

fn letter(record: &Record, out: &mut impl Write) -> anyhow::Result<()> {
    let letter = Letter::of(record);
    let (partition, offset) = letter.place;
    let origin = letter.origin.map_or("?".to_owned(), |(partition, offset)| format!("{partition}/{offset}"));
    let version = letter.version.as_deref().unwrap_or("?");
    writeln!(out, "letter {partition}/{offset}, from {origin}, version {version}, {}", at(&letter))?;
    writeln!(out, "  {}: {}", letter.reason, letter.message)?;
    match &record.value {
        None => writeln!(out, "  no payload")?,
        Some(value) => {
            let shown = &value[..value.len().min(PAYLOAD_BYTES)];
            writeln!(out, "  {} bytes: {}", value.len(), String::from_utf8_lossy(shown).escape_debug())?;
        }
    }
    Ok(())
}

fn at(letter: &Letter) -> String {
    letter.at.map_or("-".to_owned(), |at| format!("{at:.0}"))
}

pub(super) fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).escape_debug().to_string()
}
