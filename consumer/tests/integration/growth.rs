//! A topic gets more partitions: a group takes note of them, and misses nothing that is written to them afterwards.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::delivery::{assert_each_once, until_rows};
use crate::harness::{DEADLINE, World, eventually, in_world};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

fn client(world: &World) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &world.kafka).set("allow.auto.create.topics", "false");
    config
}

async fn grow(world: &World, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> = client(world).create().expect("admin client");
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
    let grown = admin.create_partitions([&NewPartitions::new(&world.topic, partitions)], &options).await;
    grown.expect("answered").into_iter().for_each(|topic| drop(topic.expect("grown")));
    eventually("the producer knows them", async || {
        let metadata = world.producer.client().fetch_metadata(Some(&world.topic), ANSWER_TIMEOUT).ok()?;
        (metadata.topics()[0].partitions().len() == partitions).then_some(())
    })
    .await;
}

/// Where `group` goes on in each of `partitions`, by what it has committed.
fn places(world: &World, group: &str, partitions: i32) -> Vec<Option<i64>> {
    let reader: BaseConsumer = client(world).set("group.id", world.group(group)).create().expect("reader");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&world.topic, 0, partitions - 1);
    let committed = reader.committed_offsets(list, ANSWER_TIMEOUT).expect("committed offsets");
    let place = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    committed.elements().iter().map(|element| place(element.offset())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_a_place_in_a_new_partition_before_anything_is_in_it() {
    in_world(1, async |world| {
        let groups = [
            ("earliest", "--start-from=Earliest", "--delivery=AtLeastOnce"),
            ("latest", "--start-from=Latest", "--delivery=AtLeastOnce"),
            ("once", "--start-from=Earliest", "--delivery=ExactlyOnce"),
            ("lossy", "--start-from=Earliest", "--delivery=AtMostOnce"),
        ];
        let mut members = Vec::new();
        for (group, start, delivery) in groups {
            members.push(world.start(group, &["--sink=postgres", start, delivery]).await);
        }
        for member in &members {
            member.has_partitions(1.0).await;
        }
        grow(&world, 3).await;
        for (group, ..) in groups {
            eventually(&format!("{group} has a place in each"), async || {
                (places(&world, group, 3) == [Some(0); 3]).then_some(())
            })
            .await;
        }
        for member in members {
            member.stop().await;
        }
        // Down when the first records come: also who starts at the latest gets them.
        let events = world.send_orders(3, 9).await;
        for (group, start, delivery) in groups {
            let member = world.start(group, &["--sink=postgres", start, delivery]).await;
            let rows = until_rows(&world, group, events.len()).await;
            assert_each_once(rows.into_iter().map(|row| row.2), &events);
            member.stop().await;
        }
    })
    .await;
}
