//! OOM kill records → episodes, and the two events that one kill makes.
//!
//! An episode is one decision of the OOM killer. It is keyed by the allocating thread, on whose stack the
//! kernel decides, and never by a time window: the first marked victim of a thread is chosen; a further one
//! in the same `oom_group` cgroup belongs to its group; one killed for sharing the victim's memory follows
//! the victim. Pure but for its own memory of recent episodes.

use std::collections::{HashMap, VecDeque};

use aftertrace_model::{Attributes, Event, EventId, Kind, Occurrence, Severity, Source, text};
use serde_json::{Value, json};

use crate::attribute::cgroup_name::{Cgroup, CgroupRoot};
use crate::draft::{self, Origin};
use crate::kernel::{Limit, MemcgLevel, OomKill, OomRole, Task};

/// Episodes remembered for what follows in them. A decision takes microseconds to milliseconds and the
/// kernel takes one at a time; the rest is slack for records that wait for their pod.
const EPISODES_MAX: usize = 4_096;

/// The hook behind both events.
const HOOK: &str = "raw_tp:mark_victim";

/// What a victim was to the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The kernel chose it.
    Chosen,
    /// It was in the chosen victim's `oom_group`.
    Group,
    /// It shared the victim's memory.
    SharedMm,
}

impl Role {
    /// The name in snake_case.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Group => "group",
            Self::SharedMm => "shared_mm",
        }
    }
}

/// A kill's place: which episode, by a number of this run, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) episode: u64,
    pub(crate) role: Role,
}

type Allocator = (u32, Option<u64>);

#[derive(Debug)]
struct Episode {
    number: u64,
    killed: Vec<u32>,
    /// kernfs ids of the chosen victim's cgroups that kill as a group.
    groups: Vec<u64>,
}

/// Recent episodes.
#[derive(Debug, Default)]
pub(crate) struct Episodes {
    latest: HashMap<Allocator, Episode>,
    order: VecDeque<(Allocator, u64)>,
    /// Events of the episodes that were emitted.
    ids: HashMap<u64, EventId>,
    count: u64,
}

impl Episodes {
    /// Finds the episode of a kill, or opens one; `None` if that process was already killed in it.
    pub(crate) fn assign(&mut self, kill: &OomKill) -> Option<Member> {
        let allocator = (kill.allocator.tid, kill.allocator.start_boot_ns);
        let tgid = kill.victim.tgid;
        let groups = groups(&kill.levels);
        if let Some(open) = self.latest.get_mut(&allocator) {
            let role = match kill.role {
                OomRole::Marked if groups.iter().any(|g| open.groups.contains(g)) => Some(Role::Group),
                OomRole::Marked => None,
                OomRole::SharedMm { marked_tgid } => {
                    open.killed.contains(&marked_tgid).then_some(Role::SharedMm)
                }
            };
            if let Some(role) = role {
                if open.killed.contains(&tgid) {
                    return None;
                }
                open.killed.push(tgid);
                return Some(Member { episode: open.number, role });
            }
        }
        self.count += 1;
        let number = self.count;
        let episode = Episode { number, killed: vec![tgid], groups };
        self.latest.insert(allocator, episode);
        self.order.push_back((allocator, number));
        while self.order.len() > EPISODES_MAX {
            let Some((allocator, number)) = self.order.pop_front() else { break };
            self.ids.remove(&number);
            if self.latest.get(&allocator).is_some_and(|e| e.number == number) {
                self.latest.remove(&allocator);
            }
        }
        let role = match kill.role {
            OomRole::Marked => Role::Chosen,
            OomRole::SharedMm { .. } => Role::SharedMm,
        };
        Some(Member { episode: number, role })
    }

    /// The episode's event, once it was emitted.
    pub(crate) fn id(&self, number: u64) -> Option<EventId> {
        self.ids.get(&number).copied()
    }

