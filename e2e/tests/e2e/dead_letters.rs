//! Dead letters, from one record to the ledger, with the command that a pod of the group has.

use std::time::Duration;

use e2e::api::{OrderApi, Outcome};
use e2e::catalogue::product;
use e2e::database::{connect, delivered_to_postgres};
use e2e::kubectl::{run, wait_for};
use e2e::names::{DATA_PLATFORM_DB, GROUP_POSTGRES, ORDER_API, PIPELINE, TOPIC};
use sqlx::Executor;
use uuid::Uuid;

use crate::support::{kafka_tool, plugin, ready};

/// Longest wait for a letter: the sink's refusals take their eight attempts, up to half a minute.
const LETTER_DEADLINE: Duration = Duration::from_secs(120);

/// `kubectl orderflow dlt …` of the PostgreSQL group, as kubectl finds it on the path.
async fn dead_letters(command: &[&str]) -> anyhow::Result<String> {
    let group = format!("{PIPELINE}/{GROUP_POSTGRES}");
    let mut args = vec!["dlt", &group];
    args.extend(command);
    run(plugin(&args)?, "").await
}

async fn until_open(key: &str, letters: &str) {
    wait_for("the dead letters", LETTER_DEADLINE, || async {
        let listed = dead_letters(&["list", "--key", key]).await?;
        Ok(listed.contains(&format!("1 keys, {letters} open letters")).then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn dead_letters_are_looked_at_replayed_and_released_from_a_pod() {
    ready().await;
    let user = format!("mallory-{}", Uuid::now_v7().simple());
    let (api, platform) = (OrderApi::new(ORDER_API).unwrap(), connect(DATA_PLATFORM_DB).unwrap());
    let rule = "alter table order_events add constraint no_mallory
                check (payload #>> '{order,userId}' not like 'mallory-%') not valid";
    platform.execute("alter table order_events drop constraint if exists no_mallory").await.unwrap();
    platform.execute(rule).await.unwrap();
    let Outcome::Accepted(order) = api.create(&user, &product(0), None).await else { panic!("not taken") };
    assert!(api.change(order, "confirm").await);
    let key = order.to_string();
    until_open(&key, "2").await;
    let shown = dead_letters(&["show", &key]).await.unwrap();
    assert!(shown.contains("no_mallory") && shown.contains(&user), "{shown}");
    let dry = dead_letters(&["replay", "--key", &key, "--dry-run"]).await.unwrap();
    assert!(dry.contains("2 letters of 1 keys would be delivered, 0 can't be"), "{dry}");
    platform.execute("alter table order_events drop constraint no_mallory").await.unwrap();
    let replayed = dead_letters(&["replay", "--key", &key]).await.unwrap();
    assert!(replayed.contains("2 letters of 1 keys replayed"), "{replayed}");
    let delivered = delivered_to_postgres(&platform, GROUP_POSTGRES, &user).await.unwrap();
    assert_eq!(delivered.iter().map(|row| row.seen.version).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_key_typed_by_hand_is_released() {
    ready().await;
    let key = format!("typed-{}", Uuid::now_v7().simple());
    let keyed = ["--topic", TOPIC, "--property", "parse.key=true", "--property", "key.separator=:"];
    kafka_tool("kafka-console-producer.sh", &keyed, &format!("{key}:hello-1\n")).await.unwrap();
    until_open(&key, "1").await;
    let shown = dead_letters(&["show", &key]).await.unwrap();
    assert!(shown.contains("7 bytes: hello-1") && shown.contains("MissingType"), "{shown}");
    assert!(dead_letters(&["replay", "--key", &key]).await.is_err(), "it is no event");
    dead_letters(&["release", &key, "--reason", "typed by hand"]).await.unwrap();
    assert!(dead_letters(&["list", "--key", &key]).await.unwrap().contains("0 keys"));
    assert!(dead_letters(&["history"]).await.unwrap().contains(&key));
}

#[tokio::test]
async fn a_group_that_is_not_there_is_told_with_those_that_are() {
    ready().await;
    let call = plugin(&["dlt", &format!("{PIPELINE}/nobody"), "list"]).unwrap();
    let error = run(call, "").await.unwrap_err().to_string();
    assert!(error.contains("has no consumer group nobody") && error.contains(GROUP_POSTGRES), "{error}");
}
