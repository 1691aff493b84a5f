//! The requests that librdkafka has and rdkafka's safe interface lacks. The only `unsafe` of the workspace.
//!
//! Each function makes one request on a queue of its own, waits for its answer and copies out what it needs. Every
//! native handle lives in a [`Guard`] that frees it on every path.
#![expect(unsafe_code, reason = "librdkafka's C interface; rdkafka 0.39 wraps none of these requests")]

mod configs;
mod topics;
mod offsets;
mod groups;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use super::error::Error;

pub(super) use configs::{ConfigChange, alter_topic_configs};
pub(super) use groups::describe_groups;
pub(super) use offsets::{list_committed, list_offsets};
pub(super) use topics::{create_topics, describe_topics};

/// librdkafka answers within the request timeout; this much later the answer is given up.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// librdkafka writes at most this many bytes of explanation.
const ERROR_BUFFER_BYTES: usize = 512;

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

/// What became of each of `names`: what the broker said of it, or what became of the whole request.
fn by_name(
    action: &str,
    names: impl Iterator<Item = String>,
    answered: Result<BTreeMap<String, Result<(), Error>>, Error>,
) -> Vec<Result<(), Error>> {
    match answered {
        Ok(mut results) => {
            names.map(|name| results.remove(&name).unwrap_or_else(|| Err(unexpected(action)))).collect()
        }
        Err(error) => names.map(|_| Err(error.clone())).collect(),
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
