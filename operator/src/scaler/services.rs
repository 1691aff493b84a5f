//! One order service: from what its pods serve on `/metrics` to what is decided, and what is remembered of it between ticks.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt, future, stream};
use k8s_openapi::api::core::v1::Pod as KubernetesPod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::exposition::Figures;
use super::roster::{Job, Rule};
use crate::context::Context;
use crate::metrics::Judged;
use crate::names;
use crate::render::ADMIN_PORT;
use crate::scaling::{
    Decision, Pod, Seconds, ServiceMemory, ServiceObservation, Telling, Told, decide_service,
};

/// A pod answers within milliseconds, or not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// A pod serves some tens of kilobytes.
const ANSWER_MAX_BYTES: usize = 1 << 20;

/// What the pods of one service serve, by name of the pod; nothing for one that did not answer.
#[derive(Debug, Default)]
pub(super) struct Look {
    pods: HashMap<String, Option<Figures>>,
}

/// What is remembered of a service.
#[derive(Debug, Default)]
pub(super) struct Service {
    memory: ServiceMemory,
    pub(super) telling: Telling,
    before: BTreeMap<String, (Seconds, Figures)>,
}

/// # Errors
/// When there is no HTTP client to be had.
pub(super) fn client() -> reqwest::Result<reqwest::Client> {
    // Pods are reached by their addresses, whatever proxy leads out of the cluster.
    reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build()
}

/// Looks at the pods of every service, each at its place; nothing where they could not be listed.
pub(super) async fn look_at_all(
    http: &reqwest::Client,
    context: &Context,
    jobs: &[&Job],
    at_once: usize,
) -> Vec<Option<Look>> {
    stream::iter(jobs).map(|job| look(http, context, job)).buffered(at_once).collect().await
}

async fn look(http: &reqwest::Client, context: &Context, job: &Job) -> Option<Look> {
    let api: Api<KubernetesPod> = Api::namespaced(context.client.clone(), &job.pipeline.namespace);
    let labels = names::labels(&job.pipeline.name, "order-service", None);
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let listed = api.list(&ListParams::default().labels(&selector.join(","))).await;
    let pods = match listed {
        Ok(pods) => pods.items,
        Err(error) => {
            tracing::warn!(pipeline = %job.pipeline, error = %error, "failed to list the order service's pods");
            return None;
        }
    };
    let ready = pods.iter().filter_map(|pod| Some((pod.name_any(), address(pod)?)));
    let ask = |(name, address): (String, String)| async move { (name, ask(http, &address).await) };
    Some(Look { pods: future::join_all(ready.map(ask)).await.into_iter().collect() })
}

/// Where a pod that is ready and stays is reached.
fn address(pod: &KubernetesPod) -> Option<String> {
    let status = pod.status.as_ref().filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    let conditions = status.conditions.iter().flatten();
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready.next()?;
    let address = status.pod_ip.as_ref()?;
    // An IPv6 address in a URL.
    Some(if address.contains(':') { format!("[{address}]") } else { address.clone() })
}

async fn ask(http: &reqwest::Client, address: &str) -> Option<Figures> {
    let answer = async {
        let mut answer = http.get(format!("http://{address}:{ADMIN_PORT}/metrics")).send().await?;
        answer.error_for_status_ref()?;
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            body.extend_from_slice(&part);
            if body.len() > ANSWER_MAX_BYTES {
                break;
            }
        }
        Ok::<_, reqwest::Error>(body)
    };
    match answer.await {
        Ok(body) => Some(Figures::parse(&String::from_utf8_lossy(&body))),
        Err(error) => {
            tracing::debug!(address, error = %error, "a pod does not serve its figures");
            None
        }
    }
}

impl Service {
    pub(super) fn decide(&mut self, job: &Job, at: Seconds, look: Option<Look>) -> (Decision, Judged) {
        let Rule::Service(policy) = &job.subject.rule else {
            unreachable!("services are scaled by the queue")
        };
        let outbox_age = look.iter().flat_map(|look| look.pods.values().flatten());
        let outbox_age = outbox_age.map(|figures| figures.outbox_age).fold(0.0, f64::max);
        let pods = look.and_then(|look| self.pods(at, look));
        let observation = ServiceObservation {
            at,
            replicas: job.asked(),
            ready: job.subject.ready,
            pods: pods.as_deref(),
            outbox_age,
        };
        let (decision, memory) = decide_service(policy, &observation, std::mem::take(&mut self.memory));
        self.memory = memory;
        let judged = Judged {
            age: pods.map(|pods| pods.iter().map(|pod| pod.wait).fold(0.0, f64::max)),
            target: policy.target_wait,
            records: None,
            lost: 0,
            replicas: job.asked(),
            wanted: decision.replicas,
            capacity: None,
            verdict: decision.verdict,
        };
        (decision, judged)
    }

    /// What is told, if it is told newly.
    pub(super) fn told(&self, changed: bool) -> Option<Told> {
        self.telling.told().filter(|_| changed).cloned()
    }

    /// What the pods did since the last look. One that is new tells nothing yet; one that does not answer makes all of it unknown.
    fn pods(&mut self, at: Seconds, look: Look) -> Option<Vec<Pod>> {
        let before = std::mem::take(&mut self.before);
        let (mut pods, mut all) = (Vec::new(), true);
        for (name, figures) in look.pods {
            let Some(figures) = figures else {
                all = false;
                continue;
            };
            if let (Some((then, earlier)), Some(busy)) = (before.get(&name), figures.busy)
                && let Some((orders, wait)) = figures.since(earlier)
                && at > *then
            {
                pods.push(Pod { busy, orders: orders / (at - then), wait });
            }
            self.before.insert(name, (at, figures));
        }
        all.then_some(pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pods: &[(&str, Option<f64>)]) -> Look {
        let figures = |orders: f64| Figures {
            busy: Some(0.5),
            outbox_age: 0.0,
            waits: vec![(0.01, orders), (f64::INFINITY, orders)],
        };
        Look { pods: pods.iter().map(|(name, orders)| ((*name).to_owned(), orders.map(figures))).collect() }
    }

    #[test]
    fn a_pod_tells_what_it_did_from_its_second_look_on() {
        let mut service = Service::default();
        assert_eq!(service.pods(0.0, look(&[("a", Some(100.0))])), Some(vec![]));
        let pods = service.pods(5.0, look(&[("a", Some(200.0)), ("b", Some(7.0))])).unwrap();
        assert_eq!(pods.iter().map(|pod| pod.orders).collect::<Vec<_>>(), [20.0]);
        assert_eq!(service.pods(10.0, look(&[("a", Some(200.0)), ("b", Some(7.0))])).unwrap().len(), 2);
    }

    #[test]
    fn one_pod_that_does_not_answer_makes_all_of_it_unknown() {
        let mut service = Service::default();
        service.pods(0.0, look(&[("a", Some(100.0)), ("b", Some(1.0))]));
        assert_eq!(service.pods(5.0, look(&[("a", Some(200.0)), ("b", None)])), None);
    }
}
