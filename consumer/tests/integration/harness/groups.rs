//! What befalls a group from outside.

use consumer::done_map::Runs;
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{ANSWER_TIMEOUT, UNREACHABLE, World, client};

impl World {
    /// What the brokers do with a group that was idle for long: its commits are gone. It has no members then.
    pub(crate) async fn forget_commits(&self, group: &str) {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let deleted = self.admin.delete_groups(&[&self.group(group)], &options).await.expect(UNREACHABLE);
        deleted.into_iter().for_each(|group| {
            group.expect("it was there and had no members");
        });
    }

    /// What an at-least-once group leaves that has dealt with `done` before what is at `offset` of the first partition.
    pub(crate) fn commit_done(&self, group: &str, offset: i64, done: &Runs) {
        let reader: BaseConsumer =
            client(&self.kafka).set("group.id", self.group(group)).create().expect("reader");
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.topic, 0);
        element.set_offset(Offset::Offset(offset)).expect("valid offset");
        element.set_metadata(done.encode(offset));
        reader.commit(&list, CommitMode::Sync).expect("committed");
    }
}
