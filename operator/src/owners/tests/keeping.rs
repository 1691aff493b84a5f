//! What is kept from others, and how long: as long as it is used, and not because it is only planned or intended.

use kube::runtime::watcher::Event;
use serde_json::json;

use super::{belongs, conflicts, guarded, leaving, listed, pipeline, recorded, ruling, with_dead_letters_in};
use crate::crd::{Mode, OrderPipeline};
use crate::fixtures;

fn planning(mut pipeline: OrderPipeline) -> OrderPipeline {
    pipeline.spec.mode = Mode::Plan;
    pipeline
}

/// A pipeline that wrote down that it is about to create its topic.
fn intending(mut pipeline: OrderPipeline, topic: &str) -> OrderPipeline {
    let mut status = pipeline.status.take().unwrap_or_default();
    status.topic = Some(fixtures::record(topic, None, true, &[]));
    pipeline.status = Some(status);
    pipeline
}

/// `pipeline`, whose status reports pods of `group`.
fn running(mut pipeline: OrderPipeline, group: &str) -> OrderPipeline {
    let pods = json!({"name": group, "replicas": 1, "readyReplicas": 1, "desiredReplicas": 0});
    let mut status = pipeline.status.take().unwrap_or_default();
    status.consumer_groups.push(serde_json::from_value(pods).unwrap());
    pipeline.status = Some(status);
    pipeline
}

#[test]
fn a_group_whose_pods_still_run_is_kept_whatever_becomes_of_the_spec_and_of_the_leader() {
    let other = pipeline("b", 2, "u", &["g"]);
    for owner in [pipeline("a", 1, "t", &[]), planning(pipeline("a", 1, "t", &[]))] {
        let owner = running(owner, "g");
        let owners = listed([&owner, &other]);
        assert_eq!(conflicts(&owners, &other), belongs("group g", "a"));
        ruling(&owners, &owner);
        owners.settle(&owner, true);
        owners.withdraw(&owner);
        assert_eq!(conflicts(&owners, &other), belongs("group g", "a"));
    }
}

#[test]
fn a_topic_that_left_the_spec_is_kept_until_no_pod_is_left_that_writes_to_it() {
    let mut owner = with_dead_letters_in(pipeline("a", 1, "t", &["g"]), "d");
    let other = pipeline("b", 2, "d", &[]);
    let owners = listed([&owner, &other]);
    ruling(&owners, &owner);
    owner = with_dead_letters_in(owner, "e");
    ruling(&owners, &owner);
    owners.settle(&owner, false);
    assert_eq!(conflicts(&owners, &other), belongs("topic d", "a"));
    owners.settle(&owner, true);
    assert_eq!(conflicts(&owners, &other), []);
}

#[test]
fn whoever_only_plans_keeps_nothing_from_others_that_it_does_not_have() {
    let (old, young) = (planning(pipeline("a", 1, "t", &["g"])), pipeline("b", 2, "t", &["g"]));
    let owners = listed([&old, &young]);
    assert_eq!(
        conflicts(&owners, &old),
        [("topic t", "b"), ("group g", "b")]
            .map(|(claim, owner)| { (claim.to_owned(), format!("shop/{owner}")) })
    );
    assert_eq!(conflicts(&owners, &young), []);
    let owners = listed([&old]);
    assert_eq!(conflicts(&owners, &old), [], "what nobody has is in nobody's way");
    owners.saw(&None, &Event::Apply(guarded(&young)));
    assert_eq!(conflicts(&owners, &young), [], "a pass under a plan holds nothing");

    let has = planning(recorded(pipeline("c", 3, "t", &[]), "t", "id"));
    assert_eq!(conflicts(&listed([&has, &young]), &young), belongs("topic t", "c"), "it was not always so");
}

#[test]
fn whoever_only_plans_inherits_nothing_and_is_not_waited_for() {
    let owner = leaving(recorded(pipeline("a", 1, "t", &[]), "t", "id"));
    let other = planning(pipeline("b", 2, "t", &[]));
    let owners = listed([&owner, &other]);
    assert!(owners.heirs(&owner).is_empty() && owners.hand_over(&owner).is_empty());
    let heir = pipeline("c", 3, "t", &[]);
    owners.saw(&None, &Event::Apply(guarded(&heir)));
    assert_eq!(owners.hand_over(&owner)["t"].name, "c");
    assert!(ruling(&owners, &other).inherited.is_empty());
}

