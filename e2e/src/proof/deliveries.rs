//! The same campaign for consumers: members of a group, their Kafka and their sink under faults, and a checker over what the
//! topic, the dead-letter topic and the sink have in the end.
//!
//! ```text
//! seed, guarantee ─▶ plan ─▶ world (members behind proxies, a sink that has moods, topics of their own)
//!                              ├─ load: histories of orders, some of them poison ─┐
//!                              ├─ faults                                          ├─▶ history ─▶ check (pure) ─▶ report
//!                              └─ heal, wait for lag 0 ─▶ dumps, sink's ledger ───┘
//! ```

pub mod plan;
pub mod sink;
pub mod told;
pub mod world;
pub mod load;
pub mod faults;
pub mod record;
pub mod check;
pub mod cost;
pub mod run;
pub mod kept;
