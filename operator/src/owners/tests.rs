//! One owner per claim, whatever the order of things; hand-overs that lose nothing.

mod keeping;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Claimant, Kind, Owners, Ruling, owner};
use crate::crd::OrderPipeline;
use crate::fixtures;

/// A pipeline in `shop`: its name is its uid.
fn pipeline(name: &str, created: u8, topic: &str, groups: &[&str]) -> OrderPipeline {
    let groups: Vec<Value> = groups
        .iter()
        .map(|group| json!({"name": group, "sink": {"http": {"url": "http://sink/"}}, "deadLetter": {"topic": format!("{name}.{group}.dlt")}}))
        .collect();
    let object = json!({
        "apiVersion": "orderflow.dev/v1alpha1", "kind": "OrderPipeline",
        "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
        "spec": {"kafka": {"bootstrapServers": "kafka:9092"}, "topic": {"name": topic}, "consumerGroups": groups},
    });
    let mut pipeline = fixtures::pipeline(&object.to_string());
    pipeline.metadata.uid = Some(name.to_owned());
    pipeline
}

fn recorded(mut pipeline: OrderPipeline, topic: &str, id: &str) -> OrderPipeline {
    let mut status = pipeline.status.take().unwrap_or_default();
    status.topic = Some(fixtures::record(topic, Some(id), true, &["retention.ms"]));
    pipeline.status = Some(status);
    pipeline
}

fn leaving(mut pipeline: OrderPipeline) -> OrderPipeline {
    pipeline.metadata.deletion_timestamp = pipeline.metadata.creation_timestamp.clone();
    pipeline
}

fn with_dead_letters_in(mut pipeline: OrderPipeline, topic: &str) -> OrderPipeline {
    pipeline.spec.consumer_groups[0].dead_letter.topic = Some(topic.to_owned());
    pipeline
}

fn guarded(pipeline: &OrderPipeline) -> DeserializeGuard<OrderPipeline> {
    DeserializeGuard(Ok(pipeline.clone()))
}

/// An index to which `pipelines` were listed.
fn listed<'a>(pipelines: impl IntoIterator<Item = &'a OrderPipeline>) -> Owners {
    let owners = Owners::default();
    owners.saw(&None, &Event::Init);
    for pipeline in pipelines {
        owners.saw(&None, &Event::InitApply(guarded(pipeline)));
    }
    owners.saw(&None, &Event::InitDone);
    owners
}

fn ruling(owners: &Owners, pipeline: &OrderPipeline) -> Ruling {
    owners.rule(pipeline).expect("the index knows it")
}

/// What of `pipeline` belongs to whom else.
fn conflicts(owners: &Owners, pipeline: &OrderPipeline) -> Vec<(String, String)> {
    let conflicts = ruling(owners, pipeline).conflicts;
    conflicts.iter().map(|conflict| (conflict.claim.to_string(), conflict.owner.to_string())).collect()
}

fn belongs(claim: &str, owner: &str) -> Vec<(String, String)> {
    vec![(claim.to_owned(), format!("shop/{owner}"))]
}

#[test]
fn the_oldest_owns_a_topic_and_others_are_told_who() {
    let (old, young) = (pipeline("z", 1, "t", &[]), pipeline("a", 2, "t", &[]));
    let owners = listed([&young, &old]);
    assert_eq!(conflicts(&owners, &young), belongs("topic t", "z"));
    assert_eq!(conflicts(&owners, &old), []);
}

#[test]
fn of_those_made_in_the_same_second_the_least_uid_owns() {
    let (one, other) = (pipeline("a", 1, "t", &[]), pipeline("b", 1, "t", &[]));
    for order in [[&one, &other], [&other, &one]] {
        let owners = listed(order);
        assert_eq!(conflicts(&owners, &other), belongs("topic t", "a"));
        assert_eq!(conflicts(&owners, &one), []);
    }
}

#[test]
fn a_dead_letter_topic_may_not_be_another_s_main_topic() {
    let main = pipeline("a", 1, "t", &[]);
    let other = with_dead_letters_in(pipeline("b", 2, "u", &["g"]), "t");
    assert_eq!(conflicts(&listed([&main, &other]), &other), belongs("topic t", "a"));
}

#[test]
fn a_group_has_one_owner_on_each_cluster() {
    let one = pipeline("a", 1, "t", &["g"]);
    let mut other = pipeline("b", 2, "u", &["g"]);
    assert_eq!(conflicts(&listed([&one, &other]), &other), belongs("group g", "a"));
    other.spec.kafka.bootstrap_servers = "elsewhere:9092".to_owned();
    assert_eq!(conflicts(&listed([&one, &other]), &other), []);
}

#[test]
fn whoever_has_it_keeps_it_against_an_older_one_through_a_restart() {
    let (old, young) = (pipeline("a", 1, "t", &[]), pipeline("b", 2, "t", &[]));
    let owners = listed([&young]);
    assert_eq!(conflicts(&owners, &young), []);
    owners.saw(&None, &Event::Apply(guarded(&old)));
    assert_eq!(conflicts(&owners, &old), belongs("topic t", "b"), "the pass of b is still at work");
    let young = recorded(young, "t", "id");
    assert_eq!(conflicts(&listed([&old, &young]), &old), belongs("topic t", "b"), "b recorded it");
}

