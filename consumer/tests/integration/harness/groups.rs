//! What befalls a group from outside.

use rdkafka::admin::AdminOptions;

use super::{ANSWER_TIMEOUT, UNREACHABLE, World};

impl World {
    /// What the brokers do with a group that was idle for long: its commits are gone. It has no members then.
    pub(crate) async fn forget_commits(&self, group: &str) {
        let options = AdminOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
        let deleted = self.admin.delete_groups(&[&self.group(group)], &options).await.expect(UNREACHABLE);
        deleted.into_iter().for_each(|group| {
            group.expect("it was there and had no members");
        });
    }
}
