//! The requests that librdkafka has and rdkafka's safe interface lacks. The only `unsafe` of the workspace.
//!
//! Each function makes one request on a queue of its own, waits for its answer and copies out what it needs. Every
//! native handle lives in a [`Guard`] that frees it on every path.
#![expect(unsafe_code, reason = "librdkafka's C interface; rdkafka 0.39 wraps none of these requests")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::error::Error;
use super::{NewTopic, ObservedTopic};

/// librdkafka answers within the request timeout; this much later the answer is given up.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// librdkafka writes at most this many bytes of explanation.
const ERROR_BUFFER_BYTES: usize = 512;

/// "The broker decides", for the replication factor of a new topic.
const BROKER_DEFAULT: c_int = -1;

/// Those of the named topics that exist, without their configuration.
pub(super) fn describe_topics(
    client: &AdminClient<DefaultClientContext>,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<(String, ObservedTopic)>, Error> {
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
    let mut described = Vec::with_capacity(descriptions.len());
    for description in descriptions {
        // SAFETY: the description is one of the event's, which is still alive.
        match unsafe { description_of(*description) } {
            Ok(topic) => described.push(topic),
            Err(error) if error.is_unknown_topic() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(described)
}

/// Creates one topic, or only asks whether that would do.
pub(super) fn create_topic(
    client: &AdminClient<DefaultClientContext>,
    topic: &NewTopic,
    only_check: bool,
    timeout: Duration,
) -> Result<(), Error> {
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
        return Err(Error::Refused {
            action: action.clone(),
            message,
            code: RDKafkaErrorCode::InvalidArgument,
        });
    }
    let new = Guard::new(action, new, rd::rd_kafka_NewTopic_destroy)?;
    for (key, value) in &topic.config {
        let (key, value) = (text(action, key)?, text(action, value)?);
        // SAFETY: all three are alive for the call, which copies the strings.
        check(
            action,
            unsafe { rd::rd_kafka_NewTopic_set_config(new.get(), key.as_ptr(), value.as_ptr()) },
            String::new,
        )?;
    }
    let request =
        Request::new(client, action, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS, timeout)?;
    request.wait_for_completion()?;
    request.only_check(only_check)?;
    let mut topics = [new.get()];
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the topic.
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
        for created in array(first, count) {
            check(action, rd::rd_kafka_topic_result_error(*created), || {
                owned(rd::rd_kafka_topic_result_error_string(*created))
            })?;
        }
    }
    Ok(())
}

/// Sets and resets single configuration keys of a topic (IncrementalAlterConfigs), or only asks whether that would do.
pub(super) fn alter_topic_config(
    client: &AdminClient<DefaultClientContext>,
    topic: &str,
    set: &BTreeMap<String, String>,
    reset: &BTreeSet<String>,
    only_check: bool,
    timeout: Duration,
) -> Result<(), Error> {
    let action = &format!("change the configuration of topic {topic}");
    let name = text(action, topic)?;
    // SAFETY: the name is a C string that outlives the call.
    let resource = unsafe {
        rd::rd_kafka_ConfigResource_new(rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC, name.as_ptr())
    };
    let resource = Guard::new(action, resource, rd::rd_kafka_ConfigResource_destroy)?;
    let sets = set.iter().map(|(key, value)| (key, Some(value)));
    for (key, value) in sets.chain(reset.iter().map(|key| (key, None))) {
        add_config(action, &resource, key, value.map(String::as_str))?;
    }
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS;
    let request = Request::new(client, action, operation, timeout)?;
    request.only_check(only_check)?;
    let mut resources = [resource.get()];
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the resource.
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
        for altered in array(first, count) {
            check(action, rd::rd_kafka_ConfigResource_error(*altered), || {
                owned(rd::rd_kafka_ConfigResource_error_string(*altered))
            })?;
        }
    }
    Ok(())
}

