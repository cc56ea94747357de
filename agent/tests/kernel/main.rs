//! The programs in the kernel, loaded into this machine's kernel and given real work.
//!
//! Needs root and a kernel that takes BPF programs; each test says `SKIPPED: why` and returns without.

mod machine;

mod notify;
mod oom;
mod processes;
mod reads;
mod refused;
mod rename;
mod ring;
mod storm;
