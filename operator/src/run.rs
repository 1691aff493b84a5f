//! `operator run`: clients, watches, poller and admin port, wired together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::channel::mpsc;
use futures::{Stream, StreamExt, TryStreamExt, future};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Config, Resource};
use runtime::admin;
use runtime::health::Health;
use runtime::shutdown::CancellationToken;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;

use crate::cli::{ElectionArgs, RunArgs};
use crate::context::{Context, Options};
use crate::crd::OrderPipeline;
use crate::leadership::Leadership;
use crate::lease::{self, Elector};
use crate::metrics::Metrics;
use crate::names;
use crate::observe::Watched;
use crate::poller::{self, PipelineRef};
use crate::reconcile::{reconcile, retry};

/// Requests to the API server are answered within this or tried again by the next reconciliation.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A watch is renewed after this; below the idle limit of common load balancers (240 s), so that none dies unnoticed.
const WATCH_SECONDS: u32 = 200;

/// Wake-ups that may wait for a controller; the poller finds again what does not fit.
const WAKE_UPS: usize = 1024;

/// How often the API server is asked for the resource until the definition is installed.
const DEFINITION_POLL: Duration = Duration::from_secs(2);

const ELECTION: &str = "lease looked at";
const CRD: &str = "definition installed";
const LISTED: &str = "pipelines listed";

type Guarded = DeserializeGuard<OrderPipeline>;

/// Runs the operator until `shutdown`.
///
/// # Errors
/// When the API server's address or the admin port can't be had, and when the leadership was lost: the process must
/// exit then, because another leads.
pub async fn run(args: RunArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let RunArgs {
        default_image,
        watch_namespaces,
        admin_addr,
        pod_name,
        poll_seconds,
        kafka_timeout_seconds,
        finalizer_timeout_seconds,
        concurrency,
        election,
        log: _,
    } = args;
    let config = Config::infer().await.context("failed to find the API server")?;
    let watches = Client::try_from(config.clone()).context("failed to make a client")?;
    let health = Health::waiting_for(if election.leader_election { &[ELECTION] } else { &[CRD, LISTED] });
    let lease = election.lease_name.clone();
    let elector = elector(election, &config, pod_name.as_deref(), &health)?;
    let requests = request_client(config)?;
    let metrics = runtime::metrics::Metrics::default();
    let options = Options {
        default_image,
        pod_name,
        kafka_timeout: Duration::from_secs(kafka_timeout_seconds),
        finalizer_timeout: Duration::from_secs(finalizer_timeout_seconds),
    };
    let leadership = elector.as_ref().map_or_else(Leadership::unshared, Elector::leadership);
    let figures = metrics.register(Metrics::registered);
    metrics.register(|registry| leadership.register(&lease, registry));
    let context = Arc::new(Context::led(requests, options, figures, leadership));
    let listener = TcpListener::bind(admin_addr).await.context("failed to bind the admin port")?;
    let router = admin::routes(health.clone(), metrics);
    let served = tokio::spawn(admin::serve(listener, router, shutdown.clone().cancelled_owned()));

    let wiring = Wiring { watches, context, health: health.clone(), shutdown: shutdown.clone() };
    let interval = Duration::from_secs(poll_seconds);
    let work = wiring.work(scopes(watch_namespaces), concurrency, interval);
    match elector {
        Some(elector) => lease::hold(elector, &shutdown, || health.met(ELECTION), work).await?,
        None => work.await,
    }
    served.await.context("the admin server ended early")?
}

/// The candidate of this process, if there is an election.
fn elector(
    election: ElectionArgs,
    config: &Config,
    pod_name: Option<&str>,
    health: &Health,
) -> anyhow::Result<Option<Elector>> {
    if !election.leader_election {
        return Ok(None);
    }
    let settings = lease::Settings {
        namespace: election.lease_namespace.unwrap_or_else(|| config.default_namespace.clone()),
        name: election.lease_name,
        identity: lease::identity(pod_name.unwrap_or(names::MANAGER)),
        timing: lease::Timing::new(
            Duration::from_secs(election.lease_duration_seconds),
            Duration::from_secs(election.lease_renew_deadline_seconds),
            Duration::from_secs(election.lease_retry_seconds),
        )?,
    };
    Ok(Some(Elector::new(request_client(config.clone())?, settings, health.clone())))
}

