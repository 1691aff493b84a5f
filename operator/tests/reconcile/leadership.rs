//! Who leads, of several candidates for one Lease, and what a process may do that does not lead.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Request;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::client::Body;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Client};
use operator::context::Context;
use operator::kafka::{self, Admin, NewTopic};
use operator::leadership::Leadership;
use operator::lease::{self, Elector, Lost, Round, Settings, Timing};
use operator::metrics::Metrics;
use operator::reconcile::{self, reconcile};
use runtime::health::Health;
use runtime::shutdown::CancellationToken;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::world::{AMPLE, KAFKA_TIMEOUT, World, connection, scenario};

const LEASE: &str = "election";

/// As the operator is started by default: duration, renew deadline and retry period, in milliseconds.
const DEFAULTS: (u64, u64, u64) = (15_000, 10_000, 2_000);

/// Shorter, for scenarios in which a lease runs out.
const SHORT: (u64, u64, u64) = (4_000, 2_500, 1_000);

/// What a takeover may take on top of the lease's duration, or after a release.
const TAKEOVER: Duration = Duration::from_secs(2);

/// For what must happen sooner or later.
const DEADLINE: Duration = Duration::from_secs(30);

fn timing(millis: (u64, u64, u64)) -> Timing {
    let [duration, renew_deadline, retry] = [millis.0, millis.1, millis.2].map(Duration::from_millis);
    Timing::new(duration, renew_deadline, retry).unwrap()
}

fn candidate(world: &World, client: &Client, identity: &str, millis: (u64, u64, u64)) -> Elector {
    let settings = Settings {
        namespace: world.namespace.clone(),
        name: LEASE.to_owned(),
        identity: identity.to_owned(),
        timing: timing(millis),
    };
    Elector::new(client.clone(), settings, Health::default())
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

async fn leads(candidate: &mut Elector) {
    assert!(in_time("leadership", candidate.acquire(&CancellationToken::new(), || {})).await);
}

/// A candidate that has seen the lease in another's hands and goes on looking; it ends when it leads, and says when.
async fn standing_by(mut candidate: Elector) -> JoinHandle<(Elector, Instant)> {
    let seen = Arc::new(Notify::new());
    let seeing = Arc::clone(&seen);
    let looking = tokio::spawn(async move {
        let led = candidate.acquire(&CancellationToken::new(), || seeing.notify_one()).await;
        assert!(led);
        (candidate, Instant::now())
    });
    in_time("a look at the lease", seen.notified()).await;
    looking
}

fn leases(world: &World) -> Api<Lease> {
    Api::namespaced(world.client.clone(), &world.namespace)
}

async fn lease(world: &World) -> LeaseSpec {
    leases(world).get(LEASE).await.unwrap().spec.unwrap()
}

/// `client`, whose writes say that they are there and wait to be let through.
fn held_back(client: Client) -> (Client, Arc<Notify>, Arc<Semaphore>) {
    let (arrived, gate) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (arriving, passing) = (Arc::clone(&arrived), Arc::clone(&gate));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, arriving, passing) = (client.clone(), Arc::clone(&arriving), Arc::clone(&passing));
        async move {
            if !request.method().is_safe() {
                arriving.notify_one();
                passing.acquire().await.unwrap().forget();
            }
            client.send(request).await
        }
    });
    (Client::new(service, "default"), arrived, gate)
}

/// `client`, which hears nothing more once it is cut off.
fn cut_off(client: Client) -> (Client, Arc<AtomicBool>) {
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = Arc::clone(&cut);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, cut) = (client.clone(), is_cut.load(Ordering::SeqCst));
        async move { if cut { pending().await } else { client.send(request).await } }
    });
    (Client::new(service, "default"), cut)
}

