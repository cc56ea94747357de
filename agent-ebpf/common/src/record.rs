//! The records in the ring buffer.
//!
//! Each begins with a [`Header`] whose `kind` and `size` are checked before the rest is looked at. A fact
//! that this kernel does not offer, or that could not be read, holds its type's `ABSENT` value: zero is
//! never used for "unknown". Sizes in pages are the kernel's pages; the agent turns them into bytes.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::{
    AWAITED_NAME_BYTES, CGROUP_NAME_BYTES, COMM_BYTES, EXECUTABLE_BYTES, FILE_NAME_BYTES, MAX_MEMCG_LEVELS,
    MAX_SENDER_LEVELS, PATH_BYTES,
};

/// An absent 64-bit fact.
pub const ABSENT_U64: u64 = u64::MAX;
/// An absent 32-bit fact. As a uid it is the kernel's own `INVALID_UID`, as a tid or tgid impossible.
pub const ABSENT_U32: u32 = u32::MAX;
/// An absent signed 32-bit fact; far outside of `oom_score_adj`'s −1000 to 1000.
pub const ABSENT_I32: i32 = i32::MIN;

/// Values of [`Header::kind`].
pub mod kind {
    /// [`super::OomKill`].
    pub const OOM_KILL: u32 = 1;
    /// [`super::Rename`].
    pub const RENAME: u32 = 2;
    /// [`super::Exit`].
    pub const EXIT: u32 = 3;
    /// [`super::OomDecision`].
    pub const OOM_DECISION: u32 = 4;
    /// [`super::CgroupChange`] of one that was made.
    pub const CGROUP_MADE: u32 = 10;
    /// [`super::CgroupChange`] of one that is gone; its name is not told again.
    pub const CGROUP_GONE: u32 = 11;
    /// [`super::FileOpen`].
    pub const FILE_OPEN: u32 = 20;
    /// [`super::Exec`].
    pub const EXEC: u32 = 12;
    /// [`super::InitExit`].
    pub const INIT_EXIT: u32 = 13;
    /// [`super::Signal`].
    pub const SIGNAL: u32 = 14;
    /// [`super::VolumeRename`].
    pub const VOLUME_RENAME: u32 = 21;
    /// [`super::Notice`].
    pub const NOTICE: u32 = 22;
    /// [`super::WatchAdded`].
    pub const WATCH_ADDED: u32 = 23;
}

/// What a cgroup is in the kubelet's tree: the values of the map `POD_CGROUPS` and of
/// [`CgroupChange::level`]. A deeper one has a higher value.
pub mod pod_level {
    /// `kubepods`, the parent of all pods.
    pub const KUBEPODS: u32 = 1;
    /// The class of burstable or of best-effort pods.
    pub const CLASS: u32 = 2;
    /// A pod.
    pub const POD: u32 = 3;
    /// A direct member of a pod: a container, its sandbox, or what a runtime puts beside them.
    pub const MEMBER: u32 = 4;

    /// In a value of `POD_CGROUPS`, beside the level: the member was made while the programs watched, and its
    /// init has not executed its program yet.
    pub const AWAITS_EXEC: u32 = 1 << 8;
    /// The bits of a value of `POD_CGROUPS` that are the level.
    pub const LEVEL: u32 = 0xff;
}

/// Values of [`Signal::result`], the kernel's `TRACE_SIGNAL_*`.
pub mod signal_result {
    /// It will be handled, or it kills.
    pub const DELIVERED: u32 = 0;
    /// The process ignores it; an init ignores what it has no handler for.
    pub const IGNORED: u32 = 1;
    /// One of its kind waits already.
    pub const ALREADY_PENDING: u32 = 2;
    /// The queue of real-time signals was full.
    pub const OVERFLOW_FAIL: u32 = 3;
    /// It was queued without saying who sent it.
    pub const LOSE_INFO: u32 = 4;
}

/// The key by which a cgroup is awaited that the kubelet has yet to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct AwaitedName {
    /// The kernfs id of the directory above it; 0 for a class, whose parent is known by its level.
    pub parent_id: u64,
    /// The directory's name, the rest filled with NUL.
    pub name: [u8; AWAITED_NAME_BYTES],
}

/// Values of [`OomKill::role`] and [`Exit::role`].
pub mod oom_role {
    /// SIGKILL and mark of one task: the chosen victim of an episode, or a further member of its
    /// `oom_group`; which of the two follows from the order of one allocator's records.
    pub const MARKED: u32 = 1;
    /// SIGKILL without a mark, to a process that shares the marked victim's memory.
    pub const SHARED_MM: u32 = 2;
}

