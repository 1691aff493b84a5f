//! What is done beyond the watermark, as text for the metadata of a committed offset. Pure.
//!
//! Lanes finish records out of their order, and a commit names one offset only: below it, everything is done. What is done above
//! it would be repeated by whoever takes over. So a commit carries it along: the lengths of the runs above the watermark, in
//! turns not done and done, each as LEB128, in base64 behind a version. Runs are of offsets, not of records: offsets that the
//! log does not have belong to either.

use base64::Engine as _;
use base64::encoded_len;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Form of the text. Metadata of another form is nobody's we know, and counts as none: at worst something is repeated.
const VERSION: &str = "1:";
/// Stands before the rest in a commit of an exactly-once group: the place that counts is the one its sink keeps. A commit of
/// anybody else, such as of a person who resets offsets, has none, and counts itself.
const KEPT_BY_SINK: char = 'E';
/// Most that a broker keeps of one offset's metadata, in bytes (`offset.metadata.max.bytes`, by default), but for that mark.
pub const LIMIT_BYTES: usize = 4096 - KEPT_BY_SINK.len_utf8();

/// `text`, marked: the sink keeps the place.
#[must_use]
pub fn kept_by_sink(text: &str) -> String {
    format!("{KEPT_BY_SINK}{text}")
}

/// Whether a commit says that the sink keeps the place.
#[must_use]
pub fn is_kept_by_sink(text: &str) -> bool {
    text.starts_with(KEPT_BY_SINK)
}

/// Offsets that are done, as runs `[from, until)`, rising and apart from one another.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Runs(Vec<(i64, i64)>);

impl Runs {
    /// Adds a run; each begins above the end of the one before, or continues it.
    pub fn push(&mut self, from: i64, until: i64) {
        match self.0.last_mut() {
            Some((_, end)) if *end >= from => *end = until.max(*end),
            _ => self.0.push((from, until)),
        }
    }

    /// Whether `offset` is in one of them.
    #[must_use]
    pub fn contains(&self, offset: i64) -> bool {
        let after = self.0.partition_point(|(from, _)| *from <= offset);
        after.checked_sub(1).is_some_and(|index| offset < self.0[index].1)
    }

    /// The first offset from `offset` on that is in none of them.
    #[must_use]
    pub fn first_open(&self, offset: i64) -> i64 {
        let after = self.0.partition_point(|(from, _)| *from <= offset);
        after.checked_sub(1).map_or(offset, |index| self.0[index].1.max(offset))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The runs, each as `[from, until)`.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.0.iter().copied()
    }

    /// The text that says so relative to `watermark`, below which everything is done, and of which nothing is said; empty for no
    /// runs beyond it. Of more runs than fit the broker's limit it says the first ones: whoever reads it repeats the rest.
    #[must_use]
    pub fn encode(&self, watermark: i64) -> String {
        let (mut bytes, mut at) = (Vec::new(), watermark);
        for (from, until) in self.0.iter().filter(|(_, until)| *until > watermark) {
            let (before, from) = (bytes.len(), (*from).max(at));
            write(&mut bytes, from - at);
            write(&mut bytes, until - from);
            at = *until;
            if VERSION.len() + encoded_len(bytes.len(), false).unwrap_or(LIMIT_BYTES) > LIMIT_BYTES {
                bytes.truncate(before);
                break;
            }
        }
        if bytes.is_empty() { String::new() } else { format!("{VERSION}{}", STANDARD_NO_PAD.encode(bytes)) }
    }

    /// What a text said relative to `watermark`; none where it is of another form.
    #[must_use]
    pub fn decode(text: &str, watermark: i64) -> Self {
        Self::read(text, watermark).unwrap_or_default()
    }

    fn read(text: &str, watermark: i64) -> Option<Self> {
        let text = text.strip_prefix(KEPT_BY_SINK).unwrap_or(text);
        let bytes = STANDARD_NO_PAD.decode(text.strip_prefix(VERSION)?).ok()?;
        let (mut rest, mut at, mut runs) = (bytes.as_slice(), watermark, Self::default());
        while !rest.is_empty() {
            let from = at.checked_add(read(&mut rest)?)?;
            let until = from.checked_add(read(&mut rest)?)?;
            runs.push(from, until);
            at = until;
        }
        Some(runs)
    }
}

fn write(bytes: &mut Vec<u8>, length: i64) {
    let mut left = length.unsigned_abs();
    loop {
        let low = u8::try_from(left & 0x7f).unwrap_or_default();
        left >>= 7;
        if left == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

fn read(bytes: &mut &[u8]) -> Option<i64> {
    let mut length: u64 = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return i64::try_from(length).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read_again(
            watermark in 0..1_i64 << 40,
            lengths in prop::collection::vec((1..100_000_i64, 1..100_000_i64), 0..200),
        ) {
            let (mut runs, mut at) = (Runs::default(), watermark);
            for (gap, length) in lengths {
                runs.push(at + gap, at + gap + length);
                at += gap + length;
            }
            let text = runs.encode(watermark);
            prop_assert_eq!(&Runs::decode(&kept_by_sink(&text), watermark), &runs);
            prop_assert_eq!(Runs::decode(&text, watermark), runs);
        }

        #[test]
        fn exactly_what_was_pushed_is_contained(done in prop::collection::btree_set(1..300_i64, 0..100)) {
            let mut runs = Runs::default();
            done.iter().for_each(|offset| runs.push(*offset, offset + 1));
            let runs = Runs::decode(&runs.encode(0), 0);
            for offset in 0..310 {
                let open = (offset..).find(|offset| !done.contains(offset));
                prop_assert_eq!(Some(runs.first_open(offset)), open);
            }
            prop_assert_eq!((0..310).filter(|offset| runs.contains(*offset)).collect::<BTreeSet<_>>(), done);
        }

        #[test]
        fn from_a_later_watermark_the_same_is_said_of_what_lies_beyond_it(
            done in prop::collection::btree_set(1..300_i64, 0..100),
            watermark in 0..310_i64,
        ) {
            let mut runs = Runs::default();
            done.iter().for_each(|offset| runs.push(*offset, offset + 1));
            let said = Runs::decode(&runs.encode(watermark), watermark);
            let beyond: BTreeSet<i64> = done.range(watermark..).copied().collect();
            prop_assert_eq!((0..1_000).filter(|offset| said.contains(*offset)).collect::<BTreeSet<_>>(), beyond);
        }

        #[test]
        fn no_text_does_harm(text in ".{0,40}") {
            let _ = Runs::decode(&text, 0);
            let _ = Runs::decode(&format!("1:{text}"), i64::MAX);
        }
    }

    #[test]
    fn what_does_not_fit_the_brokers_limit_is_left_out_from_the_end() {
        let mut runs = Runs::default();
        (0..4000).for_each(|nth| runs.push(nth * 2 + 1, nth * 2 + 2));
        let text = runs.encode(0);
        assert!((LIMIT_BYTES - 8..=LIMIT_BYTES).contains(&text.len()), "{}", text.len());
        let kept: Vec<_> = Runs::decode(&text, 0).iter().collect();
        assert_eq!(kept, runs.iter().take(kept.len()).collect::<Vec<_>>());
        assert!(kept.len() > 1500, "{}", kept.len());
    }
}
