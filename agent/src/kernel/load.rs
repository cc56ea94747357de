//! Loads the programs into the kernel and attaches them, subject by subject.
//!
//! What no subject can do without (permission, BTF, the ring buffer) is an error here. A hook that is
//! refused costs its subject, a fact that is missing costs that fact; both are told in [`SubjectStatus`].

use std::{
    fs, io,
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use aftertrace_ebpf_common::{
    config::{Config, NO_OFFSET, RenameFormat, mark_victim_passes},
    limits,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, PerCpuArray, RingBuf},
    programs::{Program, ProgramError},
};
use tracing::{debug, info, warn};
use zerocopy::IntoBytes as _;

use super::{
    btf::{Btf, BtfError},
    decode::Decoder,
    drain::Drain,
    hook::{self, HookError, MissingHook, Subject, SubjectStatus, Tier},
    loss::{Losses, WatchedProgram},
    offsets::{self, Located, MissingFact},
    record::RenameCall,
    tracefs::{self, Tracefs, TracefsError},
};

/// The programs, built by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/aftertrace-ebpf"));

/// How the kernel side is set up.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Bytes of the ring buffer; rounded up to a power of two of pages. Default 1 MiB, about 380 OOM kills
    /// or 850 swaps; raise it if `aft status` shows `ring_full_*`.
    pub ring_bytes: NonZeroU32,
    /// Where the kernel offers its types. Default `/sys/kernel/btf/vmlinux`; another place for kernels that
    /// have none and for which a file is at hand.
    pub btf_path: PathBuf,
    /// Whether tracefs may be mounted at its usual place if it is nowhere. Default true.
    pub may_mount_tracefs: bool,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            ring_bytes: NonZeroU32::new(limits::DEFAULT_RING_BYTES).expect("the default is not zero"),
            btf_path: PathBuf::from("/sys/kernel/btf/vmlinux"),
            may_mount_tracefs: true,
        }
    }
}

