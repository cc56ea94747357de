//! What the programs keep: the ring buffer, the loss counters, and what is remembered between two hooks.
//!
//! Each map has a bound from [`limits`]; reaching it is counted, never silent.

use aftertrace_ebpf_common::{
    config::Config,
    limits,
    loss::Loss,
    record::{AwaitedName, VolumeKey},
};
use aya_ebpf::{
    Global,
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};

/// Where this kernel keeps what the programs read; written over by the agent before loading.
#[expect(unsafe_code, reason = "the agent finds the global by its symbol's name")]
#[unsafe(no_mangle)]
static CONFIG: Global<Config> = Global::new(Config::NONE);

/// The one way out, for all subjects: records keep the order in which they were reserved.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(limits::DEFAULT_RING_BYTES, 0);

/// Counts by [`Loss`], one set per CPU.
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::COUNT, 0);

/// By the allocator's tid: the task it sent the kernel's SIGKILL to last.
#[map]
pub(crate) static SIGNALLED: LruHashMap<u32, Signalled> =
    LruHashMap::with_max_entries(limits::MAX_SIGNALLED, 0);

/// By tgid: OOM victims that have not exited yet.
#[map]
pub(crate) static VICTIMS: LruHashMap<u32, AwaitedExit> =
    LruHashMap::with_max_entries(limits::MAX_VICTIMS, 0);

/// By tid: what the task did when it last reclaimed memory.
#[map]
pub(crate) static RECLAIMERS: LruHashMap<u32, Reclaimer> =
    LruHashMap::with_max_entries(limits::MAX_RECLAIMERS, 0);

/// What is to be remembered of a reclaim, while it is gathered. Only the reclaim hooks use it; they run with
/// preemption off and do not nest, so it stays its hook's own.
#[map]
pub(crate) static RECLAIMER_SCRATCH: PerCpuArray<Reclaimer> = PerCpuArray::with_max_entries(1, 0);

/// By the kernfs id of a memory cgroup: how long its tasks have waited for reclaim at a limit, since it was
/// first seen. The agent reads it; entries are only ever added to.
#[map]
pub(crate) static RECLAIM_STALLS: LruHashMap<u64, Stall> =
    LruHashMap::with_max_entries(limits::MAX_STALLED_CGROUPS, 0);

/// By tid: renames onto `..data` that were entered and have not returned.
#[map]
pub(crate) static PENDING_RENAMES: LruHashMap<u32, PendingRename> =
    LruHashMap::with_max_entries(limits::MAX_PENDING_RENAMES, 0);

/// Processes whose last thread was seen to exit; the value says nothing.
#[map]
pub(crate) static EXITED: LruHashMap<ProcessId, u32> = LruHashMap::with_max_entries(limits::MAX_EXITED, 0);

/// By init and the cgroup that signals it: how often it did.
#[map]
pub(crate) static SIGNAL_COUNTS: LruHashMap<SignalPair, SignalCount> =
    LruHashMap::with_max_entries(limits::MAX_SIGNAL_PAIRS, 0);

/// By kernfs id: the kubelet's cgroups of the hierarchy with the memory controller, down to the members of
/// pods, each with its level and flags ([`pod_level`](aftertrace_ebpf_common::record::pod_level)). Filled by
/// the agent, kept up by [`crate::cgroups`].
#[map]
pub(crate) static POD_CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(limits::MAX_POD_CGROUPS, 0);

/// By parent and name: the level of a cgroup that the kubelet has yet to make. Filled by the agent.
#[map]
pub(crate) static AWAITED_CGROUPS: HashMap<AwaitedName, u32> =
    HashMap::with_max_entries(limits::MAX_AWAITED_CGROUPS, 0);

/// One path per CPU while it is compared; too large for the 512 bytes of stack. Only the rename
/// tracepoints use it; they run with preemption off and do not nest, so a path stays its hook's own.
#[map]
pub(crate) static PATH_SCRATCH: PerCpuArray<[u8; limits::USER_PATH_BYTES]> =
    PerCpuArray::with_max_entries(1, 0);

