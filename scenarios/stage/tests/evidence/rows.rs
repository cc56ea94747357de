//! The rows of a case as text, one line each, and the comparison with what the case knows to have happened.
//!
//! Exact in both directions: whatever the agent told of processes since the case began counts, but for pods that
//! were there before, and for what other programs of this machine do outside the stage's cgroup.

use std::collections::BTreeSet;

use aftertrace_model::attribute::{SENDER_PID, SIGNAL_RESULT};
use aftertrace_model::{Event, Kind};
use aftertrace_stage::kubelet::truth::Started;

use crate::rig::{Rig, Running, patience};

/// Whether a process was the first of its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// It was.
    Init,
    /// It was not.
    Child,
    /// The kernel's structures do not tell.
    Unsaid,
}

impl Process {
    fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Child => "child",
            Self::Unsaid => "process",
        }
    }
}

/// What a case compares.
pub(crate) struct Case<'a> {
    rig: &'a Rig,
    kinds: &'static [Kind],
    since: usize,
    before: BTreeSet<String>,
    expected: Vec<String>,
}

impl<'a> Case<'a> {
    /// From now on, rows of these kinds count.
    pub(crate) fn begin(rig: &'a Rig, kinds: &'static [Kind]) -> Self {
        let starts = rig.stage().truth().starts().into_iter();
        let before = starts.map(|started| started.container.pod_uid).collect();
        let since = rig.collector().kept().events.len();
        Self { rig, kinds, since, before, expected: Vec::new() }
    }

    /// One more row is expected.
    pub(crate) fn row(&mut self, row: String) -> &mut Self {
        self.expected.push(row);
        self
    }

    /// Starts and ends of all containers of a pod, as far as they have happened.
    pub(crate) fn lives(&mut self, pod: &Running) -> &mut Self {
        self.lives_of(&pod.uid)
    }

    /// The same by the pod's uid.
    pub(crate) fn lives_of(&mut self, uid: &str) -> &mut Self {
        self.lives_told(uid, Process::Init)
    }

    /// The same; their ends are told as those of such processes.
    pub(crate) fn lives_told(&mut self, uid: &str, init: Process) -> &mut Self {
        if !self.rig.tells_lives() {
            return self;
        }
        let starts = self.rig.starts_of(uid);
        let exits = self.rig.stage().truth().exits();
        for started in starts {
            self.row(format!("process_started {} pid {}", who(&started), started.pid));
            let id = &started.container.container_id;
            if let Some(exit) = exits.iter().find(|exit| &exit.container.container_id == id) {
                self.exit(&started, started.pid, exit.exit_code, init);
            }
        }
        self
    }

    /// The end of a process.
    fn exit(&mut self, of: &Started, pid: i32, code: i32, process: Process) -> &mut Self {
        self.row(format!("process_exited {} {code} {} pid {pid}", who(of), process.as_str()))
    }

    /// A decision of the OOM killer.
    pub(crate) fn episode(&mut self, of: &Started, level: &str) -> &mut Self {
        let (constraint, level) = self.decision("memcg", level);
        self.row(format!("oom_episode {} {constraint} {level}", who(of)))
    }

    /// One victim of such a decision, and its end where that is not told as the container's.
    pub(crate) fn kill(
        &mut self,
        of: &Started,
        role: &str,
        level: &str,
        (process, pid): (Process, i32),
    ) -> &mut Self {
        let (_, level) = self.decision("memcg", level);
        self.row(format!("oom_kill {} {role} {level} {} pid {pid}", who(of), process.as_str()));
        let is_told_as_life = pid == of.pid && self.rig.tells_lives();
        if self.rig.knows("oom_decision") && !is_told_as_life {
            self.exit(of, pid, 137, process);
        }
        self
    }

    /// A decision with one victim, which was its container's init.
    pub(crate) fn killed(&mut self, of: &Started, level: &str) -> &mut Self {
        self.episode(of, level).kill(of, "chosen", level, (Process::Init, of.pid))
    }

    /// A decision with one victim, which was not: its exit is a row of its own.
    pub(crate) fn child_killed(&mut self, of: &Started, level: &str, pid: i32) -> &mut Self {
        self.episode(of, level).kill(of, "chosen", level, (Process::Child, pid))
    }

    /// A signal that this process, which is the kubelet too, sent to a container's init, and what the kernel did
    /// with it.
    pub(crate) fn signalled(&mut self, of: &Started, signal: &str, result: &str) -> &mut Self {
        if self.rig.sees("signal") {
            let sender = std::process::id();
            self.row(format!("process_killed {} {signal} {result} pid {} by {sender}", who(of), of.pid));
        }
        self
    }

