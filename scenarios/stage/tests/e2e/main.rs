//! The product end to end: the agent and aggregator programs around a stage's real kills and swaps.
//!
//! Each test compares what the store answers with the stage's own truth, with the kernel's counters or with the
//! kernel's log. They run one at a time: each wants the machine's two cores and its kernel log to itself.

mod crash;
mod kernel_log;
mod kills;
mod once;
mod replay;
mod rig;
mod run_up;
mod sql;
mod swaps;