/// The registered volumes, filled by the agent; the value says nothing.
#[map]
pub(crate) static VOLUME_ROOTS: HashMap<VolumeKey, u32> =
    HashMap::with_max_entries(limits::MAX_VOLUME_ROOTS, 0);

/// The devices that they lie on, filled by the agent; the value counts the volumes.
#[map]
pub(crate) static VOLUME_DEVICES: HashMap<u64, u32> =
    HashMap::with_max_entries(limits::MAX_VOLUME_DEVICES, 0);

/// First opens that have been told.
#[map]
pub(crate) static SEEN_OPENS: LruHashMap<SeenOpen, u32> =
    LruHashMap::with_max_entries(limits::MAX_SEEN_OPENS, 0);

/// By tid: the inotify descriptor of a call to add a watch that has not returned.
#[map]
pub(crate) static PENDING_WATCHES: LruHashMap<u32, u32> =
    LruHashMap::with_max_entries(limits::MAX_PENDING_RENAMES, 0);

/// By the address of an inotify group: who added a watch to it last. A group gets events only after that.
#[map]
pub(crate) static WATCHING_GROUPS: LruHashMap<u64, Watcher> =
    LruHashMap::with_max_entries(limits::MAX_WATCHING_GROUPS, 0);

/// By tgid: when an added watch was told last, in nanoseconds of `CLOCK_BOOTTIME`.
#[map]
pub(crate) static TOLD_WATCHES: LruHashMap<u32, u64> =
    LruHashMap::with_max_entries(limits::MAX_WATCHING_PROCESSES, 0);

/// Who watches.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Watcher {
    /// The kernfs id of the container's cgroup.
    pub(crate) cgroup_id: u64,
    /// When the process was made.
    pub(crate) process_start_boot_ns: u64,
    /// The process.
    pub(crate) tgid: u32,
    /// Zero; the kernel copies the whole value.
    pub(crate) padding: u32,
    /// Its name.
    pub(crate) comm: [u8; limits::COMM_BYTES],
}

/// One file of one generation, opened in one container.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SeenOpen {
    /// The kernfs id of the container's cgroup.
    pub(crate) cgroup_id: u64,
    /// The hash of the generation's name: an inode number is used again, by the generation after next.
    pub(crate) generation: u64,
    /// The inode number of the volume's root.
    pub(crate) volume_inode: u64,
    /// The file's inode number.
    pub(crate) inode: u64,
    /// The device of both.
    pub(crate) device: u64,
}

/// A SIGKILL that the kernel sent, until `mark_victim` says that it was the OOM killer's.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Signalled {
    /// The address of the `task_struct` signalled.
    pub(crate) task: u64,
    /// The address of its `mm_struct`; 0 when unknown.
    pub(crate) mm: u64,
    /// The sender's start time: tells it from a later task with the same tid.
    pub(crate) sender_start_boot_ns: u64,
    /// When the signal was sent, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) boot_ns: u64,
    /// The thread signalled.
    pub(crate) tid: u32,
    /// Its process.
    pub(crate) tgid: u32,
    /// 1 once `mark_victim` has confirmed it: what follows with the same `mm` shares its memory.
    pub(crate) marked: u32,
    /// 1 if the process was dying already, so that the signal changed nothing.
    pub(crate) was_dying: u32,
}

/// A victim whose exit is awaited.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct AwaitedExit {
    /// `boot_ns` of its kill record.
    pub(crate) kill_boot_ns: u64,
    /// Its role in that record.
    pub(crate) role: u32,
    /// Zero; the kernel copies the whole value.
    pub(crate) padding: u32,
}

/// What one task did when it last reclaimed memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Reclaimer {
    /// Its start time: tells it from a later task with the same tid.
    pub(crate) start_boot_ns: u64,
    /// How many reclaims it has begun.
    pub(crate) reclaims: u64,
    /// When the reclaim for a memory cgroup began that is under way; 0 if none is.
    pub(crate) begun_boot_ns: u64,
    /// The kernfs id of its memory cgroup at its last reclaim for one; absent before the first.
    pub(crate) memcg: u64,
    /// One of `record::last_reclaim`.
    pub(crate) last_reclaim: u32,
    /// Zero; the kernel copies the whole value.
    pub(crate) padding: u32,
    /// Its cgroup's and each ancestor's count of OOM decisions at its last reclaim for a memory cgroup.
    pub(crate) oom_events: [u64; limits::MAX_MEMCG_LEVELS],
}

