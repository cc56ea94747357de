//! Records of containers' inits → the events of their starts, ends and signals; not yet tied to a pod.
//!
//! Pure. A pid alone is no identity: each event carries the process's start besides. The end of an init that
//! the OOM killer killed is told with its kill ([`crate::episode`]), so that each process ends in one row.

use aftertrace_model::{Event, Kind, Occurrence, Severity, Source, attribute, text};
use serde_json::Value;

use crate::attribute::cgroup_name::Cgroup;
use crate::draft::{self, Origin};
use crate::kernel::{Exec, InitExit, InitPlace, Signal, SignalBy, SignalResult, Task};

/// What a shell adds to the number of the signal that ended a process.
const SIGNAL_EXIT_BASE: u32 = 128;
/// The number of SIGKILL on every architecture Linux has.
const SIGKILL: u32 = 9;

/// Something that an init did or suffered.
#[derive(Clone, Debug)]
pub(crate) enum Lifetime {
    /// It executed its program.
    Started(Box<Exec>),
    /// It is gone, and the OOM killer had not killed it.
    Exited(InitExit),
    /// A process signalled it.
    Signalled(Box<Signal>),
}

impl Lifetime {
    /// When, by the boot clock.
    pub(crate) fn boot_ns(&self) -> u64 {
        match self {
            Self::Started(exec) => exec.boot_ns,
            Self::Exited(exit) => exit.boot_ns,
            Self::Signalled(signal) => signal.boot_ns,
        }
    }

    /// Where the init is.
    pub(crate) fn place(&self) -> InitPlace {
        match self {
            Self::Started(exec) => exec.place,
            Self::Exited(exit) => exit.place,
            Self::Signalled(signal) => signal.place,
        }
    }

    /// The init's tgid.
    pub(crate) fn pid(&self) -> u32 {
        self.task().tgid
    }

    fn task(&self) -> &Task {
        match self {
            Self::Started(exec) => &exec.task,
            Self::Exited(exit) => &exit.task,
            Self::Signalled(signal) => &signal.target,
        }
    }

    /// What happened, as `<init> <this>`.
    fn summary(&self, sender: &str) -> String {
        match self {
            Self::Started(_) => "started".to_owned(),
            Self::Exited(exit) => match (exit.signal, exit.code) {
                (Some(signal), _) => format!("was ended by signal {signal}"),
                (None, Some(code)) => format!("exited with {code}"),
                (None, None) => "ended".to_owned(),
            },
            Self::Signalled(signal) => {
                let became = match signal.result {
                    SignalResult::Delivered => "",
                    SignalResult::Ignored => ", which it ignores",
                    SignalResult::AlreadyPending => ", of which one waited already",
                };
                format!("was sent {} by {sender}{became}", signal_name(signal.signal))
            }
        }
    }
}

/// The event, without its pod and its place in the summary. `sender` is whose cgroup a signal came from.
pub(crate) fn event(
    origin: &Origin,
    fact: &Lifetime,
    sender: Option<&Cgroup>,
    occurred: Occurrence,
) -> Event {
    let (kind, hook) = match fact {
        Lifetime::Started(_) => (Kind::ProcessStarted, "raw_tp:sched_process_exec"),
        Lifetime::Exited(_) => (Kind::ProcessExited, "raw_tp:sched_process_exit"),
        Lifetime::Signalled(_) => (Kind::ProcessKilled, "raw_tp:signal_generate"),
    };
    let mut event = draft::event(origin, kind, Source::Kernel, hook, occurred);
    let task = fact.task();
    event.boot_ns = Some(fact.boot_ns());
    event.pid = Some(task.tgid);
    event.cgroup_id = Some(fact.place().memcg);
    put_process(&mut event, task);
    match fact {
        Lifetime::Started(exec) => put_start(&mut event, exec),
        Lifetime::Exited(exit) => put_end(&mut event, exit),
        Lifetime::Signalled(signal) => put_signal(&mut event, signal, sender),
    }
    event
}

/// `app (pid 12), the init of container app of n/p, exited with 1`
pub(crate) fn summary(fact: &Lifetime, place: &str) -> String {
    let sender = match fact {
        Lifetime::Signalled(signal) => named(&signal.sender),
        _ => String::new(),
    };
    format!("{}, {place}, {}", named(fact.task()), fact.summary(&sender))
}

