//! Kafka or database fail for a while: orders go on or are refused cleanly, and no event is lost or overtakes another.
//!
//! librdkafka's mock cluster plays a Kafka that can be taken down and made to answer with errors.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use reqwest::StatusCode;

use crate::harness::{Bench, DEADLINE, Instance, bench, until};
use crate::topic::versions_by_order;
use order_service::store::database::MIGRATION_LOCK;

/// An address on which nothing listens.
const NOWHERE: &str = "127.0.0.1:9";

async fn orders_and_confirms(shop: &Instance, count: usize) {
    for _ in 0..count {
        let id = shop.placed("p1").await;
        shop.changed(&id, "confirm").await;
    }
}

/// Asserts that the cluster has versions 1 and 2 of every order, their first occurrences in this order. A repetition is
/// allowed: whoever restarts can't know what the broker got.
async fn assert_each_order_has_versions_one_and_two(bench: &Bench, bootstrap_servers: &str) {
    let versions = versions_by_order(&bench.records_at(bootstrap_servers).await);
    let orders = bench.number("select count(*) from orders").await;
    assert_eq!(i64::try_from(versions.len()).unwrap(), orders);
    for (order, versions) in versions {
        let mut seen = BTreeSet::new();
        let first_seen: Vec<i64> = versions.iter().copied().filter(|version| seen.insert(*version)).collect();
        assert_eq!(first_seen, [1, 2], "{order} in {versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_on_without_kafka_and_are_published_when_it_is_back() {
    bench(Some(3), async |bench| {
        let mut config = bench.config("a");
        config.kafka.kafka_bootstrap_servers = NOWHERE.to_owned();
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        orders_and_confirms(&shop, 5).await;
        until("the relay has failed", async || shop.metric("orderflow_relay_errors_total").await >= 1.0)
            .await;
        assert!(shop.is_ready().await, "a lag is no unreadiness");
        assert_eq!(bench.outbox_rows().await, 10);
        shop.stop().await;

        let shop = bench.start("b").await;
        bench.until_published().await;
        assert_each_order_has_versions_one_and_two(bench, &bench.kafka).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_leaves_the_outbox_only_after_the_broker_acknowledged_it() {
    bench(None, async |bench| {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(&bench.topic, 3, 1).unwrap();
        let mut config = bench.config("a");
        config.kafka.kafka_bootstrap_servers = kafka.bootstrap_servers();
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        orders_and_confirms(&shop, 2).await;
        bench.until_published().await;

        kafka.broker_down(1).unwrap();
        orders_and_confirms(&shop, 5).await;
        until("they are in flight", async || shop.metric("orderflow_relay_in_flight").await == 10.0).await;
        assert_eq!(bench.outbox_rows().await, 10, "sent, but not acknowledged");
        kafka.broker_up(1).unwrap();
        bench.until_published().await;
        until("each was acknowledged once", async || {
            shop.metric("orderflow_relay_published_total").await == 14.0
        })
        .await;
        assert_each_order_has_versions_one_and_two(bench, &kafka.bootstrap_servers()).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_does_not_repeat_parks_nobody() {
    bench(None, async |bench| {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(&bench.topic, 1, 1).unwrap();
        let mut config = bench.config("a");
        config.kafka.kafka_bootstrap_servers = kafka.bootstrap_servers();
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        kafka.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
        orders_and_confirms(&shop, 5).await;
        bench.until_published().await;
        assert_eq!(bench.number("select count(*) from relay_parked").await, 0);
        assert_each_order_has_versions_one_and_two(bench, &kafka.bootstrap_servers()).await;
        shop.stop().await;
    })
    .await;
}

/// Where a broker knows nothing of a producer it takes a later request though it refused the one before; librdkafka then
/// reports the refused one as delivered (confluent-kafka-go#921).
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_refused_for_now_is_not_lost_when_the_next_one_is_taken() {
    bench(None, async |bench| {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(&bench.topic, 1, 1).unwrap();
        kafka.broker_round_trip_time(1, Duration::from_millis(100)).unwrap();
        let mut config = bench.config("a");
        config.kafka.kafka_bootstrap_servers = kafka.bootstrap_servers();
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        for _ in 0..3 {
            kafka.request_errors(
                RDKafkaApiKey::Produce,
                &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS],
            );
            orders_and_confirms(&shop, 5).await;
            bench.until_published().await;
        }
        assert_each_order_has_versions_one_and_two(bench, &kafka.bootstrap_servers()).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_without_acknowledgements_starts_anew_after_its_bound() {
    bench(None, async |bench| {
        let kafka = MockCluster::new(1).unwrap();
        kafka.create_topic(&bench.topic, 3, 1).unwrap();
        let mut config = bench.config("a");
        config.kafka.kafka_bootstrap_servers = kafka.bootstrap_servers();
        config.relay.relay_stall = Duration::from_secs(1);
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        orders_and_confirms(&shop, 1).await;
        bench.until_published().await;
        kafka.broker_down(1).unwrap();
        orders_and_confirms(&shop, 3).await;
        until("it gave the producer up", async || shop.metric("orderflow_relay_errors_total").await >= 1.0)
            .await;
        kafka.broker_up(1).unwrap();
        bench.until_published().await;
        assert_each_order_has_versions_one_and_two(bench, &kafka.bootstrap_servers()).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cuts_every_connection_costs_no_event() {
    bench(Some(3), async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        for _ in 0..5 {
            orders_and_confirms(&shop, 4).await;
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and application_name = 'order-service'",
            )
            .execute(&bench.pool)
            .await
            .unwrap();
            until("orders are taken again", async || {
                shop.get("/orders?userId=u1").send().await.unwrap().status() == StatusCode::OK
            })
            .await;
        }
        bench.until_published().await;
        assert_each_order_has_versions_one_and_two(bench, &bench.kafka).await;
        assert!(shop.is_ready().await);
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_waits_for_its_database_at_start() {
    bench(Some(3), async |bench| {
        use order_service::{Listeners, run};
        use runtime::shutdown::CancellationToken;
        use tokio::net::TcpListener;

        let mut config = bench.config("a");
        config.database.database_url = "postgres://postgres@127.0.0.1:9/none".into();
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listeners = Listeners { http: bind().await, admin: bind().await };
        let admin = format!("http://{}", listeners.admin.local_addr().unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(config, listeners, stop.clone()));
        until("it says what it waits for", async || {
            let answer = reqwest::get(format!("{admin}/readyz")).await.unwrap();
            answer.status() == StatusCode::SERVICE_UNAVAILABLE
                && answer.text().await.unwrap().contains("waiting for the database")
        })
        .await;
        assert_eq!(reqwest::get(format!("{admin}/livez")).await.unwrap().status(), StatusCode::OK);
        assert!(!running.is_finished());
        stop.cancel();
        running.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_schema_that_is_current_waits_for_no_other() {
    bench(None, async |bench| {
        bench.start("a").await.stop().await;
        // Another replica's turn, which does not end.
        let mut other = bench.pool.acquire().await.unwrap();
        sqlx::query("select pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut *other).await.unwrap();
        bench.start("b").await.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_for_another_topic_does_not_start_on_the_same_database() {
    bench(Some(1), async |bench| {
        let shop = bench.start("a").await;
        let mut config = bench.config("b");
        config.relay.topic = "another-topic".to_owned();
        let refused =
            tokio::time::timeout(DEADLINE, bench.run_to_its_end(config)).await.unwrap().unwrap_err();
        assert!(format!("{refused:#}").contains("give each pipeline a database of its own"), "{refused:#}");
        shop.stop().await;
    })
    .await;
}
