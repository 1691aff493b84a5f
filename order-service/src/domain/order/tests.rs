//! Tests of parsing and of the rules of status.

use proptest::prelude::*;

use super::*;

fn parse(items: &[(&str, i64)]) -> Result<NewOrder, Vec<Violation>> {
    let items = items.iter().map(|(product, quantity)| ((*product).to_owned(), *quantity)).collect();
    NewOrder::parse("u1".to_owned(), items, None)
}

fn order() -> Order {
    let new = parse(&[("p1", 2)]).unwrap();
    let items = vec![OrderItem { product_id: "p1".to_owned(), quantity: 2, unit_price_minor: 150 }];
    Order::pending(&new.user_id, items, "EUR", Timestamp::now()).unwrap()
}

#[test]
fn equal_products_are_merged_and_lines_are_sorted() {
    let order = parse(&[("p2", 1), ("p1", 2), ("p2", 3)]).unwrap();
    let lines: Vec<_> = order.lines.iter().map(|(id, quantity)| (id.as_str(), *quantity)).collect();
    assert_eq!(lines, [("p1", 2), ("p2", 4)]);
}

#[test]
fn every_violation_is_named_at_once() {
    let violations = NewOrder::parse(
        String::new(),
        vec![("p 1".to_owned(), 1), ("p2".to_owned(), 0), ("p3".to_owned(), -1), ("p4".to_owned(), i64::MAX)],
        Some("no spaces".to_owned()),
    )
    .unwrap_err();
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "userId",
            "items[0].productId",
            "items[1].quantity",
            "items[2].quantity",
            "items[3].quantity",
            "couponCode"
        ]
    );
}

#[test]
fn too_many_or_no_lines_are_refused_with_the_limit_in_the_message() {
    let many: Vec<_> = (0..=MAX_ITEMS).map(|n| (format!("p{n}"), 1)).collect();
    let violations = NewOrder::parse("u1".to_owned(), many, None).unwrap_err();
    assert_eq!(violations[0].to_string(), "items: must have 1 to 100 lines, not 101");
    assert!(parse(&[]).is_err());
}

#[test]
fn merged_quantities_keep_to_the_limit_of_one_product() {
    assert!(parse(&[("p1", MAX_QUANTITY)]).is_ok());
    assert!(parse(&[("p1", MAX_QUANTITY), ("p1", 1)]).is_err());
}

#[test]
fn an_order_is_confirmed_once_and_cancelled_once_each_with_one_version_more() {
    let mut order = order();
    assert_eq!(order.change(Change::Confirm), Ok(EventType::OrderConfirmed));
    assert_eq!((order.status, order.version), (OrderStatus::Confirmed, 2));
    let conflict = order.change(Change::Confirm).unwrap_err();
    assert_eq!(conflict.to_string(), "an order that is CONFIRMED can't be CONFIRMED");
    assert_eq!(order.change(Change::Cancel), Ok(EventType::OrderCancelled));
    assert_eq!((order.status, order.version), (OrderStatus::Cancelled, 3));
    assert!(order.change(Change::Cancel).is_err());
    assert!(order.change(Change::Confirm).is_err());
    assert_eq!(order.version, 3, "a refused change changes nothing");
}

#[test]
fn an_event_is_the_order_as_it_stands() {
    let mut order = order();
    order.apply_coupon(
        &CouponCode::parse("couponCode", "TEN".to_owned()).unwrap(),
        CouponTerms::PercentOff(10),
    );
    let event = order.event(EventType::OrderCreated, order.created_at);
    assert_eq!((event.order_id, event.version), (order.id, 1));
    assert_eq!(
        (event.order.subtotal_minor, event.order.discount_minor, event.order.total_minor),
        (300, 30, 270)
    );
    assert_eq!(event.order.coupon_code.as_deref(), Some("TEN"));
}

proptest! {
    #[test]
    fn a_parsed_order_keeps_every_unit_and_every_limit(
        items in prop::collection::vec(("[a-c]{1,2}", any::<i64>().prop_map(|n| n % (MAX_QUANTITY + 2))), 0..120),
    ) {
        let asked: i64 = items.iter().map(|(_, quantity)| quantity).sum();
        if let Ok(order) = NewOrder::parse("u1".to_owned(), items.clone(), None) {
            prop_assert!(items.len() <= MAX_ITEMS && !items.is_empty());
            prop_assert!(order.lines.values().all(|quantity| (1..=MAX_QUANTITY).contains(quantity)));
            prop_assert_eq!(order.lines.values().sum::<i64>(), asked);
        }
    }
}
