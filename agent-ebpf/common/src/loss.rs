//! What the programs count because they could not, or need not, say it in a record.
//!
//! One per-CPU array in the kernel, one slot per [`Loss`]; the agent reads it and reports the increase.

/// A reason for a count, and its slot in the per-CPU array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer had no room for an OOM kill.
    RingFullOomKill = 0,
    /// The ring buffer had no room for a rename onto `..data`.
    RingFullRename = 1,
    /// The ring buffer had no room for a victim's exit.
    RingFullExit = 2,
    /// A field of kernel memory that this kernel has could not be read; the record went out without it.
    ReadFailed = 3,
    /// A rename's path was unreadable both at entry and at exit: whether it was a swap is not known.
    PathUnreadable = 4,
    /// A rename onto `..data` had a path longer than [`crate::limits::PATH_BYTES`].
    PathTruncated = 5,
    /// A rename matched at entry, and its path in user memory was another at exit.
    PathChanged = 6,
    /// `mark_victim` without the kernel's SIGKILL: the victim was exiting already, which is no kill.
    MarkWithoutSignal = 7,
    /// The SIGKILL of an allocator could not be remembered, so its `mark_victim` cannot be paired.
    SignalTableFull = 8,
    /// A victim could not be remembered, so its exit will not be reported.
    VictimTableFull = 9,
    /// A rename onto `..data` could not be remembered until its result was known.
    RenameTableFull = 10,
    /// A victim's cgroup lies deeper than [`crate::limits::MAX_MEMCG_LEVELS`]; the top was left out.
    LevelsTruncated = 11,
    /// The kernel passed `mark_victim` nothing from which the victim could be read.
    VictimUnreadable = 12,
    /// The ring buffer had no room for a cgroup that was made or removed.
    RingFullCgroup = 13,
    /// A cgroup of a pod could not be remembered; its processes are taken for the host's.
    CgroupTableFull = 14,
    /// The ring buffer had no room for a first open of a volume's file.
    RingFullRead = 15,
    /// The ring buffer had no room for an OOM decision.
    RingFullOomDecision = 16,
    /// A task's reclaim could not be remembered; which limit fired in its decisions is not known.
    ReclaimTableFull = 17,
    /// The ring buffer had no room for an init's exec.
    RingFullExec = 18,
    /// The ring buffer had no room for a signal to an init.
    RingFullSignal = 19,
    /// One sender's cgroup signalled one init too often; the next record says how often.
    SignalFlood = 20,
    /// The ring buffer had no room for an inotify event about a volume, or for an added watch.
    RingFullNotice = 21,
}

impl Loss {
    /// All reasons, in the order of their slots.
    pub const ALL: [Self; 22] = [
        Self::RingFullOomKill,
        Self::RingFullRename,
        Self::RingFullExit,
        Self::ReadFailed,
        Self::PathUnreadable,
        Self::PathTruncated,
        Self::PathChanged,
        Self::MarkWithoutSignal,
        Self::SignalTableFull,
        Self::VictimTableFull,
        Self::RenameTableFull,
        Self::LevelsTruncated,
        Self::VictimUnreadable,
        Self::RingFullCgroup,
        Self::CgroupTableFull,
        Self::RingFullRead,
        Self::RingFullOomDecision,
        Self::ReclaimTableFull,
        Self::RingFullExec,
        Self::RingFullSignal,
        Self::SignalFlood,
        Self::RingFullNotice,
    ];

    /// The number of slots in the per-CPU array.
    pub const COUNT: u32 = Self::ALL.len() as u32;

    /// The slot of this reason.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

const _: () = {
    let mut slot = 0;
    while slot < Loss::ALL.len() {
        assert!(Loss::ALL[slot] as usize == slot, "Loss::ALL is in the order of the slots");
        slot += 1;
    }
};
