//! Bytes of the ring buffer → [`Record`].
//!
//! The bytes come from our own programs, and are checked all the same: a record of an unknown kind, of the
//! wrong size, or without the identity it is about is a counted loss, never a panic and never a guess.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

use aftertrace_ebpf_common::{
    limits::CGROUP_NAME_BYTES,
    record::{
        self as raw, ABSENT_I32, ABSENT_U32, ABSENT_U64, kind, last_reclaim, oom_role, open_call, pod_level,
        rename_call, signal_result,
    },
};
use zerocopy::FromBytes;

use super::record::{
    CgroupChange, Charge, ChargedLevel, Exec, Exit, FileOpen, InitExit, InitPlace, LastReclaim, Limit,
    MemcgLevel, Notice, OomConstraint, OomDecision, OomKill, OomLimit, OomRole, OpenCall, PodLevel, Record,
    Rename, RenameCall, Signal, SignalBy, SignalResult, Task, VolumeId, WatchAdded,
};

/// The working directory in place of a directory's descriptor.
const AT_FDCWD: i32 = -100;
/// The last component of every rename that is reported.
const DATA: &str = "..data";
/// What a kubelet renames onto it.
const DATA_TMP: &str = "..data_tmp";

/// Why bytes are not a record. Each is a defect, of this build or of the kernel's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than a header, or than its kind.
    #[error("a record of {0} bytes is cut short")]
    Short(usize),
    /// A kind this build does not know.
    #[error("a record is of the unknown kind {0}")]
    Kind(u32),
    /// The header states another size than the kind has.
    #[error("a record of kind {kind} states {stated} bytes")]
    Size {
        /// The record's kind.
        kind: u32,
        /// What its header says.
        stated: u32,
    },
    /// The task that the record is about has no id.
    #[error("a record names no task")]
    NoIdentity,
    /// An enumeration has a value this build does not know.
    #[error("a record has an unknown {0}")]
    Unknown(&'static str),
    /// A file or a generation has no name.
    #[error("a record lacks a name")]
    NoName,
    /// A rename's target changed in its writer's memory after the program compared it.
    #[error("a rename's target is no longer `..data`")]
    NotData,
}

/// Turns records into owned structs; knows the machine's page size, and how its kernel numbers things.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    page_bytes: u64,
    oom_constraints: [Option<u32>; 4],
}

impl Decoder {
    /// A decoder for a kernel whose pages have so many bytes.
    #[must_use]
    pub fn new(page_bytes: u64) -> Self {
        Self { page_bytes, oom_constraints: [None; 4] }
    }

    /// The same for a kernel that numbers the constraints of an OOM decision in this way, in the order of
    /// [`OomConstraint::ALL`]; without it no constraint is known.
    #[must_use]
    pub fn with_oom_constraints(self, oom_constraints: [Option<u32>; 4]) -> Self {
        Self { oom_constraints, ..self }
    }

    /// Decodes one record.
    ///
    /// # Errors
    /// See [`DecodeError`]; the record is then to be counted as lost.
    pub fn decode(self, bytes: &[u8]) -> Result<Record, DecodeError> {
        let (header, _) =
            raw::Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
        match header.kind {
            kind::OOM_KILL => self.oom_kill(whole(bytes)?).map(|kill| Record::OomKill(Box::new(kill))),
            kind::RENAME => rename(whole(bytes)?).map(|rename| Record::Rename(Box::new(rename))),
            kind::EXIT => exit(whole(bytes)?).map(Record::Exit),
            kind::EXEC => exec(whole(bytes)?).map(|exec| Record::Exec(Box::new(exec))),
            kind::INIT_EXIT => init_exit(whole(bytes)?).map(Record::InitExit),
            kind::SIGNAL => signal(whole(bytes)?).map(|signal| Record::Signal(Box::new(signal))),
            kind::CGROUP_MADE => cgroup_change(whole(bytes)?).map(Record::CgroupMade),
            kind::CGROUP_GONE => cgroup_change(whole(bytes)?).map(Record::CgroupGone),
            kind::VOLUME_RENAME => volume_rename(whole(bytes)?).map(|r| Record::Rename(Box::new(r))),
            kind::NOTICE => notice(whole(bytes)?).map(|notice| Record::Notice(Box::new(notice))),
            kind::WATCH_ADDED => watch_added(whole(bytes)?).map(Record::WatchAdded),
            kind::FILE_OPEN => file_open(whole(bytes)?).map(|open| Record::FileOpen(Box::new(open))),
            kind::OOM_DECISION => {
                self.oom_decision(whole(bytes)?).map(|decision| Record::OomDecision(Box::new(decision)))
            }
            unknown => Err(DecodeError::Kind(unknown)),
        }
    }

