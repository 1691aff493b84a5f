//! Whether this process leads: a token that is asked before every write and judges by the clock alone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::Request;
use kube::Client;
use kube::client::Body;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// A term that has not begun, or was ended.
const NEVER: u64 = 0;

/// A term without an end: the process runs alone.
const ALWAYS: u64 = u64::MAX;

/// A write was refused, because this process does not lead (any more) and another may be at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead")]
pub struct NotLeading;

/// The right to write, until an instant that each renewal of the lease moves on.
///
/// Nobody has to notice that the instant has passed: a process that was frozen and wakes up finds the right gone. Only
/// while the whole machine is suspended the clock stands still. A term that is over never begins again.
#[derive(Clone, Debug)]
pub struct Leadership(Arc<Term>);

#[derive(Debug)]
struct Term {
    origin: Instant,
    /// Microseconds after `origin`, or [`NEVER`], or [`ALWAYS`].
    until: AtomicU64,
}

impl Leadership {
    /// Of a process that runs alone, without an election: always held.
    #[must_use]
    pub fn unshared() -> Self {
        Self::until(ALWAYS)
    }

    /// Of a process that has not won an election yet: not held.
    #[must_use]
    pub fn standby() -> Self {
        Self::until(NEVER)
    }

    fn until(until: u64) -> Self {
        Self(Arc::new(Term { origin: Instant::now(), until: AtomicU64::new(until) }))
    }

    /// Whether this process may write now. False before anybody else can have taken the lease, unless the machine was
    /// suspended meanwhile.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self.0.until.load(Ordering::Acquire) {
            ALWAYS => true,
            until => self.micros(Instant::now()) < until,
        }
    }

    /// [`Leadership::is_held`] as a result, to be asked right before a write.
    ///
    /// # Errors
    /// When it is not held.
    pub fn check(&self) -> Result<(), NotLeading> {
        if self.is_held() { Ok(()) } else { Err(NotLeading) }
    }

    /// A term that ends at `until` unless it is extended.
    pub(crate) fn begin(&self, until: Instant) {
        self.0.until.store(self.micros(until), Ordering::Release);
    }

    /// Moves the end of the term to `until`. Returns whether there still was a term to extend.
    pub(crate) fn extend(&self, until: Instant) -> bool {
        let held = self.is_held();
        if held {
            self.begin(until);
        }
        held
    }

    /// Ends the term now.
    pub(crate) fn end(&self) {
        self.0.until.store(NEVER, Ordering::Release);
    }

    fn micros(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.0.origin);
        u64::try_from(since.as_micros()).unwrap_or(ALWAYS - 1)
    }

    /// `client`, refusing every request but reads while the leadership is not held. Whoever makes a change need not
    /// remember to ask.
    #[must_use]
    pub fn fence(&self, client: Client) -> Client {
        if self.0.until.load(Ordering::Acquire) == ALWAYS {
            return client;
        }
        let namespace = client.default_namespace().to_owned();
        let leadership = self.clone();
        let fenced = tower::service_fn(move |request: Request<Body>| {
            let (client, leadership) = (client.clone(), leadership.clone());
            async move {
                if !request.method().is_safe() {
                    leadership.check().map_err(|refused| kube::Error::Service(Box::new(refused)))?;
                }
                client.send(request).await
            }
        });
        Client::new(fenced, namespace)
    }

    /// Adds `leader_election_master_status` for the lease of this name to `registry`; judged anew at each scrape.
    pub fn register(&self, lease: &str, registry: &mut Registry) {
        let status = MasterStatus { lease: lease.to_owned(), leadership: self.clone() };
        registry.register_collector(Box::new(status));
    }
}

#[derive(Debug)]
struct MasterStatus {
    lease: String,
    leadership: Leadership,
}

impl Collector for MasterStatus {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Whether this process leads (1) or stands by (0)";
        let name = "leader_election_master_status";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let labels = [("name", self.lease.as_str())];
        ConstGauge::new(i64::from(self.leadership.is_held())).encode(metric.encode_family(&labels)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use http::{Method, Response};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_term_that_nobody_extended_is_over_without_anybody_noticing() {
        let leadership = Leadership::standby();
        assert!(!leadership.is_held(), "before the election");
        leadership.begin(Instant::now() + LONG);
        assert!(leadership.is_held());
        leadership.begin(Instant::now());
        assert!(!leadership.is_held(), "the instant has passed");
    }

    #[test]
    fn a_term_that_is_over_can_t_be_extended() {
        let leadership = Leadership::standby();
        leadership.begin(Instant::now());
        assert!(!leadership.extend(Instant::now() + LONG));
        assert!(!leadership.is_held());
        leadership.begin(Instant::now() + LONG);
        assert!(leadership.extend(Instant::now() + LONG));
        leadership.end();
        assert!(!leadership.extend(Instant::now() + LONG));
    }

    #[test]
    fn a_process_without_an_election_may_always_write() {
        assert_eq!(Leadership::unshared().check(), Ok(()));
    }

    #[tokio::test]
    async fn only_reads_get_past_the_fence_of_a_standby() {
        let arrived = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&arrived);
        let server = tower::service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, std::convert::Infallible>(Response::new(Body::empty())) }
        });
        let leadership = Leadership::standby();
        let client = leadership.fence(Client::new(server, "default"));
        let send = async |method: Method| {
            let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
            client.send(request).await
        };
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let refused = send(method).await.unwrap_err();
            assert!(matches!(&refused, kube::Error::Service(why) if why.is::<NotLeading>()), "{refused:?}");
        }
        assert_eq!(arrived.load(Ordering::SeqCst), 0);
        send(Method::GET).await.unwrap();
        leadership.begin(Instant::now() + LONG);
        send(Method::PATCH).await.unwrap();
        assert_eq!(arrived.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_figure_follows_the_clock_and_not_the_last_word() {
        let metrics = runtime::metrics::Metrics::default();
        let leadership = Leadership::standby();
        metrics.register(|registry| leadership.register("orderflow-operator", registry));
        let says = |value: u8| {
            let line = format!("leader_election_master_status{{name=\"orderflow-operator\"}} {value}\n");
            let text = metrics.render();
            assert!(text.contains(&line), "{line} is not in:\n{text}");
        };
        says(0);
        leadership.begin(Instant::now() + LONG);
        says(1);
        leadership.begin(Instant::now());
        says(0);
    }
}
