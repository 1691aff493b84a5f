//! Offsets listed: where logs begin and end, and what groups have committed.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;

use super::super::error::Error;
use super::super::groups::{LogEnd, Place};
use super::{Guard, Request, array, check, owned, text, unexpected};

type Places = Guard<rd::rd_kafka_topic_partition_list_t>;

/// An end of the log of each of `places`. What is refused of one partition is that partition's.
///
/// # Errors
/// When the request itself fails.
pub(in super::super) fn list_offsets(
    client: &AdminClient<DefaultClientContext>,
    places: &[Place],
    end: LogEnd,
    timeout: Duration,
) -> Result<BTreeMap<Place, Result<i64, Error>>, Error> {
    let action = "list offsets";
    if places.is_empty() {
        return Ok(BTreeMap::new());
    }
    let offset = match end {
        LogEnd::First => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST,
        LogEnd::Last => rd::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST,
    };
    let wanted = list(action, places, i64::from(offset as i32))?;
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
    let request = Request::new(client, action, operation, timeout)?;
    // SAFETY: every handle is alive until the answer was read; librdkafka copies the list.
    unsafe {
        rd::rd_kafka_ListOffsets(request.client, wanted.get(), request.options.get(), request.queue.get());
    }
    let event = request.answer()?;
    // SAFETY: the event is a ListOffsets result (or this returns null, which is checked), and owns all it points to.
    unsafe {
        let result = rd::rd_kafka_event_ListOffsets_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        let infos = array(first, count).iter();
        Ok(infos
            .map(|info| offset_of(action, rd::rd_kafka_ListOffsetsResultInfo_topic_partition(*info)))
            .collect())
    }
}

/// What `group` has committed in each of `places`; nothing where it has committed nothing.
///
/// # Errors
/// When the request fails, or the group's offsets may not be read.
pub(in super::super) fn list_committed(
    client: &AdminClient<DefaultClientContext>,
    group: &str,
    places: &[Place],
    timeout: Duration,
) -> Result<BTreeMap<Place, Result<Option<i64>, Error>>, Error> {
    let action = &format!("list what group {group} has committed");
    let (name, wanted) = (text(action, group)?, list(action, places, 0)?);
    // SAFETY: name and list are alive for the call, which copies them.
    let asked = unsafe { rd::rd_kafka_ListConsumerGroupOffsets_new(name.as_ptr(), wanted.get()) };
    let asked = Guard::new(action, asked, rd::rd_kafka_ListConsumerGroupOffsets_destroy)?;
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    let request = Request::new(client, action, operation, timeout)?;
    let mut one = [asked.get()];
    // SAFETY: every handle is alive until the answer was read; librdkafka copies what is asked.
    unsafe {
        rd::rd_kafka_ListConsumerGroupOffsets(
            request.client,
            one.as_mut_ptr(),
            one.len(),
            request.options.get(),
            request.queue.get(),
        );
    }
    let event = request.answer()?;
    // SAFETY: the event is a ListConsumerGroupOffsets result (or this returns null, which is checked), and owns all it points to.
    unsafe {
        let result = rd::rd_kafka_event_ListConsumerGroupOffsets_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        let Some(answer) = array(first, count).first() else { return Err(unexpected(action)) };
        let error = rd::rd_kafka_group_result_error(*answer);
        if !error.is_null() {
            check(action, rd::rd_kafka_error_code(error), || owned(rd::rd_kafka_error_string(error)))?;
        }
        let committed = elements(rd::rd_kafka_group_result_partitions(*answer)).iter();
        let committed = committed.map(|element| offset_of(action, element));
        // Offsets below zero are librdkafka's words for "none".
        Ok(committed.map(|(place, at)| (place, at.map(|at| (at >= 0).then_some(at)))).collect())
    }
}

/// The partitions that a member of a group has been given.
///
/// # Safety
/// `list` must be null or a list that is alive.
pub(super) unsafe fn places(list: *const rd::rd_kafka_topic_partition_list_t) -> Vec<Place> {
    // SAFETY: by this function's contract.
    unsafe { elements(list).iter().map(|element| place_of(element)).collect() }
}

fn list(action: &str, places: &[Place], offset: i64) -> Result<Places, Error> {
    let size = c_int::try_from(places.len()).unwrap_or(c_int::MAX);
    // SAFETY: any size will do, the list grows.
    let list = unsafe { rd::rd_kafka_topic_partition_list_new(size) };
    let list = Guard::new(action, list, rd::rd_kafka_topic_partition_list_destroy)?;
    for (topic, partition) in places {
        let topic = text(action, topic)?;
        // SAFETY: list and topic are alive, and the topic is copied; what is returned is an element of the list.
        unsafe {
            let element = rd::rd_kafka_topic_partition_list_add(list.get(), topic.as_ptr(), *partition);
            (*element).offset = offset;
        }
    }
    Ok(list)
}

/// # Safety
/// `list` must be null or a list that outlives `'a`.
unsafe fn elements<'a>(
    list: *const rd::rd_kafka_topic_partition_list_t,
) -> &'a [rd::rd_kafka_topic_partition_t] {
    // SAFETY: by this function's contract; a list has as many elements as it says.
    unsafe {
        match list.as_ref() {
            Some(list) if !list.elems.is_null() => {
                std::slice::from_raw_parts(list.elems, usize::try_from(list.cnt).unwrap_or(0))
            }
            _ => &[],
        }
    }
}

/// # Safety
/// `element` must be alive.
unsafe fn place_of(element: *const rd::rd_kafka_topic_partition_t) -> Place {
    // SAFETY: by this function's contract.
    unsafe { (owned((*element).topic), (*element).partition) }
}

/// # Safety
/// `element` must be alive.
unsafe fn offset_of(
    action: &str,
    element: *const rd::rd_kafka_topic_partition_t,
) -> (Place, Result<i64, Error>) {
    // SAFETY: by this function's contract.
    let (place, code, offset) = unsafe { (place_of(element), (*element).err, (*element).offset) };
    (place, check(action, code, String::new).map(|()| offset))
}