    fn oom_kill(self, raw: &raw::OomKill) -> Result<OomKill, DecodeError> {
        let levels = raw.levels.get(..raw.level_count as usize).ok_or(DecodeError::Unknown("level count"))?;
        Ok(OomKill {
            boot_ns: raw.header.boot_ns,
            signal_boot_ns: raw.signal_boot_ns,
            role: match raw.role {
                oom_role::MARKED => OomRole::Marked,
                oom_role::SHARED_MM => OomRole::SharedMm { marked_tgid: raw.marked_tgid },
                _ => return Err(DecodeError::Unknown("role")),
            },
            victim: task(&raw.victim)?,
            allocator: task(&raw.allocator)?,
            allocator_memcg: known(raw.allocator_memcg),
            victim_parent_memcg: known(raw.victim_parent_memcg),
            rss_anon_bytes: self.counter_bytes(raw.rss_anon_pages),
            rss_file_bytes: self.counter_bytes(raw.rss_file_pages),
            rss_shmem_bytes: self.counter_bytes(raw.rss_shmem_pages),
            swap_bytes: self.counter_bytes(raw.swap_pages),
            total_vm_bytes: self.bytes(raw.total_vm_pages),
            pgtables_bytes: known(raw.pgtables_bytes),
            oom_score_adj: (raw.oom_score_adj != ABSENT_I32).then_some(raw.oom_score_adj),
            levels: levels.iter().map(|level| self.level(level)).collect(),
            levels_truncated: raw.levels_truncated != 0,
            charge: charge(&raw.charge)?,
        })
    }

    fn oom_decision(self, raw: &raw::OomDecision) -> Result<OomDecision, DecodeError> {
        let levels = raw.levels.get(..raw.level_count as usize).ok_or(DecodeError::Unknown("level count"))?;
        let limit = match known(raw.memcg) {
            Some(id) => OomLimit::Memcg(id),
            None if raw.memcg_is_null == 1 => OomLimit::Machine,
            None => OomLimit::Unknown,
        };
        let constraint = self.oom_constraints.iter().position(|value| *value == Some(raw.constraint));
        Ok(OomDecision {
            boot_ns: raw.header.boot_ns,
            allocator: task(&raw.allocator)?,
            chosen: task(&raw.chosen)?,
            constraint: constraint.and_then(|index| OomConstraint::ALL.get(index).copied()),
            limit,
            total_pages: known(raw.total_pages),
            chosen_points: known(raw.chosen_points),
            gfp_mask: known_u32(raw.gfp_mask),
            order: (raw.order != ABSENT_I32).then_some(raw.order),
            reclaims: known(raw.reclaims),
            levels: levels.iter().map(|level| self.level(level)).collect(),
            levels_truncated: raw.levels_truncated != 0,
        })
    }

    fn level(self, raw: &raw::MemcgLevel) -> MemcgLevel {
        let (name, name_truncated) = name(&raw.name);
        MemcgLevel {
            kernfs_id: known(raw.kernfs_id),
            name,
            name_truncated,
            usage_bytes: self.bytes(raw.usage_pages),
            limit: known(raw.limit_pages).map(|pages| self.limit(pages)),
            max_events: known(raw.max_events),
            oom_events: known(raw.oom_events),
            oom_kill_events: known(raw.oom_kill_events),
            oom_group_kill_events: known(raw.oom_group_kill_events),
            oom_group: known_u32(raw.oom_group).map(|flag| flag != 0),
            under_oom: known_u32(raw.under_oom).map(|depth| depth != 0),
        }
    }

