//! Verdicts: why a group has as many pods as it has, as one word and as a sentence.

use std::fmt;

/// Why a group has as many pods as it has. docs/scaling.md says what to do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// No record waits for longer than it may.
    WithinTarget,
    /// Some do, and the pods that were asked for work it off in time.
    CatchingUp,
    /// Something could not be read: nothing is changed.
    LagUnknown,
    /// The group is dealing out its partitions: nothing is changed.
    Rebalancing,
    /// Partitions that nobody gets on with: pods do not help them.
    PartitionStalled,
    /// A partition brings more than one pod, or one key, works off: pods do not help it.
    HotPartition,
    /// The last step out brought nothing: it was taken back.
    SinkSaturated,
    /// More pods would help, and there may be no more.
    AtMaximum,
    /// Records were deleted before they were read, or soon will be.
    RetentionRisk,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

/// Partitions by number, as a sentence names them: a few of many.
pub(super) fn named(partitions: &[usize]) -> String {
    /// So many say enough.
    const NAMED: usize = 5;
    let names: Vec<_> = partitions.iter().take(NAMED).map(ToString::to_string).collect();
    let word = if partitions.len() == 1 { "partition" } else { "partitions" };
    let more = if partitions.len() > NAMED { " and others" } else { "" };
    format!("{word} {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_names_a_few_partitions() {
        assert_eq!(named(&[3]), "partition 3");
        assert_eq!(named(&[1, 2, 3, 4, 5, 6]), "partitions 1, 2, 3, 4, 5 and others");
        assert_eq!(Verdict::HotPartition.to_string(), "HotPartition");
    }
}