/// Why nothing at all could be loaded; each says the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The agent may not load programs.
    #[error(
        "loading programs into the kernel is not permitted; run the agent as root, or with CAP_BPF, CAP_PERFMON \
         and CAP_SYS_ADMIN (in a pod: securityContext.privileged)"
    )]
    NotPermitted(#[source] EbpfError),
    /// The kernel does not offer its types.
    #[error(
        "the kernel's types could not be read from {path}; a kernel built with CONFIG_DEBUG_INFO_BTF=y is needed \
         (`ls /sys/kernel/btf`), with /sys mounted"
    )]
    NoBtf {
        /// Where they were looked for.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// What the kernel offers is not understood.
    #[error("the kernel's types in {path} are not understood; report this with the kernel's version")]
    BadBtf {
        /// Where they were read.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: BtfError,
    },
    /// The kernel did not take the maps or the object.
    #[error("the kernel did not take the programs; Linux 5.8 or newer with CONFIG_BPF_SYSCALL=y is needed")]
    Object(#[source] EbpfError),
    /// A map that every build has could not be opened.
    #[error("the map {name} could not be opened")]
    Map {
        /// The map's name.
        name: &'static str,
        /// What the loader said.
        #[source]
        source: MapError,
    },
    /// A map that every build has is not there: a defect of this build.
    #[error("this build's programs have no map {0}; report this")]
    NoMap(&'static str),
}

/// The loaded programs. They are detached when this is dropped.
pub struct Attached {
    subjects: Vec<SubjectStatus>,
    _programs: Ebpf,
}

impl Attached {
    /// What is observed and how, one entry per subject, in the order of [`Subject::ALL`].
    #[must_use]
    pub fn subjects(&self) -> &[SubjectStatus] {
        &self.subjects
    }
}

/// The kernel side, in the three parts that have different owners.
pub struct Kernel {
    /// Keeps the programs attached, and tells their state.
    pub attached: Attached,
    /// The records.
    pub drain: Drain,
    /// What is missing from the records.
    pub losses: Losses,
}

/// One program: its name in the object, its hook and its subject.
struct Binding {
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
const BINDINGS: [Binding; 9] = [
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

impl Kernel {
    /// Loads and attaches whatever this kernel takes.
    ///
    /// # Errors
    /// See [`LoadError`]. That a subject could not be observed is no error: its status says so.
    pub fn load(config: &KernelConfig) -> Result<Self, LoadError> {
        let located = locate(config)?;
        let formats = RenameFormats::read(config.may_mount_tracefs);
        let told = Config {
            offsets: located.offsets,
            renames: formats.places(),
            mark_victim_passes: located.mark_victim_passes,
        };
        let mut programs = EbpfLoader::new()
            // The programs need no relocation, so the loader need not keep the kernel's types.
            .btf(None)
            .override_global("CONFIG", told.as_bytes(), true)
            .map_max_entries("EVENTS", config.ring_bytes.get())
            .load(OBJECT)
            .map_err(object_error)?;
        #[cfg(feature = "kernel-log")]
        super::diagnosis::start(&mut programs);

        let mut status = Status::new(&located);
        let mut watched = Vec::new();
        for binding in &BINDINGS {
            match attach(&mut programs, binding, &located, &formats) {
                Ok(program) => {
                    status.attached(binding);
                    watched.push(program);
                }
                Err(error) => status.missing(binding, error),
            }
        }
        let subjects = status.finish();

        let malformed = Arc::new(AtomicU64::new(0));
        let ring = RingBuf::try_from(take_map(&mut programs, "EVENTS")?)
            .map_err(|source| LoadError::Map { name: "EVENTS", source })?;
        let counters = PerCpuArray::try_from(take_map(&mut programs, "LOSSES")?)
            .map_err(|source| LoadError::Map { name: "LOSSES", source })?;
        let decoder = Decoder::new(rustix::param::page_size() as u64);
        Ok(Self {
            attached: Attached { subjects, _programs: programs },
            drain: Drain::new(ring, decoder, Arc::clone(&malformed)),
            losses: Losses::new(counters, watched, malformed),
        })
    }
}

/// BTF → offsets.
fn locate(config: &KernelConfig) -> Result<Located, LoadError> {
    let path = &config.btf_path;
    let blob = fs::read(path).map_err(|source| LoadError::NoBtf { path: path.clone(), source })?;
    let btf = Btf::parse(&blob).map_err(|source| LoadError::BadBtf { path: path.clone(), source })?;
    let located = offsets::locate(&btf);
    debug!(bytes = blob.len(), missing = located.missing.len(), "located the kernel's members");
    Ok(located)
}

/// The formats of the rename calls, or why there are none.
struct RenameFormats {
    tracefs: Result<(), TracefsError>,
    /// By [`RenameCall`]; nothing where the kernel has no such call.
    formats: [Result<RenameFormat, TracefsError>; 3],
}

impl RenameFormats {
    fn read(may_mount: bool) -> Self {
        let absent = |call: RenameCall| Err(TracefsError::NoSuchTracepoint(call.as_str().to_owned()));
        let calls = [RenameCall::Rename, RenameCall::Renameat, RenameCall::Renameat2];
        match Tracefs::open(may_mount) {
            Ok(tracefs) => Self { tracefs: Ok(()), formats: calls.map(|call| rename_format(&tracefs, call)) },
            Err(error) => Self { tracefs: Err(error), formats: calls.map(absent) },
        }
    }

    fn places(&self) -> [RenameFormat; 3] {
        self.formats.each_ref().map(|format| format.as_ref().copied().unwrap_or(RenameFormat::NONE))
    }
}

/// One call's format, entry and exit.
fn rename_format(tracefs: &Tracefs, call: RenameCall) -> Result<RenameFormat, TracefsError> {
    let enter = tracefs.format("syscalls", &format!("sys_enter_{}", call.as_str()))?;
    let exit = tracefs.format("syscalls", &format!("sys_exit_{}", call.as_str()))?;
    // Arguments stand in eight bytes each, whatever their type; the programs read from their low end.
    let place = |text: &str, name| tracefs::field(text, name).map_or(NO_OFFSET, |field| field.offset);
    Ok(RenameFormat {
        old_name: place(&enter, "oldname"),
        new_name: place(&enter, "newname"),
        old_dfd: place(&enter, "olddfd"),
        new_dfd: place(&enter, "newdfd"),
        flags: place(&enter, "flags"),
        ret: place(&exit, "ret"),
    })
}

/// Loads and attaches one program.
fn attach(
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
            has_format(formats, call)?;
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

/// A call without a format is not attached.
fn has_format(formats: &RenameFormats, call: RenameCall) -> Result<(), HookError> {
    if let Err(TracefsError::NotMounted(source)) = &formats.tracefs {
        return Err(TracefsError::NotMounted(io::Error::new(source.kind(), source.to_string())).into());
    }
    match &formats.formats[call as usize] {
        Ok(format) if format.new_name != NO_OFFSET && format.ret != NO_OFFSET => Ok(()),
        Ok(_) | Err(TracefsError::NoSuchTracepoint(_) | TracefsError::NotMounted(_)) => {
            Err(HookError::Absent)
        }
        Err(TracefsError::Unreadable { tracepoint, source }) => {
            let source = io::Error::new(source.kind(), source.to_string());
            Err(TracefsError::Unreadable { tracepoint: tracepoint.clone(), source }.into())
        }
    }
}

/// Sorts a failure of the whole object.
fn object_error(error: EbpfError) -> LoadError {
    match hook::errno(&error) {
        Some(hook::libc_errno::EPERM | hook::libc_errno::EACCES) => LoadError::NotPermitted(error),
        _ => LoadError::Object(error),
    }
}

fn take_map(programs: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, LoadError> {
    programs.take_map(name).ok_or(LoadError::NoMap(name))
}

/// Gathers what came of each subject.
struct Status {
    subjects: Vec<SubjectStatus>,
}

impl Status {
    fn new(located: &Located) -> Self {
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

    fn attached(&mut self, binding: &Binding) {
        self.of(binding.subject).hooks.push(binding.hook.label());
    }

    fn missing(&mut self, binding: &Binding, error: HookError) {
        let hook = binding.hook.label();
        self.of(binding.subject).missing_hooks.push(MissingHook { hook, error });
    }

    /// Decides which subjects are observed, and logs it.
    fn finish(mut self) -> Vec<SubjectStatus> {
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