    /// Waits for the expected rows and compares; panics where they differ.
    pub(crate) async fn check(&mut self) {
        self.expected.sort();
        let expected = &self.expected;
        self.rig.within(patience(), || (self.rows().len() >= expected.len()).then_some(())).await;
        // Whatever is too much has come by then, too.
        self.rig.settle().await;
        let rows = self.rows();
        let missing: Vec<&String> = difference(expected, &rows);
        let surplus: Vec<&String> = difference(&rows, expected);
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "missing: {missing:#?}\ntoo much: {surplus:#?}\nright: {}\ngaps: {:#?}",
            expected.len() - missing.len(),
            self.rig.gaps()
        );
    }

    /// The rows that came, sorted.
    fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> = self.events().iter().map(line).collect();
        rows.sort();
        rows
    }

    /// The events that came.
    pub(crate) fn events(&self) -> Vec<Event> {
        let kept = self.rig.collector().kept();
        let counts = |event: &&Event| self.kinds.contains(&event.kind) && self.is_ours(event, &kept.events);
        kept.events.iter().skip(self.since).filter(counts).cloned().collect()
    }

    fn is_ours(&self, event: &Event, all: &[Event]) -> bool {
        if let Some(uid) = event.pod_uid() {
            return !self.before.contains(uid);
        }
        // Of others on this machine the agent tells OOM kills alone, with their cgroup, and their ends.
        let root = self.rig.stage().cgroup_root();
        let names_root = |event: &Event| {
            let attributes = serde_json::to_string(&event.attributes).unwrap_or_default();
            event.summary.contains(&root) || attributes.contains(root.trim_start_matches('/'))
        };
        match event.kind {
            Kind::OomEpisode | Kind::OomKill => names_root(event),
            Kind::ProcessExited => {
                let kill = all.iter().find(|kill| kill.kind == Kind::OomKill && kill.pid == event.pid);
                kill.is_none_or(names_root)
            }
            _ => true,
        }
    }

    /// What a decision is expected to say, where the agent sees decisions at all.
    fn decision<'t>(&self, constraint: &'t str, level: &'t str) -> (&'t str, &'t str) {
        if self.rig.knows("oom_decision") { (constraint, level) } else { ("-", "-") }
    }
}

/// A life of a container, as rows name it.
pub(crate) fn who(started: &Started) -> String {
    let life = &started.container;
    format!("{}/{}#{}", life.pod, life.container, life.restart_count)
}

/// One event as one line: only what no other run of the same case would have otherwise.
pub(crate) fn line(event: &Event) -> String {
    let kind = event.kind;
    let attribute = |name: &str| {
        let value = event.attributes.get(name);
        value.map_or_else(
            || "-".to_owned(),
            |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        )
    };
    let who = match (&event.pod, &event.container, event.restart_count) {
        (Some(pod), Some(container), Some(restarts)) => format!("{}/{container}#{restarts}", pod.name),
        (Some(pod), None, None) => pod.name.clone(),
        (None, None, None) => "nobody".to_owned(),
        odd => format!("{odd:?}"),
    };
    let pid = event.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let process = match event.container_init {
        Some(true) => "init",
        Some(false) => "child",
        None => "process",
    };
    let level = attribute("aftertrace.oom.level");
    match kind {
        Kind::OomEpisode => format!("{kind} {who} {} {level}", attribute("aftertrace.oom.constraint")),
        Kind::OomKill => {
            format!("{kind} {who} {} {level} {process} pid {pid}", attribute("aftertrace.oom.role"))
        }
        Kind::ProcessStarted => format!("{kind} {who} pid {pid}"),
        Kind::ProcessExited => {
            let code = event.exit_code.map_or_else(|| "-".to_owned(), |code| code.to_string());
            format!("{kind} {who} {code} {process} pid {pid}")
        }
        Kind::ProcessKilled => {
            let signal = event.reason.as_deref().unwrap_or("-");
            let (result, sender) = (attribute(SIGNAL_RESULT), attribute(SENDER_PID));
            format!("{kind} {who} {signal} {result} pid {pid} by {sender}")
        }
        _ => crate::config::line(event, &who),
    }
}

/// What is in `all` more often than in `others`.
fn difference<'t>(all: &'t [String], others: &[String]) -> Vec<&'t String> {
    let mut rest: Vec<&String> = others.iter().collect();
    let mut surplus = Vec::new();
    for row in all {
        match rest.iter().position(|other| *other == row) {
            Some(place) => {
                rest.swap_remove(place);
            }
            None => surplus.push(row),
        }
    }
    surplus
}