    /// `PAGE_COUNTER_MAX` (`include/linux/page_counter.h`) is `LONG_MAX / PAGE_SIZE` where `long` has 64 bits.
    fn limit(self, pages: u64) -> Limit {
        let none = i64::MAX as u64 / self.page_bytes;
        if pages >= none { Limit::Unlimited } else { Limit::Bytes(pages * self.page_bytes) }
    }

    /// Pages to bytes. Saturates: no machine has that memory, so only a broken record gets there.
    fn bytes(self, pages: u64) -> Option<u64> {
        known(pages).map(|pages| pages.saturating_mul(self.page_bytes))
    }

    /// As [`Self::bytes`], for a signed counter that may stand below zero while CPUs hold pages back; the
    /// kernel log prints zero then, and so do we. Absent is −1 in that reading, and stays absent: on a
    /// counter that does stand at −1 one page less than none is said to be unknown.
    fn counter_bytes(self, pages: u64) -> Option<u64> {
        known(pages).and_then(|pages| self.bytes(if (pages as i64) < 0 { 0 } else { pages }))
    }
}

fn charge(raw: &raw::Charge) -> Result<Charge, DecodeError> {
    let levels = raw.levels.get(..raw.level_count as usize).ok_or(DecodeError::Unknown("level count"))?;
    let level = |raw: &raw::ChargedLevel| {
        let (name, name_truncated) = name(&raw.name);
        ChargedLevel {
            kernfs_id: known(raw.kernfs_id),
            oom_events: known(raw.oom_events),
            oom_events_before: known(raw.oom_events_before),
            name,
            name_truncated,
        }
    };
    Ok(Charge {
        reclaims: known(raw.reclaims),
        last_reclaim: match raw.last_reclaim {
            last_reclaim::NONE => None,
            last_reclaim::MEMCG => Some(LastReclaim::Memcg),
            last_reclaim::DIRECT => Some(LastReclaim::Direct),
            last_reclaim::DIRECT_AFTER_OOM => Some(LastReclaim::DirectAfterOom),
            last_reclaim::MEMCG_OF_ANOTHER => Some(LastReclaim::MemcgOfAnother),
            _ => return Err(DecodeError::Unknown("last reclaim")),
        },
        levels: levels.iter().map(level).collect(),
        levels_truncated: raw.levels_truncated != 0,
    })
}

/// A cgroup directory's name, and whether it may have been longer.
fn name(bytes: &[u8]) -> (Option<String>, bool) {
    let name = until_nul(bytes);
    ((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()), name.len() + 1 >= bytes.len())
}

fn rename(raw: &raw::Rename) -> Result<Rename, DecodeError> {
    let new_path = path(&raw.new_path);
    if new_path.file_name() != Some(OsStr::new(DATA)) {
        return Err(DecodeError::NotData);
    }
    Ok(Rename {
        boot_ns: raw.header.boot_ns,
        enter_boot_ns: raw.enter_boot_ns,
        writer: task(&raw.writer)?,
        mount_namespace: known_u32(raw.mount_namespace),
        result: result(raw.result)?,
        call: match raw.call {
            rename_call::RENAME => RenameCall::Rename,
            rename_call::RENAMEAT => RenameCall::Renameat,
            rename_call::RENAMEAT2 => RenameCall::Renameat2,
            _ => return Err(DecodeError::Unknown("rename call")),
        },
        old_dfd: (raw.old_dfd != AT_FDCWD).then_some(raw.old_dfd),
        new_dfd: (raw.new_dfd != AT_FDCWD).then_some(raw.new_dfd),
        flags: raw.flags,
        old_path: path(&raw.old_path),
        new_path,
        volume: None,
    })
}

fn result(raw: i64) -> Result<Result<(), i32>, DecodeError> {
    match raw {
        0 => Ok(Ok(())),
        // The kernel's error numbers are 1 to 4095; anything else was not read.
        error @ -4095..0 => Ok(Err(-error as i32)),
        _ => Err(DecodeError::Unknown("result")),
    }
}

