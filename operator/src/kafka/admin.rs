//! The requests the operator makes, each off the runtime's threads and bounded in time.

mod growth;

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
use crate::leadership::Leadership;

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
///
/// Kafka can't tell a leader from one that was, and a change may have waited its turn for long: whether this process leads is
/// asked right before each request that changes something is handed to librdkafka.
pub struct Admin {
    client: Option<NativeClient>,
    timeout: Duration,
    leadership: Leadership,
    descriptions: Shared<BTreeSet<String>, Topics>,
    checks: Shared<NewTopic, ()>,
    creations: Shared<NewTopic, ()>,
    alterations: Shared<ConfigChange, ()>,
    deletions: Shared<Deletion, bool>,
}

/// A topic to delete: the very one with this id.
#[derive(Clone, Debug)]
struct Deletion {
    name: String,
    id: String,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Admin {
    /// A handle that gives up on a request after `timeout`, and changes nothing while `leadership` is not held.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn new(
        connection: &KafkaConnection,
        timeout: Duration,
        leadership: Leadership,
    ) -> Result<Self, Error> {
        let client = connection
            .client_config(CLIENT_ID)
            .create()
            .map_err(|source| Error::client("make a Kafka handle", source))?;
        Ok(Self {
            client: Some(Arc::new(client)),
            timeout,
            leadership,
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
        let mut results = self.identify(names).await?;
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

    /// As [`Admin::describe_each`] in one request: without the configurations, which are most of the answer.
    async fn identify(&self, names: &BTreeSet<String>) -> Result<Results, Error> {
        let wanted: Vec<String> = names.iter().cloned().collect();
        let described = self
            .blocking("describe topics", move |client, timeout| {
                ffi::describe_topics(client, &wanted, timeout)
            })
            .await?;
        let is_there =
            |topic: &Result<ObservedTopic, Error>| !matches!(topic, Err(error) if error.is_unknown_topic());
        Ok(described.into_iter().filter(|(_, topic)| is_there(topic)).collect())
    }

    /// Asks Kafka whether it would create a topic, without creating it.
    ///
    /// # Errors
    /// When Kafka can't be reached or would refuse.
    pub async fn check(&self, topic: &NewTopic) -> Result<(), Error> {
        self.checks.ask(topic.clone(), name_of, |topics| self.create_all(topics, true)).await
    }

    /// Creates a topic and returns it once a broker shows it; `None` when none does in time.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses, or this process does not lead; [`Error::is_topic_exists`] when it is there already.
    pub async fn create(&self, topic: &NewTopic) -> Result<Option<ObservedTopic>, Error> {
        self.creations.ask(topic.clone(), name_of, |topics| self.create_all(topics, false)).await?;
        self.shown(&topic.name, |_| true).await
    }

    async fn create_all(&self, topics: Vec<NewTopic>, only_check: bool) -> Vec<Result<(), Error>> {
        let action = if only_check { "check topics" } else { "create topics" };
        self.for_each(action, topics, self.right(only_check), move |client, topics, timeout| {
            ffi::create_topics(client, topics, only_check, timeout)
        })
        .await
    }

    /// Sets and resets single configuration keys; others stay as they are. Returns the topic once a broker shows it so;
    /// `None` when none does in time.
    ///
    /// # Errors
    /// When Kafka can't be reached or refuses, or this process does not lead.
    pub async fn alter_config(
        &self,
        topic: &str,
        set: &BTreeMap<String, String>,
        reset: &BTreeSet<String>,
    ) -> Result<Option<ObservedTopic>, Error> {
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
        let action = "change topics' configurations";
        self.for_each(action, changes, self.right(only_check), move |client, changes, timeout| {
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
    /// When Kafka can't be reached or refuses, or this process does not lead.
    pub async fn delete(&self, name: &str, id: &str) -> Result<bool, Error> {
        let deletion = Deletion { name: name.to_owned(), id: id.to_owned() };
        self.deletions.ask(deletion, |deletion| Some(&deletion.name), |doomed| self.delete_all(doomed)).await
    }

    async fn delete_all(&self, doomed: Vec<Deletion>) -> Vec<Result<bool, Error>> {
        let names = doomed.iter().map(|deletion| deletion.name.clone()).collect();
        let found = match self.identify(&names).await {
            Ok(found) => found,
            Err(error) => return doomed.iter().map(|_| Err(error.clone())).collect(),
        };
        let is_there = |Deletion { name, id }: &Deletion| match found.get(name) {
            Some(Ok(topic)) => Ok(topic.id == *id),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(false),
        };
        let there: Vec<Result<bool, Error>> = doomed.iter().map(is_there).collect();
        let present = doomed.iter().zip(&there).filter(|(_, there)| matches!(there, Ok(true)));
        let wanted: Vec<&str> = present.map(|(deletion, _)| deletion.name.as_str()).collect();
        let mut refused = self.delete_by_name(&wanted).await;
        let result = |(deletion, there): (&Deletion, Result<bool, Error>)| match (there, &mut refused) {
            (Ok(true), Ok(refused)) => refused
                .remove(&deletion.name)
                .map_or(Ok(true), |error| if error.is_unknown_topic() { Ok(false) } else { Err(error) }),
            (Ok(true), Err(error)) => Err(error.clone()),
            (there, _) => there,
        };
        doomed.iter().zip(there).map(result).collect()
    }

    /// What Kafka refused of a deletion, by name.
    async fn delete_by_name(&self, names: &[&str]) -> Result<BTreeMap<String, Error>, Error> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        self.leadership.check()?;
        let results = self.client().delete_topics(names, &self.options()).await;
        let results = results.map_err(|source| Error::client("delete topics", source))?;
        let refused = results.into_iter().filter_map(Result::err).map(|(name, code)| {
            let action = format!("delete topic {name}");
            (name, Error::Refused { action, message: code.to_string(), code })
        });
        Ok(refused.collect())
    }

    /// Waits until the brokers show what the controller has accepted. Not shown in time is no failure: the next pass
    /// looks again.
    async fn shown(
        &self,
        topic: &str,
        holds: impl Fn(&ObservedTopic) -> bool,
    ) -> Result<Option<ObservedTopic>, Error> {
        let names = BTreeSet::from([topic.to_owned()]);
        let look = || async {
            let mut topics = self.describe(&names).await.map_err(Some)?;
            topics.remove(topic).filter(&holds).ok_or(None::<Error>)
        };
        let pace = ExponentialBuilder::default()
            .with_min_delay(VISIBLE_FIRST)
            .with_max_delay(VISIBLE_LAST)
            .with_max_times(VISIBLE_POLLS);
        match look.retry(pace).when(Option::is_none).await {
            Ok(topic) => Ok(Some(topic)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
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

    /// What a request needs: a question is anybody's, a change only the leader's.
    fn right(&self, only_check: bool) -> Leadership {
        if only_check { Leadership::unshared() } else { self.leadership.clone() }
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    fn client(&self) -> &NativeClient {
        self.client.as_ref().expect("the client is taken only by drop")
    }

    /// Runs a blocking request for several things off the runtime's threads, if `right` is held when its turn has come; the
    /// answers are at their places.
    async fn for_each<I: Send + Sync + 'static, T: Send + 'static>(
        &self,
        action: &'static str,
        items: Vec<I>,
        right: Leadership,
        request: impl FnOnce(&AdminClient<DefaultClientContext>, &[I], Duration) -> Vec<Result<T, Error>>
        + Send
        + 'static,
    ) -> Vec<Result<T, Error>> {
        let count = items.len();
        let asked = self.blocking(action, move |client, timeout| {
            right.check()?;
            Ok(request(client, &items, timeout))
        });
        asked.await.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
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
