//! What an order is and which rules it follows: synchronous, free of I/O and of any framework.

pub mod ids;
pub mod money;
pub mod coupon;
pub mod order;
pub mod submission;
pub mod refusal;
pub mod allot;

pub use allot::Shelf;
pub use coupon::CouponTerms;
pub use ids::{CouponCode, ProductId, UserId, Violation};
pub use money::AmountTooLarge;
pub use order::{Change, NewOrder, Order, StatusConflict};
pub use refusal::{Refusal, Shortage};
pub use submission::{Fingerprint, IdempotencyKey, KeyedBy, Submission};
