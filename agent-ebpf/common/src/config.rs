//! What the agent tells the programs before they are loaded: where this kernel keeps what they read.
//!
//! The agent fills these from BTF and from tracefs and writes them over read-only globals, which the
//! verifier then sees as constants: a fact whose offset is missing costs no instruction at run time.

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The offset of something this kernel does not have, or whose place is not known.
pub const NO_OFFSET: u32 = u32::MAX;

/// What `mark_victim` passes its raw listeners.
pub mod mark_victim_passes {
    /// Not known: the record is built from the task that `signal_generate` named just before.
    pub const UNKNOWN: u32 = 0;
    /// `int pid`, before Linux 6.9: the same fallback, checked against that pid.
    pub const PID: u32 = 1;
    /// `struct task_struct *task, uid_t uid`, from Linux 6.9 on.
    pub const TASK: u32 = 2;
}

/// Byte offsets within the kernel's structures; [`NO_OFFSET`] where this kernel lacks the member.
///
/// A field is named `<structure>_<member>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Offsets {
    /// `task_struct.pid`, the thread's id.
    pub task_pid: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.comm`.
    pub task_comm: u32,
    /// `task_struct.flags` (`PF_EXITING`).
    pub task_flags: u32,
    /// `task_struct.start_boottime`, before Linux 5.5 `real_start_time`.
    pub task_start_boottime: u32,
    /// `task_struct.real_cred`.
    pub task_real_cred: u32,
    /// `task_struct.real_parent`, the process that made it or inherited it.
    pub task_real_parent: u32,
    /// `task_struct.group_leader`, the process's first thread.
    pub task_group_leader: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `task_struct.signal`.
    pub task_signal: u32,
    /// `task_struct.cgroups`.
    pub task_cgroups: u32,
    /// `task_struct.nsproxy`.
    pub task_nsproxy: u32,
    /// `task_struct.exit_code`.
    pub task_exit_code: u32,
    /// `task_struct.active_memcg`, which it charges instead of its own while set.
    pub task_active_memcg: u32,
    /// `mm_struct.owner`, whose memory cgroup page faults are charged to.
    pub mm_owner: u32,
    /// `cred.uid.val`.
    pub cred_uid: u32,
    /// `signal_struct.live.counter`, the threads still alive.
    pub signal_live: u32,
    /// `signal_struct.flags` (`SIGNAL_GROUP_EXIT`).
    pub signal_flags: u32,
    /// `kernel_siginfo.si_code`.
    pub siginfo_code: u32,
    /// `linux_binprm.filename`.
    pub binprm_filename: u32,
    /// `signal_struct.group_exit_code`.
    pub signal_group_exit_code: u32,
    /// `signal_struct.oom_score_adj`.
    pub signal_oom_score_adj: u32,
    /// `signal_struct.pids[PIDTYPE_TGID]`.
    pub signal_tgid_pid: u32,
    /// `pid.level`, the depth of its innermost pid namespace.
    pub pid_level: u32,
    /// `pid.numbers[0].nr`.
    pub pid_numbers_nr: u32,
    /// Bytes from one `pid.numbers[]` to the next.
    pub pid_numbers_stride: u32,
    /// `mm_struct.total_vm`, in pages.
    pub mm_total_vm: u32,
    /// `mm_struct.pgtables_bytes`.
    pub mm_pgtables_bytes: u32,
    /// The 64-bit count of anonymous pages in `mm_struct.rss_stat`.
    pub mm_rss_anon: u32,
    /// The 64-bit count of file pages in `mm_struct.rss_stat`.
    pub mm_rss_file: u32,
    /// The 64-bit count of shared-memory pages in `mm_struct.rss_stat`.
    pub mm_rss_shmem: u32,
    /// The 64-bit count of swapped-out pages in `mm_struct.rss_stat`.
    pub mm_swap_entries: u32,
    /// `css_set.subsys[memory_cgrp_id]`.
    pub css_set_memory: u32,
    /// `cgroup_subsys_state.cgroup`.
    pub css_cgroup: u32,
    /// `cgroup_subsys_state.parent`.
    pub css_parent: u32,
    /// `cgroup.kn`.
    pub cgroup_kn: u32,
    /// `cgroup.self`, whose `parent` is that of the cgroup.
    pub cgroup_self: u32,
    /// `cgroup.root`, its hierarchy.
    pub cgroup_root: u32,
    /// `cgroup.level`, its depth below the hierarchy's root.
    pub cgroup_level: u32,
    /// `cgroup_root.subsys_mask`, the controllers of a hierarchy.
    pub root_subsys_mask: u32,
    /// `kernfs_node.id`.
    pub kernfs_id: u32,
    /// `kernfs_node.name`.
    pub kernfs_name: u32,
    /// `mem_cgroup.css`, by which a state is turned into its `mem_cgroup`.
    pub memcg_css: u32,
    /// `mem_cgroup.memory.usage.counter`, in pages.
    pub memcg_usage: u32,
    /// `mem_cgroup.memory.max`, in pages.
    pub memcg_max: u32,
    /// `mem_cgroup.oom_group`.
    pub memcg_oom_group: u32,
    /// `mem_cgroup.oom_lock` (kernels with cgroup v1).
    pub memcg_oom_lock: u32,
    /// `mem_cgroup.memory_events_local[MEMCG_MAX]`.
    pub memcg_events_max: u32,
    /// `mem_cgroup.memory_events_local[MEMCG_OOM]`.
    pub memcg_events_oom: u32,
    /// `mem_cgroup.memory_events_local[MEMCG_OOM_KILL]`.
    pub memcg_events_oom_kill: u32,
    /// `mem_cgroup.memory_events_local[MEMCG_OOM_GROUP_KILL]`.
    pub memcg_events_oom_group_kill: u32,
    /// `oom_control.memcg`.
    pub oc_memcg: u32,
    /// `oom_control.gfp_mask`.
    pub oc_gfp_mask: u32,
    /// `oom_control.order`.
    pub oc_order: u32,
    /// `oom_control.totalpages`.
    pub oc_totalpages: u32,
    /// `oom_control.chosen`.
    pub oc_chosen: u32,
    /// `oom_control.chosen_points`.
    pub oc_chosen_points: u32,
    /// `oom_control.constraint`.
    pub oc_constraint: u32,
    /// `nsproxy.mnt_ns`.
    pub nsproxy_mnt_ns: u32,
    /// `mnt_namespace.ns.inum`.
    pub mnt_ns_inum: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `fdtable.max_fds`.
    pub fdtable_max_fds: u32,
    /// `fdtable.fd`, the array of open files.
    pub fdtable_fd: u32,
    /// `file.f_path.dentry`; `f_path` lies in an anonymous union since Linux 6.13.
    pub file_dentry: u32,
    /// `file.f_flags` (`O_PATH`).
    pub file_flags: u32,
    /// `file.private_data`: of an inotify descriptor its group.
    pub file_private: u32,
    /// `dentry.d_parent`.
    pub dentry_parent: u32,
    /// `dentry.d_inode`.
    pub dentry_inode: u32,
    /// `dentry.d_sb`.
    pub dentry_sb: u32,
    /// `dentry.d_name.name`.
    pub dentry_name: u32,
    /// `dentry.d_name.hash_len`: hash under the parent, and length.
    pub dentry_name_hash: u32,
    /// `inode.i_ino`.
    pub inode_ino: u32,
    /// `inode.i_sb`.
    pub inode_sb: u32,
    /// `inode.i_mode`.
    pub inode_mode: u32,
    /// `super_block.s_dev`.
    pub sb_dev: u32,
    /// `renamedata.old_dentry`.
    pub renamedata_old_dentry: u32,
    /// `renamedata.new_dentry`.
    pub renamedata_new_dentry: u32,
    /// `fsnotify_mark.group`.
    pub mark_group: u32,
    /// `qstr.name`.
    pub qstr_name: u32,
}

impl Offsets {
    /// Nothing is known: every fact is absent.
    pub const NONE: Self = Self {
        task_pid: NO_OFFSET,
        task_tgid: NO_OFFSET,
        task_comm: NO_OFFSET,
        task_flags: NO_OFFSET,
        task_start_boottime: NO_OFFSET,
        task_real_cred: NO_OFFSET,
        task_real_parent: NO_OFFSET,
        task_group_leader: NO_OFFSET,
        task_mm: NO_OFFSET,
        task_signal: NO_OFFSET,
        task_cgroups: NO_OFFSET,
        task_nsproxy: NO_OFFSET,
        task_exit_code: NO_OFFSET,
        task_active_memcg: NO_OFFSET,
        mm_owner: NO_OFFSET,
        cred_uid: NO_OFFSET,
        signal_live: NO_OFFSET,
        signal_flags: NO_OFFSET,
        siginfo_code: NO_OFFSET,
        binprm_filename: NO_OFFSET,
        signal_group_exit_code: NO_OFFSET,
        signal_oom_score_adj: NO_OFFSET,
        signal_tgid_pid: NO_OFFSET,
        pid_level: NO_OFFSET,
        pid_numbers_nr: NO_OFFSET,
        pid_numbers_stride: NO_OFFSET,
        mm_total_vm: NO_OFFSET,
        mm_pgtables_bytes: NO_OFFSET,
        mm_rss_anon: NO_OFFSET,
        mm_rss_file: NO_OFFSET,
        mm_rss_shmem: NO_OFFSET,
        mm_swap_entries: NO_OFFSET,
        css_set_memory: NO_OFFSET,
        css_cgroup: NO_OFFSET,
        css_parent: NO_OFFSET,
        cgroup_kn: NO_OFFSET,
        cgroup_self: NO_OFFSET,
        cgroup_root: NO_OFFSET,
        cgroup_level: NO_OFFSET,
        root_subsys_mask: NO_OFFSET,
        kernfs_id: NO_OFFSET,
        kernfs_name: NO_OFFSET,
        memcg_css: NO_OFFSET,
        memcg_usage: NO_OFFSET,
        memcg_max: NO_OFFSET,
        memcg_oom_group: NO_OFFSET,
        memcg_oom_lock: NO_OFFSET,
        memcg_events_max: NO_OFFSET,
        memcg_events_oom: NO_OFFSET,
        memcg_events_oom_kill: NO_OFFSET,
        memcg_events_oom_group_kill: NO_OFFSET,
        oc_memcg: NO_OFFSET,
        oc_gfp_mask: NO_OFFSET,
        oc_order: NO_OFFSET,
        oc_totalpages: NO_OFFSET,
        oc_chosen: NO_OFFSET,
        oc_chosen_points: NO_OFFSET,
        oc_constraint: NO_OFFSET,
        nsproxy_mnt_ns: NO_OFFSET,
        mnt_ns_inum: NO_OFFSET,
        task_files: NO_OFFSET,
        files_fdt: NO_OFFSET,
        fdtable_max_fds: NO_OFFSET,
        fdtable_fd: NO_OFFSET,
        file_dentry: NO_OFFSET,
        file_flags: NO_OFFSET,
        file_private: NO_OFFSET,
        dentry_parent: NO_OFFSET,
        dentry_inode: NO_OFFSET,
        dentry_sb: NO_OFFSET,
        dentry_name: NO_OFFSET,
        dentry_name_hash: NO_OFFSET,
        inode_ino: NO_OFFSET,
        inode_sb: NO_OFFSET,
        inode_mode: NO_OFFSET,
        sb_dev: NO_OFFSET,
        renamedata_old_dentry: NO_OFFSET,
        renamedata_new_dentry: NO_OFFSET,
        mark_group: NO_OFFSET,
        qstr_name: NO_OFFSET,
    };
}

/// Where the arguments of one rename call lie in its `sys_enter` tracepoint, from tracefs' `format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct RenameFormat {
    /// `oldname`, a user pointer.
    pub old_name: u32,
    /// `newname`, a user pointer.
    pub new_name: u32,
    /// `olddfd`; [`NO_OFFSET`] for `rename`, which means the working directory.
    pub old_dfd: u32,
    /// `newdfd`; likewise.
    pub new_dfd: u32,
    /// `flags`; only `renameat2` has them.
    pub flags: u32,
    /// `ret` in the matching `sys_exit` tracepoint.
    pub ret: u32,
}