fn add_config(
    action: &str,
    resource: &Guard<rd::rd_kafka_ConfigResource_t>,
    key: &str,
    value: Option<&str>,
) -> Result<(), Error> {
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

/// # Safety
/// The description must belong to an event that is still alive.
unsafe fn description_of(
    description: *const rd::rd_kafka_TopicDescription_t,
) -> Result<(String, ObservedTopic), Error> {
    // SAFETY: by this function's contract; every pointer read here is owned by the description.
    unsafe {
        let name = owned(rd::rd_kafka_TopicDescription_name(description));
        let error = rd::rd_kafka_TopicDescription_error(description);
        if !error.is_null() {
            check(&format!("describe topic {name}"), rd::rd_kafka_error_code(error), || {
                owned(rd::rd_kafka_error_string(error))
            })?;
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
        Ok((name, topic))
    }
}

/// One request: its options and the queue its answer arrives on.
struct Request<'a> {
    action: &'a str,
    client: *mut rd::rd_kafka_t,
    options: Guard<rd::rd_kafka_AdminOptions_t>,
    queue: Guard<rd::rd_kafka_queue_t>,
    timeout: Duration,
}

impl<'a> Request<'a> {
    fn new(
        client: &'a AdminClient<DefaultClientContext>,
        action: &'a str,
        operation: rd::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let client = client.inner().native_ptr();
        // SAFETY: the client outlives the request, whose lifetime is bound to it.
        let (options, queue) =
            unsafe { (rd::rd_kafka_AdminOptions_new(client, operation), rd::rd_kafka_queue_new(client)) };
        let options = Guard::new(action, options, rd::rd_kafka_AdminOptions_destroy)?;
        let queue = Guard::new(action, queue, rd::rd_kafka_queue_destroy)?;
        let request = Self { action, client, options, queue, timeout };
        request.set(rd::rd_kafka_AdminOptions_set_request_timeout, millis(timeout))?;
        Ok(request)
    }

    /// Asks the broker to answer only when the operation is complete.
    fn wait_for_completion(&self) -> Result<(), Error> {
        self.set(rd::rd_kafka_AdminOptions_set_operation_timeout, millis(self.timeout))
    }

    /// Asks the broker to check the request and do nothing, if `only`.
    fn only_check(&self, only: bool) -> Result<(), Error> {
        self.set(rd::rd_kafka_AdminOptions_set_validate_only, c_int::from(only))
    }

    fn set(&self, option: SetOption, value: c_int) -> Result<(), Error> {
        let mut explanation = [0; ERROR_BUFFER_BYTES];
        // SAFETY: the options are alive and the buffer has the given size.
        let code = unsafe { option(self.options.get(), value, explanation.as_mut_ptr(), explanation.len()) };
        // SAFETY: librdkafka leaves a NUL-terminated explanation in the buffer.
        check(self.action, code, || unsafe { owned(explanation.as_ptr()) })
    }

    /// Waits for the answer.
    fn answer(&self) -> Result<Guard<rd::rd_kafka_event_t>, Error> {
        // SAFETY: the queue is alive; the event belongs to the caller and is guarded at once.
        let event =
            unsafe { rd::rd_kafka_queue_poll(self.queue.get(), millis(self.timeout + ANSWER_MARGIN)) };
        if event.is_null() {
            let code = RDKafkaErrorCode::OperationTimedOut;
            return Err(Error::Refused {
                action: self.action.to_owned(),
                message: "no answer".to_owned(),
                code,
            });
        }
        let event = Guard::new(self.action, event, rd::rd_kafka_event_destroy)?;
        // SAFETY: the event is alive, and so is its text.
        unsafe {
            check(self.action, rd::rd_kafka_event_error(event.get()), || {
                owned(rd::rd_kafka_event_error_string(event.get()))
            })?;
        }
        Ok(event)
    }
}

type SetOption = unsafe extern "C" fn(
    *mut rd::rd_kafka_AdminOptions_t,
    c_int,
    *mut c_char,
    usize,
) -> rd::rd_kafka_resp_err_t;

/// A native handle that is freed when it goes out of scope.
struct Guard<T> {
    handle: NonNull<T>,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Guard<T> {
    fn new(action: &str, handle: *mut T, free: unsafe extern "C" fn(*mut T)) -> Result<Self, Error> {
        NonNull::new(handle).map(|handle| Self { handle, free }).ok_or_else(|| unexpected(action))
    }

    const fn get(&self) -> *mut T {
        self.handle.as_ptr()
    }
}

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: the handle came from the matching constructor and is freed only here.
        unsafe { (self.free)(self.handle.as_ptr()) }
    }
}

fn unexpected(action: &str) -> Error {
    let message = "librdkafka gave no result".to_owned();
    Error::Refused { action: action.to_owned(), message, code: RDKafkaErrorCode::Fail }
}

fn check(action: &str, code: rd::rd_kafka_resp_err_t, message: impl FnOnce() -> String) -> Result<(), Error> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => {
            let message = Some(message()).filter(|text| !text.is_empty()).unwrap_or_else(|| code.to_string());
            Err(Error::Refused { action: action.to_owned(), message, code })
        }
    }
}

fn text(action: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul { action: action.to_owned() })
}

/// # Safety
/// `text` must be null or a NUL-terminated string that is alive.
unsafe fn owned(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `first` must be null or point to `count` values that outlive `'a`.
unsafe fn array<'a, T>(first: *mut *const T, count: usize) -> &'a [*const T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(first, count) }
}

fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}
