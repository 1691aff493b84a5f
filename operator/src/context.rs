//! What every reconciliation shares.

use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};

use crate::backoff::Backoffs;
use crate::events::Events;
use crate::freshness::Freshness;
use crate::kafka::Handles;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::names;
use crate::observe::Owned;
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
    /// For requests: answers are awaited for a bounded time, and tried again only by the next reconciliation. Writes are
    /// refused while the leadership is not held.
    pub client: Client,
    /// Publishes Events.
    pub events: Events,
    /// Kafka, by connection.
    pub kafka: Handles,
    /// Waits after failures.
    pub backoffs: Backoffs,
    /// Which pipelines have objects.
    pub owned: Owned,
    /// Whose topics and groups are.
    pub owners: Owners,
    /// Whether what the watches show is the newest.
    pub freshness: Freshness,
    /// What the poller compares Kafka with.
    pub watchlist: Watchlist,
    /// Whether this process may write.
    pub leadership: Leadership,
    /// Figures.
    pub metrics: Metrics,
    /// Options.
    pub options: Options,
}

impl Context {
    /// A context that makes its requests through `client`, of a process that runs alone.
    #[must_use]
    pub fn new(client: Client, options: Options, metrics: Metrics) -> Self {
        Self::led(client, options, metrics, Leadership::unshared())
    }

    /// A context whose writes, to Kubernetes and to Kafka, are refused while `leadership` is not held.
    #[must_use]
    pub fn led(client: Client, options: Options, metrics: Metrics, leadership: Leadership) -> Self {
        let client = leadership.fence(client);
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: options.pod_name.clone() };
        Self {
            events: Events::new(Recorder::new(client.clone(), reporter), metrics.clone()),
            client,
            kafka: Handles::new(options.kafka_timeout, leadership.clone()),
            backoffs: Backoffs::default(),
            owned: Owned::default(),
            owners: Owners::default(),
            freshness: Freshness::default(),
            watchlist: Watchlist::default(),
            leadership,
            metrics,
            options,
        }
    }
}
