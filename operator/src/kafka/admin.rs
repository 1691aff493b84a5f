//! The requests the operator makes, each off the runtime's threads and bounded in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ConstantBuilder, Retryable};
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewPartitions, OwnedResourceSpecifier, ResourceSpecifier,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use runtime::kafka::KafkaConnection;

use super::error::Error;
use super::values::same;
use super::{NewTopic, ObservedTopic, ffi};

/// How Kafka's logs and quotas name the operator.
const CLIENT_ID: &str = "orderflow-operator";

/// A broker serves metadata a moment after the controller made the topic; five seconds are ample for that.
const VISIBLE_POLLS: usize = 50;
const VISIBLE_POLL: Duration = Duration::from_millis(100);

/// A handle to one Kafka cluster.
pub struct Admin {
    client: Option<Arc<AdminClient<DefaultClientContext>>>,
    timeout: Duration,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Admin {
    /// A handle that gives up on a request after `timeout`.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(connection: &KafkaConnection, timeout: Duration) -> Result<Self, Error> {
        let client = connection
            .client_config(CLIENT_ID)
            .create()
            .map_err(|source| Error::client("make a Kafka handle", source))?;
        Ok(Self { client: Some(Arc::new(client)), timeout })
    }

    /// Those of the named topics that exist, with their configuration: two requests, however many topics.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses.
    pub async fn describe(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, ObservedTopic>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted: Vec<String> = names.iter().cloned().collect();
        let described = self
            .blocking("describe topics", move |client, timeout| {
                ffi::describe_topics(client, &wanted, timeout)
            })
            .await?;
        let present: Vec<&str> = described.iter().map(|(name, _)| name.as_str()).collect();
        let mut configs = self.describe_configs(&present).await?;
        Ok(described
            .into_iter()
            // A topic deleted between the two requests has no configuration: it does not exist.
            .filter_map(|(name, topic)| {
                let config = configs.remove(&name)?;
                Some((name, ObservedTopic { config, ..topic }))
            })
            .collect())
    }

    /// Asks Kafka whether it would create a topic, without creating it.
    ///
    /// # Errors
    /// When Kafka can't be reached or would refuse.
    pub async fn check(&self, topic: &NewTopic) -> Result<(), Error> {
        let new = topic.clone();
        self.blocking("check a topic", move |client, timeout| ffi::create_topic(client, &new, true, timeout))
            .await
    }

    /// Creates a topic and returns once a broker shows it.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses; [`Error::is_topic_exists`] when it is there already.
    pub async fn create(&self, topic: &NewTopic) -> Result<(), Error> {
        let new = topic.clone();
        self.blocking("create a topic", move |client, timeout| {
            ffi::create_topic(client, &new, false, timeout)
        })
        .await?;
        self.shown(&topic.name, |_| true).await
    }

    /// Adds partitions to a topic until it has `partitions`, and returns once a broker shows them. A topic that has as many
    /// already, as after an attempt whose answer was lost, is fine.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses.
    pub async fn grow(&self, topic: &str, partitions: i32) -> Result<(), Error> {
        let action = format!("grow topic {topic} to {partitions} partitions");
        let count = usize::try_from(partitions).unwrap_or_default();
        let results = self
            .client()
            .create_partitions([&NewPartitions::new(topic, count)], &self.options())
            .await
            .map_err(|source| Error::client(&action, source))?;
        if let Some(Err((_, code))) = results.into_iter().next() {
            let has = self.describe(&BTreeSet::from([topic.to_owned()])).await?;
            if has.get(topic).is_none_or(|topic| topic.partitions < partitions) {
                return Err(Error::Refused { action, message: code.to_string(), code });
            }
        }
        self.shown(topic, |topic| topic.partitions >= partitions).await
    }

    /// Sets and resets single configuration keys; others stay as they are.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses.
    pub async fn alter_config(
        &self,
        topic: &str,
        set: &BTreeMap<String, String>,
        reset: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let (name, wanted, reset) = (topic.to_owned(), set.clone(), reset.clone());
        self.blocking("change a topic's configuration", move |client, timeout| {
            ffi::alter_topic_config(client, &name, &wanted, &reset, timeout)
        })
        .await?;
        let holds = |topic: &ObservedTopic| {
            set.iter().all(|(key, value)| topic.config.get(key).is_some_and(|reported| same(value, reported)))
        };
        self.shown(topic, holds).await
    }

    /// Deletes the topic of this name if it is the one with this id. Returns whether there was anything to delete.
    ///
    /// Kafka's client deletes by name; the id is looked up right before, so only a topic swapped within that moment
    /// could be hit.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses.
    pub async fn delete(&self, name: &str, id: &str) -> Result<bool, Error> {
        let action = format!("delete topic {name}");
        let found = self.describe(&BTreeSet::from([name.to_owned()])).await?;
        if found.get(name).is_none_or(|topic| topic.id != id) {
            return Ok(false);
        }
        let results = self
            .client()
            .delete_topics(&[name], &self.options())
            .await
            .map_err(|source| Error::client(&action, source))?;
        match results.into_iter().next() {
            Some(Err((_, code))) => {
                let error = Error::Refused { action, message: code.to_string(), code };
                if error.is_unknown_topic() { Ok(false) } else { Err(error) }
            }
            _ => Ok(true),
        }
    }

    /// Waits until the brokers show what the controller has accepted. Not shown in time is no failure: the next pass
    /// looks again.
    async fn shown(&self, topic: &str, holds: impl Fn(&ObservedTopic) -> bool) -> Result<(), Error> {
        let names = BTreeSet::from([topic.to_owned()]);
        let look = || async {
            let topics = self.describe(&names).await.map_err(Some)?;
            topics.get(topic).is_some_and(&holds).then_some(()).ok_or(None)
        };
        let pace = ConstantBuilder::default().with_delay(VISIBLE_POLL).with_max_times(VISIBLE_POLLS);
        look.retry(pace).when(Option::is_none).await.or_else(|error| error.map_or(Ok(()), Err))
    }

    async fn describe_configs(
        &self,
        names: &[&str],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let action = "describe topic configurations";
        let topics: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let results = self
            .client()
            .describe_configs(&topics, &self.options())
            .await
            .map_err(|source| Error::client(action, source))?;
        let mut configs = BTreeMap::new();
        for result in results {
            match result {
                Ok(resource) => {
                    configs.extend(by_topic(resource));
                }
                Err(code) => {
                    let error = Error::client(action, KafkaError::AdminOp(code));
                    if !error.is_unknown_topic() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(configs)
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    fn client(&self) -> &Arc<AdminClient<DefaultClientContext>> {
        self.client.as_ref().expect("the client is taken only by drop")
    }

    /// Runs a blocking request off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        request: impl FnOnce(&AdminClient<DefaultClientContext>, Duration) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let client = Arc::clone(self.client());
        let timeout = self.timeout;
        let started = Instant::now();
        let result = tokio::task::spawn_blocking(move || request(&client, timeout))
            .await
            .unwrap_or_else(|_| Err(Error::Aborted { action: action.to_owned() }));
        tracing::debug!(action, elapsed = ?started.elapsed(), ok = result.is_ok(), "asked Kafka");
        result
    }
}

impl Drop for Admin {
    /// Closing a handle joins its threads and may wait for the network: never on a runtime thread.
    fn drop(&mut self) {
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}

fn by_topic(resource: ConfigResource) -> Option<(String, BTreeMap<String, String>)> {
    let OwnedResourceSpecifier::Topic(name) = resource.specifier else { return None };
    let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
    Some((name, entries))
}
