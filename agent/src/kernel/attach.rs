//! One program at a time: is it of any use here, does the kernel take it, what came of each subject.
//!
//! Programs of one subject are attached in the order of [`BINDINGS`], so that what one hook remembers for
//! another finds that other attached already.

use aftertrace_ebpf_common::config::{NO_OFFSET, mark_victim_passes};
use aya::{
    Ebpf,
    programs::{Program, ProgramError},
};
use tracing::{debug, info, warn};

use super::{
    hook::{HookError, MissingHook, Subject, SubjectStatus, Tier},
    loss::WatchedProgram,
    offsets::{Located, MissingFact},
    record::RenameCall,
    tracefs::RenameFormats,
};

/// One program: its name in the object, its hook and its subject.
pub(super) struct Binding {
    program: &'static str,
    hook: Hook,
    subject: Subject,
}

/// What a program is attached to.
#[derive(Clone, Copy)]
enum Hook {
    /// A raw tracepoint.
    Raw(&'static str),
    /// A system call's entry or exit.
    Syscall { name: &'static str, call: RenameCall },
}

impl Hook {
    /// The hook's name in status and events.
    fn label(self) -> &'static str {
        match self {
            Self::Raw("signal_generate") => "raw_tp:signal_generate",
            Self::Raw("mark_victim") => "raw_tp:mark_victim",
            Self::Raw(_) => "raw_tp:sched_process_exit",
            Self::Syscall { name, .. } => name,
        }
    }
}

/// All programs, in the order in which they are attached: what a hook hands on to is there before it.
pub(super) const BINDINGS: [Binding; 9] = [
    raw("sched_process_exit", Subject::OomExit),
    raw("mark_victim", Subject::OomKill),
    raw("signal_generate", Subject::OomKill),
    syscall("exit_rename", "tp:syscalls/sys_exit_rename", RenameCall::Rename),
    syscall("exit_renameat", "tp:syscalls/sys_exit_renameat", RenameCall::Renameat),
    syscall("exit_renameat2", "tp:syscalls/sys_exit_renameat2", RenameCall::Renameat2),
    syscall("enter_rename", "tp:syscalls/sys_enter_rename", RenameCall::Rename),
    syscall("enter_renameat", "tp:syscalls/sys_enter_renameat", RenameCall::Renameat),
    syscall("enter_renameat2", "tp:syscalls/sys_enter_renameat2", RenameCall::Renameat2),
];

const fn raw(name: &'static str, subject: Subject) -> Binding {
    Binding { program: name, hook: Hook::Raw(name), subject }
}

const fn syscall(program: &'static str, name: &'static str, call: RenameCall) -> Binding {
    Binding { program, hook: Hook::Syscall { name, call }, subject: Subject::Swap }
}

/// Loads and attaches one program.
pub(super) fn attach(
    programs: &mut Ebpf,
    binding: &Binding,
    located: &Located,
    formats: &RenameFormats,
) -> Result<WatchedProgram, HookError> {
    check_needs(binding, located)?;
    let program = programs.program_mut(binding.program).ok_or(HookError::NotBuilt)?;
    let attached = match (binding.hook, program) {
        (Hook::Raw(name), Program::RawTracePoint(program)) => program
            .load()
            .and_then(|()| program.attach(name).map(drop))
            .and_then(|()| program.fd()?.try_clone().map_err(ProgramError::from)),
        (Hook::Syscall { name, call }, Program::TracePoint(program)) => {
            formats.check(call)?;
            let tracepoint = name.rsplit('/').next().unwrap_or(name);
            program
                .load()
                .and_then(|()| program.attach("syscalls", tracepoint).map(drop))
                .and_then(|()| program.fd()?.try_clone().map_err(ProgramError::from))
        }
        _ => return Err(HookError::NotBuilt),
    };
    let fd = attached.map_err(HookError::from_program)?;
    Ok(WatchedProgram { hook: binding.hook.label(), fd, seen: 0 })
}

/// A hook whose records would say nothing is not attached.
fn check_needs(binding: &Binding, located: &Located) -> Result<(), HookError> {
    let o = &located.offsets;
    let is_pairing_known = located.mark_victim_passes != mark_victim_passes::UNKNOWN;
    let needs: &[(bool, &str)] = match binding.subject {
        Subject::OomKill => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (is_pairing_known, "which task mark_victim names"),
        ],
        Subject::OomExit => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.task_signal != NO_OFFSET, "a task's signal state"),
            (o.signal_live != NO_OFFSET, "which thread exits last"),
        ],
        Subject::Swap => {
            &[(o.task_tgid != NO_OFFSET, "a task's tgid"), (o.task_pid != NO_OFFSET, "a task's tid")]
        }
    };
    let Some((_, fact)) = needs.iter().find(|(is_known, _)| !is_known) else { return Ok(()) };
    let missing = located.missing.iter().find(|missing| missing.fact == *fact).cloned();
    Err(missing.map_or(HookError::NotBuilt, HookError::NeedsFact))
}

/// Gathers what came of each subject.
pub(super) struct Status {
    subjects: Vec<SubjectStatus>,
}

impl Status {
    pub(super) fn new(located: &Located) -> Self {
        let subjects = Subject::ALL.map(|subject| {
            let lacks = |missing: &&MissingFact| missing.subjects.contains(&subject);
            SubjectStatus {
                subject,
                tier: None,
                hooks: Vec::new(),
                missing_hooks: Vec::new(),
                missing_facts: located.missing.iter().filter(lacks).cloned().collect(),
            }
        });
        Self { subjects: subjects.into() }
    }

    fn of(&mut self, subject: Subject) -> &mut SubjectStatus {
        self.subjects
            .iter_mut()
            .find(|status| status.subject == subject)
            .expect("new() makes one for each subject")
    }

    pub(super) fn attached(&mut self, binding: &Binding) {
        self.of(binding.subject).hooks.push(binding.hook.label());
    }

    pub(super) fn missing(&mut self, binding: &Binding, error: HookError) {
        let hook = binding.hook.label();
        self.of(binding.subject).missing_hooks.push(MissingHook { hook, error });
    }

    /// Decides which subjects are observed, and logs it.
    pub(super) fn finish(mut self) -> Vec<SubjectStatus> {
        for status in &mut self.subjects {
            let is_observed = match status.subject {
                // Either of the pair alone says nothing.
                Subject::OomKill => status.missing_hooks.is_empty(),
                Subject::OomExit => !status.hooks.is_empty(),
                // One call's entry and exit are enough; which call a writer uses is its own affair.
                Subject::Swap => {
                    let has = |edge: &str, call: &str| {
                        status.hooks.iter().any(|hook| *hook == format!("tp:syscalls/sys_{edge}_{call}"))
                    };
                    ["rename", "renameat", "renameat2"]
                        .iter()
                        .any(|call| has("enter", call) && has("exit", call))
                }
            };
            status.tier = is_observed.then_some(Tier::Tracepoint);
            match status.tier {
                Some(tier) => {
                    info!(subject = %status.subject, tier = tier.as_str(), hooks = ?status.hooks, "observing")
                }
                None => warn!(subject = %status.subject, "not observed"),
            }
            for MissingHook { hook, error } in &status.missing_hooks {
                match error {
                    // Of the rename calls each architecture has its own.
                    HookError::Absent if is_observed => debug!(hook, "this kernel has no such hook"),
                    error => warn!(subject = %status.subject, hook, %error, "a hook is missing"),
                }
            }
            for fact in &status.missing_facts {
                warn!(subject = %status.subject, %fact, "a fact is missing from this subject's records");
            }
        }
        self.subjects
    }
}
