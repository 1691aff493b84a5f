//! What every reconciliation shares.

use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};

use crate::backoff::Backoffs;
use crate::kafka::Handles;
use crate::metrics::Metrics;
use crate::names;
use crate::owners::Owners;
use crate::poller::Watchlist;

/// What the operator was started with, as far as a reconciliation needs it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Image of pods whose spec names none.
    pub default_image: String,
    /// Name of the operator's own pod, for Events.
    pub pod_name: Option<String>,
    /// Longest wait for Kafka's answer to one request.
    pub kafka_timeout: Duration,
    /// How long a deletion waits for Kafka before it leaves the topics behind.
    pub finalizer_timeout: Duration,
}

/// Clients, caches and options.
pub struct Context {
    /// For requests: answers are awaited for a bounded time, and tried again only by the next reconciliation.
    pub client: Client,
    /// Publishes Events; one for all, because it folds repeated ones.
    pub recorder: Recorder,
    /// Kafka, by connection.
    pub kafka: Handles,
    /// Waits after failures.
    pub backoffs: Backoffs,
    /// Whose topics and groups are.
    pub owners: Owners,
    /// What the poller compares Kafka with.
    pub watchlist: Watchlist,
    /// Figures.
    pub metrics: Metrics,
    /// Options.
    pub options: Options,
}

impl Context {
    /// A context that makes its requests through `client`.
    #[must_use]
    pub fn new(client: Client, options: Options, metrics: Metrics) -> Self {
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: options.pod_name.clone() };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            kafka: Handles::new(options.kafka_timeout),
            backoffs: Backoffs::default(),
            owners: Owners::default(),
            watchlist: Watchlist::default(),
            metrics,
            options,
        }
    }
}
