//! `kubectl orderflow`: what people do with a pipeline from their own machine.
//!
//! It has no logic of its own of Kafka or Kubernetes: it finds the right pod and runs there what the operator or the consumer
//! can do, through `kubectl`, which has the user's context, credentials and proxies already.

pub mod kubectl;
pub mod plan;
pub mod dlt;