fn volume_rename(raw: &raw::VolumeRename) -> Result<Rename, DecodeError> {
    Ok(Rename {
        boot_ns: raw.header.boot_ns,
        enter_boot_ns: raw.enter_boot_ns,
        writer: task(&raw.writer)?,
        mount_namespace: known_u32(raw.mount_namespace),
        result: result(raw.result)?,
        call: RenameCall::Any,
        old_dfd: None,
        new_dfd: None,
        flags: 0,
        old_path: PathBuf::from(if raw.is_staged == 1 { DATA_TMP } else { "" }),
        new_path: PathBuf::from(DATA),
        volume: Some(volume(raw.volume)?),
    })
}

fn notice(raw: &raw::Notice) -> Result<Notice, DecodeError> {
    let comm = until_nul(&raw.comm);
    Ok(Notice {
        boot_ns: raw.header.boot_ns,
        cgroup_id: known(raw.cgroup_id),
        tgid: known_u32(raw.tgid).ok_or(DecodeError::NoIdentity)?,
        process_start_boot_ns: known(raw.process_start_boot_ns),
        comm: (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned()),
        volume: volume(raw.volume)?,
        mask: raw.mask,
    })
}

fn watch_added(raw: &raw::WatchAdded) -> Result<WatchAdded, DecodeError> {
    Ok(WatchAdded { boot_ns: raw.header.boot_ns, task: task(&raw.task)?, cgroup_id: known(raw.cgroup_id) })
}

fn file_open(raw: &raw::FileOpen) -> Result<FileOpen, DecodeError> {
    let name = |bytes| match until_nul(bytes) {
        [] => Err(DecodeError::NoName),
        name => Ok(String::from_utf8_lossy(name).into_owned()),
    };
    Ok(FileOpen {
        boot_ns: raw.header.boot_ns,
        task: task(&raw.task)?,
        cgroup_id: known(raw.cgroup_id),
        volume: volume(raw.volume)?,
        inode: known(raw.inode),
        is_direct: raw.depth == 1,
        generation: name(&raw.generation)?,
        name: name(&raw.name)?,
        call: match raw.call {
            open_call::OPEN => Some(OpenCall::Open),
            open_call::OPENAT => Some(OpenCall::Openat),
            open_call::OPENAT2 => Some(OpenCall::Openat2),
            open_call::ANY => None,
            _ => return Err(DecodeError::Unknown("open call")),
        },
    })
}

fn volume([device, inode]: raw::VolumeKey) -> Result<VolumeId, DecodeError> {
    let device = u32::try_from(device).map_err(|_| DecodeError::Unknown("device"))?;
    Ok(VolumeId { device, inode })
}

fn exit(raw: &raw::Exit) -> Result<Exit, DecodeError> {
    let (signal, code) = ended_by(raw.wait_status);
    Ok(Exit {
        boot_ns: raw.header.boot_ns,
        kill_boot_ns: raw.kill_boot_ns,
        task: task(&raw.task)?,
        signal,
        code,
    })
}

/// The signal that ended a process, or else the code it exited with, of a status as `wait(2)` has it.
fn ended_by(wait_status: u32) -> (Option<u32>, Option<u32>) {
    let status = known_u32(wait_status);
    let signal = status.map(|status| status & 0x7f).filter(|&signal| signal != 0);
    (signal, status.filter(|_| signal.is_none()).map(|status| (status >> 8) & 0xff))
}

fn exec(raw: &raw::Exec) -> Result<Exec, DecodeError> {
    let executable = until_nul(&raw.executable);
    Ok(Exec {
        boot_ns: raw.header.boot_ns,
        task: task(&raw.task)?,
        parent: task(&raw.parent).ok(),
        place: init_place(raw.memcg, raw.member)?,
        executable: (!executable.is_empty()).then(|| String::from_utf8_lossy(executable).into_owned()),
    })
}

fn init_exit(raw: &raw::InitExit) -> Result<InitExit, DecodeError> {
    let (signal, code) = ended_by(raw.wait_status);
    Ok(InitExit {
        boot_ns: raw.header.boot_ns,
        task: task(&raw.task)?,
        place: init_place(raw.memcg, raw.member)?,
        signal,
        code,
    })
}

