-- The topic that this database's outbox belongs to. A second pipeline on the same database would send half of the events
-- to the other's topic.
create table outbox_topic (
    singleton boolean primary key default true check (singleton),
    topic     text not null
);

insert into outbox_topic (topic) select topic from topic_partitions order by topic limit 1;
