//! The aggregator: ingest, causal engine, store and answers.

pub mod store;
pub mod writer;
