//! The walkthrough that teams know, with Kafka's own console tools.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::dump::{dump, header};
use e2e::kubectl::{kubectl, wait_for};
use e2e::names::{GROUP_HTTP, GROUP_POSTGRES, KAFKA, TOPIC};
use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use uuid::Uuid;

use crate::support::{Duplicates, assert_sound, kafka_tool, load, pipeline_ready, ready, under_load};

/// Longest wait for a record to go from one place to the next.
const HOP_DEADLINE: Duration = Duration::from_secs(60);
/// How long a console consumer waits for the next record before it ends, in milliseconds: the first one comes only after it
/// has joined its group, with a Java that has just started on a machine that is busy.
const CONSOLE_TIMEOUT_MS: &str = "12000";

fn dead_letter_topic(group: &str) -> String {
    format!("{TOPIC}.{group}.dlt")
}

async fn console_consumer(extra: &[&str]) -> String {
    let mut args = vec!["--topic", TOPIC, "--from-beginning", "--timeout-ms", CONSOLE_TIMEOUT_MS];
    args.extend(extra);
    // It ends by its time-out, which it reports on standard error and not in its exit code.
    kafka_tool("kafka-console-consumer.sh", &args, "").await.unwrap()
}

/// Rows of `kafka-consumer-groups.sh --describe`, split into columns.
async fn describe_group(extra: &[&str]) -> anyhow::Result<Vec<Vec<String>>> {
    let mut args = vec!["--describe"];
    args.extend(extra);
    let text = kafka_tool("kafka-consumer-groups.sh", &args, "").await?;
    Ok(text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}

#[tokio::test]
async fn the_topic_has_three_partitions_as_declared() {
    ready().await;
    let described = kafka_tool("kafka-topics.sh", &["--describe", "--topic", TOPIC], "").await.unwrap();
    assert!(described.contains("PartitionCount: 3"), "{described}");
}

#[tokio::test]
async fn what_is_no_event_reaches_a_console_consumer_and_the_dead_letters_while_orders_go_on() {
    let sources = ready().await;
    let mark = Uuid::now_v7().simple().to_string();
    let (hello, json) = (format!("hello-1-{mark}"), r#"{"orderId":1001,"status":"CREATED"}"#);
    let load = load("poison", 50, 10);
    let calls = under_load(&load, async {
        let lines = format!("hello-1\n{json}\n{hello}\n");
        kafka_tool("kafka-console-producer.sh", &["--topic", TOPIC], &lines).await.unwrap();
    })
    .await;
    let seen = console_consumer(&[]).await;
    let lines: BTreeSet<&str> = seen.lines().collect();
    for line in ["hello-1", json, &hello] {
        assert!(lines.contains(line), "the console consumer did not see {line}");
    }
    let topic = dump(KAFKA, TOPIC).await.unwrap();
    let count = |records: &[OwnedMessage], line: &str| {
        records.iter().filter(|record| record.payload() == Some(line.as_bytes())).count()
    };
    for group in [GROUP_POSTGRES, GROUP_HTTP] {
        wait_for("the dead letter", HOP_DEADLINE, || async {
            let letters = dump(KAFKA, &dead_letter_topic(group)).await?;
            // Two of the lines are the same in every run: there are as many letters as there were records, at least.
            if ["hello-1", json].into_iter().any(|line| count(&letters, line) < count(&topic, line)) {
                return Ok(None);
            }
            let letter = letters.iter().find(|letter| letter.payload() == Some(hello.as_bytes()));
            let original = letter.and_then(|letter| header(letter, "__connect.errors.topic"));
            Ok((original.as_deref() == Some(TOPIC)).then_some(()))
        })
        .await
        .unwrap();
    }
    assert_sound(&sources, &load, &calls, Duplicates::Forbidden).await;
}

#[tokio::test]
async fn records_with_one_key_share_the_partition_that_our_own_rule_names() {
    ready().await;
    let mark = Uuid::now_v7().simple().to_string();
    let lines = format!("u1:order-1-{mark}\nu2:order-2-{mark}\nu1:order-3-{mark}\n");
    let keyed = ["--topic", TOPIC, "--property", "parse.key=true", "--property", "key.separator=:"];
    kafka_tool("kafka-console-producer.sh", &keyed, &lines).await.unwrap();
    let records = dump(KAFKA, TOPIC).await.unwrap();
    let partitions_of = |key: &str| -> Vec<i32> {
        let ours = records.iter().filter(|record| {
            record.key() == Some(key.as_bytes())
                && String::from_utf8_lossy(record.payload().unwrap_or_default()).ends_with(&mark)
        });
        ours.map(Message::partition).collect()
    };
    assert_eq!(partitions_of("u1"), [order_events::partition_for(b"u1", 3); 2]);
    assert_eq!(partitions_of("u2"), [order_events::partition_for(b"u2", 3)]);
}

#[tokio::test]
async fn two_members_of_a_group_split_the_partitions() {
    ready().await;
    let replicas = |count: u32| {
        format!(r#"[{{"op":"replace","path":"/spec/consumerGroups/0/replicas","value":{count}}}]"#)
    };
    kubectl(&["patch", "orderpipeline", "orders", "--type=json", "-p", &replicas(2)]).await.unwrap();
    pipeline_ready().await;
    let split = wait_for("two members that share three partitions", HOP_DEADLINE, || async {
        let rows = describe_group(&["--members", "--group", GROUP_POSTGRES]).await?;
        let shares: BTreeSet<String> = rows
            .iter()
            .filter(|row| row.first().is_some_and(|group| group == GROUP_POSTGRES))
            .filter_map(|row| row.last().cloned())
            .collect();
        Ok((shares == BTreeSet::from(["1".to_owned(), "2".to_owned()])).then_some(()))
    })
    .await;
    kubectl(&["patch", "orderpipeline", "orders", "--type=json", "-p", &replicas(1)]).await.unwrap();
    pipeline_ready().await;
    split.unwrap();
}

#[tokio::test]
async fn a_second_group_receives_everything_again() {
    let sources = ready().await;
    let load = load("second-group", 50, 6);
    let calls = under_load(&load, async {}).await;
    assert_sound(&sources, &load, &calls, Duplicates::Forbidden).await;
    let group = format!("walkthrough-{}", Uuid::now_v7().simple());
    let seen = console_consumer(&["--group", &group]).await;
    let (expected, _) = sources.counts(&load.run).await.unwrap();
    let received = seen.lines().filter(|line| line.contains(&load.run)).count();
    assert_eq!(i64::try_from(received).unwrap(), expected);
}

#[tokio::test]
async fn the_lag_is_zero_after_the_load() {
    let sources = ready().await;
    let load = load("lag", 50, 6);
    let calls = under_load(&load, async {}).await;
    assert_sound(&sources, &load, &calls, Duplicates::Forbidden).await;
    for group in [GROUP_POSTGRES, GROUP_HTTP] {
        wait_for("lag 0 on every partition", HOP_DEADLINE, || async {
            let rows = describe_group(&["--group", group]).await?;
            // Columns: GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
            let lags: Vec<_> = rows
                .iter()
                .filter(|row| row.get(1).is_some_and(|topic| topic == TOPIC))
                .map(|row| row[5].clone())
                .collect();
            Ok((lags == ["0", "0", "0"]).then_some(()))
        })
        .await
        .unwrap();
    }
}