fn signal(raw: &raw::Signal) -> Result<Signal, DecodeError> {
    let levels = raw.sender_levels.get(..raw.sender_level_count as usize);
    let name = |name: &[u8; CGROUP_NAME_BYTES]| String::from_utf8_lossy(until_nul(name)).into_owned();
    Ok(Signal {
        boot_ns: raw.header.boot_ns,
        target: task(&raw.target)?,
        place: init_place(raw.target_memcg, raw.target_member)?,
        sender: task(&raw.sender)?,
        sender_memcg: known(raw.sender_memcg),
        sender_place: known(raw.sender_place),
        sender_levels: levels.ok_or(DecodeError::Unknown("level count"))?.iter().map(name).collect(),
        signal: raw.signal,
        result: match raw.result {
            signal_result::DELIVERED | signal_result::LOSE_INFO => SignalResult::Delivered,
            signal_result::IGNORED => SignalResult::Ignored,
            signal_result::ALREADY_PENDING => SignalResult::AlreadyPending,
            // Only real-time signals overflow a queue.
            _ => return Err(DecodeError::Unknown("result")),
        },
        by: match raw.code {
            0 => SignalBy::Kill,
            -1 => SignalBy::Queue,
            -6 => SignalBy::Tkill,
            ABSENT_I32 => SignalBy::Untold,
            _ => return Err(DecodeError::Unknown("code")),
        },
        is_group: raw.group != 0,
        untold: raw.untold,
    })
}

fn init_place(memcg: u64, member: u64) -> Result<InitPlace, DecodeError> {
    match (known(memcg), known(member)) {
        (Some(memcg), Some(member)) => Ok(InitPlace { memcg, member }),
        _ => Err(DecodeError::NoIdentity),
    }
}

fn cgroup_change(raw: &raw::CgroupChange) -> Result<CgroupChange, DecodeError> {
    let name = until_nul(&raw.name);
    Ok(CgroupChange {
        boot_ns: raw.header.boot_ns,
        kernfs_id: known(raw.kernfs_id).ok_or(DecodeError::NoIdentity)?,
        parent_id: known(raw.parent_id).ok_or(DecodeError::NoIdentity)?,
        level: match raw.level {
            pod_level::KUBEPODS => PodLevel::Kubepods,
            pod_level::CLASS => PodLevel::Class,
            pod_level::POD => PodLevel::Pod,
            pod_level::MEMBER => PodLevel::Member,
            _ => return Err(DecodeError::Unknown("level")),
        },
        name: (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()),
        name_truncated: name.len() + 1 >= raw.name.len(),
    })
}

fn task(raw: &raw::Task) -> Result<Task, DecodeError> {
    let comm = until_nul(&raw.comm);
    Ok(Task {
        tid: known_u32(raw.tid).ok_or(DecodeError::NoIdentity)?,
        tgid: known_u32(raw.tgid).ok_or(DecodeError::NoIdentity)?,
        ns_tgid: known_u32(raw.ns_tgid),
        uid: known_u32(raw.uid),
        start_boot_ns: known(raw.start_boot_ns),
        process_start_boot_ns: known(raw.process_start_boot_ns),
        comm: (!comm.is_empty()).then(|| String::from_utf8_lossy(comm).into_owned()),
    })
}

/// The record of type `T` that the bytes begin with; its header must state that very size.
///
/// The kernel aligns records to eight bytes, as `T` needs; a copy that is not aligned is refused as short.
fn whole<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable>(
    bytes: &[u8],
) -> Result<&T, DecodeError> {
    let (header, _) = raw::Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short(bytes.len()))?;
    if header.size as usize != size_of::<T>() {
        return Err(DecodeError::Size { kind: header.kind, stated: header.size });
    }
    // The ring buffer keeps lengths as they were reserved, so nothing follows the record.
    T::ref_from_bytes(bytes).map_err(|_| DecodeError::Short(bytes.len()))
}

fn known(value: u64) -> Option<u64> {
    (value != ABSENT_U64).then_some(value)
}

fn known_u32(value: u32) -> Option<u32> {
    (value != ABSENT_U32).then_some(value)
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(until_nul(bytes)))
}

#[cfg(test)]
mod tests;
