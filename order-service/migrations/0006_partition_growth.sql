-- Growth of the topic that keeps every order's events in order: while a fence is up nothing is published, and once every
-- group has read what was, the number is switched. A binary that does not know these columns goes on with the number that
-- it read at its start; while a member without a fence is known, none goes up.

-- These tables are in constant use: while this waits for somebody's transaction, everybody else waits for this. It is tried again.
set local lock_timeout = '2s';

alter table topic_partitions
    -- Names the fence that is up, or the end of the last one. No two fences have the same name, in no database that forgot one.
    add column epoch        bigint not null default 0,
    -- What the number is to be, while a fence is up.
    add column growing_to   integer,
    -- When the fence has failed. It stands until somebody takes it down all the same: nobody judges that by a clock alone.
    add column fenced_until timestamptz,
    -- When the server was started on which the fence went up. Another one, after a failover, may not know that the fence came
    -- down there, and who published since.
    add column fenced_on    timestamptz,
    -- Sum of relay_leases.takes when the fence went up: a shard that changed hands since spoils it.
    add column takes        bigint,
    add check (growing_to > partitions);

alter table relay_members
    -- The last fence behind which the member had nothing under way. 0 is none yet, null a binary that knows of none.
    add column fence bigint,
    -- By which rules it would go over to more partitions: groups to wait for, if any.
    add column terms text;

alter table relay_leases
    -- Counts how often the shard got a leader that can't know what was sent before: another one, or one with a new producer.
    add column takes       bigint not null default 0,
    -- Rows up to this one may have been sent by somebody whose acknowledgements are lost.
    add column doubtful_to bigint not null default 0;