/// Time spent in reclaim for a memory cgroup's limit.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Stall {
    /// Nanoseconds, over all tasks of the cgroup.
    pub(crate) total_ns: u64,
    /// Reclaims.
    pub(crate) count: u64,
}

/// A process in this boot.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct ProcessId {
    /// When it was made.
    pub(crate) start_boot_ns: u64,
    /// Its id.
    pub(crate) tgid: u32,
    /// Zero; the kernel compares the whole key.
    pub(crate) padding: u32,
}

/// A container's init and a cgroup that signals it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SignalPair {
    /// The kernfs id of the sender's memory cgroup.
    pub(crate) sender_memcg: u64,
    /// The kernfs id of the pod's member that the init is in.
    pub(crate) target_member: u64,
}

/// Signals of one pair.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct SignalCount {
    /// When the present window began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) since_boot_ns: u64,
    /// Signals told in this window.
    pub(crate) told: u32,
    /// Signals not told since the last record.
    pub(crate) untold: u32,
}

/// A rename between entry and return.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct PendingRename {
    /// When it was entered, in nanoseconds of `CLOCK_BOOTTIME`.
    pub(crate) enter_boot_ns: u64,
    /// The user address of the path renamed from.
    pub(crate) old_name: u64,
    /// The user address of the path renamed onto.
    pub(crate) new_name: u64,
    /// As passed, or `AT_FDCWD`.
    pub(crate) old_dfd: i32,
    /// As passed, or `AT_FDCWD`.
    pub(crate) new_dfd: i32,
    /// `renameat2`'s flags.
    pub(crate) flags: u32,
    /// 0 if the target's page was not in memory at entry and is to be compared at return.
    pub(crate) matched: u32,
}

/// [`CONFIG`], for [`config!`] to read one field of; no program copies the whole of it.
#[expect(unsafe_code, reason = "a Global gives out copies only, and this one is too large to copy")]
#[inline(always)]
pub(crate) fn config() -> &'static Config {
    // SAFETY: Global is a transparent wrapper of an initialised Config, and nothing writes to it once the
    // object is loaded.
    unsafe { &*(&raw const CONFIG).cast::<Config>() }
}

/// Reads one field of [`CONFIG`].
#[expect(unsafe_code, reason = "the agent writes over the global, so the read must be volatile")]
#[inline(always)]
pub(crate) fn load(field: &'static u32) -> u32 {
    // SAFETY: a reference is valid for reads. Volatile, lest the compiler take what the object file holds
    // for what the program will find.
    unsafe { core::ptr::read_volatile(field) }
}

/// Adds one to a reason's count on this CPU.
#[expect(unsafe_code, reason = "the counter is in kernel memory that only a pointer reaches")]
pub(crate) fn count(loss: Loss) {
    if let Some(slot) = LOSSES.get_ptr_mut(loss.index()) {
        // SAFETY: the verifier admits `slot` only as this CPU's eight aligned bytes of the map.
        unsafe { add(slot, 1) };
    }
}

/// Adds to a sum in a map by one atomic instruction (`BPF_XADD`, on every kernel), because another CPU, or an
/// interrupt's program on this one, may add in the middle of ours; Rust's own atomics do not reach the bpf
/// target.
///
/// # Safety
/// `slot` points to eight aligned bytes of a map's value.
#[expect(unsafe_code, reason = "an atomic addition is one instruction of assembly")]
#[inline(always)]
pub(crate) unsafe fn add(slot: *mut u64, amount: u64) {
    // SAFETY: the caller's promise, which the verifier checks.
    unsafe {
        core::arch::asm!("lock *(u64 *)({slot} + 0) += {amount}", slot = in(reg) slot, amount = in(reg) amount);
    }
}

/// One field of [`CONFIG`]: `config!(offsets.task_pid)`.
macro_rules! field_of_config {
    ($($field:tt)+) => { $crate::maps::load(&$crate::maps::config().$($field)+) };
}
pub(crate) use field_of_config as config;
