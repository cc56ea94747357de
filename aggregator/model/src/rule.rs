//! Rules: which two facts are cause and effect. Each rule is a pure function of those two, and has one owner.
//!
//! A rule first gives each side a join key; only facts with equal keys meet. Then it looks at the pair and
//! either declines or says how sure it is and on what evidence. Whether several causes may stand side by side
//! or the last one before the effect wins is the rule's [`Choice`].

mod config;
mod process;

use crate::attribute::{self, number, text};
use crate::{Event, EventId, Evidence, Grade, Kind};

/// Who applies a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The agent: identity joins of two facts of one node, which are never revised.
    Node,
    /// The aggregator: rules that see the cluster, rank, and may retract.
    Cluster,
}

/// What happens where several causes fit one effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Each is an edge.
    Every,
    /// The surest, and among equals the last one before the effect; an earlier choice is retracted.
    Best,
}

/// What two facts must share to be looked at together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum JoinKey {
    /// The OOM episode.
    Episode(EventId),
    /// One life of a container.
    Life {
        /// Uid of the pod.
        pod_uid: String,
        /// Id of the container.
        container_id: String,
    },
    /// The `restart_count`-th life of a named container, whatever its id.
    Attempt {
        /// Uid of the pod.
        pod_uid: String,
        /// Name of the container.
        container: String,
        /// `restartCount` of that life.
        restart_count: i32,
    },
    /// An API object by name.
    Object {
        /// Such as `ConfigMap`.
        kind: String,
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        name: String,
    },
    /// One generation of a pod's volume.
    Generation {
        /// Uid of the pod.
        pod_uid: String,
        /// Name of the volume in the pod spec.
        volume: String,
        /// The directory that `..data` points to after the swap.
        generation: String,
    },
    /// One process: a pid is used again, with another start.
    Process {
        /// The node.
        node: String,
        /// The tgid in the node's pid namespace.
        pid: u32,
        /// Nanoseconds of the node's boot clock.
        start_boot_ns: u64,
    },
}

/// That a pair is cause and effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// How sure.
    pub grade: Grade,
    /// Probability, for [`Grade::Inferred`] only.
    pub confidence: Option<f64>,
    /// The joined values.
    pub evidence: Evidence,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// `cause.effect` by their kinds.
    pub id: &'static str,
    /// The pattern it belongs to.
    pub pattern: &'static str,
    /// Who applies it.
    pub owner: Owner,
    /// Kind of the cause.
    pub cause: Kind,
    /// Kind of the effect.
    pub effect: Kind,
    /// What happens where several causes fit.
    pub choice: Choice,
    /// The key under which a cause is found; `None` if this fact cannot be a cause here.
    pub cause_key: fn(&Event) -> Option<JoinKey>,
    /// The key under which an effect is found; `None` if this fact cannot be an effect here.
    pub effect_key: fn(&Event) -> Option<JoinKey>,
    /// Looks at a pair with equal keys whose times allow it.
    pub judge: fn(&Event, &Event) -> Option<Verdict>,
}

/// How long before an episode pressure counts as its precursor: the run-up that agents record (design: 60 s).
const PRESSURE_WINDOW_US: i64 = 60_000_000;

