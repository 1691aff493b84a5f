//! What is in hand, step by step.

use rdkafka::message::OwnedHeaders;

use super::*;

pub(super) fn row(shard: i16, id: i64, order: u128) -> OutboxRow {
    OutboxRow {
        row: RowId { shard, id },
        order_id: Uuid::from_u128(order),
        recorded: Instant::now(),
        headers: OwnedHeaders::new(),
        payload: Vec::new(),
    }
}

fn admit(in_flight: &mut InFlight, rows: Vec<OutboxRow>) {
    assert!(in_flight.admit(&in_flight.skip(|_| 0), rows));
}

fn skipped(in_flight: &InFlight) -> Vec<i64> {
    let mut ids = in_flight.skip(|_| 0).ids;
    ids.sort_unstable();
    ids
}

fn next_id(in_flight: &mut InFlight) -> Option<i64> {
    in_flight.next_due().map(|row| row.row.id)
}

#[test]
fn of_one_order_one_event_is_with_the_producer_at_a_time() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(0, 1, 7), row(0, 2, 7), row(0, 3, 8)]);
    assert_eq!((next_id(&mut in_flight), next_id(&mut in_flight)), (Some(1), Some(3)));
    assert_eq!(next_id(&mut in_flight), None, "2 waits for 1");
    assert!(in_flight.delivered(1).is_some() && in_flight.delivered(3).is_some());
    in_flight.open();
    assert_eq!(next_id(&mut in_flight), Some(2), "due as soon as 1 is acknowledged, before it is deleted");
}

#[test]
fn a_row_is_skipped_from_its_admission_until_its_deletion() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(1, 7, 7)]);
    assert_eq!(skipped(&in_flight), [7]);
    next_id(&mut in_flight);
    assert!(in_flight.awaits_broker());
    in_flight.delivered(7);
    assert_eq!(skipped(&in_flight), [7], "acknowledged, but still in the outbox");
    assert!(in_flight.shards() == [1] && in_flight.acknowledged() == 1 && !in_flight.awaits_broker());
    let done = in_flight.take_acknowledged();
    assert!(in_flight.take_acknowledged().is_empty(), "given out once");
    in_flight.not_deleted(done);
    let done = in_flight.take_acknowledged();
    in_flight.deleted(&done);
    assert!(in_flight.is_empty() && in_flight.shards().is_empty());
}

#[test]
fn a_row_that_the_producer_did_not_take_is_the_next_one_due() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, vec![row(0, 1, 7), row(0, 2, 8)]);
    let first = in_flight.next_due().unwrap();
    in_flight.put_back(first);
    assert!(!in_flight.awaits_broker());
    assert_eq!(next_id(&mut in_flight), Some(1));
}

#[test]
fn a_restart_sends_again_what_was_not_acknowledged_and_nothing_else() {
    let mut in_flight = InFlight::default();
    admit(&mut in_flight, (1..=4).map(|id| row(0, id, id.unsigned_abs().into())).collect());
    while next_id(&mut in_flight).is_some() {}
    in_flight.delivered(1);
    in_flight.restart();
    assert_eq!(skipped(&in_flight), [1], "this is only to be deleted; the others are read again");
    assert!(in_flight.delivered(2).is_none(), "a report of the producer before is none of this one's");
}

#[test]
fn an_order_with_very_many_events_leaves_room_for_others() {
    let mut in_flight = InFlight::default();
    let many = i64::try_from(ROWS_PER_ORDER).unwrap() + 5;
    admit(&mut in_flight, (1..=many).map(|id| row(0, id, 7)).chain([row(0, 100, 8)]).collect());
    assert_eq!(in_flight.len(), ROWS_PER_ORDER + 1);
    assert_eq!(in_flight.skip(|_| 0).orders, [Uuid::from_u128(7)], "left out of reads");
    while let Some(id) = next_id(&mut in_flight) {
        in_flight.delivered(id);
        in_flight.open();
    }
    assert!(in_flight.skip(|_| 0).orders.is_empty() && in_flight.take_uncrowded(), "to be read on at once");
}
