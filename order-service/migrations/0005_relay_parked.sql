-- Orders of which the topic refuses an event for good. The relay leaves them out until their row here is deleted; every
-- other order goes on. A binary that does not know this table tries the event again and again, as it always did.
create table relay_parked (
    order_id  uuid primary key,
    shard     smallint not null,
    outbox_id bigint not null,
    version   bigint not null,
    reason    text not null,
    parked_at timestamptz not null default clock_timestamp()
);

create index relay_parked_by_shard on relay_parked (shard, parked_at);
