//! Everything that a batch writes, as columns of one statement.

use order_events::OrderItem;
use sqlx::PgConnection;
use sqlx::types::{Json, Uuid};

use super::{BatchError, Served};
use crate::domain::allot::{Allotted, NotAllotted};
use crate::domain::{Refusal, Shelf};
use crate::store::error::DatabaseError;
use crate::store::idempotency::seconds;
use crate::store::orders::PlaceSettings;
use crate::store::outbox::shard_of;

/// Writes all of it. The counts say whether everything that was meant was done: products and coupons are under their locks,
/// a key may have been finished by another transaction.
const STATEMENT: &str = "
    with created as (
        insert into orders (id, user_id, status, version, items, coupon_code, currency,
                            subtotal_minor, discount_minor, total_minor, created_at)
        select id, user_id, 'PENDING', 1, items, coupon_code, $7,
               subtotal_minor, discount_minor, subtotal_minor - discount_minor,
               'epoch'::timestamptz + created_micros * interval '1 microsecond'
        from unnest($1::uuid[], $2::text[], $3::jsonb[], $4::text[], $5::bigint[], $6::bigint[], $8::bigint[])
             as created (id, user_id, items, coupon_code, subtotal_minor, discount_minor, created_micros)
    ), recorded as (
        insert into outbox (shard, order_id, version, headers, payload)
        select shard, order_id, 1, headers, payload
        from unnest($9::smallint[], $1::uuid[], $10::jsonb[], $11::bytea[])
             as recorded (shard, order_id, headers, payload)
    ), taken as (
        update products set stock = stock - taken.quantity
        from unnest($12::text[], $13::bigint[]) as taken (product_id, quantity)
        where products.product_id = taken.product_id
        returning 1
    ), used as (
        update coupons set used = used + redeemed.uses
        from unnest($14::text[], $15::bigint[]) as redeemed (code, uses)
        where coupons.code = redeemed.code
        returning 1
    ), finished as (
        insert into idempotency_keys (key, fingerprint, order_id, refusal)
        select * from unnest($16::text[], $17::bytea[], $18::uuid[], $19::jsonb[])
        on conflict (key) do update set fingerprint = excluded.fingerprint, order_id = excluded.order_id,
            refusal = excluded.refusal, created_at = excluded.created_at
        where idempotency_keys.created_at <= now() - $20 * interval '1 second'
        returning 1
    )
    select (select count(*) from taken), (select count(*) from used), (select count(*) from finished)";

/// The rows of a batch, column by column.
#[derive(Default)]
pub(super) struct Write<'a> {
    orders: Orders<'a>,
    events: Events<'a>,
    taken: Counts<'a>,
    used: Counts<'a>,
    keys: Keys<'a>,
}

#[derive(Default)]
struct Orders<'a> {
    ids: Vec<Uuid>,
    users: Vec<&'a str>,
    items: Vec<Json<&'a [OrderItem]>>,
    coupons: Vec<Option<&'a str>>,
    subtotals: Vec<i64>,
    discounts: Vec<i64>,
    created_micros: Vec<i64>,
}

#[derive(Default)]
struct Events<'a> {
    shards: Vec<i16>,
    headers: Vec<Json<&'a [(&'static str, String)]>>,
    payloads: Vec<&'a [u8]>,
}

#[derive(Default)]
struct Counts<'a> {
    names: Vec<&'a str>,
    counts: Vec<i64>,
}

#[derive(Default)]
struct Keys<'a> {
    names: Vec<&'a str>,
    fingerprints: Vec<&'a [u8]>,
    order_ids: Vec<Option<Uuid>>,
    refusals: Vec<Option<Json<&'a Refusal>>>,
}

impl<'a> Write<'a> {
    /// What the served submissions and what they took from the shelf come to.
    pub(super) fn of(served: &'a [Served<'_>], shelf: &'a Shelf) -> Self {
        let mut write = Self::default();
        for Served { submission, allotted, .. } in served {
            let verdict = match allotted {
                Ok(allotted) => {
                    write.order(allotted);
                    Ok(allotted.order.id.0)
                }
                Err(NotAllotted::Refused(refusal)) => Err(refusal),
                // A failure of ours, which a repetition may fare better with.
                Err(NotAllotted::Encode(_)) => continue,
            };
            if let Some(keyed_by) = &submission.keyed_by {
                write.keys.names.push(keyed_by.key.as_str());
                write.keys.fingerprints.push(&keyed_by.fingerprint.0);
                write.keys.order_ids.push(verdict.ok());
                write.keys.refusals.push(verdict.err().map(Json));
            }
        }
        let counts = |counts: &mut Counts<'a>, (name, count): (&'a str, i64)| {
            counts.names.push(name);
            counts.counts.push(count);
        };
        for product in shelf.taken_products() {
            counts(&mut write.taken, (&product.product_id, product.taken));
        }
        for coupon in shelf.taken_coupons() {
            counts(&mut write.used, (&coupon.code, coupon.taken));
        }
        write
    }

    fn order(&mut self, Allotted { order, event }: &'a Allotted) {
        self.orders.ids.push(order.id.0);
        self.orders.users.push(&order.user_id);
        self.orders.items.push(Json(&order.items));
        self.orders.coupons.push(order.coupon_code.as_deref());
        self.orders.subtotals.push(order.subtotal_minor);
        self.orders.discounts.push(order.discount_minor);
        self.orders.created_micros.push(order.created_at.as_microsecond());
        self.events.shards.push(shard_of(order.id));
        self.events.headers.push(Json(&event.headers));
        self.events.payloads.push(&event.payload);
    }

    /// True when there is no order to write and no answer to keep.
    pub(super) fn is_empty(&self) -> bool {
        self.orders.ids.is_empty() && self.keys.names.is_empty()
    }

    /// Writes it, in the caller's transaction.
    pub(super) async fn run(self, tx: &mut PgConnection, settings: &PlaceSettings) -> Result<(), BatchError> {
        let Self { orders, events, taken, used, keys } = self;
        let meant = [taken.names.len(), used.names.len(), keys.names.len()];
        let (products, coupons, finished): (i64, i64, i64) = sqlx::query_as(STATEMENT)
            .bind(orders.ids)
            .bind(orders.users)
            .bind(orders.items)
            .bind(orders.coupons)
            .bind(orders.subtotals)
            .bind(orders.discounts)
            .bind(&*settings.currency)
            .bind(orders.created_micros)
            .bind(events.shards)
            .bind(events.headers)
            .bind(events.payloads)
            .bind(taken.names)
            .bind(taken.counts)
            .bind(used.names)
            .bind(used.counts)
            .bind(keys.names)
            .bind(keys.fingerprints)
            .bind(keys.order_ids)
            .bind(keys.refusals)
            .bind(seconds(settings.key_lifetime))
            .fetch_one(tx)
            .await
            .map_err(DatabaseError::during("write the orders"))?;
        let [taken, used, keys] = meant.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        // The rows are locked and were found: anything else would be a bug, and must not become an order.
        assert_eq!((products, coupons), (taken, used), "products or coupons changed under their locks");
        if finished == keys { Ok(()) } else { Err(BatchError::KeyRaced) }
    }
}
