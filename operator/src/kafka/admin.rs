//! The requests the operator makes, each off the runtime's threads and bounded in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use runtime::kafka::KafkaConnection;

use super::error::Error;
use super::ffi::ConfigChange;
use super::shared::Shared;
use super::values::same;
use super::{NewTopic, ObservedTopic, ffi};

/// How Kafka's logs and quotas name the operator.
const CLIENT_ID: &str = "orderflow-operator";

/// A broker serves metadata a moment after the controller made the topic: milliseconds, on a quiet one; some five seconds
/// are ample.
const VISIBLE_POLLS: usize = 55;
const VISIBLE_FIRST: Duration = Duration::from_millis(5);
const VISIBLE_LAST: Duration = Duration::from_millis(100);

type Topics = BTreeMap<String, ObservedTopic>;
type Results = BTreeMap<String, Result<ObservedTopic, Error>>;
type NativeClient = Arc<AdminClient<DefaultClientContext>>;

/// A handle to one Kafka cluster. What several reconciliations ask for at a time goes into one request.
pub struct Admin {
    client: Option<NativeClient>,
    timeout: Duration,
    descriptions: Shared<BTreeSet<String>, Topics>,
    checks: Shared<NewTopic, ()>,
    creations: Shared<NewTopic, ()>,
    alterations: Shared<ConfigChange, ()>,
    deletions: Shared<String, bool>,
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
        Ok(Self {
            client: Some(Arc::new(client)),
            timeout,
            descriptions: Shared::new("describe topics"),
            checks: Shared::new("check a topic"),
            creations: Shared::new("create a topic"),
            alterations: Shared::new("change a topic's configuration"),
            deletions: Shared::new("delete a topic"),
        })
    }

    /// Those of the named topics that exist, with their configuration.
    ///
    /// # Errors
    /// When Kafka can't be reached, or refuses any of them.
    pub async fn describe(&self, names: &BTreeSet<String>) -> Result<Topics, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let request = |asked: Vec<BTreeSet<String>>| async move {
            let all = asked.iter().flatten().cloned().collect();
            let described = self.describe_each(&all).await;
            asked.iter().map(|names| part(&described, names)).collect()
        };
        self.descriptions.ask(names.clone(), |_| None, request).await
    }

    /// What Kafka says of each of the named topics that exist: two requests, however many topics.
    ///
    /// # Errors
    /// When Kafka can't be reached. What it refuses of one topic is that topic's error.
    pub async fn describe_each(&self, names: &BTreeSet<String>) -> Result<Results, Error> {
        let wanted: Vec<String> = names.iter().cloned().collect();
        let described = self
            .blocking("describe topics", move |client, timeout| {
                ffi::describe_topics(client, &wanted, timeout)
            })
            .await?;
        let mut results: Results = described
            .into_iter()
            .filter(|(_, topic)| !matches!(topic, Err(error) if error.is_unknown_topic()))
            .collect();
        let present: Vec<&str> =
            results.iter().filter(|(_, topic)| topic.is_ok()).map(|(name, _)| name.as_str()).collect();
        let (mut configs, refused) = self.describe_configs(&present).await?;
        results.retain(|name, topic| match (topic, configs.remove(name)) {
            (Ok(topic), Some(config)) => {
                topic.config = config;
                true
            }
            // A topic deleted between the two requests has no configuration: it does not exist.
            (Ok(_), None) if refused.is_none() => false,
            (_, _) => true,
        });
        if let Some(error) = refused {
            // The answer does not say whose configuration was refused: it is of those that have none.
            for topic in
                results.values_mut().filter(|topic| topic.as_ref().is_ok_and(|topic| topic.config.is_empty()))
            {
                *topic = Err(error.clone());
            }
        }
        Ok(results)
    }

    /// Asks Kafka whether it would create a topic, without creating it.
    ///
    /// # Errors
    /// When Kafka can't be reached or would refuse.
    pub async fn check(&self, topic: &NewTopic) -> Result<(), Error> {
        self.checks.ask(topic.clone(), name_of, |topics| self.create_all(topics, true)).await
    }

    /// Creates a topic and returns once a broker shows it.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses; [`Error::is_topic_exists`] when it is there already.
    pub async fn create(&self, topic: &NewTopic) -> Result<(), Error> {
        self.creations.ask(topic.clone(), name_of, |topics| self.create_all(topics, false)).await?;
        self.shown(&topic.name, |_| true).await
    }

    async fn create_all(&self, topics: Vec<NewTopic>, only_check: bool) -> Vec<Result<(), Error>> {
        let action = if only_check { "check topics" } else { "create topics" };
        self.for_each(action, topics, move |client, topics, timeout| {
            ffi::create_topics(client, topics, only_check, timeout)
        })
        .await
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
        let change = ConfigChange { topic: topic.to_owned(), set: set.clone(), reset: reset.clone() };
        let request = |changes| self.alter_all(changes, false);
        self.alterations.ask(change, |change| Some(&change.topic), request).await?;
        let holds = |topic: &ObservedTopic| {
            set.iter().all(|(key, value)| topic.config.get(key).is_some_and(|reported| same(value, reported)))
        };
        self.shown(topic, holds).await
    }

    /// Asks Kafka whether it would set and reset these keys, without doing so.
    ///
    /// # Errors
    /// When Kafka can't be reached or would refuse.
    pub async fn check_config(
        &self,
        topic: &str,
        set: &BTreeMap<String, String>,
        reset: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let change = ConfigChange { topic: topic.to_owned(), set: set.clone(), reset: reset.clone() };
        self.alter_all(vec![change], true).await.into_iter().next().unwrap_or(Ok(()))
    }

    async fn alter_all(&self, changes: Vec<ConfigChange>, only_check: bool) -> Vec<Result<(), Error>> {
        self.for_each("change topics' configurations", changes, move |client, changes, timeout| {
            ffi::alter_topic_configs(client, changes, only_check, timeout)
        })
        .await
    }

    /// Deletes the topic of this name if it is the one with this id. Returns whether there was anything to delete.
    ///
    /// Kafka's client deletes by name; the id is looked up right before, so only a topic swapped within that moment
    /// could be hit.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses.
    pub async fn delete(&self, name: &str, id: &str) -> Result<bool, Error> {
        let found = self.describe(&BTreeSet::from([name.to_owned()])).await?;
        if found.get(name).is_none_or(|topic| topic.id != id) {
            return Ok(false);
        }
        self.deletions.ask(name.to_owned(), |name| Some(name), |names| self.delete_all(names)).await
    }

    async fn delete_all(&self, names: Vec<String>) -> Vec<Result<bool, Error>> {
        let action = "delete topics";
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let results = match self.client().delete_topics(&wanted, &self.options()).await {
            Ok(results) => results,
            Err(source) => return names.iter().map(|_| Err(Error::client(action, source.clone()))).collect(),
        };
        let mut refused: BTreeMap<String, _> = results.into_iter().filter_map(Result::err).collect();
        let result = |name: &String| {
            let Some(code) = refused.remove(name) else { return Ok(true) };
            let error =
                Error::Refused { action: format!("delete topic {name}"), message: code.to_string(), code };
            if error.is_unknown_topic() { Ok(false) } else { Err(error) }
        };
        names.iter().map(result).collect()
    }

    /// Waits until the brokers show what the controller has accepted. Not shown in time is no failure: the next pass
    /// looks again.
    async fn shown(&self, topic: &str, holds: impl Fn(&ObservedTopic) -> bool) -> Result<(), Error> {
        let names = BTreeSet::from([topic.to_owned()]);
        let look = || async {
            let topics = self.describe(&names).await.map_err(Some)?;
            topics.get(topic).is_some_and(&holds).then_some(()).ok_or(None)
        };
        let pace = ExponentialBuilder::default()
            .with_min_delay(VISIBLE_FIRST)
            .with_max_delay(VISIBLE_LAST)
            .with_max_times(VISIBLE_POLLS);
        look.retry(pace).when(Option::is_none).await.or_else(|error| error.map_or(Ok(()), Err))
    }

    /// Configurations by topic, and what was refused of some, if anything was.
    async fn describe_configs(
        &self,
        names: &[&str],
    ) -> Result<(BTreeMap<String, BTreeMap<String, String>>, Option<Error>), Error> {
        if names.is_empty() {
            return Ok((BTreeMap::new(), None));
        }
        let action = "describe topic configurations";
        let topics: Vec<_> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let results = self
            .client()
            .describe_configs(&topics, &self.options())
            .await
            .map_err(|source| Error::client(action, source))?;
        let (mut configs, mut refused) = (BTreeMap::new(), None);
        for result in results {
            match result.map_err(|code| Error::client(action, KafkaError::AdminOp(code))) {
                Ok(resource) => configs.extend(by_topic(resource)),
                Err(error) if error.is_unknown_topic() => {}
                Err(error) => refused = Some(error),
            }
        }
        Ok((configs, refused))
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    fn client(&self) -> &NativeClient {
        self.client.as_ref().expect("the client is taken only by drop")
    }

    /// Runs a blocking request for several things off the runtime's threads; the answers are at their places.
    async fn for_each<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        action: &'static str,
        items: Vec<I>,
        request: impl FnOnce(&AdminClient<DefaultClientContext>, &[I], Duration) -> Vec<Result<T, Error>>
        + Send
        + 'static,
    ) -> Vec<Result<T, Error>> {
        let count = items.len();
        let asked = self.blocking(action, move |client, timeout| Ok(request(client, &items, timeout))).await;
        asked.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
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

fn name_of(topic: &NewTopic) -> Option<&str> {
    Some(&topic.name)
}

/// Those of `names` that exist.
fn part(described: &Result<Results, Error>, names: &BTreeSet<String>) -> Result<Topics, Error> {
    let described = described.as_ref().map_err(Clone::clone)?;
    let found = names.iter().filter_map(|name| Some((name, described.get(name)?)));
    found.map(|(name, topic)| Ok((name.clone(), topic.clone()?))).collect()
}

fn by_topic(resource: ConfigResource) -> Option<(String, BTreeMap<String, String>)> {
    let OwnedResourceSpecifier::Topic(name) = resource.specifier else { return None };
    let entries = resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
    Some((name, entries))
}
