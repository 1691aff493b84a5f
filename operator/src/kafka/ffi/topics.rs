//! Topics described and created.

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::super::error::Error;
use super::super::{NewTopic, ObservedTopic};
use super::{ERROR_BUFFER_BYTES, Guard, Request, array, by_name, check, owned, text, unexpected};

/// "The broker decides", for the replication factor of a new topic.
const BROKER_DEFAULT: c_int = -1;

/// What the broker says of each of the named topics, without their configuration.
///
/// # Errors
/// When the request itself fails; what is refused of one topic is that topic's.
pub(in super::super) fn describe_topics(
    client: &AdminClient<DefaultClientContext>,
    names: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, Result<ObservedTopic, Error>>, Error> {
    let action = "describe topics";
    let names = names.iter().map(|name| text(action, name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the pointers are valid C strings for the call, which copies them.
    let topics =
        unsafe { rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
    let topics = Guard::new(action, topics, rd::rd_kafka_TopicCollection_destroy)?;
    let request =
        Request::new(client, action, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the collection.
    unsafe {
        rd::rd_kafka_DescribeTopics(request.client, topics.get(), request.options.get(), request.queue.get())
    };
    let event = request.answer()?;
    // SAFETY: the event is a DescribeTopics result (or this returns null, which is checked), and owns all it points to.
    let descriptions = unsafe {
        let result = rd::rd_kafka_event_DescribeTopics_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        array(first, count)
    };
    // SAFETY: each description is one of the event's, which is still alive.
    Ok(descriptions.iter().map(|description| unsafe { description_of(*description) }).collect())
}

/// Creates topics, or only asks whether that would do. Says of each what became of it, at its place.
pub(in super::super) fn create_topics(
    client: &AdminClient<DefaultClientContext>,
    topics: &[NewTopic],
    only_check: bool,
    timeout: Duration,
) -> Vec<Result<(), Error>> {
    let made: Vec<_> = topics.iter().map(new_topic).collect();
    let good = || topics.iter().zip(&made).filter_map(|(topic, made)| Some((topic, made.as_ref().ok()?)));
    let handles = good().map(|(_, made)| made.get()).collect();
    let answered = ask_to_create(client, handles, only_check, timeout);
    let names = good().map(|(topic, _)| topic.name.clone());
    let mut results = by_name("create topics", names, answered).into_iter();
    made.iter()
        .map(|made| match made {
            Ok(_) => results.next().unwrap_or_else(|| Err(unexpected("create topics"))),
            Err(error) => Err(error.clone()),
        })
        .collect()
}

fn new_topic(topic: &NewTopic) -> Result<Guard<rd::rd_kafka_NewTopic_t>, Error> {
    let action = &format!("create topic {}", topic.name);
    let name = text(action, &topic.name)?;
    let mut explanation = [0; ERROR_BUFFER_BYTES];
    // SAFETY: the name is a C string and the buffer has the given size; both outlive the call.
    let new = unsafe {
        rd::rd_kafka_NewTopic_new(
            name.as_ptr(),
            topic.partitions,
            topic.replication_factor.unwrap_or(BROKER_DEFAULT),
            explanation.as_mut_ptr(),
            explanation.len(),
        )
    };
    if new.is_null() {
        // SAFETY: librdkafka leaves a NUL-terminated explanation in the buffer.
        let message = unsafe { owned(explanation.as_ptr()) };
        let code = RDKafkaErrorCode::InvalidArgument;
        return Err(Error::Refused { action: action.clone(), message, code });
    }
    let new = Guard::new(action, new, rd::rd_kafka_NewTopic_destroy)?;
    for (key, value) in &topic.config {
        let (key, value) = (text(action, key)?, text(action, value)?);
        // SAFETY: all three are alive for the call, which copies the strings.
        let code = unsafe { rd::rd_kafka_NewTopic_set_config(new.get(), key.as_ptr(), value.as_ptr()) };
        check(action, code, String::new)?;
    }
    Ok(new)
}

/// What the broker says of each topic, by name. The handles must be alive.
fn ask_to_create(
    client: &AdminClient<DefaultClientContext>,
    mut topics: Vec<*mut rd::rd_kafka_NewTopic_t>,
    only_check: bool,
    timeout: Duration,
) -> Result<BTreeMap<String, Result<(), Error>>, Error> {
    let action = "create topics";
    if topics.is_empty() {
        return Ok(BTreeMap::new());
    }
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    let request = Request::new(client, action, operation, timeout)?;
    request.wait_for_completion()?;
    request.only_check(only_check)?;
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the topics.
    unsafe {
        rd::rd_kafka_CreateTopics(
            request.client,
            topics.as_mut_ptr(),
            topics.len(),
            request.options.get(),
            request.queue.get(),
        );
    }
    let event = request.answer()?;
    // SAFETY: the event is a CreateTopics result (or this returns null, which is checked), and owns all it points to.
    unsafe {
        let result = rd::rd_kafka_event_CreateTopics_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
        let said = array(first, count).iter().map(|created| {
            let name = owned(rd::rd_kafka_topic_result_name(*created));
            let code = rd::rd_kafka_topic_result_error(*created);
            let words = || owned(rd::rd_kafka_topic_result_error_string(*created));
            let said = check(&format!("create topic {name}"), code, words);
            (name, said)
        });
        Ok(said.collect())
    }
}

/// # Safety
/// The description must belong to an event that is still alive.
unsafe fn description_of(
    description: *const rd::rd_kafka_TopicDescription_t,
) -> (String, Result<ObservedTopic, Error>) {
    // SAFETY: by this function's contract; every pointer read here is owned by the description.
    unsafe {
        let name = owned(rd::rd_kafka_TopicDescription_name(description));
        let error = rd::rd_kafka_TopicDescription_error(description);
        if !error.is_null() {
            let refused = check(&format!("describe topic {name}"), rd::rd_kafka_error_code(error), || {
                owned(rd::rd_kafka_error_string(error))
            });
            if let Err(error) = refused {
                return (name, Err(error));
            }
        }
        let id = owned(rd::rd_kafka_Uuid_base64str(rd::rd_kafka_TopicDescription_topic_id(description)));
        let mut count = 0;
        let first = rd::rd_kafka_TopicDescription_partitions(description, &raw mut count);
        let replicas = array(first, count)
            .iter()
            .map(|partition| {
                let mut replicas = 0;
                rd::rd_kafka_TopicPartitionInfo_replicas(*partition, &raw mut replicas);
                replicas
            })
            .min()
            .unwrap_or(0);
        let topic = ObservedTopic {
            id,
            partitions: i32::try_from(count).unwrap_or(i32::MAX),
            replication_factor: i32::try_from(replicas).unwrap_or(i32::MAX),
            config: BTreeMap::new(),
        };
        (name, Ok(topic))
    }
}
