//! Consumer groups described: their state, their members and who reads what.

use std::collections::BTreeMap;
use std::ffi::c_char;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::bindings as rd;
use rdkafka::client::DefaultClientContext;

use super::super::error::Error;
use super::super::groups::{GroupState, Member, Membership};
use super::offsets::places;
use super::{Request, array, check, owned, text, unexpected};

/// What the broker says of each of the named groups. One that nobody ever joined is there as one without members.
///
/// # Errors
/// When the request itself fails; what is refused of one group is that group's.
pub(in super::super) fn describe_groups(
    client: &AdminClient<DefaultClientContext>,
    groups: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, Result<Membership, Error>>, Error> {
    let action = "describe consumer groups";
    if groups.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names = groups.iter().map(|name| text(action, name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    let request = Request::new(client, action, operation, timeout)?;
    // SAFETY: every handle is alive until the answer was read, and the names are C strings, which the call copies.
    unsafe {
        rd::rd_kafka_DescribeConsumerGroups(
            request.client,
            pointers.as_mut_ptr(),
            pointers.len(),
            request.options.get(),
            request.queue.get(),
        );
    }
    let event = request.answer()?;
    // SAFETY: the event is a DescribeConsumerGroups result (or this returns null, which is checked), and owns all it points to.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConsumerGroups_result(event.get());
        if result.is_null() {
            return Err(unexpected(action));
        }
        let mut count = 0;
        let first = rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        Ok(array(first, count).iter().map(|group| description_of(*group)).collect())
    }
}

/// # Safety
/// The description must belong to an event that is still alive.
unsafe fn description_of(
    group: *const rd::rd_kafka_ConsumerGroupDescription_t,
) -> (String, Result<Membership, Error>) {
    // SAFETY: by this function's contract; every pointer read here is owned by the description.
    unsafe {
        let name = owned(rd::rd_kafka_ConsumerGroupDescription_group_id(group));
        let error = rd::rd_kafka_ConsumerGroupDescription_error(group);
        if !error.is_null() {
            let words = || owned(rd::rd_kafka_error_string(error));
            if let Err(error) =
                check(&format!("describe group {name}"), rd::rd_kafka_error_code(error), words)
            {
                return (name, Err(error));
            }
        }
        let state = state_of(rd::rd_kafka_ConsumerGroupDescription_state(group));
        let members = 0..rd::rd_kafka_ConsumerGroupDescription_member_count(group);
        let members = members.map(|index| {
            let member = rd::rd_kafka_ConsumerGroupDescription_member(group, index);
            let assignment = rd::rd_kafka_MemberDescription_assignment(member);
            let list = if assignment.is_null() {
                std::ptr::null()
            } else {
                rd::rd_kafka_MemberAssignment_partitions(assignment)
            };
            Member {
                id: owned(rd::rd_kafka_MemberDescription_consumer_id(member)),
                client: owned(rd::rd_kafka_MemberDescription_client_id(member)),
                reads: places(list),
            }
        });
        (name, Ok(Membership { state, members: members.collect() }))
    }
}

const fn state_of(state: rd::rd_kafka_consumer_group_state_t) -> GroupState {
    use rd::rd_kafka_consumer_group_state_t as State;
    match state {
        State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
        State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY | State::RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => {
            GroupState::Empty
        }
        State::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
        | State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => GroupState::Rebalancing,
        _ => GroupState::Unknown,
    }
}
