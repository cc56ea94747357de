//! What the rest of the agent gets from the kernel: owned, checked, in bytes rather than pages.
//!
//! The counterpart of `aftertrace_ebpf_common::record`, made by [`super::decode`]. `None` means that the
//! kernel did not tell; it never means zero. Names and paths were chosen by whoever made them: hints, not
//! identities, and hostile to a terminal until escaped.

use std::path::PathBuf;

/// One thing that happened in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The OOM killer decided to kill, and is about to.
    OomDecision(Box<OomDecision>),
    /// The OOM killer killed a process.
    OomKill(Box<OomKill>),
    /// Something was renamed, or was to be renamed, onto `..data`.
    Rename(Box<Rename>),
    /// An OOM victim is gone.
    Exit(Exit),
    /// A container's init executes its program.
    Exec(Box<Exec>),
    /// A container's init is gone, and the OOM killer had not killed it.
    InitExit(InitExit),
    /// A container's init is sent SIGKILL or SIGTERM by a process.
    Signal(Box<Signal>),
    /// A cgroup of the kubelet's was made.
    CgroupMade(CgroupChange),
    /// A cgroup of the kubelet's is gone.
    CgroupGone(CgroupChange),
    /// A container opened a file of a registered volume for the first time.
    FileOpen(Box<FileOpen>),
    /// A container was told of a volume by inotify.
    Notice(Box<Notice>),
    /// A container began to watch something by inotify.
    WatchAdded(WatchAdded),
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The thread's id in the initial pid namespace.
    pub tid: u32,
    /// The process's id in the initial pid namespace.
    pub tgid: u32,
    /// The process's id in its innermost pid namespace; 1 is that namespace's init, which may be one that the
    /// container made itself.
    pub ns_tgid: Option<u32>,
    /// The real user id in the initial user namespace.
    pub uid: Option<u32>,
    /// When the task was made, in nanoseconds of `CLOCK_BOOTTIME`; with `tid` an identity for this boot.
    pub start_boot_ns: Option<u64>,
    /// The same of its process's first thread; with `tgid` an identity for this boot.
    pub process_start_boot_ns: Option<u64>,
    /// The command name; what is not UTF-8 in it is replaced.
    pub comm: Option<String>,
}

/// A decision of the OOM killer, told by the kernel before it kills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomDecision {
    /// When the kernel had chosen, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// Whose allocation made it decide. All kills on this thread belong to the decision, until its next.
    pub allocator: Task,
    /// Whom it chose; nothing is killed if that process is exiting already.
    pub chosen: Task,
    /// For what it decided.
    pub constraint: Option<OomConstraint>,
    /// For whose limit.
    pub limit: OomLimit,
    /// The pages that the limit, or the machine, has to give, swap included.
    pub total_pages: Option<u64>,
    /// The score of the chosen, in pages.
    pub chosen_points: Option<u64>,
    /// Flags of the allocation, as this kernel numbers them.
    pub gfp_mask: Option<u32>,
    /// Binary logarithm of the pages allocated; −1 for a decision that SysRq asked for.
    pub order: Option<i32>,
    /// How many reclaims the allocating task had begun, as far as it is remembered.
    pub reclaims: Option<u64>,
    /// The memory cgroup whose limit fired, then each ancestor up to the root; empty if none did.
    pub levels: Vec<MemcgLevel>,
    /// True if there were ancestors above the last of `levels`.
    pub levels_truncated: bool,
}

/// For whose limit the OOM killer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomLimit {
    /// No memory cgroup's: the machine is out of memory.
    Machine,
    /// That of the memory cgroup with this kernfs id.
    Memcg(u64),
    /// The kernel did not tell.
    Unknown,
}

/// What an allocation was bound to when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomConstraint {
    /// Nothing: the machine is out of memory.
    None,
    /// The memory nodes of a cpuset.
    Cpuset,
    /// A memory policy.
    Mempolicy,
    /// A memory cgroup's limit.
    Memcg,
}

impl OomConstraint {
    /// All of them, in the kernel's order.
    pub const ALL: [Self; 4] = [Self::None, Self::Cpuset, Self::Mempolicy, Self::Memcg];

    /// The name in facts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cpuset => "cpuset",
            Self::Mempolicy => "mempolicy",
            Self::Memcg => "memcg",
        }
    }
}