#[tokio::test]
async fn of_several_candidates_exactly_one_leads() {
    scenario(AMPLE, async |world| {
        let mut candidates: Vec<_> = (0..5)
            .map(|number| candidate(&world, &world.client, &format!("candidate-{number}"), DEFAULTS))
            .collect();
        let rounds = join_all(candidates.iter_mut().map(Elector::round)).await;
        let led = |rounds: &[Result<Round, lease::Error>]| -> Vec<bool> {
            rounds.iter().map(|round| matches!(round, Ok(Round::Leads { .. }))).collect()
        };
        let first = led(&rounds);
        assert_eq!(first.iter().filter(|leads| **leads).count(), 1, "{rounds:?}");
        let again = join_all(candidates.iter_mut().map(Elector::round)).await;
        assert_eq!(led(&again), first, "{again:?}");
        assert_eq!(lease(&world).await.lease_transitions, Some(0));
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_goes_leaves_the_lease_to_the_next_within_two_seconds() {
    scenario(AMPLE, async |world| {
        let mut first = candidate(&world, &world.client, "first", DEFAULTS);
        leads(&mut first).await;
        let token = first.leadership();
        let finished = CancellationToken::new();
        let kept = tokio::spawn(first.keep(finished.clone()));
        let second = standing_by(candidate(&world, &world.client, "second", DEFAULTS)).await;
        assert!(token.is_held());
        let before = lease(&world).await;
        assert_eq!((before.holder_identity.as_deref(), before.lease_transitions), (Some("first"), Some(0)));

        finished.cancel();
        let gone = Instant::now();
        in_time("the release", kept).await.unwrap().unwrap();
        assert!(!token.is_held());
        let (second, led) = in_time("the next leader", second).await.unwrap();
        assert!(led - gone <= TAKEOVER, "{:?}", led - gone);
        assert!(second.leadership().is_held());
        let after = lease(&world).await;
        assert_eq!((after.holder_identity.as_deref(), after.lease_transitions), (Some("second"), Some(1)));
        assert!(after.acquire_time > before.acquire_time);
    })
    .await;
}

#[tokio::test]
async fn a_frozen_leader_is_followed_by_another_and_has_lost_the_right_to_write_by_then() {
    scenario(AMPLE, async |world| {
        let mut frozen = candidate(&world, &world.client, "frozen", SHORT);
        leads(&mut frozen).await;
        let token = frozen.leadership();
        let second = standing_by(candidate(&world, &world.client, "second", SHORT)).await;
        // It neither renews nor releases from here on, and nobody tells it anything.
        drop(frozen);
        let since = Instant::now();
        let (second, led) = in_time("the next leader", second).await.unwrap();
        assert!(!token.is_held());
        assert!(second.leadership().is_held());
        assert!(led - since <= Duration::from_millis(SHORT.0) + TAKEOVER, "{:?}", led - since);
    })
    .await;
}

#[tokio::test]
async fn a_deleted_lease_makes_no_second_leader() {
    scenario(AMPLE, async |world| {
        let mut first = candidate(&world, &world.client, "first", SHORT);
        leads(&mut first).await;
        let mut second = candidate(&world, &world.client, "second", SHORT);
        assert!(matches!(second.round().await, Ok(Round::Follows { .. })));
        leases(&world).delete(LEASE, &DeleteParams::default()).await.unwrap();
        let round = second.round().await;
        assert!(matches!(&round, Ok(Round::Follows { holder, .. }) if holder == "first"), "{round:?}");
        // The leader finds it gone at its next renewal, and makes it anew.
        assert!(matches!(first.round().await, Ok(Round::Overtaken)));
        assert!(matches!(first.round().await, Ok(Round::Leads { .. })));
        assert_eq!(lease(&world).await.holder_identity.as_deref(), Some("first"));
    })
    .await;
}

#[tokio::test]
async fn a_candidate_whose_look_at_the_lease_is_out_of_date_does_not_win_it() {
    scenario(AMPLE, async |world| {
        let mut before = candidate(&world, &world.client, "before", DEFAULTS);
        leads(&mut before).await;
        let finished = CancellationToken::new();
        finished.cancel();
        before.keep(finished).await.unwrap();

        let (client, arrived, gate) = held_back(world.client.clone());
        let mut slow = candidate(&world, &client, "slow", DEFAULTS);
        let slow = tokio::spawn(async move {
            let round = slow.round().await;
            (slow, round)
        });
        in_time("the slow one's write", arrived.notified()).await;
        let mut quick = candidate(&world, &world.client, "quick", DEFAULTS);
        assert!(matches!(quick.round().await, Ok(Round::Leads { .. })));
        gate.add_permits(1);
        let (mut slow, round) = in_time("the slow one's answer", slow).await.unwrap();
        assert!(matches!(round, Ok(Round::Overtaken)), "{round:?}");
        let round = slow.round().await;
        assert!(matches!(&round, Ok(Round::Follows { holder, .. }) if holder == "quick"), "{round:?}");
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_can_t_renew_stops_before_the_lease_can_be_taken() {
    scenario(AMPLE, async |world| {
        let (client, cut) = cut_off(world.client.clone());
        let mut first = candidate(&world, &client, "first", SHORT);
        leads(&mut first).await;
        let token = first.leadership();
        let kept = tokio::spawn(first.keep(CancellationToken::new()));
        let second = standing_by(candidate(&world, &world.client, "second", SHORT)).await;

        cut.store(true, Ordering::SeqCst);
        let lost = in_time("the loss", kept).await.unwrap();
        let stopped = Instant::now();
        assert!(matches!(lost, Err(Lost::NotRenewed)), "{lost:?}");
        assert!(!token.is_held());
        let (_, led) = in_time("the next leader", second).await.unwrap();
        assert!(led > stopped, "both led for {:?}", stopped - led);
    })
    .await;
}

#[tokio::test]
async fn the_work_of_a_leader_stops_where_it_stands_when_another_holds_the_lease() {
    scenario(AMPLE, async |world| {
        let first = candidate(&world, &world.client, "first", DEFAULTS);
        let token = first.leadership();
        let shutdown = CancellationToken::new();
        let begun = Arc::new(Notify::new());
        let beginning = Arc::clone(&begun);
        let held = tokio::spawn(async move {
            let work = async {
                beginning.notify_one();
                pending().await
            };
            lease::hold(first, &shutdown, || {}, work).await
        });
        in_time("the work", begun.notified()).await;
        assert!(token.is_held());
        let taken = Patch::Merge(json!({"spec": {"holderIdentity": "intruder"}}));
        leases(&world).patch(LEASE, &PatchParams::default(), &taken).await.unwrap();
        let lost = in_time("the loss", held).await.unwrap();
        assert!(matches!(&lost, Err(Lost::Taken { holder }) if holder == "intruder"), "{lost:?}");
        assert!(!token.is_held());
        assert_eq!(
            lease(&world).await.holder_identity.as_deref(),
            Some("intruder"),
            "it is left to its holder"
        );
    })
    .await;
}

#[tokio::test]
async fn a_leader_that_is_told_to_stop_ends_its_work_before_it_releases_the_lease() {
    scenario(AMPLE, async |world| {
        let first = candidate(&world, &world.client, "first", DEFAULTS);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let at_the_end = leases(&world);
        let work = async {
            stop.cancel();
            let held = at_the_end.get(LEASE).await.unwrap().spec.unwrap().holder_identity;
            assert_eq!(held.as_deref(), Some("first"), "what is under way ends first");
        };
        in_time("the end", lease::hold(first, &shutdown, || {}, work)).await.unwrap();
        assert_eq!(lease(&world).await.holder_identity, None);
    })
    .await;
}

#[tokio::test]
async fn a_process_that_leads_no_more_writes_neither_to_kubernetes_nor_to_kafka() {
    scenario(AMPLE, async |world| {
        let options = world.context.options.clone();
        let figures = runtime::metrics::Metrics::default();
        let metrics = figures.register(Metrics::registered);
        let context = Arc::new(Context::led(world.client.clone(), options, metrics, Leadership::standby()));
        let pass = async |name: &str| {
            let pipeline = Arc::new(DeserializeGuard(Ok(world.get(name).await)));
            reconcile(pipeline, Arc::clone(&context)).await
        };
        let refused = |result: Result<Action, reconcile::Error>| {
            assert!(matches!(result, Err(reconcile::Error::NotLeading(_))), "{result:?}")
        };

        let new = world.apply("new", &json!({})).await;
        refused(pass("new").await);
        assert_eq!(world.get("new").await.metadata.resource_version, new.metadata.resource_version);
        assert_eq!(world.described(&world.topic("new")).await, None);

        world.apply("old", &json!({"topic": {"deletionPolicy": "Delete"}})).await;
        world.converge("old").await;
        let topic = world.described(&world.topic("old")).await;
        let spec = json!({"topic": {"deletionPolicy": "Delete", "config": {"retention.ms": "60000"}}});
        world.apply("old", &spec).await;
        refused(pass("old").await);
        assert_eq!(world.described(&world.topic("old")).await, topic);

        world.pipelines().delete("old", &DeleteParams::default()).await.unwrap();
        refused(pass("old").await);
        assert_eq!(world.described(&world.topic("old")).await, topic);
        let text = figures.render();
        assert!(
            !text.contains("controller_runtime_reconcile_errors_total{"),
            "no failures of pipelines:\n{text}"
        );
        world.converge("new").await;
    })
    .await;
}

#[tokio::test]
async fn a_request_to_kafka_is_refused_when_its_turn_has_come_if_nobody_leads_by_then() {
    scenario(AMPLE, async |world| {
        let name = world.topic("there");
        world.foreign_topic(&name, 1, &[]).await;
        let before = world.described(&name).await.unwrap();
        let admin = Admin::new(&connection(), KAFKA_TIMEOUT, Leadership::standby()).unwrap();
        let refused = |error: kafka::Error| assert!(matches!(error, kafka::Error::NotLeading(_)), "{error}");
        let topic = |name: &str| NewTopic {
            name: world.topic(name),
            partitions: 1,
            replication_factor: None,
            config: BTreeMap::new(),
        };
        let set = BTreeMap::from([("retention.ms".to_owned(), "60000".to_owned())]);
        refused(admin.create(&topic("new")).await.unwrap_err());
        refused(admin.alter_config(&name, &set, &BTreeSet::new()).await.unwrap_err());
        refused(admin.delete(&name, &before.id).await.unwrap_err());
        assert_eq!(world.described(&name).await, Some(before));
        assert_eq!(world.described(&world.topic("new")).await, None);
        admin.check(&topic("new")).await.expect("a question is anybody's");
        admin.check_config(&name, &set, &BTreeSet::new()).await.expect("a question is anybody's");
    })
    .await;
}

#[tokio::test]
async fn of_topics_that_are_deleted_together_only_those_with_the_very_id_go() {
    scenario(AMPLE, async |world| {
        let (ours, theirs) = (world.topic("ours"), world.topic("theirs"));
        for name in [&ours, &theirs] {
            world.foreign_topic(name, 1, &[]).await;
        }
        let id = world.described(&ours).await.unwrap().id;
        let gone = world.topic("gone");
        let deletions = [&ours, &theirs, &gone].map(|name| world.admin.delete(name, &id));
        let deleted: Vec<bool> = join_all(deletions).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(deleted, [true, false, false]);
        assert!(world.described(&theirs).await.is_some());
    })
    .await;
}
