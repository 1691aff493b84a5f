//! What the service keeps in PostgreSQL, one module per noun; every statement of the program's write path is here.

pub mod database;
pub mod error;
pub mod catalogue;
pub mod stock;
pub mod coupons;
pub mod orders;
pub mod outbox;

pub use error::{ChangeError, DatabaseError, PlaceError};
