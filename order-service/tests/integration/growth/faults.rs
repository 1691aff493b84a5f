//! What goes wrong while a topic grows: who dies or leaves, who knows no fence, and a database that has forgotten something.

use order_events::partition_for;

use super::{
    NEW, OLD, commit_everywhere, config, fences, lives, read_slowly_until_acknowledged, recorded, start,
    start_and_grow, until_switched, waits_for,
};
use crate::harness::{Bench, Instance, bench, until};
use crate::topic::versions_by_order;

/// A service whose fence stands because its group reads slowly and stops, with events that wait behind it.
async fn behind_a_fence(bench: &Bench, name: &str) -> Instance {
    let shop = start_and_grow(bench, config(bench, name), 60).await;
    read_slowly_until_acknowledged(bench).await;
    lives(&shop, 5).await;
    assert_eq!(bench.outbox_rows().await, 15, "orders go on, and their events wait");
    shop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_behind_the_fence_goes_on_by_the_old_count_and_grows_later() {
    bench(Some(OLD), async |bench| {
        behind_a_fence(bench, "a").await.crash().await;
        let shop = start(bench, config(bench, "a")).await;
        bench.until_published().await;
        assert_eq!((recorded(bench).await, fences(bench).await), (i64::from(OLD), 0));
        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        for versions in versions_by_order(&bench.records().await).into_values() {
            assert_eq!(versions, [1, 2, 3]);
        }
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_stopped_behind_the_fence_publishes_what_it_has() {
    bench(Some(OLD), async |bench| {
        behind_a_fence(bench, "a").await.stop().await;
        assert_eq!(bench.outbox_rows().await, 0);
        assert_eq!((recorded(bench).await, fences(bench).await), (i64::from(OLD), 0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_little_to_read_and_reads_nothing_holds_nobody_up() {
    bench(Some(OLD), async |bench| {
        let shop = start_and_grow(bench, config(bench, "a"), 5).await;
        commit_everywhere(bench, false).await;
        // Looks at it go on meanwhile.
        until("it waits for the group", async || waits_for(&shop, "group-behind").await).await;
        lives(&shop, 5).await;
        bench.until_published().await;
        assert_eq!(shop.metric("orderflow_relay_fenced_seconds_total").await, 0.0);
        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_before_fences_keeps_them_down() {
    bench(Some(OLD), async |bench| {
        let shop = start(bench, config(bench, "a")).await;
        sqlx::query(
            "insert into relay_members (owner, expires_at) values ('old', now() - interval '1 minute')",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        bench.grow_topic(6).await;
        commit_everywhere(bench, true).await;
        until("it waits for it", async || waits_for(&shop, "old-replica").await).await;
        sqlx::query("delete from relay_members where owner = 'old'").execute(&bench.pool).await.unwrap();
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_waits_for_other_groups_keeps_them_down_until_it_is_gone() {
    bench(Some(OLD), async |bench| {
        let shop = start(bench, config(bench, "a")).await;
        sqlx::query(
            "insert into relay_members (owner, expires_at, fence, terms)
             values ('last', now() + interval '1 hour', 0, 'OrderSafe Some({})')",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        bench.grow_topic(6).await;
        commit_everywhere(bench, true).await;
        until("it waits for it", async || waits_for(&shop, "rollout").await).await;
        sqlx::query("update relay_members set expires_at = now() where owner = 'last'")
            .execute(&bench.pool)
            .await
            .unwrap();
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_went_up_on_another_server_comes_down_although_everybody_has_acknowledged_it() {
    bench(Some(OLD), async |bench| {
        let shop = behind_a_fence(bench, "a").await;
        // As after a failover: this server never had it.
        let elsewhere = "update topic_partitions set fenced_on = fenced_on - interval '1 second'";
        sqlx::query(elsewhere).execute(&bench.pool).await.unwrap();
        commit_everywhere(bench, true).await;
        bench.until_published().await;
        assert_eq!((recorded(bench).await, fences(bench).await), (i64::from(OLD), 0));
        for versions in versions_by_order(&bench.records().await).into_values() {
            assert_eq!(versions, [1, 2, 3]);
        }
        commit_everywhere(bench, true).await;
        until_switched(bench).await;
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_forgotten_the_switch_gets_everything_since_published_again_in_order() {
    bench(Some(OLD), async |bench| {
        let mut config = config(bench, "a");
        // Only the test switches.
        config.relay.consumer_groups = None;
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        lives(&shop, 5).await;
        bench.until_published().await;
        bench.grow_topic(6).await;
        record(bench, NEW).await;
        until("it maps by it", async || shop.metric("orderflow_relay_partitions").await == f64::from(NEW))
            .await;

        record(bench, OLD).await;
        lives(&shop, 40).await;
        until("it maps by it", async || shop.metric("orderflow_relay_partitions").await == f64::from(OLD))
            .await;
        bench.until_published().await;
        let mut old = bench.records().await;
        old.retain(|record| record.partition == partition_for(record.key.as_bytes(), OLD));
        let old = versions_by_order(&old);
        assert_eq!(old.len(), 45);
        for (order, versions) in old {
            let mut shown: Vec<i64> = Vec::new();
            for version in versions {
                if !shown.contains(&version) {
                    shown.push(version);
                }
            }
            assert_eq!(shown, [1, 2, 3], "{order}: whatever was sent elsewhere is here as well");
        }
        shop.stop().await;
    })
    .await;
}

async fn record(bench: &Bench, partitions: i32) {
    let statement = sqlx::query("update topic_partitions set partitions = $1, epoch = epoch + 1");
    statement.bind(partitions).execute(&bench.pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_forgotten_the_count_is_told_the_one_by_which_keys_are_mapped() {
    bench(Some(OLD), async |bench| {
        let shop = start_and_grow(bench, config(bench, "a"), 5).await;
        sqlx::query("delete from topic_partitions").execute(&bench.pool).await.unwrap();
        let order = shop.placed("p1").await;
        bench.until_published().await;
        let records = bench.records().await;
        let record = records.iter().find(|record| record.key == order).unwrap();
        assert_eq!(record.partition, partition_for(order.as_bytes(), OLD));
        assert_eq!(recorded(bench).await, i64::from(OLD));
        shop.stop().await;
    })
    .await;
}