#[test]
fn what_was_refused_is_let_go() {
    let (old, young) = (pipeline("a", 1, "t", &[]), pipeline("b", 2, "t", &[]));
    let owners = listed([&young]);
    ruling(&owners, &young);
    owners.withdraw(&young);
    owners.saw(&None, &Event::Apply(guarded(&old)));
    assert_eq!(conflicts(&owners, &old), []);
}

#[test]
fn a_removed_group_is_its_pipeline_s_until_its_pods_are_gone() {
    let mut owner = pipeline("a", 1, "t", &["g"]);
    let other = pipeline("b", 2, "u", &["g"]);
    let owners = listed([&owner, &other]);
    ruling(&owners, &owner);
    owner.spec.consumer_groups.clear();
    owners.saw(&None, &Event::Apply(guarded(&owner)));
    assert_eq!(conflicts(&owners, &other), belongs("group g", "a"));
    owners.settle(&owner, true);
    assert_eq!(conflicts(&owners, &other), []);
}

#[test]
fn an_heir_gets_the_topic_with_what_was_known_of_it_and_nothing_of_what_was_configured() {
    let owner = leaving(recorded(pipeline("a", 1, "t", &[]), "t", "id"));
    let (heir, third) = (pipeline("b", 2, "t", &[]), pipeline("c", 3, "t", &[]));
    let owners = listed([&third, &owner, &heir]);
    assert_eq!(conflicts(&owners, &heir), belongs("topic t", "a"), "its pods may still run");
    assert_eq!(owners.heirs(&owner)["t"].name, "b");

    assert_eq!(owners.hand_over(&owner)["t"].name, "b");
    let ruling = ruling(&owners, &heir);
    assert_eq!(ruling.conflicts, []);
    let (from, record) = &ruling.inherited["t"];
    assert_eq!((from.name.as_str(), record.id.as_deref(), record.created_by_us), ("a", Some("id"), true));
    assert!(record.owned_configs.is_empty(), "what the heir does not declare stays as it is");
    assert_eq!(conflicts(&owners, &third), belongs("topic t", "b"));

    owners.saw(&None, &Event::Delete(guarded(&owner)));
    let heir = recorded(heir, "t", "id");
    assert!(super::tests::ruling(&owners, &heir).inherited.is_empty(), "taken once");
}

#[test]
fn without_an_heir_a_leaving_pipeline_keeps_the_topic_to_the_end() {
    let owner = leaving(recorded(pipeline("a", 1, "t", &[]), "t", "id"));
    let owners = listed([&owner]);
    assert!(owners.hand_over(&owner).is_empty());
    let late = pipeline("b", 2, "t", &[]);
    owners.saw(&None, &Event::Apply(guarded(&late)));
    assert_eq!(conflicts(&owners, &late), belongs("topic t", "a"), "it may be about to be deleted");
    owners.saw(&None, &Event::Delete(guarded(&owner)));
    assert_eq!(conflicts(&owners, &late), []);
}

#[test]
fn whoever_is_leaving_too_is_no_heir() {
    let owner = leaving(recorded(pipeline("a", 1, "t", &[]), "t", "id"));
    let other = leaving(pipeline("b", 2, "t", &[]));
    assert!(listed([&owner, &other]).heirs(&owner).is_empty());
}

#[test]
fn a_topic_that_left_the_spec_goes_to_whoever_names_it_and_is_forgotten_by_the_other() {
    let mut owner = with_dead_letters_in(pipeline("a", 1, "t", &["g"]), "d");
    let mut status = crate::crd::OrderPipelineStatus::default();
    status.dead_letter_topics.push(fixtures::record("d", Some("id"), true, &[]));
    owner.status = Some(status);
    let other = pipeline("b", 2, "d", &[]);
    let owners = listed([&owner, &other]);
    assert_eq!(conflicts(&owners, &other), belongs("topic d", "a"));
    let owner = with_dead_letters_in(owner, "e");
    assert_eq!(conflicts(&owners, &owner), []);
    owners.settle(&owner, true);
    let found = ruling(&owners, &other);
    assert_eq!((found.conflicts, found.inherited["d"].1.created_by_us), (vec![], true));
    owners.saw(&None, &Event::Apply(guarded(&recorded(other, "d", "id"))));
    assert_eq!(ruling(&owners, &owner).taken["d"].name, "b");
}

