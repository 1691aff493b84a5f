//! Partitions added to a topic, or asked whether they could be.

use std::collections::BTreeSet;

use rdkafka::admin::NewPartitions;

use super::Admin;
use crate::kafka::{Error, ObservedTopic};

impl Admin {
    /// Asks Kafka whether it would add partitions to a topic, without adding any.
    ///
    /// # Errors
    /// When Kafka can't be reached or would refuse.
    pub async fn check_growth(&self, topic: &str, partitions: i32) -> Result<(), Error> {
        self.add_partitions(topic, partitions, true).await
    }

    /// Adds partitions to a topic until it has `partitions`, and returns it once a broker shows them; `None` when none does in
    /// time. A topic that has as many already, as after an attempt whose answer was lost, is fine.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses, or this process does not lead.
    pub async fn grow(&self, topic: &str, partitions: i32) -> Result<Option<ObservedTopic>, Error> {
        self.add_partitions(topic, partitions, false).await?;
        self.shown(topic, |topic| topic.partitions >= partitions).await
    }

    async fn add_partitions(&self, topic: &str, partitions: i32, only_check: bool) -> Result<(), Error> {
        let action = format!("grow topic {topic} to {partitions} partitions");
        let wanted = NewPartitions::new(topic, usize::try_from(partitions).unwrap_or_default());
        self.right(only_check).check()?;
        let options = self.options().validate_only(only_check);
        let results = self.client().create_partitions([&wanted], &options).await;
        let results = results.map_err(|source| Error::client(action.as_str(), source))?;
        let Some(Err((_, code))) = results.into_iter().next() else { return Ok(()) };
        let is_grown = |topic: &ObservedTopic| topic.partitions >= partitions;
        let grown = if only_check {
            self.describe(&BTreeSet::from([topic.to_owned()])).await?.remove(topic).filter(is_grown)
        } else {
            // Another broker may lag behind the one that grew it.
            self.shown(topic, is_grown).await?
        };
        if grown.is_some() {
            return Ok(());
        }
        Err(Error::Refused { action, message: code.to_string(), code })
    }
}
