//! Configurations changed key by key (IncrementalAlterConfigs).

use std::collections::{BTreeMap, BTreeSet};
use std::ptr;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;

use super::super::error::Error;
use super::{Guard, Request, array, by_name, check, owned, text, unexpected};

/// Keys of one topic to set and to reset; others stay as they are.
#[derive(Clone, Debug)]
pub(in super::super) struct ConfigChange {
    /// The topic.
    pub(in super::super) topic: String,
    /// Keys to set.
    pub(in super::super) set: BTreeMap<String, String>,
    /// Keys to return to the broker's default.
    pub(in super::super) reset: BTreeSet<String>,
}

type Resource = Guard<rd::rd_kafka_ConfigResource_t>;

/// Changes configurations, or only asks whether that would do. Says of each what became of it, at its place.
pub(in super::super) fn alter_topic_configs(
    client: &AdminClient<DefaultClientContext>,
    changes: &[ConfigChange],
    only_check: bool,
    timeout: Duration,
) -> Vec<Result<(), Error>> {
    let made: Vec<_> = changes.iter().map(resource).collect();
    let good = || changes.iter().zip(&made).filter_map(|(change, made)| Some((change, made.as_ref().ok()?)));
    let handles = good().map(|(_, made)| made.get()).collect();
    let answered = ask_to_alter(client, handles, only_check, timeout);
    let names = good().map(|(change, _)| change.topic.clone());
    let mut results = by_name("change configurations", names, answered).into_iter();
    made.iter()
        .map(|made| match made {
            Ok(_) => results.next().unwrap_or_else(|| Err(unexpected("change configurations"))),
            Err(error) => Err(error.clone()),
        })
        .collect()
}

fn resource(change: &ConfigChange) -> Result<Resource, Error> {
    let action = &format!("change the configuration of topic {}", change.topic);
    let name = text(action, &change.topic)?;
    // SAFETY: the name is a C string that outlives the call.
    let resource = unsafe {
        rd::rd_kafka_ConfigResource_new(rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, name.as_ptr())
    };
    let resource = Guard::new(action, resource, rd::rd_kafka_ConfigResource_destroy)?;
    let sets = change.set.iter().map(|(key, value)| (key, Some(value)));
    for (key, value) in sets.chain(change.reset.iter().map(|key| (key, None))) {
        add_config(action, &resource, key, value.map(String::as_str))?;
    }
    Ok(resource)
}

/// What the broker says of each topic, by name. The handles must be alive.
fn ask_to_alter(
    client: &AdminClient<DefaultClientContext>,
    mut resources: Vec<*mut rd::rd_kafka_ConfigResource_t>,
    only_check: bool,
    timeout: Duration,
) -> Result<BTreeMap<String, Result<(), Error>>, Error> {
    let action = "change configurations";
    if resources.is_empty() {
        return Ok(BTreeMap::new());
    }
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS;
    let request = Request::new(client, action, operation, timeout)?;
    request.only_check(only_check)?;
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the resources.
    unsafe {
        rd::rd_kafka_IncrementalAlterConfigs(
            request.client,
            resources.as_mut_ptr(),
            resources.len(),
            request.options.get(),
            request.queue.get(),
        );
    }
    let event = request.answer()?;
    // SAFETY: the event is an IncrementalAlterConfigs result (or this returns null, which is checked), and owns all it points to.
    unsafe {
        let result = rd::rd_kafka_event_IncrementalAlterConfigs_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count);
        let said = array(first, count).iter().map(|altered| {
            let name = owned(rd::rd_kafka_ConfigResource_name(*altered));
            let code = rd::rd_kafka_ConfigResource_error(*altered);
            let words = || owned(rd::rd_kafka_ConfigResource_error_string(*altered));
            let said = check(&format!("change the configuration of topic {name}"), code, words);
            (name, said)
        });
        Ok(said.collect())
    }
}

fn add_config(action: &str, resource: &Resource, key: &str, value: Option<&str>) -> Result<(), Error> {
    let key = text(action, key)?;
    let value = value.map(|value| text(action, value)).transpose()?;
    let operation = match value {
        Some(_) => rd::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET,
        None => rd::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE,
    };
    let value = value.as_ref().map_or(ptr::null(), |value| value.as_ptr());
    // SAFETY: the resource and the strings are alive for the call, which copies them; null is allowed for DELETE.
    let error = unsafe {
        rd::rd_kafka_ConfigResource_add_incremental_config(resource.get(), key.as_ptr(), operation, value)
    };
    if error.is_null() {
        return Ok(());
    }
    let error = Guard::new(action, error, rd::rd_kafka_error_destroy)?;
    // SAFETY: the error is alive, and so is its text.
    unsafe {
        check(action, rd::rd_kafka_error_code(error.get()), || owned(rd::rd_kafka_error_string(error.get())))
    }
}