#[test]
fn those_who_wait_are_woken_when_the_owner_goes_or_lets_go() {
    let woken = Arc::new(Mutex::new(BTreeSet::new()));
    let take = || std::mem::take(&mut *woken.lock().unwrap()).into_iter().collect::<Vec<String>>();
    let (owner, waiting) = (pipeline("a", 1, "t", &["g"]), pipeline("b", 2, "u", &["g"]));
    let owners = listed([&owner, &waiting, &pipeline("c", 3, "v", &[])]);
    let seen = Arc::clone(&woken);
    owners.wake_by(move |pipeline| {
        seen.lock().unwrap().insert(pipeline.name);
    });
    ruling(&owners, &owner);
    assert!(take().is_empty());
    let mut smaller = owner.clone();
    smaller.spec.consumer_groups.clear();
    ruling(&owners, &smaller);
    take();
    owners.settle(&smaller, true);
    assert_eq!(take(), ["b"]);
    owners.saw(&None, &Event::Apply(guarded(&owner)));
    take();
    owners.saw(&None, &Event::Delete(guarded(&owner)));
    assert_eq!(take(), ["b"]);
}

#[test]
fn a_list_takes_the_place_of_what_its_namespace_had_and_of_no_other() {
    let mut elsewhere = pipeline("a", 1, "t", &[]);
    elsewhere.metadata.namespace = Some("other".to_owned());
    let (gone, late) = (pipeline("b", 2, "u", &[]), pipeline("c", 3, "u", &[]));
    let owners = listed([&elsewhere, &gone]);
    let shop = Some("shop".to_owned());
    for event in [Event::Init, Event::InitApply(guarded(&late)), Event::InitDone] {
        owners.saw(&shop, &event);
    }
    assert_eq!(conflicts(&owners, &late), []);
    assert!(owners.rule(&gone).is_none(), "who is gone may have nothing");
    assert!(owners.rule(&elsewhere).is_some());
}

#[tokio::test]
async fn nothing_is_ruled_before_every_namespace_is_listed() {
    let owners = Owners::default();
    let scopes = [Some("a".to_owned()), Some("b".to_owned())];
    owners.expect(scopes.clone());
    for scope in &scopes {
        assert!(futures::FutureExt::now_or_never(owners.listed()).is_none());
        owners.saw(scope, &Event::Init);
        owners.saw(scope, &Event::InitDone);
    }
    owners.listed().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_listed_is_named_and_not_waited_for_for_ever() {
    let (owners, told) = (Owners::default(), Mutex::new(Vec::new()));
    let (good, bad) = (Some("a".to_owned()), Some("b".to_owned()));
    owners.expect([good.clone(), bad.clone()]);
    let begun = Instant::now();
    owners.forbidden(&bad, begun);
    let act = async {
        tokio::task::yield_now().await;
        owners.saw(&good, &Event::InitDone);
        tokio::task::yield_now().await;
        owners.forbidden(&bad, begun + Duration::from_secs(299));
        assert_eq!(owners.unlisted().as_deref(), Some("namespace b"));
        owners.saw(&bad, &Event::Init);
        owners.saw(&bad, &Event::InitApply(guarded(&pipeline("a", 1, "t", &[]))));
        owners.forbidden(&bad, begun + Duration::from_secs(301));
        assert!(owners.unlisted().is_some(), "it was about to be listed in between");
        owners.saw(&bad, &Event::Init);
        owners.forbidden(&bad, begun + Duration::from_secs(601));
    };
    futures::join!(owners.tell_unlisted(|unlisted| told.lock().unwrap().push(unlisted)), act);
    let told = told.into_inner().unwrap();
    let told: Vec<_> = told.iter().map(Option::as_deref).collect();
    assert_eq!(told, [Some("namespace a, namespace b"), Some("namespace b"), None]);
}

/// Few names and seconds, so that they often meet.
fn crowds() -> impl Strategy<Value = Vec<OrderPipeline>> {
    let one = (0..3_u8, "[tu]", prop::collection::btree_set("[gh]", 0..2), any::<bool>());
    prop::collection::vec(one, 1..6).prop_map(|crowd| {
        let crowd = crowd.into_iter().enumerate().map(|(index, (created, topic, groups, has))| {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            let pipeline = pipeline(&format!("p{index}"), created, &topic, &groups);
            if has { recorded(pipeline, &topic, "id") } else { pipeline }
        });
        crowd.collect()
    })
}

proptest! {
    #[test]
    fn every_claim_has_exactly_one_owner_whatever_the_order(
        (crowd, shuffled) in crowds().prop_flat_map(|crowd| (Just(crowd.clone()), Just(crowd).prop_shuffle())),
    ) {
        let claimants: Vec<Claimant> = crowd.iter().map(Claimant::of).collect();
        let claims: BTreeSet<_> = claimants.iter().flat_map(Claimant::all).collect();
        let expected: BTreeMap<_, _> = claims
            .iter()
            .map(|claim| (claim.clone(), owner(claim, &claimants).expect("somebody names it").uid.clone()))
            .collect();

        let owners = listed(&shuffled);
        let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for pipeline in &shuffled {
            let conflicts = ruling(&owners, pipeline).conflicts;
            for claim in Claimant::of(pipeline).named {
                if conflicts.iter().all(|conflict| conflict.claim != claim) {
                    found.entry(claim).or_default().push(pipeline.metadata.uid.clone().unwrap());
                }
            }
        }
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(claim, uid)| (claim, vec![uid])).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(claims.iter().any(|claim| claim.kind == Kind::Topic));
    }
}
