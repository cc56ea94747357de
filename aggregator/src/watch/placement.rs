//! Where each pod runs and what it mounts, as our own watch of pods tells: what agents say is held against it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{PoisonError, RwLock};

use aftertrace_model::{Occurrence, PodRef, Timestamp};
use serde_json::Value;
use tokio::sync::watch;

use super::pod::PodFacts;

/// Pods that are gone and still known, so that an agent's spool may tell of them late. A guess: two hours of
/// a cluster that ends a pod each second, some 2 MB.
const GONE_PODS_MAX: usize = 8_192;

/// The pods of the cluster.
#[derive(Debug)]
pub struct Placements {
    pods: RwLock<Pods>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pods {
    by_uid: HashMap<String, Placement>,
    gone: VecDeque<(String, Timestamp)>,
    /// From here on the watch has told of every pod; `None` while it is down.
    covered_since: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Placement {
    namespace: String,
    name: String,
    node: Option<String>,
    mounts: BTreeSet<(&'static str, String)>,
    is_gone: bool,
}

/// What the watch says to the claim that a pod is on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is, or was.
    Confirmed,
    /// It is on another node, or has another name.
    Refuted,
    /// The watch has not told of it, or not where it runs; it must if the claim is true.
    Pending,
    /// The watch was not there at that time, so it can neither confirm nor refute.
    Unwatched,
}

impl Default for Placements {
    fn default() -> Self {
        Self { pods: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Placements {
    /// Judges that `pod` was on `node` when something happened to it.
    ///
    /// A pod that the watch never told of can be refuted only for times that the watch covers.
    #[must_use]
    pub fn judge(&self, node: &str, pod: &PodRef, occurred: &Occurrence) -> Claim {
        let pods = self.read();
        let is_covered = pods.covered_since.is_some_and(|since| occurred.earliest >= since);
        match pods.by_uid.get(&pod.uid) {
            Some(known) if known.namespace != pod.namespace || known.name != pod.name => Claim::Refuted,
            Some(Placement { node: Some(known), .. }) if known == node => Claim::Confirmed,
            Some(Placement { node: Some(_), .. }) => Claim::Refuted,
            _ if is_covered => Claim::Pending,
            _ => Claim::Unwatched,
        }
    }

    /// Whether a pod that is on the node now mounts the object, or takes its environment from it.
    #[must_use]
    pub fn mounts(&self, node: &str, kind: &str, namespace: &str, name: &str) -> bool {
        self.read().by_uid.values().any(|p| {
            !p.is_gone
                && p.namespace == namespace
                && p.node.as_deref() == Some(node)
                && p.mounts.iter().any(|(k, n)| *k == kind && n == name)
        })
    }

    /// Is told after each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Notes a pod's kept state.
    pub(crate) fn note(&self, namespace: &str, name: &str, uid: &str, state: &Value) {
        let facts = PodFacts::read(state);
        let placement = Placement {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node: facts.node,
            mounts: facts.mounts,
            is_gone: false,
        };
        self.change(|pods| {
            pods.by_uid.insert(uid.to_owned(), placement);
        });
    }

    /// Notes that a pod is gone; it stays known for a while.
    pub(crate) fn note_gone(&self, uid: &str, at: Timestamp) {
        self.change(|pods| {
            let Some(placement) = pods.by_uid.get_mut(uid) else { return };
            if std::mem::replace(&mut placement.is_gone, true) {
                return;
            }
            pods.gone.push_back((uid.to_owned(), at));
            while pods.gone.len() > GONE_PODS_MAX {
                let Some((uid, gone_at)) = pods.gone.pop_front() else { break };
                pods.by_uid.remove(&uid);
                // What happened before can no longer be refuted.
                pods.covered_since = pods.covered_since.map(|since| since.max(gone_at));
            }
        });
    }

    /// Notes from when on the watch has told everything; `None` when it is down.
    pub(crate) fn cover(&self, since: Option<Timestamp>) {
        self.change(|pods| pods.covered_since = since);
    }

    fn change(&self, change: impl FnOnce(&mut Pods)) {
        change(&mut self.pods.write().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Pods> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const fn at(s: i64) -> Timestamp {
        Timestamp::from_micros(s * 1_000_000)
    }

    fn pod(uid: &str) -> PodRef {
        PodRef { namespace: "shop".to_owned(), name: format!("pod-{uid}"), uid: uid.to_owned() }
    }

    fn judge(placements: &Placements, node: &str, uid: &str, second: i64) -> Claim {
        placements.judge(node, &pod(uid), &Occurrence::within(at(second), 0))
    }

    fn state(node: &str) -> Value {
        json!({"spec": {"nodeName": node, "volumes": [{"name": "v", "configMap": {"name": "app"}}]}})
    }

    #[test]
    fn an_unknown_pod_is_refuted_only_for_times_that_were_watched() {
        let placements = Placements::default();
        assert_eq!(judge(&placements, "node1", "a", 50), Claim::Unwatched, "no watch at all");
        placements.cover(Some(at(100)));
        assert_eq!(judge(&placements, "node1", "a", 50), Claim::Unwatched, "before the watch");
        assert_eq!(judge(&placements, "node1", "a", 150), Claim::Pending);
        placements.note("shop", "pod-a", "a", &json!({"spec": {}}));
        assert_eq!(judge(&placements, "node1", "a", 150), Claim::Pending, "not scheduled yet");
        placements.note("shop", "pod-a", "a", &state("node1"));
        assert_eq!(judge(&placements, "node1", "a", 150), Claim::Confirmed);
        assert_eq!(judge(&placements, "node2", "a", 150), Claim::Refuted);
        let renamed = PodRef { name: "other".to_owned(), ..pod("a") };
        assert_eq!(placements.judge("node1", &renamed, &Occurrence::within(at(150), 0)), Claim::Refuted);
    }

    #[test]
    fn a_pod_that_is_gone_is_known_but_mounts_nothing() {
        let placements = Placements::default();
        placements.cover(Some(at(0)));
        placements.note("shop", "pod-a", "a", &state("node1"));
        assert!(placements.mounts("node1", "ConfigMap", "shop", "app"));
        assert!(!placements.mounts("node2", "ConfigMap", "shop", "app"));
        assert!(!placements.mounts("node1", "Secret", "shop", "app"));
        placements.note_gone("a", at(5));
        assert!(!placements.mounts("node1", "ConfigMap", "shop", "app"));
        assert_eq!(judge(&placements, "node1", "a", 3), Claim::Confirmed);
    }

    #[test]
    fn forgetting_old_pods_forgets_the_right_to_refute_them() {
        let placements = Placements::default();
        placements.cover(Some(at(0)));
        for n in 0..=GONE_PODS_MAX {
            let uid = n.to_string();
            placements.note("shop", &format!("pod-{uid}"), &uid, &state("node1"));
            placements.note_gone(&uid, at(10));
        }
        assert_eq!(judge(&placements, "node1", "0", 5), Claim::Unwatched);
        assert_eq!(judge(&placements, "node1", "0", 11), Claim::Pending);
    }
}
