//! Two pipelines for one topic or group: one owns it, the other waits, and no record is lost whichever goes.

use std::sync::Arc;
use std::time::Duration;

use kube::api::DeleteParams;
use operator::crd::OrderPipeline;
use operator::kafka::Handles;
use operator::leadership::Leadership;
use operator::preview::previews;
use serde_json::{Value, json};

use crate::world::{AMPLE, World, condition, scenario};

const AMPLE_FOR_KAFKA: Duration = Duration::from_secs(5);

fn group(name: &str, dead_letters: &str) -> Value {
    json!([{"name": name, "replicas": 0, "sink": {"http": {"url": "http://sink/"}}, "deadLetter": {"topic": dead_letters}}])
}

/// What `name` says while it waits.
async fn refused(world: &World, name: &str, reason: &str) -> String {
    let pipeline = world.until(name, "Stalled", "True").await;
    let (ready, found, message) = condition(&pipeline, "Ready");
    assert_eq!((ready.as_str(), found.as_str()), ("False", reason), "{message}");
    world.writes_nothing(name).await;
    message
}

/// Deletes `owner` and reconciles both until it is gone and `heir` is ready.
async fn inherit(world: &World, owner: &str, heir: &str) -> OrderPipeline {
    world.pipelines().delete(owner, &DeleteParams::default()).await.unwrap();
    world.gone(owner, &[heir]).await;
    world.converge(heir).await
}

/// What a plan of these manifests says is wrong with each.
async fn foretold(world: &World, manifests: &[(&str, &Value)]) -> Vec<Vec<String>> {
    let manifests = manifests.iter().map(|(name, spec)| world.manifest(name, spec));
    let manifests = manifests.map(|manifest| serde_json::from_value(manifest).unwrap()).collect();
    let kafka = Handles::new(AMPLE_FOR_KAFKA, Leadership::standby());
    let scopes = [Some(world.namespace.clone())];
    let previews = previews(&world.context.client, &kafka, &scopes, manifests, "image").await.unwrap();
    let reasons =
        previews.into_iter().map(|preview| preview.problems.into_iter().map(|problem| problem.reason));
    reasons.map(Iterator::collect).collect()
}

#[tokio::test]
async fn manifests_that_are_planned_together_see_each_other() {
    scenario(AMPLE, async |world| {
        let dead_letters = world.topic("dlt");
        let main = json!({"topic": {"name": dead_letters}});
        let with = |topic: &str| json!({"consumerGroups": group("g", topic)});
        let none: Vec<String> = Vec::new();
        let new = foretold(&world, &[("first", &with(&dead_letters)), ("second", &main)]).await;
        assert_eq!(new, [none.clone(), vec!["TopicConflict".to_owned()]]);
        world.apply("first", &with(&dead_letters)).await;
        assert_eq!(foretold(&world, &[("second", &main)]).await, [vec!["TopicConflict"]]);
        let moved = foretold(&world, &[("second", &main), ("first", &with(&world.topic("other")))]).await;
        assert_eq!(moved, [none.clone(), none], "what one gives up another may have");
    })
    .await;
}

#[tokio::test]
async fn the_second_pipeline_for_a_topic_is_refused_and_told_who_owns_it() {
    scenario(AMPLE, async |world| {
        world.apply("first", &json!({"topic": {"deletionPolicy": "Delete"}})).await;
        world.converge("first").await;
        let name = world.topic("first");
        world.produce(&name, 3).await;
        let before = world.described(&name).await;
        let spec =
            json!({"topic": {"name": name, "deletionPolicy": "Delete", "config": {"retention.ms": "1"}}});
        world.apply("second", &spec).await;
        let message = refused(&world, "second", "TopicConflict").await;
        assert!(
            message.contains(&format!("belongs to OrderPipeline {}/first", world.namespace)),
            "{message}"
        );
        assert_eq!(
            foretold(&world, &[("third", &spec)]).await,
            [vec!["TopicConflict"]],
            "a plan says so beforehand"
        );

        world.delete("second").await;
        assert_eq!(world.described(&name).await, before, "a topic that was never the loser's is left alone");
        assert_eq!(world.held(&name).await, 3);
        world.writes_nothing("first").await;
    })
    .await;
}

#[tokio::test]
async fn deleting_the_owner_hands_the_topic_over_with_its_records() {
    scenario(AMPLE, async |world| {
        let config = json!({"retention.ms": "86400000"});
        world.apply("first", &json!({"topic": {"deletionPolicy": "Delete", "config": config}})).await;
        world.converge("first").await;
        let name = world.topic("first");
        world.produce(&name, 3).await;
        let before = world.described(&name).await.unwrap();
        world
            .apply(
                "second",
                &json!({"topic": {"name": name, "deletionPolicy": "Delete", "adoption": "Refuse"}}),
            )
            .await;
        refused(&world, "second", "TopicConflict").await;

        let woken = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&woken);
        world.context.owners.wake_by(move |pipeline| seen.lock().unwrap().push(pipeline.name));
        let heir = inherit(&world, "first", "second").await;
        assert!(
            woken.lock().unwrap().iter().any(|name| name == "second"),
            "the heir need not wait for its turn"
        );
        assert_eq!(world.described(&name).await.unwrap(), before, "same topic, same configuration");
        assert_eq!(world.held(&name).await, 3);
        let topic = heir.status.unwrap().topic.unwrap();
        assert_eq!((topic.id.as_ref(), topic.created_by_us), (Some(&before.id), true));
        let events = world.events().await;
        assert!(events["TopicHandedOver"].contains("/second has it now"), "{events:?}");
        assert!(events["TopicTakenOver"].contains("/first"), "{events:?}");

        world.delete("second").await;
        assert!(
            world.described(&name).await.is_none(),
            "it was created by the operator, and nobody else names it"
        );
    })
    .await;
}

