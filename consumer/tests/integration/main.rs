//! The consumer against a real Kafka, a real PostgreSQL and a data platform that does as it is told.

mod harness;
mod platform;
mod delivery;
mod lanes;
mod growth;
mod members;
mod poison;
mod sticky;
mod outages;
mod guarantees;
mod exactly_once;
mod places;
mod snippets;