/// Values of [`Charge::last_reclaim`].
pub mod last_reclaim {
    /// None that is remembered.
    pub const NONE: u32 = 0;
    /// For the limit of a memory cgroup.
    pub const MEMCG: u32 = 1;
    /// For the whole machine, and the counts of the allocator's cgroups stood as at its last reclaim for a
    /// memory cgroup, if it ever did one.
    pub const DIRECT: u32 = 2;
    /// For the whole machine; but since the task's last reclaim for a memory cgroup some count had risen.
    pub const DIRECT_AFTER_OOM: u32 = 3;
    /// For a memory cgroup, and the charge may have been for another than the allocator's own.
    pub const MEMCG_OF_ANOTHER: u32 = 4;
}

/// Values of [`Rename::call`], and indexes into [`crate::config::Config::renames`].
pub mod rename_call {
    /// `rename(2)`; arm64 has none.
    pub const RENAME: u32 = 0;
    /// `renameat(2)`.
    pub const RENAMEAT: u32 = 1;
    /// `renameat2(2)`.
    pub const RENAMEAT2: u32 = 2;
}

/// Values of [`FileOpen::call`], and indexes into [`crate::config::Config::opens`].
pub mod open_call {
    /// `open(2)`; arm64 has none.
    pub const OPEN: u32 = 0;
    /// `openat(2)`.
    pub const OPENAT: u32 = 1;
    /// `openat2(2)`.
    pub const OPENAT2: u32 = 2;
    /// Not told by the call: the kernel's own function saw it.
    pub const ANY: u32 = 3;
}

/// The key of the map of registered volumes: the kernel's device number (`s_dev`, not `st_dev`) and the inode
/// number of the volume's root directory.
pub type VolumeKey = [u64; 2];

/// What every record begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// Bytes of the whole record, this header included.
    pub size: u32,
    /// When the hook ran, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
}

/// Who: one task as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Task {
    /// When the task was made, in nanoseconds of `CLOCK_BOOTTIME`; with `tid` an identity for this boot.
    pub start_boot_ns: u64,
    /// The same of its process's first thread; with `tgid` an identity for this boot.
    pub process_start_boot_ns: u64,
    /// The thread's id in the initial pid namespace.
    pub tid: u32,
    /// The process's id in the initial pid namespace.
    pub tgid: u32,
    /// The process's id in its innermost pid namespace: 1 is that namespace's init. A container may nest
    /// namespaces, so that alone does not make it the container's; see [`OomKill::victim_parent_memcg`].
    pub ns_tgid: u32,
    /// The real user id in the initial user namespace.
    pub uid: u32,
    /// The command name, NUL-terminated unless absent (first byte NUL).
    pub comm: [u8; COMM_BYTES],
}

/// One memory cgroup at the instant of the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct MemcgLevel {
    /// The cgroup directory's kernfs id: its inode number, and the cgroup id of cgroup v2.
    pub kernfs_id: u64,
    /// Memory charged, in pages; may be below the limit again when the hook runs.
    pub usage_pages: u64,
    /// The limit, in pages; the kernel's `PAGE_COUNTER_MAX` when there is none.
    pub limit_pages: u64,
    /// Times this cgroup's own limit stopped an allocation, since it was made.
    pub max_events: u64,
    /// OOM decisions taken because of this cgroup's own limit: the level whose count rose is the one
    /// whose limit fired.
    pub oom_events: u64,
    /// Kills the kernel has counted against this very cgroup, this one included.
    pub oom_kill_events: u64,
    /// Group kills the kernel has counted against this very cgroup.
    pub oom_group_kill_events: u64,
    /// 1 if the cgroup kills all of its tasks together, 0 if not.
    pub oom_group: u32,
    /// 1 if an OOM decision for the limit of this cgroup or of one above is under way, 0 if not: the topmost
    /// level with 1 is the one whose limit fired. The kernel's `oom_lock`; its `under_oom` is back at zero
    /// when the kill comes.
    pub under_oom: u32,
    /// The directory's last path component, NUL-terminated; first byte NUL when absent or the root.
    pub name: [u8; CGROUP_NAME_BYTES],
}

/// One memory cgroup of the task whose allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct ChargedLevel {
    /// The cgroup directory's kernfs id.
    pub kernfs_id: u64,
    /// OOM decisions for this cgroup's own limit when the hook ran.
    pub oom_events: u64,
    /// The same when the task began its last reclaim for a memory cgroup; absent if that is not known.
    pub oom_events_before: u64,
    /// As [`MemcgLevel::name`].
    pub name: [u8; CGROUP_NAME_BYTES],
}

