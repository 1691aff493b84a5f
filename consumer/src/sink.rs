//! Where events go: what a sink is, and the two there are.

pub mod postgres;
pub mod http;

use std::time::Duration;

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

    /// Most calls that are worth having at once for one partition; at least 1.
    fn lanes(&self) -> usize;

    /// Delivers `batch`, which holds at least one event and at most [`Sink::batch_limit`], in order.
    ///
    /// # Errors
    /// [`SinkError`]; every failure is one of its two kinds.
    fn deliver<'a>(&'a self, batch: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>>;
}

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
