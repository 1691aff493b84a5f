-- Catalogue, orders and outbox. Text that is compared or locked in order uses the "C" collation: the order is that of
-- the bytes on every server, and the program sorts the same way.

create table products (
    product_id  text collate "C" primary key,
    price_minor bigint not null check (price_minor >= 0),
    stock       bigint not null check (stock >= 0)
);

create table coupons (
    code             text collate "C" primary key,
    percent_off      smallint check (percent_off between 1 and 100),
    amount_off_minor bigint check (amount_off_minor > 0),
    max_uses         bigint not null check (max_uses >= 0),
    -- May stand above max_uses: lowering the limit takes nothing back.
    used             bigint not null default 0 check (used >= 0),
    check ((percent_off is null) <> (amount_off_minor is null))
);

create table orders (
    id             uuid primary key,
    user_id        text collate "C" not null,
    status         text not null check (status in ('PENDING', 'CONFIRMED', 'CANCELLED')),
    version        bigint not null check (version >= 1),
    items          jsonb not null,
    coupon_code    text collate "C",
    currency       text not null,
    subtotal_minor bigint not null check (subtotal_minor >= 0),
    discount_minor bigint not null check (discount_minor between 0 and subtotal_minor),
    total_minor    bigint not null check (total_minor = subtotal_minor - discount_minor),
    created_at     timestamptz not null
);

-- A user's orders, newest first: ids are UUIDv7, so their order is that of creation.
create index orders_by_user on orders (user_id, id);

-- Events that the broker does not have yet. A row leaves only after the broker acknowledged it.
-- The primary key is the only index: every row is inserted and deleted once, and each further index would double that.
-- `cache 1` matters: with a larger cache a session could take a lower id later than another session took a higher one.
create table outbox (
    shard       smallint not null,
    id          bigint generated always as identity (cache 1),
    order_id    uuid not null,
    version     bigint not null,
    headers     jsonb not null,
    payload     bytea not null,
    recorded_at timestamptz not null default clock_timestamp(),
    primary key (shard, id)
) with (
    -- The table is small and churns: vacuum by a fixed number of dead rows, and without pausing.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);
