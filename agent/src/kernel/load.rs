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
    config::{Config, NO_OFFSET},
    limits,
};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, PerCpuArray, RingBuf},
};
use tracing::debug;
use zerocopy::IntoBytes as _;

use super::{
    attach::{Target, attach_all},
    btf::{Btf, BtfError},
    decode::Decoder,
    drain::Drain,
    hook::{self, SubjectStatus},
    loss::Losses,
    offsets::{self, Located},
    pod_cgroups::{FoundCgroup, KubeletCgroups, PodCgroups},
    stalls::Stalls,
    tracefs::CallFormats,
    volumes::WatchedVolumes,
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
    /// Where the kubelet's cgroups are. Default none: no process is taken for a pod's then.
    pub kubelet_cgroups: Option<KubeletCgroups>,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self {
            ring_bytes: NonZeroU32::new(limits::DEFAULT_RING_BYTES).expect("the default is not zero"),
            btf_path: PathBuf::from("/sys/kernel/btf/vmlinux"),
            may_mount_tracefs: true,
            kubelet_cgroups: None,
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
    /// What is observed and how, one entry per subject, in the order of [`super::Subject::ALL`].
    #[must_use]
    pub fn subjects(&self) -> &[SubjectStatus] {
        &self.subjects
    }
}

/// The kernel side, in the three parts that have different owners.
pub struct Kernel {
    /// Keeps the programs attached, and tells their state.
    pub attached: Attached,
    /// Which cgroups are the kubelet's; has been scanned once.
    pub pod_cgroups: PodCgroups,
    /// What that scan found. What was made since then is told by records, some of which may be of these.
    pub found_cgroups: Vec<FoundCgroup>,
    /// The records.
    pub drain: Drain,
    /// What is missing from the records.
    pub losses: Losses,
    /// How long cgroups' tasks wait for reclaim.
    pub stalls: Stalls,
    /// The volumes whose opens are seen; none yet.
    pub volumes: WatchedVolumes,
}

impl Kernel {
    /// Loads and attaches whatever this kernel takes.
    ///
    /// # Errors
    /// See [`LoadError`]. That a subject could not be observed is no error: its status says so.
    pub fn load(config: &KernelConfig) -> Result<Self, LoadError> {
        let located = locate(config)?;
        let formats = CallFormats::read(config.may_mount_tracefs);
        let told = Config {
            offsets: located.offsets,
            renames: formats.renames(),
            opens: formats.opens(),
            add_watch_fd: formats.add_watch().0,
            add_watch_ret: formats.add_watch().1,
            mark_victim_passes: located.mark_victim_passes,
            memory_controller: located.memory_controller,
            kubepods_level: config.kubelet_cgroups.as_ref().map_or(NO_OFFSET, KubeletCgroups::kubepods_level),
        };
        let mut programs = load_object(&told, config.ring_bytes)?;
        #[cfg(feature = "kernel-log")]
        super::diagnosis::start(&mut programs);

        let mut pod_cgroups = PodCgroups::new(
            take_map(&mut programs, "POD_CGROUPS")?,
            take_map(&mut programs, "AWAITED_CGROUPS")?,
            config.kubelet_cgroups.clone(),
        )?;
        // Before the hooks, lest a process go unseen, and after them, for what was made in between.
        pod_cgroups.scan();
        let oom_constraints = located.oom_constraints;
        let target = Target::new(located, formats, config.btf_path.clone());
        let (subjects, watched) = attach_all(&mut programs, &target);
        drop(target);
        let found_cgroups = pod_cgroups.scan();

        let malformed = Arc::new(AtomicU64::new(0));
        let ring = RingBuf::try_from(take_map(&mut programs, "EVENTS")?)
            .map_err(|source| LoadError::Map { name: "EVENTS", source })?;
        let counters = PerCpuArray::try_from(take_map(&mut programs, "LOSSES")?)
            .map_err(|source| LoadError::Map { name: "LOSSES", source })?;
        let stalls = aya::maps::HashMap::try_from(take_map(&mut programs, "RECLAIM_STALLS")?)
            .map_err(|source| LoadError::Map { name: "RECLAIM_STALLS", source })?;
        let roots = aya::maps::HashMap::try_from(take_map(&mut programs, "VOLUME_ROOTS")?)
            .map_err(|source| LoadError::Map { name: "VOLUME_ROOTS", source })?;
        let devices = aya::maps::HashMap::try_from(take_map(&mut programs, "VOLUME_DEVICES")?)
            .map_err(|source| LoadError::Map { name: "VOLUME_DEVICES", source })?;
        let decoder = Decoder::new(rustix::param::page_size() as u64).with_oom_constraints(oom_constraints);
        Ok(Self {
            attached: Attached { subjects, _programs: programs },
            pod_cgroups,
            found_cgroups,
            drain: Drain::new(ring, decoder, Arc::clone(&malformed)),
            losses: Losses::new(counters, watched, malformed),
            stalls: Stalls::new(stalls),
            volumes: WatchedVolumes::new(roots, devices),
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

/// Makes the maps and relocates the programs, which are then loaded one by one.
fn load_object(told: &Config, ring_bytes: NonZeroU32) -> Result<Ebpf, LoadError> {
    EbpfLoader::new()
        // The programs need no relocation, so the loader need not keep the kernel's types.
        .btf(None)
        .override_global("CONFIG", told.as_bytes(), true)
        .map_max_entries("EVENTS", ring_bytes.get())
        .load(OBJECT)
        .map_err(object_error)
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use aftertrace_ebpf_common::config::{Config, NO_OFFSET, RenameFormat, mark_victim_passes};
    use zerocopy::{FromBytes as _, IntoBytes as _};

    use super::super::{attach::load, hook::HookError, plan::PLANS};
    use super::{CallFormats, KernelConfig, LoadError, Target, load_object, locate};

    fn refused(btf_path: &Path) -> LoadError {
        let config = KernelConfig { btf_path: btf_path.to_path_buf(), ..KernelConfig::default() };
        locate(&config).expect_err("there is no BTF")
    }

    #[test]
    fn a_kernel_without_types_is_told_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let error = refused(&folder.path().join("vmlinux"));
        assert!(matches!(error, LoadError::NoBtf { .. }), "{error:?}");
        assert!(error.to_string().contains("CONFIG_DEBUG_INFO_BTF=y"), "{error}");

        let broken = folder.path().join("broken");
        fs::write(&broken, b"\x9f\xeb").unwrap();
        assert!(matches!(refused(&broken), LoadError::BadBtf { .. }));
    }

    /// The verifier sees the offsets as constants, so each missing one makes other programs of ours.
    #[test]
    fn the_kernel_takes_the_programs_whichever_fact_is_missing() {
        let config = KernelConfig::default();
        let located = match locate(&config) {
            Ok(located) => located,
            Err(error) => return println!("SKIPPED: {error}"),
        };
        let target = Target::new(located, CallFormats::read(false), config.btf_path.clone());
        let located = &target.located;
        let format =
            RenameFormat { old_name: 24, new_name: 40, old_dfd: 16, new_dfd: 32, flags: 48, ret: 16 };
        let passes = located.mark_victim_passes;
        let told = Config {
            offsets: located.offsets,
            renames: [format; 3],
            mark_victim_passes: passes,
            memory_controller: located.memory_controller,
            kubepods_level: 1,
            opens: [16; 3],
            add_watch_fd: 16,
            add_watch_ret: 16,
        };
        let without = (0..told.as_bytes().len()).step_by(4).map(|word| {
            let mut bytes = told.as_bytes().to_vec();
            bytes[word..word + 4].copy_from_slice(&NO_OFFSET.to_ne_bytes());
            Config::read_from_bytes(&bytes).unwrap()
        });
        let older = Config { mark_victim_passes: mark_victim_passes::PID, ..told };
        for lacking in without.chain([older]) {
            let mut programs = match load_object(&lacking, config.ring_bytes) {
                Ok(programs) => programs,
                Err(error @ LoadError::NotPermitted(_)) => return println!("SKIPPED: {error}"),
                Err(error) => panic!("{error}: {error:?}"),
            };
            for (name, program) in programs.programs_mut() {
                let label = PLANS.iter().flat_map(|p| p.hooks).find(|h| h.program == name);
                let label = label.unwrap_or_else(|| panic!("{name} is in no plan")).label;
                match load(program, label, &target) {
                    // Locked down, or without the function: the tracing tier is not for this kernel.
                    Err(HookError::NotPermitted(_) | HookError::Absent) if label.starts_with('f') => {}
                    loaded => assert!(loaded.is_ok(), "{name} with {lacking:?}: {loaded:?}"),
                }
            }
        }
    }
}