fn put_process(event: &mut Event, task: &Task) {
    put(event, "process.pid", Some(task.tgid.into()));
    put(event, attribute::PROCESS_COMMAND, task.comm.as_deref().map(|c| text::escape(c).into()));
    put(event, attribute::PROCESS_START_BOOT_NS, task.process_start_boot_ns.map(Into::into));
    put(event, "process.vpid", task.ns_tgid.map(Into::into));
    put(event, "process.user.id", task.uid.map(Into::into));
}

fn put_start(event: &mut Event, exec: &Exec) {
    put(event, "process.executable.path", exec.executable.as_deref().map(|p| text::escape(p).into()));
    let Some(parent) = &exec.parent else { return };
    put(event, "process.parent_pid", Some(parent.tgid.into()));
    put(event, "aftertrace.parent.command", parent.comm.as_deref().map(|c| text::escape(c).into()));
}

fn put_end(event: &mut Event, exit: &InitExit) {
    let code = exit.signal.map(|signal| SIGNAL_EXIT_BASE + signal).or(exit.code);
    event.exit_code = code.and_then(|code| i32::try_from(code).ok());
    event.severity = if code == Some(0) { Severity::Info } else { Severity::Warning };
    put(event, attribute::EXIT_SIGNAL, exit.signal.map(Into::into));
    put(event, "process.exit.code", exit.code.map(Into::into));
}

fn put_signal(event: &mut Event, signal: &Signal, sender: Option<&Cgroup>) {
    event.reason = Some(signal_name(signal.signal).to_owned());
    let kills = signal.signal == SIGKILL && signal.result == SignalResult::Delivered;
    event.severity = if kills { Severity::Warning } else { Severity::Info };
    put(event, attribute::SIGNAL_NUMBER, Some(signal.signal.into()));
    put(event, attribute::SIGNAL_RESULT, Some(signal.result.as_str().into()));
    put(event, "aftertrace.signal.by", Some(signal.by.as_str().into()));
    put(
        event,
        "aftertrace.signal.to_thread",
        (!signal.is_group && signal.by == SignalBy::Tkill).then(|| true.into()),
    );
    put(event, "aftertrace.signal.untold", (signal.untold > 0).then(|| signal.untold.into()));
    let task = &signal.sender;
    put(event, attribute::SENDER_PID, Some(task.tgid.into()));
    put(event, "aftertrace.sender.tid", Some(task.tid.into()));
    put(event, attribute::SENDER_COMMAND, task.comm.as_deref().map(|c| text::escape(c).into()));
    put(event, "aftertrace.sender.uid", task.uid.map(Into::into));
    put(event, "aftertrace.sender.start_boot_ns", task.process_start_boot_ns.map(Into::into));
    put(event, "aftertrace.sender.cgroup_id", signal.sender_memcg.map(Into::into));
    put(event, "aftertrace.sender.cgroup", Some(text::escape(&cgroup_path(&signal.sender_levels)).into()));
    match sender {
        Some(Cgroup::Container { uid, id, .. }) => {
            put(event, "aftertrace.sender.pod.uid", Some(uid.as_str().into()));
            put(event, "aftertrace.sender.container.id", Some(id.as_str().into()));
        }
        Some(Cgroup::Pod { uid }) => put(event, "aftertrace.sender.pod.uid", Some(uid.as_str().into())),
        Some(Cgroup::Outside) | None => {}
    }
}

fn put(event: &mut Event, name: &str, value: Option<Value>) {
    event.attributes.extend(value.map(|value| (name.to_owned(), value)));
}

/// Names from the innermost outward → a path; one of four names may have more above it.
fn cgroup_path(levels: &[String]) -> String {
    const KEPT: usize = aftertrace_ebpf_common::limits::MAX_SENDER_LEVELS;
    let start = if levels.len() < KEPT { "" } else { "…" };
    match levels {
        [] => "/".to_owned(),
        _ => levels.iter().rev().fold(start.to_owned(), |path, name| path + "/" + name),
    }
}

fn signal_name(number: u32) -> &'static str {
    if number == SIGKILL { "SIGKILL" } else { "SIGTERM" }
}

fn named(task: &Task) -> String {
    format!("{} (pid {})", text::escape(task.comm.as_deref().unwrap_or("a process")), task.tgid)
}

#[cfg(test)]
pub(crate) mod tests;
