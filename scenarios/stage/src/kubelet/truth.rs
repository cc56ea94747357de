//! What really happened, told by the one who did it: the measure that the product's answers are compared with.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::clock::Instant;

/// One fact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A container's first process runs in its cgroup.
    Started(Started),
    /// A container's first process is gone.
    Exited(Exited),
    /// The kernel's `oom_kill` counter of a container's cgroup rose.
    Killed(Killed),
    /// A volume was swapped.
    Swapped(Swapped),
}

/// Whose container it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerName {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Name of the container in the pod's spec.
    pub container: String,
    /// 64 hexadecimal digits.
    pub container_id: String,
    /// Starts before this one.
    pub restart_count: u32,
}

/// See [`Fact::Started`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Which container.
    #[serde(flatten)]
    pub container: ContainerName,
    /// Process id of its first process in the initial namespace.
    pub pid: i32,
    /// When the kubelet learned that the program runs.
    pub at: Instant,
}

/// See [`Fact::Exited`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Which container.
    #[serde(flatten)]
    pub container: ContainerName,
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// When its parent's wait returned.
    pub at: Instant,
}

/// See [`Fact::Killed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// Which container.
    #[serde(flatten)]
    pub container: ContainerName,
    /// Kills that the counter rose by.
    pub kills: u64,
    /// Whether the container's first process is gone with it.
    pub first_process_gone: bool,
    /// When the counter was read; the kill lies before it.
    pub at: Instant,
}

/// See [`Fact::Swapped`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swapped {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Name of the volume in the pod's spec.
    pub volume: String,
    /// The volume's folder.
    pub path: String,
    /// Folder that was current before; `None` for the first write, which is a mount and no swap.
    pub old: Option<String>,
    /// Folder that is current now.
    pub new: String,
    /// Just before the rename.
    pub before: Instant,
    /// Just after the rename.
    pub after: Instant,
    /// Thread that renamed.
    pub writer_tid: i32,
    /// Process that renamed.
    pub writer_pid: i32,
}

/// The facts so far, in the order in which they became known. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    facts: Arc<Mutex<Vec<Fact>>>,
}

impl Truth {
    /// Everything so far.
    pub fn facts(&self) -> Vec<Fact> {
        self.lock().clone()
    }

    /// The kills so far.
    pub fn kills(&self) -> Vec<Killed> {
        self.select(|fact| if let Fact::Killed(killed) = fact { Some(killed.clone()) } else { None })
    }

    /// The swaps so far, without first writes.
    pub fn swaps(&self) -> Vec<Swapped> {
        self.select(|fact| match fact {
            Fact::Swapped(swapped) if swapped.old.is_some() => Some(swapped.clone()),
            _ => None,
        })
    }

    /// The starts so far.
    pub fn starts(&self) -> Vec<Started> {
        self.select(|fact| if let Fact::Started(started) = fact { Some(started.clone()) } else { None })
    }

    /// The exits so far.
    pub fn exits(&self) -> Vec<Exited> {
        self.select(|fact| if let Fact::Exited(exited) = fact { Some(exited.clone()) } else { None })
    }

    /// The facts as JSON lines.
    pub fn to_json_lines(&self) -> String {
        let line =
            |fact: &Fact| serde_json::to_string(fact).expect("facts are plain data with text keys") + "\n";
        self.lock().iter().map(line).collect()
    }

    pub(crate) fn record(&self, fact: Fact) {
        tracing::debug!(?fact, "truth");
        self.lock().push(fact);
    }

    fn select<T>(&self, pick: impl Fn(&Fact) -> Option<T>) -> Vec<T> {
        self.lock().iter().filter_map(pick).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fact>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_their_json() {
        let truth = Truth::default();
        let moment = Instant { wall_ns: 2, boot_ns: 1 };
        truth.record(Fact::Swapped(Swapped {
            namespace: "shop".into(),
            pod: "web".into(),
            pod_uid: "u".into(),
            volume: "cfg".into(),
            path: "/x".into(),
            old: Some("..a".into()),
            new: "..b".into(),
            before: moment,
            after: moment,
            writer_tid: 7,
            writer_pid: 6,
        }));
        let line = truth.to_json_lines();
        assert_eq!(serde_json::from_str::<Fact>(line.trim()).unwrap(), truth.facts()[0]);
        assert_eq!((truth.swaps().len(), truth.kills().len()), (1, 0));
    }
}