/// What a failing allocation was charged to, and what its task had done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// How many reclaims the task had begun, as far as it is remembered; two decisions of one task differ in it.
    pub reclaims: Option<u64>,
    /// The task's last reclaim, which led to the decision.
    pub last_reclaim: Option<LastReclaim>,
    /// The task's memory cgroup, then each ancestor up to the root.
    pub levels: Vec<ChargedLevel>,
    /// True if there were ancestors above the last of `levels`.
    pub levels_truncated: bool,
}

/// What a task reclaimed memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastReclaim {
    /// The limit of its memory cgroup or of an ancestor.
    Memcg,
    /// The limit of a memory cgroup that may have been another's.
    MemcgOfAnother,
    /// The machine; when it did, no decision had been counted in its cgroups since its last reclaim for one.
    Direct,
    /// The machine; but a decision had been counted since.
    DirectAfterOom,
}

/// One memory cgroup of the allocating task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChargedLevel {
    /// The cgroup directory's kernfs id.
    pub kernfs_id: Option<u64>,
    /// OOM decisions for this cgroup's own limit, since it was made, this one included.
    pub oom_events: Option<u64>,
    /// The same when the task began its last reclaim for a memory cgroup.
    pub oom_events_before: Option<u64>,
    /// The directory's name; absent for the root.
    pub name: Option<String>,
    /// True if the name may have been longer than what is kept.
    pub name_truncated: bool,
}

/// A process killed by the OOM killer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OomKill {
    /// When the victim was marked, in nanoseconds of `CLOCK_BOOTTIME`; for a sharer, when it was signalled.
    pub boot_ns: u64,
    /// When the kernel sent the SIGKILL; never after `boot_ns`.
    pub signal_boot_ns: u64,
    /// What the victim was to the decision.
    pub role: OomRole,
    /// Who died.
    pub victim: Task,
    /// Who allocated. Its tid keys the episode: one decision kills on one task's stack.
    pub allocator: Task,
    /// The kernfs id of the allocator's memory cgroup, which need not be the victim's.
    pub allocator_memcg: Option<u64>,
    /// The kernfs id of the memory cgroup of the victim's parent at the instant of the kill. A container's
    /// init was started by a shim outside the container's cgroup; that it lies outside is what tells the
    /// init of a container from the init of a pid namespace nested in it.
    pub victim_parent_memcg: Option<u64>,
    /// Resident anonymous memory, as the kernel log states it: each CPU may hold back a few dozen pages.
    pub rss_anon_bytes: Option<u64>,
    /// Resident file memory; likewise.
    pub rss_file_bytes: Option<u64>,
    /// Resident shared memory; likewise.
    pub rss_shmem_bytes: Option<u64>,
    /// Memory swapped out; likewise.
    pub swap_bytes: Option<u64>,
    /// Memory mapped.
    pub total_vm_bytes: Option<u64>,
    /// Page tables.
    pub pgtables_bytes: Option<u64>,
    /// −1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The victim's memory cgroup, then each ancestor up to the root. Empty if the kernel did not tell.
    pub levels: Vec<MemcgLevel>,
    /// True if there were ancestors above the last of `levels`.
    pub levels_truncated: bool,
    /// The allocator's side.
    pub charge: Charge,
}

/// What a victim was to the decision that killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomRole {
    /// SIGKILL and mark: the chosen victim, or, if a further one of the same allocator and a level has
    /// `oom_group`, a member of its group.
    Marked,
    /// SIGKILL without a mark: it shared the memory of the marked process `marked_tgid`.
    SharedMm {
        /// The marked process.
        marked_tgid: u32,
    },
}

/// One memory cgroup at the instant of the kill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemcgLevel {
    /// The cgroup directory's kernfs id: its inode number, and the cgroup id of cgroup v2.
    pub kernfs_id: Option<u64>,
    /// The directory's name, at most 127 bytes; absent for the root.
    pub name: Option<String>,
    /// True if the name may have been longer than what is kept.
    pub name_truncated: bool,
    /// Memory charged; may already be below the limit.
    pub usage_bytes: Option<u64>,
    /// The limit.
    pub limit: Option<Limit>,
    /// Times this cgroup's own limit stopped an allocation, since it was made.
    pub max_events: Option<u64>,
    /// OOM decisions because of this cgroup's own limit, since it was made, this one included.
    pub oom_events: Option<u64>,
    /// Kills counted against this very cgroup, since it was made, this one included.
    pub oom_kill_events: Option<u64>,
    /// Group kills counted against this very cgroup, since it was made.
    pub oom_group_kill_events: Option<u64>,
    /// Whether its tasks are killed together.
    pub oom_group: Option<bool>,
    /// Whether an OOM decision for the limit of this cgroup, or of one above, is under way. The topmost level
    /// where it is so is the one whose limit fired; no level is, when the whole machine is out of memory.
    /// Kernels built without cgroup v1 do not tell.
    pub under_oom: Option<bool>,
}

