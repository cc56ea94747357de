//! What kinds of fact there are. The names are the field's and appear unchanged in SQL, proto and `aft`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// The kind of an event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Kind {
            /// Every kind, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in snake_case, as stored and shown.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl FromStr for Kind {
            type Err = UnknownKind;

            fn from_str(text: &str) -> Result<Self, UnknownKind> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(UnknownKind { name: text.to_owned() }),
                }
            }
        }
    };
}

kinds! {
    /// A memory cgroup came near its limit or hit it (source: memory counters of the cgroup).
    MemoryPressure = "memory_pressure",
    /// One decision of the kernel's OOM killer.
    OomEpisode = "oom_episode",
    /// One process killed by the kernel's OOM killer.
    OomKill = "oom_kill",
    /// A container's init executed its program.
    ProcessStarted = "process_started",
    /// A process ended: a victim of the OOM killer, or a container's init.
    ProcessExited = "process_exited",
    /// A process sent SIGKILL or SIGTERM to a container's init. What the kernel did with it is told beside it
    /// (`aftertrace.signal.result`); a signal to a process that is dying already is no fact, so what follows an OOM
    /// kill is not told here.
    ProcessKilled = "process_killed",
    /// A container was started, as its status tells.
    ContainerStarted = "container_started",
    /// A container ended, as its status tells.
    ContainerTerminated = "container_terminated",
    /// A container waits to be started again, as its status tells.
    ContainerWaiting = "container_waiting",
    /// A ConfigMap or Secret got a new version in the API.
    ConfigChanged = "config_changed",
    /// A mounted volume's `..data` was swapped to a new generation on a node.
    ConfigSwapped = "config_swapped",
    /// The kernel delivered the swap of a volume to a process that watches it.
    ConfigNotified = "config_notified",
    /// A container opened a file of a volume's new generation for the first time.
    ConfigRead = "config_read",
    /// A process was found to follow a volume in a way that will miss changes: a watch on a dead inode, or a
    /// descriptor or mapping of a removed generation.
    ConfigWatched = "config_watched",
    /// A container did not open a volume's new generation within the time allowed, or cannot ever.
    ConfigStale = "config_stale",
    /// A container's init has variables in its environment that the pod spec takes from a ConfigMap or Secret.
    ConfigInjected = "config_injected",
    /// A watched object was deleted in the API.
    ObjectDeleted = "object_deleted",
}

/// A kind that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown event kind {name:?}: the sender is newer than this program, or the name is misspelt")]
pub struct UnknownKind {
    /// The name as given.
    pub name: String,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>(), Ok(*kind));
        }
        assert!("oom".parse::<Kind>().is_err(), "a prefix is no kind");
    }
}
