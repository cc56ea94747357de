//! A played Kubernetes around real kernel events, for the demo, the scenarios and the tests.
//!
//! [`api`] serves LIST and WATCH to unmodified clients. [`kubelet`] makes real cgroups, runs real processes
//! and swaps real volumes under the names a kubelet gives, and writes the statuses that were recorded from
//! one. [`controller`] binds pods and makes those of a Deployment. [`stage::Stage`] is all of it together,
//! and [`run`] removes all of it again. No cluster is needed, and the product cannot tell the difference
//! except by looking for it.

pub mod api;
pub mod controller;
pub mod kubelet;
pub mod program;
pub mod replay;
pub mod run;
pub mod scenario;
pub mod stage;
pub mod victim;
pub mod workload;

pub use stage::{Stage, StageConfig, StageError};

/// An error with all its causes on one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    // A chain of causes is finite: each owns the next.
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