/// Confidence of a precursor in the same container. A prior, not yet calibrated on outcomes.
const PRESSURE_CONFIDENCE: f64 = 0.8;

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule {
        id: "memory_pressure.oom_episode",
        pattern: "P001",
        owner: Owner::Cluster,
        cause: Kind::MemoryPressure,
        effect: Kind::OomEpisode,
        choice: Choice::Best,
        cause_key: life,
        effect_key: life,
        judge: |pressure, episode| {
            let lag = episode.occurred.at.micros_since(pressure.occurred.at);
            (lag <= PRESSURE_WINDOW_US).then(|| Verdict {
                grade: Grade::Inferred,
                confidence: Some(PRESSURE_CONFIDENCE),
                evidence: shared(&[("container.id", pressure.container_id.as_deref())]),
            })
        },
    },
    Rule {
        id: "oom_episode.oom_kill",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::OomEpisode,
        effect: Kind::OomKill,
        choice: Choice::Every,
        cause_key: |e| Some(JoinKey::Episode(e.event_id)),
        effect_key: |e| e.episode_id.map(JoinKey::Episode),
        judge: |episode, kill| {
            let id = episode.event_id.to_string();
            let cgroup = kill.cgroup_id.map(|c| c.to_string());
            Some(Verdict {
                grade: Grade::Proven,
                confidence: None,
                evidence: shared(&[("episode_id", Some(&id)), ("cgroup_id", cgroup.as_deref())]),
            })
        },
    },
    Rule {
        id: "oom_kill.process_exited",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::OomKill,
        effect: Kind::ProcessExited,
        choice: Choice::Every,
        cause_key: process,
        effect_key: process,
        judge: process::oom_kill_ended_process,
    },
    Rule {
        id: "oom_kill.container_terminated",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::OomKill,
        effect: Kind::ContainerTerminated,
        choice: Choice::Every,
        cause_key: life,
        effect_key: life,
        judge: process::oom_kill_ended_container,
    },
    Rule {
        id: "container_terminated.container_waiting",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::ContainerTerminated,
        effect: Kind::ContainerWaiting,
        choice: Choice::Every,
        cause_key: |e| attempt(e, 0),
        effect_key: |e| attempt(e, 0),
        judge: same_attempt,
    },
    Rule {
        id: "container_terminated.container_started",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::ContainerTerminated,
        effect: Kind::ContainerStarted,
        choice: Choice::Every,
        cause_key: |e| attempt(e, 1),
        effect_key: |e| attempt(e, 0),
        judge: same_attempt,
    },
    Rule {
        id: "container_waiting.container_started",
        pattern: "P001",
        owner: Owner::Node,
        cause: Kind::ContainerWaiting,
        effect: Kind::ContainerStarted,
        choice: Choice::Every,
        cause_key: |e| attempt(e, 1),
        effect_key: |e| attempt(e, 0),
        judge: same_attempt,
    },
    Rule {
        id: "config_changed.config_swapped",
        pattern: "P003",
        owner: Owner::Cluster,
        cause: Kind::ConfigChanged,
        effect: Kind::ConfigSwapped,
        choice: Choice::Best,
        cause_key: object,
        effect_key: object,
        judge: config::swap_shows_change,
    },
    of_generation("config_swapped.config_notified", Kind::ConfigNotified),
    of_generation("config_swapped.config_read", Kind::ConfigRead),
    of_generation("config_swapped.config_watched", Kind::ConfigWatched),
    of_generation("config_swapped.config_stale", Kind::ConfigStale),
    Rule {
        id: "process_killed.process_exited",
        pattern: "P006",
        owner: Owner::Node,
        cause: Kind::ProcessKilled,
        effect: Kind::ProcessExited,
        choice: Choice::Every,
        cause_key: process,
        effect_key: process,
        judge: process::signal_ended_process,
    },
    Rule {
        id: "process_killed.container_terminated",
        pattern: "P006",
        owner: Owner::Node,
        cause: Kind::ProcessKilled,
        effect: Kind::ContainerTerminated,
        choice: Choice::Every,
        cause_key: life,
        effect_key: life,
        judge: process::signal_ended_container,
    },
];

/// What follows from a swap is known by the generation that it brought.
const fn of_generation(id: &'static str, effect: Kind) -> Rule {
    Rule {
        id,
        pattern: "P003",
        owner: Owner::Node,
        cause: Kind::ConfigSwapped,
        effect,
        choice: Choice::Every,
        cause_key: generation,
        effect_key: generation,
        judge: config::follows_swap,
    }
}

/// The rule of that id.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.id == id)
}

fn same_attempt(cause: &Event, effect: &Event) -> Option<Verdict> {
    let (before, after) = (cause.restart_count?.to_string(), effect.restart_count?.to_string());
    Some(Verdict {
        grade: Grade::Identified,
        confidence: None,
        evidence: shared(&[
            ("k8s.pod.uid", cause.pod_uid()),
            ("k8s.container.name", cause.container.as_deref()),
            ("restart_count", Some(&before)),
            ("effect.restart_count", Some(&after)),
        ]),
    })
}

fn life(e: &Event) -> Option<JoinKey> {
    Some(JoinKey::Life { pod_uid: e.pod_uid()?.to_owned(), container_id: e.container_id.clone()? })
}

fn attempt(e: &Event, later: i32) -> Option<JoinKey> {
    Some(JoinKey::Attempt {
        pod_uid: e.pod_uid()?.to_owned(),
        container: e.container.clone()?,
        restart_count: e.restart_count?.checked_add(later)?,
    })
}

fn object(e: &Event) -> Option<JoinKey> {
    let o = e.object.as_ref()?;
    Some(JoinKey::Object { kind: o.kind.clone(), namespace: o.namespace.clone(), name: o.name.clone() })
}

fn generation(e: &Event) -> Option<JoinKey> {
    Some(JoinKey::Generation {
        pod_uid: e.pod_uid()?.to_owned(),
        volume: text(e, attribute::VOLUME_NAME)?.to_owned(),
        generation: text(e, attribute::VOLUME_GENERATION)?.to_owned(),
    })
}

fn process(e: &Event) -> Option<JoinKey> {
    Some(JoinKey::Process {
        node: e.node.clone()?,
        pid: e.pid?,
        start_boot_ns: number(e, attribute::PROCESS_START_BOOT_NS)?,
    })
}

fn shared(values: &[(&str, Option<&str>)]) -> Evidence {
    values.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned()))).collect()
}
