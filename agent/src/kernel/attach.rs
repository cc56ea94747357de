//! Subject by subject: the best of its plans that this kernel takes, and what came of each hook.

use std::{cell::OnceCell, path::PathBuf};

use aftertrace_ebpf_common::config::{NO_OFFSET, mark_victim_passes};
use aya::{
    Btf, Ebpf, Endianness,
    programs::{Program, ProgramError},
};
use tracing::{debug, info, warn};

use super::{
    hook::{self, HookError, MissingHook, Subject, SubjectStatus, Tier},
    loss::WatchedProgram,
    offsets::{Located, MissingFact},
    plan::{Enough, Hook, PLANS, Plan},
    tracefs::CallFormats,
};

/// What is known of this kernel before anything is attached.
pub(super) struct Target {
    pub(super) located: Located,
    pub(super) formats: CallFormats,
    pub(super) btf_path: PathBuf,
    /// The kernel's types as the loader wants them, read when the first function is hooked: they take some
    /// 20 MB, and are dropped with the target.
    types: OnceCell<Option<Btf>>,
    is_locked_down: bool,
}

impl Target {
    pub(super) fn new(located: Located, formats: CallFormats, btf_path: PathBuf) -> Self {
        Self { located, formats, btf_path, types: OnceCell::new(), is_locked_down: hook::is_locked_down() }
    }

    fn types(&self) -> Result<&Btf, HookError> {
        let read = || Btf::parse_file(&self.btf_path, Endianness::default()).ok();
        self.types.get_or_init(read).as_ref().ok_or(HookError::NoTypes)
    }
}

/// Observes every subject as well as this kernel allows.
pub(super) fn attach_all(programs: &mut Ebpf, target: &Target) -> (Vec<SubjectStatus>, Vec<WatchedProgram>) {
    let mut watched = Vec::new();
    let subjects = Subject::ALL.map(|subject| {
        let mut status = SubjectStatus::unobserved(subject, &target.located);
        for plan in PLANS.iter().filter(|plan| plan.subject == subject) {
            if try_plan(programs, plan, target, &mut status, &mut watched) {
                break;
            }
        }
        report(&status);
        status
    });
    (subjects.into(), watched)
}

/// Attaches a plan's hooks; takes them off again if they are not enough.
fn try_plan(
    programs: &mut Ebpf,
    plan: &Plan,
    target: &Target,
    status: &mut SubjectStatus,
    watched: &mut Vec<WatchedProgram>,
) -> bool {
    if let Enough::From(others) = plan.enough
        && !others.iter().all(|label| watched.iter().any(|program| program.hook == *label))
    {
        return false;
    }
    let mut attached = Vec::new();
    for hook in plan.hooks {
        match attach(programs, hook, plan, target) {
            Ok(program) => attached.push(program),
            Err(error) => {
                let error = if target.is_locked_down { error.in_lockdown() } else { error };
                status.missing_hooks.push(MissingHook { hook: hook.label, error });
            }
        }
    }
    let labels: Vec<&'static str> = attached.iter().map(|program| program.hook).collect();
    if !plan.is_enough(&labels) {
        for hook in plan.hooks.iter().filter(|hook| labels.contains(&hook.label)) {
            programs.program_mut(hook.program).map_or(Ok(()), unload).unwrap_or_else(|error| {
                warn!(hook = hook.label, %error, "a hook that is of no use alone could not be taken off");
            });
        }
        return false;
    }
    status.tier = Some(plan.tier);
    status.hooks = labels;
    watched.append(&mut attached);
    true
}

/// Loads and attaches one program.
fn attach(
    programs: &mut Ebpf,
    hook: &Hook,
    plan: &Plan,
    target: &Target,
) -> Result<WatchedProgram, HookError> {
    check_needs(plan.subject, plan.tier, &target.located)?;
    target.formats.check(hook.label)?;
    let program = programs.program_mut(hook.program).ok_or(HookError::NotBuilt)?;
    load(program, hook.label, target)?;
    let (_, place) = hook.label.split_once(':').ok_or(HookError::NotBuilt)?;
    let attached = match program {
        Program::RawTracePoint(program) => program.attach(place).map(drop),
        Program::TracePoint(program) => {
            let (category, name) = place.split_once('/').ok_or(HookError::NotBuilt)?;
            program.attach(category, name).map(drop)
        }
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        _ => return Err(HookError::NotBuilt),
    };
    let fd = attached.and_then(|()| program.fd()?.try_clone().map_err(ProgramError::from));
    Ok(WatchedProgram { hook: hook.label, fd: fd.map_err(HookError::from_program)?, seen: 0 })
}

/// Has the verifier take one program.
pub(super) fn load(program: &mut Program, label: &str, target: &Target) -> Result<(), HookError> {
    let (kind, place) = label.split_once(':').ok_or(HookError::NotBuilt)?;
    let loaded = match (kind, program) {
        ("raw_tp", Program::RawTracePoint(program)) => program.load(),
        ("tp", Program::TracePoint(program)) => program.load(),
        ("fentry", Program::FEntry(program)) => program.load(place, target.types()?),
        ("fexit", Program::FExit(program)) => program.load(place, target.types()?),
        _ => return Err(HookError::NotBuilt),
    };
    loaded.map_err(HookError::from_program)
}