#[tokio::test]
async fn of_two_pipelines_made_at_once_the_older_or_else_the_least_uid_owns() {
    scenario(AMPLE, async |world| {
        let name = world.topic("one");
        let spec = json!({"topic": {"name": name}});
        let (one, other) = (world.apply("one", &spec).await, world.apply("other", &spec).await);
        let age = |pipeline: &OrderPipeline| {
            let created = pipeline.metadata.creation_timestamp.clone().unwrap().0;
            (created, pipeline.metadata.uid.clone().unwrap())
        };
        let (owner, loser) = if age(&one) < age(&other) { ("one", "other") } else { ("other", "one") };
        let message = refused(&world, loser, "TopicConflict").await;
        assert!(message.contains(&format!("/{owner}")), "{message}");
        assert!(world.described(&name).await.is_none(), "whoever does not own it does not make it");
        world.converge(owner).await;
        refused(&world, loser, "TopicConflict").await;
    })
    .await;
}

#[tokio::test]
async fn a_group_belongs_to_one_pipeline_until_that_lets_it_go() {
    scenario(AMPLE, async |world| {
        let shared = format!("{}-g", world.namespace);
        world.apply("first", &json!({"consumerGroups": group(&shared, &world.topic("first.dlt"))})).await;
        world.converge("first").await;
        world.apply("second", &json!({"consumerGroups": group(&shared, &world.topic("second.dlt"))})).await;
        let message = refused(&world, "second", "GroupConflict").await;
        assert!(message.contains(&format!("group {shared} belongs to OrderPipeline")), "{message}");
        assert!(world.described(&world.topic("second")).await.is_none(), "nothing is begun");

        world.apply("first", &json!({})).await;
        world.converge("first").await;
        world.converge("second").await;
        world.apply("first", &json!({"consumerGroups": group(&shared, &world.topic("first.dlt"))})).await;
        refused(&world, "first", "GroupConflict").await;
    })
    .await;
}

#[tokio::test]
async fn a_group_that_left_the_spec_under_a_pause_is_its_pipeline_s_while_its_pods_may_run() {
    scenario(AMPLE, async |world| {
        let shared = format!("{}-g", world.namespace);
        world.apply("first", &json!({"consumerGroups": group(&shared, &world.topic("first.dlt"))})).await;
        world.converge("first").await;
        for mode in [json!({"paused": true}), json!({"mode": "Plan"})] {
            world.apply("first", &mode).await;
            let _ = world.reconcile("first").await;
            let status = world.get("first").await.status.unwrap();
            assert_eq!(status.consumer_groups.len(), 1, "whoever leads next has to know: {status:?}");
            world.writes_nothing("first").await;
            world
                .apply("second", &json!({"consumerGroups": group(&shared, &world.topic("other.dlt"))}))
                .await;
            refused(&world, "second", "GroupConflict").await;
        }
        world.apply("first", &json!({})).await;
        world.converge("first").await;
        world.converge("second").await;
    })
    .await;
}

#[tokio::test]
async fn a_plan_keeps_a_topic_from_nobody_and_is_not_waited_for() {
    scenario(AMPLE, async |world| {
        let name = world.topic("shared");
        world.apply("plan", &json!({"mode": "Plan", "topic": {"name": name}})).await;
        let _ = world.reconcile("plan").await;
        world.apply("first", &json!({"topic": {"name": name, "deletionPolicy": "Delete"}})).await;
        world.converge("first").await;
        refused(&world, "plan", "TopicConflict").await;
        world.delete("first").await;
        assert!(world.described(&name).await.is_none(), "nobody is to have it");
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_topic_that_is_given_up_goes_to_whoever_names_it() {
    scenario(AMPLE, async |world| {
        let (shared, group_name) = (world.topic("shared"), format!("{}-g", world.namespace));
        let spec = |dead_letters: &str| {
            json!({"topic": {"deletionPolicy": "Delete"}, "consumerGroups": group(&group_name, dead_letters)})
        };
        world.apply("first", &spec(&shared)).await;
        world.converge("first").await;
        world.produce(&shared, 2).await;
        let id = world.described(&shared).await.unwrap().id;
        world.apply("second", &json!({"topic": {"name": shared, "adoption": "Refuse"}})).await;
        refused(&world, "second", "TopicConflict").await;

        world.apply("first", &spec(&world.topic("other.dlt"))).await;
        world.converge("first").await;
        let second = world.converge("second").await;
        let topic = second.status.unwrap().topic.unwrap();
        assert_eq!((topic.id.as_ref(), topic.created_by_us), (Some(&id), true));
        let first = world.until("first", "Ready", "True").await.status.unwrap();
        assert!(first.dead_letter_topics.iter().all(|topic| topic.name != shared), "{first:?}");
        world.delete("first").await;
        assert_eq!(world.held(&shared).await, 2, "its records are another's now");
    })
    .await;
}
