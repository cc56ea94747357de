//! An episode, a kill and the end of a victim as events, and the sentences about them.

use aftertrace_model::{Attributes, Event, EventId, Kind, Occurrence, Severity, Source, attribute, text};
use serde_json::{Value, json};

use super::{Decided, Member, Role, cgroups, victims::Tie};
use crate::attribute::cgroup_name::{CgroupRoot, Level};
use crate::draft::{self, Origin};
use crate::kernel::{Exit, Fired, Limit, MemcgLevel, OomConstraint, OomKill, Task};

/// The hook behind a kill, and behind an episode whose decision was not told.
const KILL_HOOK: &str = "raw_tp:mark_victim";
/// The hook behind an episode whose decision was told.
const DECISION_HOOK: &str = "fentry:oom_kill_process";
/// The hook behind a victim's end.
const EXIT_HOOK: &str = "raw_tp:sched_process_exit";

/// Added to a signal's number where an exit code stands for it, by the convention of shells and runtimes.
const SIGNAL_EXIT_BASE: u32 = 128;

/// The level whose limit fired, as facts have it.
struct FiredLevel<'k> {
    /// `container`, `pod`, …, `unknown`.
    name: &'static str,
    /// What it is called in a sentence; nothing if it is unknown.
    label: Option<String>,
    memcg: Option<&'k MemcgLevel>,
    kernfs_id: Option<u64>,
}

fn fired_level<'k>(kill: &'k OomKill, decided: &'k Decided, root: &CgroupRoot) -> FiredLevel<'k> {
    let (name, kernfs_id) = match decided.fired {
        Fired::Unknown(_) => ("unknown", None),
        Fired::Machine { .. } => (Level::Node.as_str(), None),
        Fired::Memcg { kernfs_id, .. } => ("", Some(kernfs_id)),
    };
    let Some(id) = kernfs_id else {
        let label = (name != "unknown").then(|| name.to_owned());
        return FiredLevel { name, label, memcg: None, kernfs_id };
    };
    // The victim's figures are those at the kill; if it was moved in between, the decision's remain.
    let told = decided.decision.iter().map(|d| (&d.levels, d.levels_truncated));
    for (levels, is_truncated) in [(&kill.levels, kill.levels_truncated)].into_iter().chain(told) {
        let kinds = cgroups::kinds(levels, is_truncated, root);
        let found = levels.iter().zip(kinds).find(|(l, _)| l.kernfs_id == Some(id));
        if let Some((memcg, kind)) = found {
            let name = kind.map_or("unknown", Level::as_str);
            let label = Some(cgroups::label(memcg, kind));
            return FiredLevel { name, label, memcg: Some(memcg), kernfs_id };
        }
    }
    FiredLevel { name: "unknown", label: None, memcg: None, kernfs_id }
}