/// What the failing allocation was charged to, and what its task had seen before: see the agent's
/// `kernel::fired` for what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Charge {
    /// How many reclaims the task had begun, as far as it is remembered; two decisions of one task differ in
    /// it. Absent if none is remembered.
    pub reclaims: u64,
    /// One of [`last_reclaim`].
    pub last_reclaim: u32,
    /// How many of `levels` are filled, the task's own cgroup first.
    pub level_count: u32,
    /// 1 if there were more ancestors than `levels` holds.
    pub levels_truncated: u32,
    /// Zero.
    pub padding: u32,
    /// The task's memory cgroup and its ancestors.
    pub levels: [ChargedLevel; MAX_MEMCG_LEVELS],
}

/// A decision of the OOM killer, before it kills; where functions of the kernel can be hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct OomDecision {
    /// `boot_ns` is the time at which `oom_kill_process` was entered.
    pub header: Header,
    /// Whose allocation made the kernel decide; it kills on that task's stack.
    pub allocator: Task,
    /// Whom the kernel chose.
    pub chosen: Task,
    /// The kernfs id of the memory cgroup whose limit fired; absent if none did.
    pub memcg: u64,
    /// `oc->totalpages`: the pages that the limit or the machine has, swap included.
    pub total_pages: u64,
    /// `oc->chosen_points`: the score of the chosen.
    pub chosen_points: u64,
    /// [`Charge::reclaims`] of the allocator.
    pub reclaims: u64,
    /// `oc->constraint`, as this kernel numbers it.
    pub constraint: u32,
    /// `oc->gfp_mask`.
    pub gfp_mask: u32,
    /// `oc->order`; −1 for a decision that was asked for by SysRq.
    pub order: i32,
    /// 1 if `memcg` says that no limit fired, 0 if it is absent because it could not be read.
    pub memcg_is_null: u32,
    /// How many of `levels` are filled; 0 if no limit fired.
    pub level_count: u32,
    /// 1 if there were more ancestors than `levels` holds.
    pub levels_truncated: u32,
    /// The memory cgroup whose limit fired, and its ancestors.
    pub levels: [MemcgLevel; MAX_MEMCG_LEVELS],
}

/// A process that the kernel's OOM killer killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct OomKill {
    /// `boot_ns` is the time of `mark_victim`; for a shared-memory kill that of the SIGKILL.
    pub header: Header,
    /// When the kernel sent the SIGKILL, in nanoseconds of `CLOCK_BOOTTIME`; never after `boot_ns`.
    pub signal_boot_ns: u64,
    /// Who died.
    pub victim: Task,
    /// Whose allocation made the kernel decide, on whose stack it decided.
    pub allocator: Task,
    /// The kernfs id of the allocator's memory cgroup.
    pub allocator_memcg: u64,
    /// The kernfs id of the memory cgroup of the victim's parent (`real_parent`) at the instant of the kill.
    /// A runtime's shim lies outside the cgroup of the container it starts, so the container's init has a
    /// parent outside; the init of a namespace that the container made itself has one inside.
    pub victim_parent_memcg: u64,
    /// Anonymous pages resident, as the kernel log states them: without what each CPU has not yet folded in.
    pub rss_anon_pages: u64,
    /// File pages resident; likewise.
    pub rss_file_pages: u64,
    /// Shared-memory pages resident; likewise.
    pub rss_shmem_pages: u64,
    /// Pages swapped out; likewise.
    pub swap_pages: u64,
    /// Pages mapped.
    pub total_vm_pages: u64,
    /// Bytes of page tables.
    pub pgtables_bytes: u64,
    /// The victim's `oom_score_adj`, −1000 to 1000.
    pub oom_score_adj: i32,
    /// One of [`oom_role`].
    pub role: u32,
    /// For a shared-memory kill the `tgid` of the marked victim; else the victim's own.
    pub marked_tgid: u32,
    /// How many of `levels` are filled, the victim's own cgroup first, then each ancestor.
    pub level_count: u32,
    /// 1 if there were more ancestors than `levels` holds.
    pub levels_truncated: u32,
    /// Zero.
    pub padding: u32,
    /// The victim's memory cgroup and its ancestors.
    pub levels: [MemcgLevel; MAX_MEMCG_LEVELS],
    /// The allocator's side.
    pub charge: Charge,
}

