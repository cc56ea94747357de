//! What the kernel side looks at, how, and what is missing: the part that `aft status` shows.

use std::{fmt, fs, io};

use aya::{BtfError, programs::ProgramError};

use super::{offsets::MissingFact, tracefs::TracefsError};

/// One thing that is observed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// What a task did before the OOM killer came, from which the limit that fired follows.
    Reclaim,
    /// Why the OOM killer kills.
    OomDecision,
    /// Who sends SIGKILL or SIGTERM to the init of a container.
    Signal,
    /// Whom the OOM killer kills.
    OomKill,
    /// Which cgroups are the kubelet's, and when processes in them begin and end.
    Lifetime,
    /// Renames onto `..data`.
    Swap,
    /// First opens of files of registered volumes.
    Read,
    /// Who watches registered volumes by inotify, and who is told of a swap.
    Notify,
}

impl Subject {
    /// All subjects, in the order in which they are attached: what a hook hands on to is there before it.
    pub const ALL: [Self; 8] = [
        Self::Lifetime,
        Self::Signal,
        Self::Reclaim,
        Self::OomDecision,
        Self::OomKill,
        Self::Notify,
        Self::Read,
        Self::Swap,
    ];

    /// The name in `aft status` and in losses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reclaim => "reclaim",
            Self::OomDecision => "oom_decision",
            Self::OomKill => "oom_kill",
            Self::Lifetime => "lifetime",
            Self::Signal => "signal",
            Self::Swap => "swap",
            Self::Read => "config_read",
            Self::Notify => "config_notify",
        }
    }

    /// What is not seen because of the tier, for `aft status`.
    #[must_use]
    pub fn blind_spots(self, tier: Tier) -> &'static [&'static str] {
        match (self, tier) {
            (Self::Swap, Tier::Tracepoint) => {
                &["renames by io_uring and by 32-bit programs, which run no system-call tracepoint"]
            }
            (Self::Read, Tier::Tracepoint) => &["files opened by io_uring, by 32-bit programs, or by handle"],
            (Self::Notify, Tier::Tracepoint) => &[
                "whether a watcher of a volume was told of its swap (only who watches, and which watches are dead)",
            ],
            (Self::Notify, Tier::Tracing) => {
                &["watchers from before the agent's start, until they add a watch"]
            }
            (Self::OomDecision, Tier::Tracepoint) => &[
                "constraint, allocation flags and total pages of an OOM decision",
                "the limit that fired, where decisions for two limits of one container coincide",
            ],
            (Self::Lifetime | Self::Signal, _) => {
                &["inits of containers whose pod shares its processes' namespace, or the host's"]
            }
            _ => &[],
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a subject is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// By the entry and exit of kernel functions (fentry, fexit), where the kernel allows it.
    Tracing,
    /// By tracepoints and raw tracepoints, which every kernel from 5.8 on has.
    Tracepoint,
}

impl Tier {
    /// The name in `aft status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tracing => "tracing",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// One hook that could not be had.
#[derive(Debug)]
pub struct MissingHook {
    /// The hook, e.g. `tp:syscalls/sys_enter_rename`.
    pub hook: &'static str,
    /// Why.
    pub error: HookError,
}

/// What one subject has and lacks.
#[derive(Debug)]
pub struct SubjectStatus {
    /// Which subject.
    pub subject: Subject,
    /// How it is observed; nothing if it is not observed at all.
    pub tier: Option<Tier>,
    /// The hooks that are attached, e.g. `raw_tp:mark_victim`; the value of an event's `hook`.
    pub hooks: Vec<&'static str>,
    /// The hooks that are not. A system call that this architecture lacks is among them, and no harm.
    pub missing_hooks: Vec<MissingHook>,
    /// The facts that this kernel does not offer.
    pub missing_facts: Vec<MissingFact>,
}

/// Why a hook is not there; each says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The agent may not.
    #[error("not permitted; run the agent as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN")]
    NotPermitted(#[source] ProgramError),
    /// The kernel lets nobody read its memory, not even root.
    #[error(
        "the kernel is in lockdown mode `confidentiality`, in which no program may read its memory; boot with \
         `lockdown=integrity` or less"
    )]
    LockedDown(#[source] Box<HookError>),
    /// The kernel has no such hook.
    #[error("this kernel has no such hook; nothing can be done short of another kernel")]
    Absent,
    /// The kernel's verifier does not accept the program.
    #[error("the kernel's verifier refused the program; report this with the kernel's version: {log}")]
    Refused {
        /// What the verifier said, its last lines.
        log: String,
        /// The loader's error.
        #[source]
        source: ProgramError,
    },
    /// The kernel does not let the hook be attached.
    #[error("the kernel refused to attach the hook; check that it is built with CONFIG_BPF_EVENTS=y")]
    NotAttached(#[source] ProgramError),
    /// tracefs, which names system-call tracepoints, is not there or does not know this one.
    #[error(transparent)]
    Tracefs(TracefsError),
    /// Without this fact the hook's records would say nothing.
    #[error("not used, because the kernel does not offer {0}")]
    NeedsFact(MissingFact),
    /// The kernel's types, by which a function is found, are not understood by the loader.
    #[error("the kernel's types could not be read for hooking its functions; report this with its version")]
    NoTypes,
    /// The embedded object has no such program: a defect of this build.
    #[error("this build has no program of that name; report this")]
    NotBuilt,
}

impl From<TracefsError> for HookError {
    fn from(error: TracefsError) -> Self {
        match error {
            TracefsError::NoSuchTracepoint(_) => Self::Absent,
            error => Self::Tracefs(error),
        }
    }
}

/// Whether the kernel says that it is in lockdown mode `confidentiality`. Silence is no: a pod may not see it.
pub(super) fn is_locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|text| text.contains("[confidentiality]"))
}

impl HookError {
    /// In lockdown the kernel refuses in many ways, as each of its parts says it; one of them explains all.
    pub(super) fn in_lockdown(self) -> Self {
        match self {
            Self::Absent | Self::NeedsFact(_) | Self::NotBuilt => self,
            refused => Self::LockedDown(Box::new(refused)),
        }
    }

    /// Sorts a loader's error by what helps against it.
    pub(super) fn from_program(error: ProgramError) -> Self {
        if let ProgramError::Btf(BtfError::UnknownBtfTypeName { .. }) = error {
            return Self::Absent;
        }
        let errno = errno(&error);
        match (errno, error) {
            (Some(libc_errno::EPERM | libc_errno::EACCES), error) if !is_verifier(&error) => {
                Self::NotPermitted(error)
            }
            (Some(libc_errno::ENOENT), _) => Self::Absent,
            (_, error) if is_verifier(&error) => Self::Refused { log: verifier_log(&error), source: error },
            (_, error) => Self::NotAttached(error),
        }
    }
}

/// The errno at the root of an error, if an I/O error is among its sources.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        at = error.source();
    }
    None
}

/// The few error numbers that are told apart, the same on all of Linux's architectures.
pub(super) mod libc_errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const EACCES: i32 = 13;
}

/// True if the verifier has said something, which it does only about a program it looked at.
fn is_verifier(error: &ProgramError) -> bool {
    matches!(error, ProgramError::LoadError { verifier_log, .. } if !verifier_log.to_string().trim().is_empty())
}

/// The end of what the verifier said: it explains itself last.
fn verifier_log(error: &ProgramError) -> String {
    /// Lines kept; a guess that shows the failing instruction and the sentence about it.
    const LINES: usize = 12;
    let ProgramError::LoadError { verifier_log, .. } = error else { return String::new() };
    let text = verifier_log.to_string();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
