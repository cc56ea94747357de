//! One fact: what happened, when, to whom, and who says so.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Content, Kind, ObjectRef, Occurrence, Timestamp};

/// The identity of a fact: a UUIDv8 made by [`crate::fact::FactKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// The millisecond since the Unix epoch at which the fact was first recorded; it names its partition.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        let mut ms = [0_u8; 8];
        ms[2..].copy_from_slice(&self.0.as_bytes()[..6]);
        i64::from_be_bytes(ms)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::from_str(text).map(Self)
    }
}

/// Who states a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A hook in the kernel of the node.
    Kernel,
    /// A file or counter of the node, read by the agent.
    Node,
    /// The Kubernetes API.
    Kube,
    /// Concluded by the engine.
    Engine,
}

impl Source {
    /// The name in snake_case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Node => "node",
            Self::Kube => "kube",
            Self::Engine => "engine",
        }
    }
}

/// How much attention a fact asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The normal course of things.
    Info,
    /// Degraded, or a precursor.
    Warning,
    /// Something failed or was killed.
    Error,
}

impl Severity {
    /// The name in snake_case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The pod, and within it the container, that a fact is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: the identity; the names above may be reused.
    pub uid: String,
}

/// The object at the top of a pod's owner chain, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Such as `Deployment`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
}

/// Further facts under OpenTelemetry names where there are such; a JSON object with sorted keys.
pub type Attributes = BTreeMap<String, serde_json::Value>;

/// One fact. A field that does not apply to the kind, or is not known, is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The identity.
    pub event_id: EventId,
    /// What happened.
    pub kind: Kind,
    /// When, with bounds.
    pub occurred: Occurrence,
    /// When the aggregator made it durable; `None` before that.
    pub recorded_at: Option<Timestamp>,
    /// Nanoseconds of the node's boot clock, for kernel facts.
    pub boot_ns: Option<u64>,
    /// The cluster's name, as configured.
    pub cluster: String,
    /// The node, for facts of a node.
    pub node: Option<String>,
    /// The pod. A kernel fact whose cgroup could not be tied to a pod has none, and says so in `summary`.
    pub pod: Option<PodRef>,
    /// The container's name within the pod.
    pub container: Option<String>,
    /// The container's id without the runtime's prefix: 64 hex digits with containerd, CRI-O and Docker.
    pub container_id: Option<String>,
    /// `restartCount` of the container's life that the fact belongs to.
    pub restart_count: Option<i32>,
    /// The top owner of the pod.
    pub workload: Option<Workload>,
    /// The API object a configuration fact is about, at the version where known.
    pub object: Option<ObjectRef>,
    /// Keyed hashes of the configuration content, per key.
    pub content: Option<Content>,
    /// The process (tgid in the node's pid namespace).
    pub pid: Option<u32>,
    /// Whether that process was the container's init (pid 1 of its own pid namespace).
    pub container_init: Option<bool>,
    /// kernfs id of the memory cgroup.
    pub cgroup_id: Option<u64>,
    /// The OOM episode that a kill belongs to.
    pub episode_id: Option<EventId>,
    /// The machine-readable reason, as the source names it (`OOMKilled`, `CrashLoopBackOff`).
    pub reason: Option<String>,
    /// The exit code, for a termination.
    pub exit_code: Option<i32>,
    /// Who says so.
    pub source: Source,
    /// The hook, watch or file behind it (`raw_tracepoint/mark_victim`, `watch/pods`).
    pub hook: String,
    /// How much attention it asks for.
    pub severity: Severity,
    /// One line for people, without control characters (see [`crate::text::escape`]).
    pub summary: String,
    /// What else is known.
    pub attributes: Attributes,
}

impl Event {
    /// A fact of which no more is known: the other fields are empty, `severity` is [`Severity::Info`].
    #[must_use]
    pub fn new(
        event_id: EventId,
        kind: Kind,
        occurred: Occurrence,
        cluster: &str,
        source: Source,
        hook: &str,
    ) -> Self {
        Self {
            event_id,
            kind,
            occurred,
            recorded_at: None,
            boot_ns: None,
            cluster: cluster.to_owned(),
            node: None,
            pod: None,
            container: None,
            container_id: None,
            restart_count: None,
            workload: None,
            object: None,
            content: None,
            pid: None,
            container_init: None,
            cgroup_id: None,
            episode_id: None,
            reason: None,
            exit_code: None,
            source,
            hook: hook.to_owned(),
            severity: Severity::Info,
            summary: String::new(),
            attributes: Attributes::new(),
        }
    }

    /// The pod's uid, if the fact is tied to a pod.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        self.pod.as_ref().map(|p| p.uid.as_str())
    }
}
