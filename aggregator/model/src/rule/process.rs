//! Kills: what an OOM kill or a signal ended.
//!
//! A process dies once. Of an OOM kill and a signal that both hit it the earlier one ended it, and the later
//! one must not be told as a cause: runtimes send SIGKILL to what the OOM killer has left. Rules of a node look
//! at two facts only and are never revised, so each fact says enough by itself: a signal to a process that is
//! dying already is ignored by the kernel and not `delivered` ([`crate::Kind::ProcessKilled`]), and the exit of
//! an OOM victim names its episode.

use super::{Verdict, shared};
use crate::attribute::{self, number, text};
use crate::{Event, Grade};

/// A kill ends its container if it hit the container's init. A child's death does not: PID 1 may live on, and
/// whatever ends it later is another story, even if the runtime then says `OOMKilled` from its cumulative
/// counter. Where the kernel could not tell, the status must say 137 at the time of the kill.
pub(super) fn oom_kill_ended_container(kill: &Event, terminated: &Event) -> Option<Verdict> {
    let by_signal = terminated.exit_code == Some(137);
    let ended = match kill.container_init {
        Some(init) => init && by_signal,
        None => {
            by_signal
                && terminated.reason.as_deref() == Some("OOMKilled")
                && kill.occurred.overlaps(&terminated.occurred)
        }
    };
    let exit_code = terminated.exit_code.map(|c| c.to_string());
    let restart_count = terminated.restart_count.map(|c| c.to_string());
    ended.then(|| Verdict {
        grade: Grade::Identified,
        confidence: None,
        evidence: shared(&[
            ("k8s.pod.uid", kill.pod_uid()),
            ("container.id", kill.container_id.as_deref()),
            ("restart_count", restart_count.as_deref()),
            ("exit_code", exit_code.as_deref()),
            ("killed_init", kill.container_init.map(|i| if i { "true" } else { "false" })),
        ]),
    })
}

/// The same process, and it ended at or after the kill. A victim ends by the signal it was sent: one that
/// shows another end was on its way out before.
pub(super) fn oom_kill_ended_process(kill: &Event, exit: &Event) -> Option<Verdict> {
    let sent = number(kill, attribute::OOM_SIGNAL_BOOT_NS).or(kill.boot_ns);
    let otherwise = match number(exit, attribute::EXIT_SIGNAL) {
        Some(signal) => signal != SIGKILL,
        None => exit.exit_code.is_some(),
    };
    (!otherwise && is_not_before(exit, sent)).then(|| same_process(kill, exit))
}

/// The same process, and it ended by the very signal that it was sent.
pub(super) fn signal_ended_process(kill: &Event, exit: &Event) -> Option<Verdict> {
    let sent = number(kill, attribute::SIGNAL_NUMBER)?;
    let ended_by = number(exit, attribute::EXIT_SIGNAL)?;
    (is_delivered(kill) && exit.episode_id.is_none() && sent == ended_by && is_not_before(exit, kill.boot_ns))
        .then(|| same_process(kill, exit))
}

/// The signal hit the container's init, and the status shows that signal's exit code.
pub(super) fn signal_ended_container(kill: &Event, terminated: &Event) -> Option<Verdict> {
    let sent = number(kill, attribute::SIGNAL_NUMBER)?;
    let code = terminated.exit_code?;
    let shows_it = u64::try_from(code).ok() == sent.checked_add(128);
    let (code, signal) = (code.to_string(), sent.to_string());
    let restart_count = terminated.restart_count.map(|c| c.to_string());
    (is_delivered(kill) && kill.container_init == Some(true) && shows_it).then(|| Verdict {
        grade: Grade::Identified,
        confidence: None,
        evidence: shared(&[
            ("k8s.pod.uid", kill.pod_uid()),
            ("container.id", kill.container_id.as_deref()),
            ("restart_count", restart_count.as_deref()),
            ("exit_code", Some(&code)),
            ("killed_init", Some("true")),
            (attribute::SIGNAL_NUMBER, Some(&signal)),
            (attribute::SENDER_COMMAND, text(kill, attribute::SENDER_COMMAND)),
        ]),
    })
}

/// The number of SIGKILL on every architecture Linux has.
const SIGKILL: u64 = 9;

fn is_delivered(kill: &Event) -> bool {
    text(kill, attribute::SIGNAL_RESULT) == Some(attribute::SIGNAL_DELIVERED)
}

/// One node's boot clock orders its kernel facts without a bound; where one is missing the times decide,
/// which the engine compares.
fn is_not_before(exit: &Event, sent_boot_ns: Option<u64>) -> bool {
    exit.boot_ns.zip(sent_boot_ns).is_none_or(|(exited, sent)| exited >= sent)
}

fn same_process(kill: &Event, exit: &Event) -> Verdict {
    let pid = kill.pid.map(|pid| pid.to_string());
    let start = number(kill, attribute::PROCESS_START_BOOT_NS).map(|start| start.to_string());
    let signal = number(exit, attribute::EXIT_SIGNAL).map(|signal| signal.to_string());
    Verdict {
        grade: Grade::Proven,
        confidence: None,
        evidence: shared(&[
            ("process.pid", pid.as_deref()),
            (attribute::PROCESS_START_BOOT_NS, start.as_deref()),
            (attribute::EXIT_SIGNAL, signal.as_deref()),
        ]),
    }
}
