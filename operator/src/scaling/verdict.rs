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
    /// The topic is being given more partitions: nothing is changed.
    Growing,
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
    /// Events wait in the outbox: pods that take orders do not help them.
    RelayBehind,
    /// Somebody else sets the number of pods.
    ScaledElsewhere,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 12] = [
        Self::WithinTarget,
        Self::CatchingUp,
        Self::LagUnknown,
        Self::Rebalancing,
        Self::Growing,
        Self::PartitionStalled,
        Self::HotPartition,
        Self::SinkSaturated,
        Self::AtMaximum,
        Self::RetentionRisk,
        Self::RelayBehind,
        Self::ScaledElsewhere,
    ];

    /// The word, as conditions, Events and metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WithinTarget => "WithinTarget",
            Self::CatchingUp => "CatchingUp",
            Self::LagUnknown => "LagUnknown",
            Self::Rebalancing => "Rebalancing",
            Self::Growing => "Growing",
            Self::PartitionStalled => "PartitionStalled",
            Self::HotPartition => "HotPartition",
            Self::SinkSaturated => "SinkSaturated",
            Self::AtMaximum => "AtMaximum",
            Self::RetentionRisk => "RetentionRisk",
            Self::RelayBehind => "RelayBehind",
            Self::ScaledElsewhere => "ScaledElsewhere",
        }
    }

    /// The verdict of this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.name() == name)
    }

    /// Whether a person should look.
    #[must_use]
    pub const fn is_trouble(self) -> bool {
        match self {
            Self::WithinTarget
            | Self::CatchingUp
            | Self::Rebalancing
            | Self::Growing
            | Self::ScaledElsewhere => false,
            Self::LagUnknown
            | Self::PartitionStalled
            | Self::HotPartition
            | Self::SinkSaturated
            | Self::AtMaximum
            | Self::RetentionRisk
            | Self::RelayBehind => true,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
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
    }

    #[test]
    fn a_verdict_is_known_by_its_name() {
        for verdict in Verdict::ALL {
            assert_eq!(Verdict::named(&verdict.to_string()), Some(verdict));
            assert_eq!(verdict.name(), format!("{verdict:?}"));
        }
        assert_eq!(Verdict::named("Unheard"), None);
    }
}
