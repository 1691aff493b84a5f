//! `operator run`: clients, watches, poller and admin port, wired together.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::channel::mpsc;
use futures::{StreamExt, TryStreamExt, future};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Config};
use runtime::admin;
use runtime::health::Health;
use runtime::shutdown::CancellationToken;
use tokio::net::TcpListener;

use crate::cli::RunArgs;
use crate::context::{Context, Options};
use crate::crd::OrderPipeline;
use crate::metrics::Metrics;
use crate::names;
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

const CRD: &str = "definition installed";
const LISTED: &str = "pipelines listed";

type Guarded = DeserializeGuard<OrderPipeline>;

/// Runs the operator until `shutdown`.
///
/// # Errors
/// When the API server's address or the admin port can't be had.
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
        log: _,
    } = args;
    let config = Config::infer().await.context("failed to find the API server")?;
    let watches = Client::try_from(config.clone()).context("failed to make a client")?;
    let requests = request_client(config)?;
    let metrics = runtime::metrics::Metrics::default();
    let options = Options {
        default_image,
        pod_name,
        kafka_timeout: Duration::from_secs(kafka_timeout_seconds),
        finalizer_timeout: Duration::from_secs(finalizer_timeout_seconds),
    };
    let context = Arc::new(Context::new(requests, options, metrics.register(Metrics::registered)));
    let health = Health::waiting_for(&[CRD, LISTED]);
    let listener = TcpListener::bind(admin_addr).await.context("failed to bind the admin port")?;
    let router = admin::routes(health.clone(), metrics);
    let served = tokio::spawn(admin::serve(listener, router, shutdown.clone().cancelled_owned()));

    let scopes = scopes(watch_namespaces);
    await_definition(&context.client, &scopes, &health, &shutdown).await;
    let wiring =
        Wiring { watches, context: Arc::clone(&context), health: health.clone(), shutdown: shutdown.clone() };
    context.owners.expect(scopes.iter().cloned());
    let mut wakers = HashMap::new();
    let mut controllers = Vec::new();
    for scope in scopes {
        let (waker, wake_ups) = mpsc::channel(WAKE_UPS);
        controllers.push(wiring.control(scope.clone(), wake_ups, concurrency));
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
    let interval = Duration::from_secs(poll_seconds);
    let polled = poller::poll(&context, interval, &health, shutdown.clone(), |pipeline| wake(pipeline));
    future::join(future::join_all(controllers), polled).await;
    served.await.context("the admin server ended early")?
}

/// A namespace, or all.
type Scope = Option<String>;

fn scopes(namespaces: Vec<String>) -> Vec<Scope> {
    let mut names: Vec<String> =
        namespaces.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
}

fn api<K>(client: &Client, scope: &Scope) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A client that gives up on a request in time and leaves trying again to the reconciliation.
fn request_client(mut config: Config) -> anyhow::Result<Client> {
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
    /// Watches one scope and reconciles what changes there.
    async fn control(&self, scope: Scope, wake_ups: mpsc::Receiver<ObjectRef<Guarded>>, concurrency: u16) {
        let Self { watches, context, health, shutdown } = self;
        let watching = watcher::Config::default().timeout(WATCH_SECONDS);
        let owned = watching.clone().labels(&format!("app.kubernetes.io/managed-by={}", names::MANAGER));
        let (store, writer) = reflector::store();
        // Status writes, our own above all, change neither generation nor finalizers and wake nobody.
        let (shared, watched) = (Arc::clone(context), scope.clone());
        let pipelines = watcher(api::<Guarded>(watches, &scope), watching)
            .default_backoff()
            .inspect_ok(move |event| shared.owners.saw(&watched, event))
            .reflect(writer)
            .applied_objects()
            .predicate_filter(
                predicates::generation.combine(predicates::finalizers),
                PredicateConfig::default(),
            );
        let listed = store.clone();
        let first_list = async move {
            if listed.wait_until_ready().await.is_ok() {
                health.met(LISTED);
            }
        };
        let ended = Controller::for_stream(pipelines, store)
            .owns(api::<Deployment>(watches, &scope), owned.clone())
            .owns(api::<Service>(watches, &scope), owned.clone())
            .owns(api::<PodDisruptionBudget>(watches, &scope), owned)
            .reconcile_on(wake_ups)
            .with_config(controller::Config::default().concurrency(concurrency))
            .graceful_shutdown_on(shutdown.clone().cancelled_owned())
            .run(reconcile, retry_by_value, Arc::clone(context))
            .for_each(|result| {
                log(&result);
                future::ready(())
            });
        future::join(first_list, ended).await;
    }
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
