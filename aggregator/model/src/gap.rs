//! Evidence that is missing: who lost it, between when, why, and how many.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why evidence is missing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum GapReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl GapReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in snake_case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl FromStr for GapReason {
            type Err = UnknownGapReason;

            fn from_str(text: &str) -> Result<Self, UnknownGapReason> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownGapReason { name: text.to_owned() }),
                }
            }
        }
    };
}

reasons! {
    /// The agent was not running.
    AgentDown = "agent_down",
    /// The aggregator was not running, so nothing was watched cluster-wide.
    AggregatorDown = "aggregator_down",
    /// The API server could not be watched.
    WatchDown = "watch_down",
    /// The watch was too old and was listed anew; what came and went between is unknown.
    WatchRelisted = "watch_relisted",
    /// The kernel's ring buffer was full.
    RingFull = "ring_full",
    /// A field of a kernel structure could not be read.
    KernelReadFailed = "kernel_read_failed",
    /// A kernel record could not be decoded.
    RecordMalformed = "record_malformed",
    /// A path was longer than a record holds.
    PathTruncated = "path_truncated",
    /// A hook could not be attached, so its subject is not seen on this node.
    HookMissing = "hook_missing",
    /// A kill or swap could not be tied to a pod within the time allowed.
    Unattributed = "unattributed",
    /// An OOM victim's exit was not seen in time: it is stuck in the kernel, or its record was lost.
    ExitNotSeen = "exit_not_seen",
    /// A swap failed a check that would make it certain.
    SwapRejected = "swap_rejected",
    /// The agent's spool was full; the oldest unsent items were given up.
    SpoolFull = "spool_full",
    /// A damaged record on disk was skipped.
    DiskCorrupt = "disk_corrupt",
    /// An event lies more than an hour in the future.
    FutureTime = "future_time",
    /// An event speaks of a pod that is not on the node it comes from.
    Unauthorized = "unauthorized",
    /// The engine's window was full; the oldest facts were dropped from it and can cause nothing more.
    WindowFull = "window_full",
}

/// A reason that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown gap reason {name:?}: the sender is newer than this program, or the name is misspelt")]
pub struct UnknownGapReason {
    /// The name as given.
    pub name: String,
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Missing evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// The identity; random, made where the loss was counted.
    pub gap_id: Uuid,
    /// The cluster's name.
    pub cluster: String,
    /// The node; `None` for the aggregator's own.
    pub node: Option<String>,
    /// The stage that lost it: `kernel/oom`, `agent/attribute`, `aggregator/watch/pods`, …
    pub component: String,
    /// Why.
    pub reason: GapReason,
    /// The first instant from which evidence may be missing.
    pub from: Timestamp,
    /// The last instant to which evidence may be missing.
    pub to: Timestamp,
    /// How many items, where they could be counted; 0 means that it is not known how many.
    pub count: u64,
    /// One line for people.
    pub detail: String,
    /// When the aggregator made it durable; `None` before that.
    pub recorded_at: Option<Timestamp>,
}

impl Gap {
    /// Whether it overlaps the closed interval.
    #[must_use]
    pub fn overlaps(&self, from: Timestamp, to: Timestamp) -> bool {
        self.from <= to && from <= self.to
    }
}