    /// The episode's event was emitted.
    pub(crate) fn emitted(&mut self, number: u64, id: EventId) {
        // One that is remembered no more would stay for ever.
        if self.order.front().is_some_and(|(_, oldest)| *oldest <= number) {
            self.ids.insert(number, id);
        }
    }
}

fn groups(levels: &[MemcgLevel]) -> Vec<u64> {
    levels.iter().filter(|l| l.oom_group == Some(true)).filter_map(|l| l.kernfs_id).collect()
}

/// What the victim's cgroup says; `None` where the record does not hold the whole path.
pub(crate) fn classify(kill: &OomKill, root: &CgroupRoot) -> Option<Cgroup> {
    Some(root.classify(&path(&kill.levels, kill.levels_truncated)?))
}

/// The names from the root down, without the root's.
fn path(levels: &[MemcgLevel], is_truncated: bool) -> Option<Vec<&str>> {
    let (top, below) = levels.split_last()?;
    if is_truncated || top.name.is_some() {
        return None;
    }
    below.iter().rev().map(|l| l.name.as_deref().filter(|_| !l.name_truncated)).collect()
}

/// The decision, as the kill that opened it tells. Tied to the pod later, like the kill.
pub(crate) fn episode_event(origin: &Origin, kill: &OomKill, occurred: Occurrence) -> Event {
    let mut event = draft::event(origin, Kind::OomEpisode, Source::Kernel, HOOK, occurred);
    event.boot_ns = Some(kill.signal_boot_ns);
    event.cgroup_id = kill.levels.first().and_then(|l| l.kernfs_id);
    event.severity = Severity::Error;
    event.summary = format!(
        "the kernel ran out of memory for {} and chose {}",
        named(&kill.allocator),
        named(&kill.victim)
    );
    event.attributes = allocator(kill);
    event
}

/// The kill. Tied to the pod later.
pub(crate) fn kill_event(
    origin: &Origin,
    kill: &OomKill,
    role: Role,
    episode_id: EventId,
    occurred: Occurrence,
    root: &CgroupRoot,
) -> Event {
    let mut event = draft::event(origin, Kind::OomKill, Source::Kernel, HOOK, occurred);
    event.boot_ns = Some(kill.boot_ns);
    event.pid = Some(kill.victim.tgid);
    event.cgroup_id = kill.levels.first().and_then(|l| l.kernfs_id);
    event.episode_id = Some(episode_id);
    event.severity = Severity::Error;
    event.attributes = allocator(kill);
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            event.attributes.insert(name.to_owned(), value);
        }
    };
    put("aftertrace.oom.role", Some(role.as_str().into()));
    put("process.pid", Some(kill.victim.tgid.into()));
    put("process.command", kill.victim.comm.as_deref().map(|c| text::escape(c).into()));
    put("process.vpid", kill.victim.ns_tgid.map(Into::into));
    put("process.user.id", kill.victim.uid.map(Into::into));
    put("aftertrace.process.start_boot_ns", kill.victim.start_boot_ns.map(Into::into));
    put("aftertrace.oom.signal_boot_ns", Some(kill.signal_boot_ns.into()));
    put("aftertrace.oom.score_adj", kill.oom_score_adj.map(Into::into));
    put("aftertrace.oom.rss_anon_bytes", kill.rss_anon_bytes.map(Into::into));
    put("aftertrace.oom.rss_file_bytes", kill.rss_file_bytes.map(Into::into));
    put("aftertrace.oom.rss_shmem_bytes", kill.rss_shmem_bytes.map(Into::into));
    put("aftertrace.oom.swap_bytes", kill.swap_bytes.map(Into::into));
    put("aftertrace.oom.total_vm_bytes", kill.total_vm_bytes.map(Into::into));
    put("aftertrace.oom.pgtables_bytes", kill.pgtables_bytes.map(Into::into));
    let labels = labels(kill, root);
    let levels: Vec<Value> = kill.levels.iter().zip(&labels).map(|(l, label)| level(l, label)).collect();
    put("aftertrace.oom.levels", Some(levels.into()));
    event
}

