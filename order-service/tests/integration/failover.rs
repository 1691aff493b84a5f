//! What an address leads to changes: to a server that takes no writes, or to one that never had the latest rows.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use sqlx::{AssertSqlSafe, Connection};

use crate::harness::{Bench, bench, until};

/// Ends the service's connections, those alone that wait for a lock if so wished.
async fn end_connections(bench: &Bench, waiting: bool) {
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'order-service'
           and ($1 or wait_event_type = 'Lock')",
    )
    .bind(!waiting)
    .execute(&bench.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_id_that_is_given_out_again_is_another_event() {
    bench(Some(3), async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        // Before it looks for its rows, each delete waits for whoever holds the lock.
        sqlx::raw_sql(
            "create function wait() returns trigger language plpgsql as
             $$ begin perform pg_advisory_xact_lock(7); return null; end $$;
             create trigger wait before delete on outbox for each statement execute function wait();",
        )
        .execute(&bench.pool)
        .await
        .unwrap();
        let mut server = bench.pool.acquire().await.unwrap();
        sqlx::query("select pg_advisory_lock(7)").execute(&mut *server).await.unwrap();
        let lost = shop.placed("p1").await;
        until("its event is in the topic", async || bench.records().await.len() == 1).await;
        bench.until_someone_waits_for_a_lock().await;

        // The order is lost with the server that had it; another one gets its place in the outbox.
        let mut failover = server.begin().await.unwrap();
        let other: String = sqlx::query_scalar(
            "with lost as (delete from outbox returning shard, id, version, headers, payload)
             insert into outbox (shard, id, order_id, version, headers, payload) overriding system value
             select shard, id, gen_random_uuid(), version, headers, payload from lost
             returning order_id::text",
        )
        .fetch_one(&mut *failover)
        .await
        .unwrap();
        failover.commit().await.unwrap();
        end_connections(bench, true).await;
        sqlx::query("select pg_advisory_unlock(7)").execute(&mut *server).await.unwrap();

        bench.until_published().await;
        let keys: BTreeSet<String> = bench.records().await.into_iter().map(|record| record.key).collect();
        assert_eq!(keys, [lost, other].into());
        shop.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_writes_is_no_database() {
    bench(Some(3), async |bench| {
        let shop = bench.start("a").await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        let id = shop.placed("p1").await;
        let read_only = async |value: &str| {
            let mut server = bench.pool.acquire().await.unwrap();
            let database: String =
                sqlx::query_scalar("select current_database()").fetch_one(&mut *server).await.unwrap();
            let setting = format!("alter database {database} set default_transaction_read_only = {value}");
            sqlx::query("set default_transaction_read_only = off").execute(&mut *server).await.unwrap();
            sqlx::query(AssertSqlSafe(setting)).execute(&mut *server).await.unwrap();
            end_connections(bench, false).await;
        };
        read_only("on").await;
        until("it is not ready", async || !shop.is_ready().await).await;
        let order = shop.order("p1", 1, None).await;
        assert_eq!(order.status(), StatusCode::SERVICE_UNAVAILABLE);
        let confirm = shop.post(&format!("/orders/{id}/confirm")).send().await.unwrap();
        assert_eq!(confirm.status(), StatusCode::SERVICE_UNAVAILABLE);

        read_only("off").await;
        until("it is ready", async || shop.is_ready().await).await;
        shop.changed(&id, "confirm").await;
        shop.placed("p1").await;
        bench.until_published().await;
        shop.stop().await;
    })
    .await;
}
