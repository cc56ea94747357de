//! A whole aggregator in this process, spoken to as agents and people do: over TLS, with tokens.
//!
//! [`harness`] starts it, restarts it, and plays an agent; the API server is the stage's.

mod harness;
mod ingest;
mod process;
mod questions;
mod views;
mod watching;