/// `memhog (pid 4242) OOM-killed in <where>: container 63.1 of 64.0 MiB, pod 64.0 of 64.0 MiB`: usage and
/// limits as the kernel had them, without a claim about which of them fired.
pub(crate) fn kill_summary(kill: &OomKill, place: &str, root: &CgroupRoot) -> String {
    let mut summary = format!("{} OOM-killed {place}", named(&kill.victim));
    let limits: Vec<String> = kill
        .levels
        .iter()
        .zip(labels(kill, root))
        .filter_map(|(l, label)| match (l.usage_bytes, l.limit) {
            (Some(usage), Some(Limit::Bytes(limit))) => {
                Some(format!("{label} {} of {} MiB", mib(usage), mib(limit)))
            }
            _ => None,
        })
        .collect();
    if !limits.is_empty() {
        summary += ": ";
        summary += &limits.join(", ");
    }
    summary
}

/// The victim's cgroup as a path, escaped, for one that belongs to no pod.
pub(crate) fn cgroup_path(kill: &OomKill) -> String {
    let names = kill.levels.iter().rev().filter_map(|l| l.name.as_deref());
    names.fold(String::new(), |path, name| path + "/" + &text::escape(name))
}

/// What each level is to the kubelet, for people: `container`, `pod`, or the cgroup's own name.
fn labels(kill: &OomKill, root: &CgroupRoot) -> Vec<String> {
    let names: Vec<&str> = kill.levels.iter().rev().filter_map(|l| l.name.as_deref()).collect();
    let is_whole = path(&kill.levels, kill.levels_truncated).is_some();
    let label = |(depth, level): (usize, &MemcgLevel)| {
        let own = level.name.as_deref().map_or_else(|| "node".to_owned(), text::escape);
        let upto = names.get(..names.len().saturating_sub(depth)).unwrap_or_default();
        match is_whole.then(|| root.classify(upto)) {
            Some(Cgroup::Container { nested: false, .. }) => "container".to_owned(),
            Some(Cgroup::Pod { .. }) => "pod".to_owned(),
            _ => own,
        }
    };
    kill.levels.iter().enumerate().map(label).collect()
}

fn level(level: &MemcgLevel, label: &str) -> Value {
    let limit = level.limit.and_then(|l| match l {
        Limit::Bytes(bytes) => Some(bytes),
        Limit::Unlimited => None,
    });
    json!({
        "cgroup_id": level.kernfs_id,
        "name": level.name.as_deref().map(text::escape).unwrap_or_default(),
        "level": label,
        "usage_bytes": level.usage_bytes,
        "limit_bytes": limit,
        "oom_events": level.oom_events,
        "oom_kill_events": level.oom_kill_events,
        "max_events": level.max_events,
        "oom_group": level.oom_group,
        "under_oom": level.under_oom,
    })
}

fn allocator(kill: &OomKill) -> Attributes {
    let task = &kill.allocator;
    let mut attributes = Attributes::new();
    attributes.insert("aftertrace.oom.allocator.pid".to_owned(), task.tgid.into());
    attributes.insert("aftertrace.oom.allocator.tid".to_owned(), task.tid.into());
    if let Some(comm) = &task.comm {
        attributes.insert("aftertrace.oom.allocator.command".to_owned(), text::escape(comm).into());
    }
    if let Some(memcg) = kill.allocator_memcg {
        attributes.insert("aftertrace.oom.allocator.cgroup_id".to_owned(), memcg.into());
    }
    attributes
}

fn named(task: &Task) -> String {
    format!("{} (pid {})", text::escape(task.comm.as_deref().unwrap_or("a process")), task.tgid)
}

/// Bytes in MiB with one digit.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
pub(crate) mod tests;
