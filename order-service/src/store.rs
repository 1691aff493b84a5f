//! What the service keeps in PostgreSQL, one module per noun; every statement of the program's write path is here.

pub mod database;
pub mod error;
pub mod catalogue;
pub mod stock;
pub mod coupons;
pub mod idempotency;
pub mod orders;
pub mod batch;
pub mod outbox;

pub use error::{ChangeError, DatabaseError, KeyConflict, Outcome, PlaceError};