#[test]
fn what_was_only_intended_is_left_to_nobody() {
    let owner = leaving(intending(pipeline("a", 1, "t", &[]), "t"));
    let heir = pipeline("b", 2, "t", &[]);
    let owners = listed([&owner, &heir]);
    assert!(owners.heirs(&owner).is_empty() && owners.hand_over(&owner).is_empty());
    assert_eq!(conflicts(&owners, &heir), belongs("topic t", "a"), "it may be there by now");

    // One that gave the topic up before it was seen.
    let gave_up = intending(pipeline("a", 1, "u", &[]), "t");
    let owners = listed([&gave_up, &heir]);
    let found = ruling(&owners, &heir);
    assert_eq!((found.conflicts, found.inherited.len()), (vec![], 0), "it is judged as anybody's");
    owners.saw(&None, &Event::Apply(guarded(&recorded(heir, "t", "id"))));
    assert_eq!(ruling(&owners, &gave_up).taken["t"].name, "b");
}

fn at(mut pipeline: OrderPipeline, servers: &str) -> OrderPipeline {
    pipeline.spec.kafka.bootstrap_servers = servers.to_owned();
    pipeline
}

#[test]
fn an_owner_that_adds_a_broker_or_leaves_one_out_stays_the_owner() {
    let young = at(pipeline("b", 2, "t", &[]), "one:1, two:2");
    for servers in ["two:2,three:3", "one:1,two:2,three:3", "TWO:2"] {
        let old = at(pipeline("a", 1, "t", &[]), servers);
        let owners = listed([&old, &young]);
        ruling(&owners, &old);
        assert_eq!(conflicts(&owners, &young), belongs("topic t", "a"), "{servers}");
        assert_eq!(conflicts(&owners, &old), []);
    }
    let old = at(pipeline("a", 1, "t", &[]), "three:3");
    assert_eq!(conflicts(&listed([&old, &young]), &young), []);
}

#[test]
fn an_owner_that_moves_to_another_cluster_keeps_what_it_has_on_the_old_one_until_its_pods_have_moved() {
    let owner = at(pipeline("a", 1, "t", &[]), "old:1");
    let other = at(pipeline("b", 2, "t", &[]), "old:1");
    let owners = listed([&owner, &other]);
    ruling(&owners, &owner);
    let owner = at(owner, "new:1");
    ruling(&owners, &owner);
    owners.settle(&owner, false);
    assert_eq!(conflicts(&owners, &other), belongs("topic t", "a"));
    let third = at(pipeline("c", 3, "t", &[]), "new:1");
    owners.saw(&None, &Event::Apply(guarded(&third)));
    assert_eq!(conflicts(&owners, &third), belongs("topic t", "a"));
    owners.settle(&owner, true);
    assert_eq!(conflicts(&owners, &other), []);
    assert_eq!(conflicts(&owners, &third), belongs("topic t", "a"));
}

/// `pipeline`, whose status speaks of another generation of its spec, or has this reason in a condition.
fn said(mut pipeline: OrderPipeline, generation: i64, reason: &str) -> OrderPipeline {
    let mut status = pipeline.status.take().unwrap_or_default();
    status.observed_generation = Some(generation);
    let condition = json!({
        "type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    status.conditions.push(serde_json::from_value(condition).unwrap());
    pipeline.status = Some(status);
    pipeline
}

#[test]
fn whoever_comes_from_another_cluster_does_not_take_what_it_has_there_from_the_owner_here() {
    let owner = said(recorded(pipeline("b", 2, "t", &[]), "t", "here"), 1, "Ready");
    let came = recorded(pipeline("a", 1, "t", &[]), "t", "there");
    for came in [said(came.clone(), 0, "Ready"), said(came, 1, "TopicConflict")] {
        let owners = listed([&came, &owner]);
        assert_eq!(conflicts(&owners, &came), belongs("topic t", "b"));
        assert_eq!(conflicts(&owners, &owner), []);
    }
    let edited = said(recorded(pipeline("b", 2, "t", &[]), "t", "here"), 0, "Ready");
    let refused = said(recorded(pipeline("a", 1, "t", &[]), "t", "there"), 1, "TopicConflict");
    assert_eq!(conflicts(&listed([&refused, &edited]), &edited), [], "an edit costs it nothing");
}
