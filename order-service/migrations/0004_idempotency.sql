-- What became of requests with an Idempotency-Key: the order that was taken, or the refusal. Written in the order's own
-- transaction. A binary that does not know the table takes orders without it.
create table idempotency_keys (
    key         text collate "C" primary key,
    -- SHA-256 over what was ordered: the same key with another order is a mistake of the client's.
    fingerprint bytea not null,
    order_id    uuid,
    refusal     jsonb,
    created_at  timestamptz not null default now(),
    check ((order_id is null) <> (refusal is null))
);

-- For the deletion of expired keys. Entries arrive in its order, so a new one goes to the end of its last page. A BRIN
-- index would be smaller, but never narrows again: once deleted rows' space is used anew, every range of it would
-- reach back to its first row, and each look for expired keys would read the whole table.
create index idempotency_keys_by_age on idempotency_keys (created_at);
