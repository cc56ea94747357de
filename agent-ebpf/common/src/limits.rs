//! Every bound that both sides must agree on, each with its reason.

/// Levels of the memory cgroup tree that one OOM kill carries, the victim's own first.
///
/// A kubelet's deepest layout under the systemd driver is five levels (root, `kubepods.slice`,
/// `kubepods-burstable.slice`, the pod, the container), crun adds one and a node inside a container
/// (kind) three or four. Twelve leaves room for a custom cgroup root; what lies above is counted as
/// [`crate::loss::Loss::LevelsTruncated`].
pub const MAX_MEMCG_LEVELS: usize = 12;

/// Bytes kept of one cgroup directory's name, its terminating NUL included.
///
/// The longest name a kubelet or runtime makes is `cri-containerd-<64 hex>.scope`, 85 bytes; the kernel
/// itself allows 255. A longer name is cut and its level says so.
pub const CGROUP_NAME_BYTES: usize = 128;

/// Bytes kept of one path given to a rename, its terminating NUL included.
///
/// `/var/lib/kubelet/pods/<36>/volumes/kubernetes.io~configmap/<63>/..data` is 150 bytes; 512 leaves room
/// for a kubelet root in an unusual place. A longer path that does match is counted as
/// [`crate::loss::Loss::PathTruncated`], never emitted in part.
pub const PATH_BYTES: usize = 512;

/// Bytes read of a rename's target before its last component is compared: the kernel's own `PATH_MAX`,
/// so no path that the kernel accepts escapes the comparison.
pub const USER_PATH_BYTES: usize = 4096;

/// Bytes of a task's command name, `TASK_COMM_LEN` in the kernel since 2.6.
pub const COMM_BYTES: usize = 16;

/// Allocators whose last SIGKILL is remembered until `mark_victim` follows.
///
/// The two are microseconds apart on one task, so one entry per CPU would nearly do; the oldest entry is
/// evicted (LRU). Pid namespaces that are torn down fill it with one entry each.
pub const MAX_SIGNALLED: u32 = 1024;

/// OOM victims whose exit is awaited. A victim exits within milliseconds unless it is stuck in the
/// kernel; 4,096 is a guess well above any storm seen, and the oldest entry is evicted (LRU).
pub const MAX_VICTIMS: u32 = 4096;

/// Tasks whose last reclaim is remembered. Only those matter that allocate at a limit right now; 4,096 is a
/// guess above the threads of a busy node's containers at their limits, and the oldest entry is evicted (LRU).
pub const MAX_RECLAIMERS: u32 = 4096;

/// Memory cgroups whose reclaim stalls are summed up: more containers than any kubelet runs (500 on a large
/// node), and the oldest entry is evicted (LRU).
pub const MAX_STALLED_CGROUPS: u32 = 1024;

/// Renames onto `..data` between entry and exit at one time: at most one per thread, and only threads
/// that write volumes match. The oldest entry is evicted (LRU).
pub const MAX_PENDING_RENAMES: u32 = 1024;

/// Cgroups of the kubelet's known at one time: kubepods, its classes, the pods and their direct members.
///
/// A large node runs 500 pods of three containers and a sandbox, about 2,500 directories; what containers
/// make below themselves is not kept. Beyond it a new one is counted as
/// [`crate::loss::Loss::CgroupTableFull`] and its processes are taken for the host's.
pub const MAX_POD_CGROUPS: u32 = 8_192;

/// Names of cgroups that are awaited: `kubepods` in both drivers' spelling, and two classes of each.
pub const MAX_AWAITED_CGROUPS: u32 = 16;

/// Bytes of an awaited name, its terminating NUL included. `kubepods-besteffort.slice` is 25 bytes and a
/// slice repeats its parents; a longer one is not awaited, and the agent says so.
pub const AWAITED_NAME_BYTES: usize = 64;
/// Volumes whose opens are watched, of all pods of a node: 110 pods with a few each, many times over. The
/// agent registers no more; a volume beyond it has no reload proof and says so.
pub const MAX_VOLUME_ROOTS: u32 = 16_384;

/// File systems on which such volumes lie: the kubelet's root, and a tmpfs for each Secret and each projected
/// volume.
pub const MAX_VOLUME_DEVICES: u32 = 16_384;

/// Parents walked from a file up to its volume: an item's path may have up to eight folders, then comes the
/// generation, then the root. A file deeper than that is not seen.
pub const MAX_FILE_PARENTS: usize = 10;

/// First opens remembered, one per container, generation and file: a hundred pods with a few dozen files, for
/// several generations. The oldest is forgotten (LRU) and then told once more, which the agent sees.
pub const MAX_SEEN_OPENS: u32 = 65_536;

/// Bytes kept of one file's or generation's name, its terminating NUL included: the kernel's `NAME_MAX` and
/// one, so no name is cut.
pub const FILE_NAME_BYTES: usize = 256;

/// Bytes kept of the path that an init executes, its terminating NUL included. A hint for people; a longer
/// one is cut.
pub const EXECUTABLE_BYTES: usize = 128;

/// Cgroup names that say where a signal's sender is, its own first. `kubelet.service` lies two deep, a
/// user's session three; what is above the fourth is left out.
pub const MAX_SENDER_LEVELS: usize = 4;

/// Last threads whose process's exit was told, so that it is told once. Only threads that exit at the same
/// instant matter; the oldest entry is evicted (LRU).
pub const MAX_EXITED: u32 = 1024;

/// Pairs of a container's init and a sender's cgroup whose signals are counted. At most a handful of
/// cgroups signal one init; the oldest entry is evicted (LRU), which lets its next signals be told again.
pub const MAX_SIGNAL_PAIRS: u32 = 2048;

/// Signals told of one pair within [`SIGNAL_WINDOW_NS`]; the others are counted in the next record and as
/// [`crate::loss::Loss::SignalFlood`]. A kubelet sends two in thirty seconds.
pub const MAX_SIGNALS_IN_WINDOW: u32 = 16;

/// The window of [`MAX_SIGNALS_IN_WINDOW`], in nanoseconds.
pub const SIGNAL_WINDOW_NS: u64 = 10_000_000_000;
/// Inotify groups of containers whose owner is remembered. A container has a handful; the oldest is forgotten
/// (LRU) and its events are then nobody's.
pub const MAX_WATCHING_GROUPS: u32 = 16_384;

/// Processes that added a watch of late: what is told of each is limited.
pub const MAX_WATCHING_PROCESSES: u32 = 4_096;

/// Least time between two records of added watches of one process, in nanoseconds. The agent looks at all of
/// a process's watches, and a little later than this.
pub const WATCH_ADDED_PERIOD_NS: u64 = 1_000_000_000;

/// Bytes of the ring buffer unless the agent sets another size: about 240 OOM kills or 850 swaps.
pub const DEFAULT_RING_BYTES: u32 = 1 << 20;