/// A namespace, or all.
pub type Scope = Option<String>;

pub(crate) fn scopes(namespaces: Vec<String>) -> Vec<Scope> {
    let mut names: Vec<String> =
        namespaces.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
}

pub(crate) fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A client that gives up on a request in time and leaves trying again to the reconciliation.
pub(crate) fn request_client(mut config: Config) -> anyhow::Result<Client> {
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config.default_retry = false;
    Client::try_from(config).context("failed to make a client")
}

/// Waits until pipelines can be listed: the definition may be installed after the operator.
async fn await_definition(client: &Client, scopes: &[Scope], health: &Health, shutdown: &CancellationToken) {
    let Some(scope) = scopes.first() else { return };
    let pipelines: Api<Guarded> = api(client, scope);
    while !shutdown.is_cancelled() {
        match pipelines.list(&ListParams::default().limit(1)).await {
            Ok(_) => {
                health.met(CRD);
                return;
            }
            Err(error) => {
                tracing::warn!(error = %error, "pipelines can't be listed yet");
                health.unmet(CRD, error.to_string());
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(DEFINITION_POLL) => {}
        }
    }
}

/// What every scope's controller is made of.
struct Wiring {
    /// For watches, which last long and are renewed by themselves.
    watches: Client,
    context: Arc<Context>,
    health: Health,
    shutdown: CancellationToken,
}

impl Wiring {
    /// Everything that only the leader does, until the stop signal. Standbys do not even watch: one that takes over
    /// lists what is there, and lists are quick.
    async fn work(self, scopes: Vec<Scope>, concurrency: u16, interval: Duration) {
        let Self { context, health, shutdown, .. } = &self;
        // Ready as a standby is one thing, ready as the leader another.
        for condition in [CRD, LISTED] {
            health.unmet(condition, "not started");
        }
        health.met(ELECTION);
        await_definition(&context.client, &scopes, health, shutdown).await;
        context.owners.expect(scopes.iter().cloned());
        let mut wakers = HashMap::new();
        let mut controllers = Vec::new();
        for scope in scopes {
            let (waker, wake_ups) = mpsc::channel(WAKE_UPS);
            controllers.push(self.control(scope.clone(), wake_ups, concurrency));
            wakers.insert(scope, waker);
        }
        let wake = Arc::new(move |pipeline: PipelineRef| {
            let waker = wakers.get(&Some(pipeline.namespace.clone())).or_else(|| wakers.get(&None));
            if let Some(waker) = waker {
                // A full queue means that the controller has enough to do; the next poll finds what is still different.
                let _ = waker.clone().try_send(ObjectRef::new(&pipeline.name).within(&pipeline.namespace));
            }
        });
        let also = Arc::clone(&wake);
        context.owners.wake_by(move |pipeline| also(pipeline));
        let polled = poller::poll(context, interval, health, shutdown.clone(), |pipeline| wake(pipeline));
        let listed = shutdown.run_until_cancelled(context.owners.tell_unlisted(|unlisted| match unlisted {
            Some(unlisted) => health.unmet(LISTED, format!("waits for {unlisted}")),
            None => health.met(LISTED),
        }));
        future::join3(future::join_all(controllers), polled, listed).await;
        // Once the lease is given up they would be refused.
        context.events.flush().await;
    }

    /// Watches one scope and reconciles what changes there.
    async fn control(&self, scope: Scope, wake_ups: mpsc::Receiver<ObjectRef<Guarded>>, concurrency: u16) {
        let Self { watches, context, shutdown, .. } = self;
        let watching = watcher::Config::default().timeout(WATCH_SECONDS);
        let owned = watching.clone().labels(&format!("app.kubernetes.io/managed-by={}", names::MANAGER));
        let (store, writer) = reflector::store();
        // Status writes, our own above all, change neither generation nor finalizers and wake nobody; nor does our finalizer.
        let ours = Arc::clone(context);
        let finalizers = move |object: &Guarded| Some(ours.freshness.finalizers(object.meta()));
        let (shared, watched) = (Arc::clone(context), scope.clone());
        let (told, asked) = (Arc::clone(context), scope.clone());
        let pipelines = watcher(api::<Guarded>(watches, &scope), watching)
            .default_backoff()
            .inspect_ok(move |event| {
                shared.freshness.saw(event);
                shared.owners.saw(&watched, event);
            })
            .inspect_err(move |error| {
                if is_forbidden(error) {
                    told.owners.forbidden(&asked, Instant::now());
                }
            })
            .reflect(writer)
            .applied_objects()
            .predicate_filter(predicates::generation.combine(finalizers), PredicateConfig::default());
        let (deployments, deployment_stream) = owned_objects::<Deployment>(watches, &scope, &owned);
        let (services, service_stream) = owned_objects::<Service>(watches, &scope, &owned);
        let (budgets, budget_stream) = owned_objects::<PodDisruptionBudget>(watches, &scope, &owned);
        let watched = Watched { namespace: scope.clone(), deployments, services, budgets };
        let seen = async {
            if watched.listed().await {
                context.owned.watch(watched);
            }
        };
        let ended = Controller::for_stream(pipelines, store)
            .owns_stream(deployment_stream)
            .owns_stream(service_stream)
            .owns_stream(budget_stream)
            .reconcile_on(wake_ups)
            .with_config(controller::Config::default().concurrency(concurrency))
            .graceful_shutdown_on(shutdown.clone().cancelled_owned())
            .run(reconcile, retry_by_value, Arc::clone(context))
            .for_each(|result| {
                log(&result);
                forget_absent(&result, context);
                future::ready(())
            });
        future::join(seen, ended).await;
    }
}

/// Whether the operator has no right to the list.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.is_forbidden())
}

