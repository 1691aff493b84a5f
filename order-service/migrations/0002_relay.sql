-- Who relays what: members announce themselves, leases say who leads a shard. Both live by the database's clock.

create table relay_members (
    owner      text primary key,
    expires_at timestamptz not null
);

create table relay_leases (
    shard      smallint primary key,
    owner      text,
    expires_at timestamptz,
    check ((owner is null) = (expires_at is null))
);

insert into relay_leases (shard) select generate_series(0, 15);

-- The number of partitions by which keys are mapped, recorded when a topic is first used: adding partitions to the
-- topic moves no key until this number is switched.
create table topic_partitions (
    topic      text primary key,
    partitions integer not null check (partitions > 0)
);