/// The decision, as its own record tells, or the kill that opened it. Tied to the pod later, like the kill.
pub(crate) fn episode_event(
    origin: &Origin,
    kill: &OomKill,
    decided: &Decided,
    occurred: Occurrence,
    root: &CgroupRoot,
) -> Event {
    let decision = decided.decision.as_deref();
    let hook = if decision.is_some() { DECISION_HOOK } else { KILL_HOOK };
    let mut event = draft::event(origin, Kind::OomEpisode, Source::Kernel, hook, occurred);
    event.boot_ns = Some(decision.map_or(kill.signal_boot_ns, |d| d.boot_ns));
    event.cgroup_id = kill.levels.first().and_then(|l| l.kernfs_id);
    event.severity = Severity::Error;
    let level = fired_level(kill, decided, root);
    event.summary = episode_summary(kill, decided, &level);
    event.attributes = allocator(kill);
    level_attributes(&mut event.attributes, decided, &level);
    let mut put = |name: &str, value: Option<Value>| {
        event.attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put("aftertrace.oom.total_pages", decision.and_then(|d| d.total_pages).map(Into::into));
    put("aftertrace.oom.gfp_mask", decision.and_then(|d| d.gfp_mask).map(|m| format!("{m:#x}").into()));
    put("aftertrace.oom.order", decision.and_then(|d| d.order).map(Into::into));
    put("aftertrace.oom.chosen.pid", decision.map(|d| d.chosen.tgid.into()));
    put("aftertrace.oom.chosen.points", decision.and_then(|d| d.chosen_points).map(Into::into));
    put("aftertrace.oom.levels", Some(levels(&kill.levels, kill.levels_truncated, root)));
    event
}

/// The kill. Tied to the pod later.
pub(crate) fn kill_event(
    origin: &Origin,
    kill: &OomKill,
    member: &Member,
    episode_id: EventId,
    occurred: Occurrence,
    root: &CgroupRoot,
) -> Event {
    let mut event = draft::event(origin, Kind::OomKill, Source::Kernel, KILL_HOOK, occurred);
    event.boot_ns = Some(kill.boot_ns);
    event.pid = Some(kill.victim.tgid);
    event.cgroup_id = kill.levels.first().and_then(|l| l.kernfs_id);
    event.episode_id = Some(episode_id);
    event.severity = Severity::Error;
    event.attributes = allocator(kill);
    level_attributes(&mut event.attributes, &member.decided, &fired_level(kill, &member.decided, root));
    process(&mut event.attributes, &kill.victim);
    let mut put = |name: &str, value: Option<Value>| {
        event.attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put(attribute::OOM_ROLE, Some(member.role.as_str().into()));
    if let crate::kernel::OomRole::SharedMm { marked_tgid } = kill.role {
        put("aftertrace.oom.shared_with.pid", Some(marked_tgid.into()));
    }
    put("process.vpid", kill.victim.ns_tgid.map(Into::into));
    put("process.user.id", kill.victim.uid.map(Into::into));
    put(attribute::OOM_SIGNAL_BOOT_NS, Some(kill.signal_boot_ns.into()));
    put("aftertrace.oom.score_adj", kill.oom_score_adj.map(Into::into));
    put(attribute::OOM_RSS_ANON_BYTES, kill.rss_anon_bytes.map(Into::into));
    put(attribute::OOM_RSS_FILE_BYTES, kill.rss_file_bytes.map(Into::into));
    put(attribute::OOM_RSS_SHMEM_BYTES, kill.rss_shmem_bytes.map(Into::into));
    put("aftertrace.oom.swap_bytes", kill.swap_bytes.map(Into::into));
    put("aftertrace.oom.total_vm_bytes", kill.total_vm_bytes.map(Into::into));
    put("aftertrace.oom.pgtables_bytes", kill.pgtables_bytes.map(Into::into));
    put("aftertrace.oom.levels", Some(levels(&kill.levels, kill.levels_truncated, root)));
    event
}

/// The end of a victim, tied as its kill was; `tie` is nothing if the kill's record never came.
pub(crate) fn exit_event(
    origin: &Origin,
    exit: &Exit,
    tie: Option<&Tie>,
    after_us: Option<u64>,
    occurred: Occurrence,
) -> Event {
    let mut event = draft::event(origin, Kind::ProcessExited, Source::Kernel, EXIT_HOOK, occurred);
    event.boot_ns = Some(exit.boot_ns);
    event.pid = Some(exit.task.tgid);
    let code = exit.signal.map(|signal| SIGNAL_EXIT_BASE + signal).or(exit.code);
    event.exit_code = code.and_then(|code| i32::try_from(code).ok());
    if let Some(tie) = tie {
        tie.apply(&mut event);
    }
    process(&mut event.attributes, &exit.task);
    let mut put = |name: &str, value: Option<Value>| {
        event.attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put(attribute::EXIT_SIGNAL, exit.signal.map(Into::into));
    put("process.exit.code", exit.code.map(Into::into));
    put("aftertrace.oom.exit_latency_us", after_us.map(Into::into));
    let how = match (exit.signal, exit.code) {
        (Some(signal), _) => format!("ended by signal {signal}"),
        (None, Some(code)) => format!("exited with {code}"),
        (None, None) => "ended".to_owned(),
    };
    event.summary = format!("{} {how}, after the OOM killer had killed it", named(&exit.task));
    event
}

/// `memhog (pid 4242) OOM-killed in <where>: the pod's limit fired; container 63.1 of 64.0 MiB, pod 64.0 of
/// 64.0 MiB`: usage and limits as the kernel had them, which decide nothing by themselves.
pub(crate) fn kill_summary(kill: &OomKill, member: &Member, place: &str, root: &CgroupRoot) -> String {
    let mut summary = format!("{} OOM-killed {place}", named(&kill.victim));
    match member.role {
        Role::Chosen => {}
        Role::Group => summary += ", with its group",
        Role::SharedMm => summary += ", for it shared the victim's memory",
    }
    let kinds = cgroups::kinds(&kill.levels, kill.levels_truncated, root);
    let limits: Vec<String> = kill
        .levels
        .iter()
        .zip(kinds)
        .filter_map(|(l, kind)| match (l.usage_bytes, l.limit) {
            (Some(usage), Some(Limit::Bytes(limit))) => {
                Some(format!("{} {} of {} MiB", cgroups::label(l, kind), mib(usage), mib(limit)))
            }
            _ => None,
        })
        .collect();
    let fired = match (fired_level(kill, &member.decided, root).label, member.decided.fired) {
        (_, Fired::Machine { .. }) => Some("the node was out of memory".to_owned()),
        (Some(label), _) => Some(format!("the {label}'s limit fired")),
        (None, _) => None,
    };
    let parts: Vec<String> =
        fired.into_iter().chain((!limits.is_empty()).then(|| limits.join(", "))).collect();
    if !parts.is_empty() {
        summary += ": ";
        summary += &parts.join("; ");
    }
    summary
}

fn episode_summary(kill: &OomKill, decided: &Decided, level: &FiredLevel<'_>) -> String {
    let allocator = named(&kill.allocator);
    let chosen = named(decided.decision.as_deref().map_or(&kill.victim, |d| &d.chosen));
    let limit = level.memcg.and_then(|l| l.limit);
    match (decided.fired, &level.label, limit) {
        (Fired::Machine { .. }, ..) => {
            format!("the node ran out of memory for {allocator}, and the kernel chose {chosen}")
        }
        (_, Some(label), Some(Limit::Bytes(bytes))) => format!(
            "the {label}'s limit of {} MiB left no memory for {allocator}, and the kernel chose {chosen}",
            mib(bytes)
        ),
        (_, Some(label), _) => {
            format!("the {label}'s limit left no memory for {allocator}, and the kernel chose {chosen}")
        }
        (_, None, _) => format!("the kernel ran out of memory for {allocator} and chose {chosen}"),
    }
}

fn level_attributes(attributes: &mut Attributes, decided: &Decided, level: &FiredLevel<'_>) {
    let (by, because) = match decided.fired {
        Fired::Memcg { by, .. } | Fired::Machine { by } => (Some(by.as_str()), None),
        Fired::Unknown(because) => (None, Some(because.as_str())),
    };
    // A cgroup whose path is not whole is known, and yet not what it is to the kubelet.
    let nameless = "the record does not hold the whole path of the cgroup whose limit fired";
    let because = because.or((level.name == "unknown").then_some(nameless));
    let told = decided.decision.as_deref().and_then(|d| d.constraint).map(OomConstraint::as_str);
    let derived = matches!(decided.fired, Fired::Memcg { .. }).then_some(OomConstraint::Memcg.as_str());
    let mut put = |name: &str, value: Option<Value>| {
        attributes.extend(value.map(|value| (name.to_owned(), value)));
    };
    put(attribute::OOM_CONSTRAINT, Some(told.or(derived).unwrap_or("unknown").into()));
    put(attribute::OOM_LEVEL, Some(level.name.into()));
    put("aftertrace.oom.level.cgroup_id", level.kernfs_id.map(Into::into));
    let name = level.memcg.map(|l| l.name.as_deref().map_or_else(|| "/".to_owned(), text::escape));
    put("aftertrace.oom.level.name", name.map(Into::into));
    put("aftertrace.oom.level.decided_by", by.map(Into::into));
    put(attribute::OOM_LEVEL_UNKNOWN_BECAUSE, because.map(Into::into));
}

fn levels(levels: &[MemcgLevel], is_truncated: bool, root: &CgroupRoot) -> Value {
    let kinds = cgroups::kinds(levels, is_truncated, root);
    levels.iter().zip(kinds).map(|(l, kind)| level(l, kind)).collect::<Vec<_>>().into()
}

fn level(level: &MemcgLevel, kind: Option<Level>) -> Value {
    let limit = level.limit.and_then(|l| match l {
        Limit::Bytes(bytes) => Some(bytes),
        Limit::Unlimited => None,
    });
    json!({
        "cgroup_id": level.kernfs_id,
        "name": level.name.as_deref().map(text::escape).unwrap_or_default(),
        "level": kind.map_or("unknown", Level::as_str),
        "usage_bytes": level.usage_bytes,
        "limit_bytes": limit,
        "oom_events": level.oom_events,
        "oom_kill_events": level.oom_kill_events,
        "oom_group_kill_events": level.oom_group_kill_events,
        "max_events": level.max_events,
        "oom_group": level.oom_group,
        "under_oom": level.under_oom,
    })
}

fn allocator(kill: &OomKill) -> Attributes {
    let task = &kill.allocator;
    let mut attributes = Attributes::new();
    attributes.insert(attribute::OOM_ALLOCATOR_PID.to_owned(), task.tgid.into());
    attributes.insert("aftertrace.oom.allocator.tid".to_owned(), task.tid.into());
    if let Some(comm) = &task.comm {
        attributes.insert(attribute::OOM_ALLOCATOR_COMMAND.to_owned(), text::escape(comm).into());
    }
    if let Some(memcg) = kill.allocator_memcg {
        attributes.insert("aftertrace.oom.allocator.cgroup_id".to_owned(), memcg.into());
    }
    attributes
}

fn process(attributes: &mut Attributes, task: &Task) {
    attributes.insert("process.pid".to_owned(), task.tgid.into());
    if let Some(comm) = &task.comm {
        attributes.insert(attribute::PROCESS_COMMAND.to_owned(), text::escape(comm).into());
    }
    if let Some(start) = task.process_start_boot_ns.or(task.start_boot_ns.filter(|_| task.tid == task.tgid)) {
        attributes.insert(attribute::PROCESS_START_BOOT_NS.to_owned(), start.into());
    }
}

fn named(task: &Task) -> String {
    format!("{} (pid {})", text::escape(task.comm.as_deref().unwrap_or("a process")), task.tgid)
}

/// Bytes in MiB with one digit.
pub(crate) fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1024 * 1024);
    format!("{}.{}", tenths / 10, tenths % 10)
}
