//! Where events go: what a sink is, and the two there are.

pub mod postgres;
pub mod http;

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use order_events::OrderEvent;

use crate::record::Record;

/// A record and the event it carries.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The record as it was read.
    pub record: Record,
    /// The event in it.
    pub event: OrderEvent,
}

/// A place that events are delivered to.
///
/// All of a batch is applied or none of it, and applying a batch twice must leave what applying it once does (or let
/// the other side see that it is a repetition).
pub trait Sink: Send + Sync + 'static {
    /// Most events that one call takes; at least 1.
    fn batch_limit(&self) -> usize;

    /// Most events of one [`Sink::apply`]; at least 1.
    fn apply_limit(&self) -> usize {
        self.batch_limit()
    }

    /// Most calls that are worth having at once for one partition; at least 1.
    fn lanes(&self) -> usize;

    /// Longest time a call takes, in whatever way it ends.
    fn patience(&self) -> Duration;

    /// Delivers `batch`, which holds at least one event and at most [`Sink::batch_limit`], in order.
    ///
    /// # Errors
    /// [`SinkError`]; every failure is one of its two kinds.
    fn deliver<'a>(&'a self, batch: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Exactly once: takes `partition` over. Whoever claimed it before can move its place no more. The place stays where it is;
    /// where there is none yet, it is `begin`. So a claim that arrives late, or twice, sets nothing back.
    ///
    /// # Errors
    /// [`SinkError`]; whether the claim before still holds is then unknown. A sink that keeps no places says so.
    fn claim(&self, partition: i32, begin: i64) -> BoxFuture<'_, Result<Claimed, SinkError>> {
        let _ = (partition, begin);
        async { Err(SinkError::keeps_no_places()) }.boxed()
    }

    /// Exactly once: applies `batch`, which may be empty, and moves the place from where `claimed` says to `until`, both or
    /// neither, and only while the claim holds.
    ///
    /// # Errors
    /// [`SinkError`].
    fn apply<'a>(
        &'a self,
        claimed: &'a Claimed,
        batch: &'a [Decoded],
        until: i64,
    ) -> BoxFuture<'a, Result<Applied, SinkError>> {
        let _ = (claimed, batch, until);
        async { Err(SinkError::keeps_no_places()) }.boxed()
    }
}

/// The right to move a partition's place, and where that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// The partition.
    pub partition: i32,
    /// Rises with every claim; only the last one holds.
    pub epoch: i64,
    /// The offset that comes next.
    pub place: i64,
}

/// What became of a batch whose place the sink keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// It is applied, and the place moved.
    Moved,
    /// Nothing was applied now: the place is not where the claim says but here.
    Found(i64),
    /// Nothing was applied: somebody else has claimed the partition since.
    Fenced,
}

/// Kind of [`SinkError`]: the sink answers, but not about places.
const NO_PLACES: &str = "no_places";

/// Why a batch was not applied. The two kinds decide what happens next.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The sink can't take anything now: wait and try again for as long as it lasts. It spends no attempt, so an
    /// outage never fills the dead-letter topic. When it is unknown whether the batch was applied (a timeout), it
    /// is this kind too.
    #[error("failed to deliver: the sink is unavailable ({kind}): {message}")]
    Unavailable {
        /// A short, stable word for metrics.
        kind: &'static str,
        /// What happened.
        message: String,
        /// When the sink asked to be tried again.
        retry_after: Option<Duration>,
    },
    /// The sink refuses this batch and applied nothing of it. For a batch of one, that spends an attempt.
    #[error("failed to deliver: the sink refused the record ({kind}): {message}")]
    Rejected {
        /// A short, stable word for metrics.
        kind: &'static str,
        /// What happened.
        message: String,
    },
}

impl SinkError {
    /// The answer of a sink that is for the other two guarantees: the group's partitions wait, and the log says why.
    fn keeps_no_places() -> Self {
        let message =
            "it keeps no places: change the group's delivery to AtLeastOnce or AtMostOnce".to_owned();
        Self::Unavailable { kind: NO_PLACES, message, retry_after: None }
    }

    /// Whether a claim that ended so was asked of a sink that keeps no places. One that is down does not answer so.
    #[must_use]
    pub fn is_of_a_sink_without_places(&self) -> bool {
        match self {
            Self::Rejected { .. } => true,
            Self::Unavailable { kind, .. } => [NO_PLACES, http::NOT_AN_ENDPOINT].contains(kind),
        }
    }

    /// An outage without a hint of its end.
    pub(crate) fn unavailable(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Unavailable { kind, message: message.into(), retry_after: None }
    }

    /// A refusal.
    pub(crate) fn rejected(kind: &'static str, message: impl Into<String>) -> Self {
        Self::Rejected { kind, message: message.into() }
    }

    /// A short, stable word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable { kind, .. } | Self::Rejected { kind, .. } => kind,
        }
    }
}