/// A rename whose target's last component is `..data`, whether or not it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Rename {
    /// `boot_ns` is the time the call returned.
    pub header: Header,
    /// When the call was entered, in nanoseconds of `CLOCK_BOOTTIME`.
    pub enter_boot_ns: u64,
    /// Who renamed.
    pub writer: Task,
    /// What the call returned: 0, or a negated errno.
    pub result: i64,
    /// The inode number of the writer's mount namespace.
    pub mount_namespace: u32,
    /// One of [`rename_call`].
    pub call: u32,
    /// The directory that `old_path` is relative to, or `AT_FDCWD` (−100).
    pub old_dfd: i32,
    /// The directory that `new_path` is relative to, or `AT_FDCWD` (−100).
    pub new_dfd: i32,
    /// `renameat2`'s flags; 0 for the other calls.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// The path renamed from, as given, NUL-terminated. A hint: its writer chose it, and it was read
    /// from the writer's memory when the call returned.
    pub old_path: [u8; PATH_BYTES],
    /// The path renamed onto; likewise.
    pub new_path: [u8; PATH_BYTES],
}

/// The end of a process that the OOM killer had killed: its last thread exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Exit {
    /// `boot_ns` is the time of the exit.
    pub header: Header,
    /// Who exits: its last thread.
    pub task: Task,
    /// `header.boot_ns` of the [`OomKill`] this exit belongs to.
    pub kill_boot_ns: u64,
    /// The status as `wait(2)` has it: the signal in the low 7 bits, the exit code above bit 8.
    pub wait_status: u32,
    /// The [`oom_role`] of that kill.
    pub role: u32,
}

/// A cgroup of the kubelet's tree was made or removed, in the hierarchy that has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct CgroupChange {
    /// `boot_ns` is a moment before others can see the directory, or after they cannot.
    pub header: Header,
    /// Its kernfs id: its inode number, and the cgroup id of cgroup v2.
    pub kernfs_id: u64,
    /// The kernfs id of the directory above it.
    pub parent_id: u64,
    /// One of [`pod_level`].
    pub level: u32,
    /// Zero.
    pub padding: u32,
    /// The directory's last path component, NUL-terminated; first byte NUL when absent.
    pub name: [u8; CGROUP_NAME_BYTES],
}

/// The first open of a file of a registered volume by a process of a container, for each generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct FileOpen {
    /// `boot_ns` is the time the call returned; in the tracing tier the time it was permitted.
    pub header: Header,
    /// Who opened.
    pub task: Task,
    /// The kernfs id of the container's cgroup, or of the pod's if it is in no container's.
    pub cgroup_id: u64,
    /// The volume, as registered.
    pub volume: VolumeKey,
    /// The file's inode number.
    pub inode: u64,
    /// Directories between the file and the volume's root, the generation's own included; never 0.
    pub depth: u32,
    /// One of [`open_call`].
    pub call: u32,
    /// The name of the directory just below the volume's root, NUL-terminated: the generation.
    pub generation: [u8; FILE_NAME_BYTES],
    /// The file's last path component, NUL-terminated.
    pub name: [u8; FILE_NAME_BYTES],
}

/// A container's init executes its program, once in the life of its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Exec {
    /// `boot_ns` is the time when the new program was in place and had not run yet.
    pub header: Header,
    /// The init, by its new name.
    pub task: Task,
    /// Its parent: the runtime, or the shim that inherited it.
    pub parent: Task,
    /// The kernfs id of its memory cgroup.
    pub memcg: u64,
    /// The kernfs id of the member of the pod that this is or lies in.
    pub member: u64,
    /// The path that was executed, as given, NUL-terminated; first byte NUL when absent. A hint.
    pub executable: [u8; EXECUTABLE_BYTES],
}

/// The end of a container's init that the OOM killer had not killed: its last thread exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct InitExit {
    /// `boot_ns` is the time of the exit.
    pub header: Header,
    /// Who exits: its last thread.
    pub task: Task,
    /// The kernfs id of its memory cgroup.
    pub memcg: u64,
    /// The kernfs id of the member of the pod that this is or lies in.
    pub member: u64,
    /// The status as `wait(2)` has it: the signal in the low 7 bits, the exit code above bit 8.
    pub wait_status: u32,
    /// Zero.
    pub padding: u32,
}