/// The watch of one kind of the operator's objects, and what it holds.
fn owned_objects<K>(
    client: &Client,
    scope: &Scope,
    config: &watcher::Config,
) -> (
    Store<PartialObjectMeta<K>>,
    impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static,
)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api::<PartialObjectMeta<K>>(client, scope), config.clone())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    (store, stream)
}

fn retry_by_value(
    object: Arc<Guarded>,
    error: &crate::reconcile::Error,
    context: Arc<Context>,
) -> controller::Action {
    retry(&object, error, &context)
}

/// Failed reconciliations are logged where they are tried again; here are the failures of the watches.
fn log<T, E: std::error::Error>(result: &Result<T, controller::Error<E, watcher::Error>>) {
    match result {
        Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
        Err(controller::Error::ObjectNotFound(object)) => {
            tracing::debug!(%object, "gone before it was looked at")
        }
        Err(error) => tracing::warn!(error = %error, "failed to watch"),
    }
}

/// A pipeline without a finalizer, as one has that was only ever planned, goes without a last pass that would forget it.
fn forget_absent<T, E: std::error::Error>(
    result: &Result<T, controller::Error<E, watcher::Error>>,
    context: &Context,
) {
    if let Err(controller::Error::ObjectNotFound(object)) = result {
        let namespace = object.namespace.clone().unwrap_or_default();
        context.watchlist.forget(&PipelineRef { namespace, name: object.name.clone() });
        if let Some(uid) = &object.extra.uid {
            context.backoffs.reset(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_namespace_means_all_and_repeated_ones_count_once() {
        assert_eq!(scopes(vec![String::new()]), [None]);
        assert_eq!(
            scopes(vec!["b".into(), " a".into(), "b".into()]),
            [Some("a".to_owned()), Some("b".to_owned())]
        );
    }
}