/// A memory cgroup's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// None is set.
    Unlimited,
    /// So many bytes.
    Bytes(u64),
}

/// A rename onto `..data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// When the call returned, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// When it was entered; the rename took effect between the two.
    pub enter_boot_ns: u64,
    /// Who renamed.
    pub writer: Task,
    /// The inode number of the writer's mount namespace, in which the paths are to be read.
    pub mount_namespace: Option<u32>,
    /// `Ok`, or the errno with which the call failed.
    pub result: Result<(), i32>,
    /// The system call.
    pub call: RenameCall,
    /// The directory that `old_path` is relative to; nothing for the working directory.
    pub old_dfd: Option<i32>,
    /// The directory that `new_path` is relative to; nothing for the working directory.
    pub new_dfd: Option<i32>,
    /// `renameat2`'s flags.
    pub flags: u32,
    /// What was renamed, as the writer wrote it: a hint.
    pub old_path: PathBuf,
    /// What it was renamed onto, as the writer wrote it; its last component is `..data`. A hint.
    pub new_path: PathBuf,
    /// The target's directory by its identity, where the kernel's own function told it; the paths are then bare
    /// names.
    pub volume: Option<VolumeId>,
}

/// Which of the rename calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameCall {
    /// `rename(2)`; arm64 has none.
    Rename,
    /// `renameat(2)`.
    Renameat,
    /// `renameat2(2)`.
    Renameat2,
    /// Whichever it was: the kernel's own function told it.
    Any,
}

impl RenameCall {
    /// The system calls, in the order of their numbers in records.
    pub const ALL: [Self; 3] = [Self::Rename, Self::Renameat, Self::Renameat2];

    /// The call's name in the kernel.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rename => "rename",
            Self::Renameat => "renameat",
            Self::Renameat2 => "renameat2",
            Self::Any => "vfs_rename",
        }
    }
}

/// A volume's root directory as the kernel identifies it; never by a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId {
    /// The file system's `s_dev`, which is not every file system's `st_dev`.
    pub device: u32,
    /// The directory's inode number. The kernel uses it again once the directory is gone.
    pub inode: u64,
}

/// The first open of one file of one generation in one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOpen {
    /// When it was opened, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// Who opened.
    pub task: Task,
    /// The kernfs id of the container's cgroup, or of the pod's if it is in no container's.
    pub cgroup_id: Option<u64>,
    /// The volume, as registered.
    pub volume: VolumeId,
    /// The file's inode number; used again once the generation is gone.
    pub inode: Option<u64>,
    /// Whether it lies in the generation's directory itself rather than in a folder of it.
    pub is_direct: bool,
    /// The generation's directory.
    pub generation: String,
    /// The file's last path component.
    pub name: String,
    /// The system call; nothing if the kernel's own function saw it, whichever call it was.
    pub call: Option<OpenCall>,
}

/// The inotify event of a new `..data` in a registered volume, queued for a process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When it was queued, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The kernfs id of the watcher's cgroup, as of [`FileOpen`].
    pub cgroup_id: Option<u64>,
    /// The watcher: the process that last added a watch to the group.
    pub tgid: u32,
    /// When that process was made; with `tgid` an identity for this boot.
    pub process_start_boot_ns: Option<u64>,
    /// Its name then.
    pub comm: Option<String>,
    /// The volume, as registered.
    pub volume: VolumeId,
    /// The event, as `inotify(7)` has it.
    pub mask: u32,
}

/// A process of a container added a watch to an inotify group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchAdded {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// Who.
    pub task: Task,
    /// The kernfs id of its cgroup, as of [`FileOpen`].
    pub cgroup_id: Option<u64>,
}

/// Which of the open calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenCall {
    /// `open(2)`; arm64 has none.
    Open,
    /// `openat(2)`.
    Openat,
    /// `openat2(2)`.
    Openat2,
}

impl OpenCall {
    /// All, in the order of their numbers in records.
    pub const ALL: [Self; 3] = [Self::Open, Self::Openat, Self::Openat2];

    /// The call's name in the kernel.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Openat => "openat",
            Self::Openat2 => "openat2",
        }
    }
}

