//! Process chores that the three programs share. No word of the domain appears here.
//!
//! ```text
//! main ─▶ telemetry::init ─▶ tls::install_provider ─▶ shutdown::on_signal ─▶ run(config, …, shutdown)
//!                                                                              │
//!                                              health (what is ready) ─▶ admin (/livez, /readyz, /metrics)
//!                                              kafka  (one way to connect, with TLS and SASL)
//! ```

pub mod telemetry;
pub mod tls;
pub mod shutdown;
pub mod health;
pub mod metrics;
pub mod admin;
pub mod kafka;
