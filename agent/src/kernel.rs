//! The kernel's side of the agent: programs loaded, records drained, decoded, and put on the wall clock.
//!
//! ```text
//! load: btf → offsets → Config → programs attached      (once, at start)
//! pod_cgroups: the cgroup file system → which cgroups are the kubelet's, for the programs
//! drain: ring buffer → decode → Record → channel        (for as long as the agent runs)
//! volumes: registered volumes → the map by which opens are matched
//! loss: per-CPU counters → what was lost since last asked
//! clock: boot_ns → wall time with an error bound
//! ```
//!
//! The first stage of the agent; what follows attributes a [`Record`] to a pod. Nothing here knows pods,
//! containers or Kubernetes. Records become structs by checked casts, without `unsafe`.

pub mod btf;
pub mod offsets;
pub mod tracefs;

mod attach;
#[cfg(feature = "kernel-log")]
mod diagnosis;
pub mod hook;
pub mod load;
mod plan;
pub mod pod_cgroups;

pub mod record;

pub mod fired;

pub mod decode;
pub mod drain;

pub mod loss;

pub mod stalls;

pub mod volumes;

pub mod clock;

pub use clock::{Wall, WallClock};
pub use drain::{Drain, DrainError};
pub use fired::{DecidedBy, Fired};
pub use hook::{HookError, MissingHook, Subject, SubjectStatus, Tier};
pub use load::{Attached, Kernel, KernelConfig, LoadError};
pub use loss::{KernelLoss, LossReason, Losses, SKIPPED_PERIOD};
pub use pod_cgroups::{FoundCgroup, KubeletCgroups, PodCgroups};
pub use record::{
    CgroupChange, Charge, ChargedLevel, Exec, Exit, FileOpen, InitExit, InitPlace, LastReclaim, Limit,
    MemcgLevel, Notice, OomConstraint, OomDecision, OomKill, OomLimit, OomRole, OpenCall, PodLevel, Record,
    Rename, RenameCall, Signal, SignalBy, SignalResult, Task, VolumeId, WatchAdded,
};
pub use stalls::{ReclaimStalls, Stalls};
pub use volumes::WatchedVolumes;