impl RenameFormat {
    /// This kernel has no such call.
    pub const NONE: Self = Self {
        old_name: NO_OFFSET,
        new_name: NO_OFFSET,
        old_dfd: NO_OFFSET,
        new_dfd: NO_OFFSET,
        flags: NO_OFFSET,
        ret: NO_OFFSET,
    };
}

/// Everything the programs are told, the value of the global `CONFIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(FromBytes, Immutable, IntoBytes, KnownLayout))]
#[repr(C)]
pub struct Config {
    /// Where the kernel keeps what the programs read.
    pub offsets: Offsets,
    /// Formats of the rename calls, by [`crate::record::rename_call`].
    pub renames: [RenameFormat; 3],
    /// Where `ret` lies in the `sys_exit` tracepoints of the open calls, by [`crate::record::open_call`];
    /// [`NO_OFFSET`] for a call that this kernel lacks.
    pub opens: [u32; 3],
    /// Where `fd` lies in `sys_enter_inotify_add_watch`.
    pub add_watch_fd: u32,
    /// Where `ret` lies in `sys_exit_inotify_add_watch`.
    pub add_watch_ret: u32,
    /// One of [`mark_victim_passes`].
    pub mark_victim_passes: u32,
    /// The bit of the memory controller in `cgroup_root.subsys_mask`; 0 if it is not known.
    pub memory_controller: u32,
    /// `cgroup.level` of the directory that holds all pods; [`NO_OFFSET`] if it is not known.
    pub kubepods_level: u32,
}

impl Config {
    /// Nothing is known yet; what the object file carries until the agent writes over it.
    pub const NONE: Self = Self {
        offsets: Offsets::NONE,
        renames: [RenameFormat::NONE; 3],
        opens: [NO_OFFSET; 3],
        add_watch_fd: NO_OFFSET,
        add_watch_ret: NO_OFFSET,
        mark_victim_passes: mark_victim_passes::UNKNOWN,
        memory_controller: 0,
        kubepods_level: NO_OFFSET,
    };
}

const _: () = assert!(size_of::<Offsets>() == 80 * 4);
const _: () = assert!(size_of::<Config>() == 80 * 4 + 3 * 24 + 8 * 4);