/// A process sends SIGKILL or SIGTERM to a container's init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Signal {
    /// `boot_ns` is the time when the kernel had decided what becomes of the signal.
    pub header: Header,
    /// The init, one of its threads.
    pub target: Task,
    /// Who sends.
    pub sender: Task,
    /// The kernfs id of the target's memory cgroup.
    pub target_memcg: u64,
    /// The kernfs id of the member of the pod that this is or lies in.
    pub target_member: u64,
    /// The kernfs id of the sender's memory cgroup.
    pub sender_memcg: u64,
    /// The kernfs id of the nearest of the kubelet's cgroups that holds the sender; absent if none does.
    pub sender_place: u64,
    /// The signal's number.
    pub signal: u32,
    /// One of [`signal_result`].
    pub result: u32,
    /// `si_code`, by which the sender sent it: `SI_USER` (0), `SI_QUEUE` (−1) or `SI_TKILL` (−6);
    /// [`ABSENT_I32`] where the kernel passed nothing, as for `cgroup.kill`.
    pub code: i32,
    /// 1 if it went to the whole process, 0 if to one thread.
    pub group: u32,
    /// Signals of this sender's cgroup to this init that were not told since the last record.
    pub untold: u32,
    /// How many of `sender_levels` are filled.
    pub sender_level_count: u32,
    /// Names of the sender's memory cgroup and of those above it, without the root's; NUL-terminated.
    pub sender_levels: [[u8; CGROUP_NAME_BYTES]; MAX_SENDER_LEVELS],
}

/// A rename whose target is named `..data`, told by the directory that it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct VolumeRename {
    /// `boot_ns` is the time the kernel's function returned.
    pub header: Header,
    /// When it was entered, in nanoseconds of `CLOCK_BOOTTIME`.
    pub enter_boot_ns: u64,
    /// Who renamed.
    pub writer: Task,
    /// What the function returned: 0, or a negated errno.
    pub result: i64,
    /// The target's directory, whether or not it is registered.
    pub volume: VolumeKey,
    /// The inode number of the writer's mount namespace.
    pub mount_namespace: u32,
    /// 1 if what was renamed was named `..data_tmp`, 0 if not.
    pub is_staged: u32,
}

/// The inotify event of a new `..data` in a registered volume, as it was queued for a group of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Notice {
    /// `boot_ns` is the time it was queued.
    pub header: Header,
    /// The kernfs id of the watcher's cgroup, as of [`FileOpen`].
    pub cgroup_id: u64,
    /// When the watcher's process was made, in nanoseconds of `CLOCK_BOOTTIME`.
    pub process_start_boot_ns: u64,
    /// The volume, as registered.
    pub volume: VolumeKey,
    /// The watcher: the process that last added a watch to the group.
    pub tgid: u32,
    /// The event, as `inotify(7)` has it.
    pub mask: u32,
    /// The watcher's name when it added that watch, NUL-terminated.
    pub comm: [u8; COMM_BYTES],
}

/// A process of a container added a watch to an inotify group; told once a second for each process at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct WatchAdded {
    /// `boot_ns` is the time the call returned.
    pub header: Header,
    /// Who added it.
    pub task: Task,
    /// The kernfs id of its cgroup, as of [`FileOpen`].
    pub cgroup_id: u64,
}

const _: () = assert!(size_of::<VolumeRename>() == 56 + size_of::<Task>());
const _: () = assert!(size_of::<Notice>() == 72);
const _: () = assert!(size_of::<WatchAdded>() == 24 + size_of::<Task>());
const _: () = assert!(size_of::<FileOpen>() == 56 + size_of::<Task>() + 2 * FILE_NAME_BYTES);
const _: () = assert!(size_of::<Header>() == 16);
const _: () = assert!(size_of::<Exec>() == 32 + 2 * size_of::<Task>() + EXECUTABLE_BYTES);
const _: () = assert!(size_of::<InitExit>() == 40 + size_of::<Task>());
const _: () =
    assert!(size_of::<Signal>() == 72 + 2 * size_of::<Task>() + MAX_SENDER_LEVELS * CGROUP_NAME_BYTES);
const _: () = assert!(size_of::<AwaitedName>() == 8 + AWAITED_NAME_BYTES);
const _: () = assert!(size_of::<CgroupChange>() == 40 + CGROUP_NAME_BYTES);
const _: () = assert!(size_of::<Task>() == 48);
const _: () = assert!(size_of::<MemcgLevel>() == 64 + CGROUP_NAME_BYTES);
const _: () = assert!(size_of::<ChargedLevel>() == 24 + CGROUP_NAME_BYTES);
const _: () = assert!(size_of::<Charge>() == 24 + MAX_MEMCG_LEVELS * 152);
const _: () = assert!(size_of::<OomDecision>() == 168 + MAX_MEMCG_LEVELS * 192);
const _: () = assert!(size_of::<OomKill>() == 208 + MAX_MEMCG_LEVELS * 192 + size_of::<Charge>());
const _: () = assert!(size_of::<Rename>() == 104 + 2 * PATH_BYTES);
const _: () = assert!(size_of::<Exit>() == 80);