/// The end of an OOM victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// When its last thread exited, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// `boot_ns` of the [`OomKill`] it belongs to; with `task.tgid` that kill's identity.
    pub kill_boot_ns: u64,
    /// The thread that exited last.
    pub task: Task,
    /// The signal it died of; nothing if it exited by itself, or the kernel did not tell.
    pub signal: Option<u32>,
    /// The code it exited with by itself; nothing if a signal ended it, or the kernel did not tell.
    pub code: Option<u32>,
}

/// Where the init of a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitPlace {
    /// The kernfs id of its memory cgroup.
    pub memcg: u64,
    /// The kernfs id of the member of the pod that this is or lies in: the container's own cgroup.
    pub member: u64,
}

/// A container's init executes its program: the start of the container, once in the life of its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// When the program was in place and had not run yet, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The init, by its new name.
    pub task: Task,
    /// Its parent: the runtime, or the shim that inherited it. Nothing if the kernel did not tell.
    pub parent: Option<Task>,
    /// Where it is.
    pub place: InitPlace,
    /// The path that was executed, as given, at most 127 bytes. A hint.
    pub executable: Option<String>,
}

/// The end of a container's init that the OOM killer had not killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitExit {
    /// When its last thread exited, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The thread that exited last.
    pub task: Task,
    /// Where it was.
    pub place: InitPlace,
    /// The signal it died of; nothing if it exited by itself, or the kernel did not tell.
    pub signal: Option<u32>,
    /// The code it exited with by itself; nothing if a signal ended it, or the kernel did not tell.
    pub code: Option<u32>,
}

/// A signal from a process to a container's init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// When the kernel had decided what becomes of it, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// The thread of the init that it was sent to, or by which it was found.
    pub target: Task,
    /// Where the init is.
    pub place: InitPlace,
    /// Who sent it.
    pub sender: Task,
    /// The kernfs id of the sender's memory cgroup.
    pub sender_memcg: Option<u64>,
    /// The kernfs id of the nearest of the kubelet's cgroups that holds the sender; nothing if none does.
    pub sender_place: Option<u64>,
    /// Names of the sender's memory cgroup and of those above it, at most four, without the root's.
    pub sender_levels: Vec<String>,
    /// The signal's number: 9 or 15.
    pub signal: u32,
    /// What the kernel did with it.
    pub result: SignalResult,
    /// How it was sent.
    pub by: SignalBy,
    /// Whether it went to the whole process rather than to one thread.
    pub is_group: bool,
    /// Signals of this sender's cgroup to this init that were not told since the record before.
    pub untold: u32,
}

/// What the kernel did with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalResult {
    /// It will be handled, or it kills.
    Delivered,
    /// The process ignores it; an init ignores what it has no handler for.
    Ignored,
    /// One of its kind waits already.
    AlreadyPending,
}

impl SignalResult {
    /// The name in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Ignored => "ignored",
            Self::AlreadyPending => "already_pending",
        }
    }
}

/// How a process sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalBy {
    /// `kill(2)`, or `pidfd_send_signal(2)`.
    Kill,
    /// `sigqueue(3)`.
    Queue,
    /// `tkill(2)` or `tgkill(2)`.
    Tkill,
    /// A kernel function that tells no more: `cgroup.kill`, or the death of a parent that was asked for.
    Untold,
}

impl SignalBy {
    /// The name in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Queue => "sigqueue",
            Self::Tkill => "tkill",
            Self::Untold => "untold",
        }
    }
}

/// A cgroup of the kubelet's tree, in the hierarchy that has the memory controller, was made or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupChange {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`: before others can see the directory, or after they cannot.
    pub boot_ns: u64,
    /// The directory's kernfs id; never that of another one in this boot.
    pub kernfs_id: u64,
    /// The kernfs id of the directory above it.
    pub parent_id: u64,
    /// What it is.
    pub level: PodLevel,
    /// The directory's name, at most 127 bytes; absent for one that is gone.
    pub name: Option<String>,
    /// True if the name may have been longer than what is kept.
    pub name_truncated: bool,
}

/// What a cgroup is in the kubelet's tree; a deeper one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodLevel {
    /// `kubepods`, the parent of all pods.
    Kubepods,
    /// The class of burstable or of best-effort pods.
    Class,
    /// A pod.
    Pod,
    /// A direct member of a pod: a container, its sandbox, or what a runtime puts beside them.
    Member,
}