/// Takes a program off its hook and out of the kernel.
fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::RawTracePoint(program) => program.unload(),
        Program::TracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        _ => Ok(()),
    }
}

/// A hook whose records would say nothing is not attached.
fn check_needs(subject: Subject, tier: Tier, located: &Located) -> Result<(), HookError> {
    let o = &located.offsets;
    let is_pairing_known = located.mark_victim_passes != mark_victim_passes::UNKNOWN;
    let needs: &[(bool, &str)] = match subject {
        Subject::OomKill => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (is_pairing_known, "which task mark_victim names"),
        ],
        Subject::OomDecision => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.oc_chosen != NO_OFFSET, "whom the OOM killer has chosen"),
        ],
        Subject::Reclaim => &[
            (o.task_start_boottime != NO_OFFSET, "a task's start time"),
            (o.css_set_memory != NO_OFFSET, "a task's memory cgroup"),
        ],
        Subject::Lifetime => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.task_signal != NO_OFFSET, "a task's signal state"),
            (o.signal_live != NO_OFFSET, "which thread exits last"),
        ],
        Subject::Read => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.file_dentry != NO_OFFSET, "a file's directory entry"),
            (o.dentry_parent != NO_OFFSET, "a directory entry's parent"),
            (o.dentry_inode != NO_OFFSET, "a directory entry's inode"),
            (o.dentry_sb != NO_OFFSET, "a directory entry's file system"),
            (o.dentry_name != NO_OFFSET, "a directory entry's name"),
            (o.dentry_name_hash != NO_OFFSET, "the hash of a directory entry's name"),
            (o.inode_ino != NO_OFFSET, "an inode's number"),
            (o.sb_dev != NO_OFFSET, "a file system's device"),
        ],
        Subject::Signal => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.siginfo_code != NO_OFFSET, "whether a signal comes from a process"),
        ],
        Subject::Swap if tier == Tier::Tracing => &[
            (o.task_tgid != NO_OFFSET, "a task's tgid"),
            (o.task_pid != NO_OFFSET, "a task's tid"),
            (o.renamedata_new_dentry != NO_OFFSET, "what a rename renames"),
            (o.dentry_name_hash != NO_OFFSET, "the hash of a directory entry's name"),
            (o.dentry_name != NO_OFFSET, "a directory entry's name"),
            (o.dentry_parent != NO_OFFSET, "a directory entry's parent"),
            (o.dentry_inode != NO_OFFSET, "a directory entry's inode"),
            (o.dentry_sb != NO_OFFSET, "a directory entry's file system"),
            (o.inode_ino != NO_OFFSET, "an inode's number"),
            (o.sb_dev != NO_OFFSET, "a file system's device"),
        ],
        Subject::Swap => {
            &[(o.task_tgid != NO_OFFSET, "a task's tgid"), (o.task_pid != NO_OFFSET, "a task's tid")]
        }
        Subject::Notify if tier == Tier::Tracing => &[
            (o.mark_group != NO_OFFSET, "whose an inotify watch is"),
            (o.file_private != NO_OFFSET, "an inotify group"),
            (o.inode_ino != NO_OFFSET, "an inode's number"),
            (o.inode_sb != NO_OFFSET, "an inode's file system"),
            (o.sb_dev != NO_OFFSET, "a file system's device"),
            (o.qstr_name != NO_OFFSET, "the name in an inotify event"),
        ],
        Subject::Notify => &[(o.task_tgid != NO_OFFSET, "a task's tgid")],
    };
    let Some((_, fact)) = needs.iter().find(|(is_known, _)| !is_known) else { return Ok(()) };
    let missing = located.missing.iter().find(|missing| missing.fact == *fact).cloned();
    Err(missing.map_or(HookError::NotBuilt, HookError::NeedsFact))
}

impl SubjectStatus {
    fn unobserved(subject: Subject, located: &Located) -> Self {
        let lacks = |missing: &&MissingFact| missing.subjects.contains(&subject);
        Self {
            subject,
            tier: None,
            hooks: Vec::new(),
            missing_hooks: Vec::new(),
            missing_facts: located.missing.iter().filter(lacks).cloned().collect(),
        }
    }
}

/// Logs what came of a subject.
fn report(status: &SubjectStatus) {
    match status.tier {
        Some(tier) => {
            info!(subject = %status.subject, tier = tier.as_str(), hooks = ?status.hooks, "observing");
        }
        None => warn!(subject = %status.subject, "not observed"),
    }
    for MissingHook { hook, error } in &status.missing_hooks {
        if status.tier.is_some() {
            debug!(subject = %status.subject, hook, %error, "observed without this hook");
        } else {
            warn!(subject = %status.subject, hook, %error, "a hook is missing");
        }
    }
    for fact in &status.missing_facts {
        warn!(subject = %status.subject, %fact, "a fact is missing from this subject's records");
    }
}
