//! The aggregator: ingest, causal engine, store and answers.
//!
//! A fact's way through it: [`ingest`] (from agents) or [`watch`] (from the API server) → [`writer`] (durable,
//! once, joined by the engine) → [`store`] (segments and catalog) and [`hot`] (the recent past in memory) →
//! [`memory`] (answers). The stages meet only in [`service`].

#![forbid(unsafe_code)]

pub mod config;

pub mod agents;
pub mod auth;
pub mod clock;
pub mod hot;
pub mod ingest;
pub mod memory;
pub mod private_file;
pub mod query;
pub mod secret;
pub mod service;
pub mod sign_of_life;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod watch;
pub mod writer;

pub use config::{Args, Config};
pub use service::{Running, StartError, run};
