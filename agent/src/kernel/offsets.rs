//! BTF → the offsets that the programs are told: one table, one row per fact.
//!
//! A row names the fact for people, the member in the kernel, and where it is in [`Offsets`]. Members that
//! moved between kernels have several paths, tried in order. A fact that no path finds, or that has
//! another size than the programs read, is absent by name and its offset stays [`NO_OFFSET`].

use aftertrace_ebpf_common::config::{NO_OFFSET, Offsets, mark_victim_passes};

use super::{
    btf::{
        Argument, Btf, PathError,
        Step::{self, Index, Member},
    },
    hook::Subject,
};

/// A fact that this kernel does not offer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fact} ({reason})")]
pub struct MissingFact {
    /// The fact, for people.
    pub fact: &'static str,
    /// The subjects whose records lack it.
    pub subjects: &'static [Subject],
    /// What was looked for and not found.
    pub reason: MissingReason,
}

/// Why a fact is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingReason {
    /// BTF has no such member.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It has one that the programs would misread.
    #[error("`{structure}` of this kernel keeps it in {found} bytes, not {expected}")]
    Size {
        /// The structure.
        structure: &'static str,
        /// Bytes in this kernel.
        found: u32,
        /// Bytes that the programs read.
        expected: u32,
    },
    /// An enumerator on which the member's place depends is not there.
    #[error("this kernel has no `{0}`")]
    NoSuchEnumerator(&'static str),
    /// A tracepoint passes something the programs were not written for.
    #[error("the tracepoint passes something unknown")]
    UnknownArgument,
}

/// All the programs need to know, and what they will have to do without.
#[derive(Debug)]
pub struct Located {
    /// The offsets found.
    pub offsets: Offsets,
    /// One of [`mark_victim_passes`].
    pub mark_victim_passes: u32,
    /// The memory controller's bit in a hierarchy's mask; 0 if it is not known.
    pub memory_controller: u32,
    /// How this kernel numbers the constraints of an OOM decision: none, cpuset, mempolicy, memcg.
    pub oom_constraints: [Option<u32>; 4],
    /// The facts not found, in the order of the table.
    pub missing: Vec<MissingFact>,
}

const OOM: &[Subject] = &[Subject::OomKill, Subject::OomDecision];
const SWAP: &[Subject] = &[Subject::Swap];
const READ: &[Subject] = &[Subject::Read];
const NOTIFY: &[Subject] = &[Subject::Notify];
/// What finds a volume needs these.
const VOLUMES: &[Subject] = &[Subject::Read, Subject::Notify];
const DECISION: &[Subject] = &[Subject::OomDecision];
const RECLAIM: &[Subject] = &[Subject::Reclaim];
const EVERY: &[Subject] = &Subject::ALL;
/// What is filtered by the cgroup of a task needs these.
const CGROUPS: &[Subject] = &[Subject::OomKill, Subject::Lifetime, Subject::Signal, Subject::Read];
const LIFETIME: &[Subject] = &[Subject::Lifetime];
const SIGNAL: &[Subject] = &[Subject::Signal];

/// A path to a member: its structure, and the steps from there.
type Path<'s> = (&'static str, &'s [Step<'s>]);

/// The walk over the table, with what it has found.
struct Finder<'b, 'a> {
    btf: &'b Btf<'a>,
    located: Located,
}

impl Finder<'_, '_> {
    /// Fills one offset from the first path that leads to a member of `size` bytes.
    fn find(
        &mut self,
        fact: &'static str,
        subjects: &'static [Subject],
        offset: fn(&mut Offsets) -> &mut u32,
        size: u32,
        paths: &[Path<'_>],
    ) {
        let mut reason = None;
        for &(structure, steps) in paths {
            match self.btf.place(structure, steps) {
                Ok(place) if place.size == size => {
                    *offset(&mut self.located.offsets) = place.offset;
                    return;
                }
                Ok(place) => {
                    reason = Some(MissingReason::Size { structure, found: place.size, expected: size })
                }
                Err(error) => reason = reason.or(Some(error.into())),
            }
        }
        self.located.missing.extend(reason.map(|reason| MissingFact { fact, subjects, reason }));
    }

    /// The value of an enumerator that a place depends on; absent, it costs the fact.
    fn enumerator(
        &mut self,
        fact: &'static str,
        subjects: &'static [Subject],
        enumeration: &str,
        name: &'static str,
    ) -> Option<u32> {
        let value = self.btf.enumerator(enumeration, name);
        if value.is_none() {
            let reason = MissingReason::NoSuchEnumerator(name);
            self.located.missing.push(MissingFact { fact, subjects, reason });
        }
        value
    }
}

/// Looks up everything the programs read.
#[must_use]
pub fn locate(btf: &Btf<'_>) -> Located {
    let located = Located {
        offsets: Offsets::NONE,
        mark_victim_passes: mark_victim_passes::UNKNOWN,
        memory_controller: 0,
        oom_constraints: [None; 4],
        missing: Vec::new(),
    };
    let mut finder = Finder { btf, located };
    tasks(&mut finder);
    memory(&mut finder);
    cgroups(&mut finder);
    decisions(&mut finder);
    namespaces(&mut finder);
    files(&mut finder);
    renames_and_watches(&mut finder);
    mark_victim(&mut finder);
    finder.located
}

/// Who: `task_struct`, `cred`, `signal_struct`, `pid`.
fn tasks(f: &mut Finder<'_, '_>) {
    let task = "task_struct";
    f.find("a task's tid", EVERY, |o| &mut o.task_pid, 4, &[(task, &[Member("pid")])]);
    f.find("a task's tgid", EVERY, |o| &mut o.task_tgid, 4, &[(task, &[Member("tgid")])]);
    f.find("a task's command name", EVERY, |o| &mut o.task_comm, 16, &[(task, &[Member("comm")])]);
    f.find("whether a task is exiting", OOM, |o| &mut o.task_flags, 4, &[(task, &[Member("flags")])]);
    f.find(
        "a task's start time",
        EVERY,
        |o| &mut o.task_start_boottime,
        8,
        &[(task, &[Member("start_boottime")]), (task, &[Member("real_start_time")])],
    );
    f.find("a task's credentials", EVERY, |o| &mut o.task_real_cred, 8, &[(task, &[Member("real_cred")])]);
    f.find("a task's uid", EVERY, |o| &mut o.cred_uid, 4, &[("cred", &[Member("uid"), Member("val")])]);
    let parent = [Member("real_parent")];
    f.find("a task's parent", CGROUPS, |o| &mut o.task_real_parent, 8, &[(task, &parent)]);
    f.find("a task's memory", OOM, |o| &mut o.task_mm, 8, &[(task, &[Member("mm")])]);
    f.find("a task's signal state", EVERY, |o| &mut o.task_signal, 8, &[(task, &[Member("signal")])]);
    f.find("a task's cgroups", CGROUPS, |o| &mut o.task_cgroups, 8, &[(task, &[Member("cgroups")])]);
    f.find("a thread's exit code", LIFETIME, |o| &mut o.task_exit_code, 4, &[(task, &[Member("exit_code")])]);

    let leader = [Member("group_leader")];
    f.find("a process's start time", EVERY, |o| &mut o.task_group_leader, 8, &[(task, &leader)]);

    let signal = "signal_struct";
    let live = [Member("live"), Member("counter")];
    f.find("which thread exits last", LIFETIME, |o| &mut o.signal_live, 4, &[(signal, &live)]);
    let group = [Member("group_exit_code")];
    f.find("a process's exit code", LIFETIME, |o| &mut o.signal_group_exit_code, 4, &[(signal, &group)]);
    let adj = [Member("oom_score_adj")];
    f.find("the victim's oom_score_adj", OOM, |o| &mut o.signal_oom_score_adj, 2, &[(signal, &adj)]);

    let flags = [Member("flags")];
    f.find("whether a process is exiting", SIGNAL, |o| &mut o.signal_flags, 4, &[(signal, &flags)]);
    let code = [Member("si_code")];
    let siginfo = "kernel_siginfo";
    let fact = "whether a signal comes from a process";
    f.find(fact, SIGNAL, |o| &mut o.siginfo_code, 4, &[(siginfo, &code)]);
    let filename = [Member("filename")];
    let bprm = "linux_binprm";
    f.find("what is executed", LIFETIME, |o| &mut o.binprm_filename, 8, &[(bprm, &filename)]);

    let fact = "a process's id in its own pid namespace";
    if let Some(tgid) = f.enumerator(fact, EVERY, "pid_type", "PIDTYPE_TGID") {
        let pids = [Member("pids"), Index(tgid)];
        f.find(fact, EVERY, |o| &mut o.signal_tgid_pid, 8, &[(signal, &pids)]);
    }
    f.find(fact, EVERY, |o| &mut o.pid_level, 4, &[("pid", &[Member("level")])]);
    let number = [Member("numbers"), Index(0), Member("nr")];
    f.find(fact, EVERY, |o| &mut o.pid_numbers_nr, 4, &[("pid", &number)]);
    // The stride is a size, not an offset: that of the whole element.
    if let Ok(element) = f.btf.place("upid", &[]) {
        f.located.offsets.pid_numbers_stride = element.size;
    } else {
        f.located.offsets.pid_numbers_nr = NO_OFFSET;
    }
}

/// How much: `mm_struct`.
fn memory(f: &mut Finder<'_, '_>) {
    let mm = "mm_struct";
    f.find("the victim's mapped pages", OOM, |o| &mut o.mm_total_vm, 8, &[(mm, &[Member("total_vm")])]);
    let pgtables = [Member("pgtables_bytes"), Member("counter")];
    f.find("the victim's page tables", OOM, |o| &mut o.mm_pgtables_bytes, 8, &[(mm, &pgtables)]);

    type Counter = (&'static str, &'static str, fn(&mut Offsets) -> &mut u32);
    let counters: [Counter; 4] = [
        ("the victim's anonymous pages", "MM_ANONPAGES", |o| &mut o.mm_rss_anon),
        ("the victim's file pages", "MM_FILEPAGES", |o| &mut o.mm_rss_file),
        ("the victim's shared-memory pages", "MM_SHMEMPAGES", |o| &mut o.mm_rss_shmem),
        ("the victim's swapped-out pages", "MM_SWAPENTS", |o| &mut o.mm_swap_entries),
    ];
    for (fact, name, offset) in counters {
        // The enumeration had no name before Linux 6.2 (`enum { MM_FILEPAGES, … }`), and BTF finds enumerations
        // by name; but the order is the same in all kernels that have MM_SHMEMPAGES (4.5).
        let index = match name {
            "MM_FILEPAGES" => 0,
            "MM_ANONPAGES" => 1,
            "MM_SWAPENTS" => 2,
            _ => 3,
        };
        // From 6.2 on an array of per-CPU counters, before it one structure of atomic counts.
        let percpu = [Member("rss_stat"), Index(index), Member("count")];
        let atomic = [Member("rss_stat"), Member("count"), Index(index), Member("counter")];
        f.find(fact, OOM, offset, 8, &[(mm, &percpu), (mm, &atomic)]);
    }
}

/// Where: `css_set`, `cgroup_subsys_state`, `cgroup`, `kernfs_node`, `mem_cgroup`.
fn cgroups(f: &mut Finder<'_, '_>) {
    let fact = "a task's memory cgroup";
    if let Some(memory) = f.enumerator(fact, CGROUPS, "cgroup_subsys_id", "memory_cgrp_id") {
        f.located.memory_controller = 1_u32.checked_shl(memory).unwrap_or(0);
        let state = [Member("subsys"), Index(memory)];
        f.find(fact, CGROUPS, |o| &mut o.css_set_memory, 8, &[("css_set", &state)]);
    }
    let css = "cgroup_subsys_state";
    f.find("a memory cgroup's directory", CGROUPS, |o| &mut o.css_cgroup, 8, &[(css, &[Member("cgroup")])]);
    f.find("a memory cgroup's parent", CGROUPS, |o| &mut o.css_parent, 8, &[(css, &[Member("parent")])]);
    f.find("a memory cgroup's directory", CGROUPS, |o| &mut o.cgroup_kn, 8, &[("cgroup", &[Member("kn")])]);
    let node = "kernfs_node";
    f.find("a memory cgroup's id", CGROUPS, |o| &mut o.kernfs_id, 8, &[(node, &[Member("id")])]);
    f.find("a memory cgroup's name", CGROUPS, |o| &mut o.kernfs_name, 8, &[(node, &[Member("name")])]);
    // `self` is a whole structure, so its size is not the point.
    if let Ok(place) = f.btf.place("cgroup", &[Member("self")]) {
        f.located.offsets.cgroup_self = place.offset;
    }
    let fact = "a cgroup's hierarchy";
    f.find(fact, CGROUPS, |o| &mut o.cgroup_root, 8, &[("cgroup", &[Member("root")])]);
    let mask = [Member("subsys_mask")];
    f.find(fact, CGROUPS, |o| &mut o.root_subsys_mask, 4, &[("cgroup_root", &mask)]);
    f.find("a cgroup's depth", CGROUPS, |o| &mut o.cgroup_level, 4, &[("cgroup", &[Member("level")])]);

    let memcg = "mem_cgroup";
    if let Ok(place) = f.btf.place(memcg, &[Member("css")]) {
        f.located.offsets.memcg_css = place.offset;
    }
    let usage = [Member("memory"), Member("usage"), Member("counter")];
    f.find("a memory cgroup's usage", OOM, |o| &mut o.memcg_usage, 8, &[(memcg, &usage)]);
    let max = [Member("memory"), Member("max")];
    f.find("a memory cgroup's limit", OOM, |o| &mut o.memcg_max, 8, &[(memcg, &max)]);
    let group = [Member("oom_group")];
    f.find("whether a cgroup is killed as a group", OOM, |o| &mut o.memcg_oom_group, 1, &[(memcg, &group)]);
    let lock = [Member("oom_lock")];
    f.find(
        "for which limit an OOM decision is under way",
        OOM,
        |o| &mut o.memcg_oom_lock,
        1,
        &[(memcg, &lock)],
    );

    type Event = (&'static str, &'static str, fn(&mut Offsets) -> &mut u32);
    let events: [Event; 4] = [
        ("how often a cgroup met its limit", "MEMCG_MAX", |o| &mut o.memcg_events_max),
        ("which cgroup's limit fired", "MEMCG_OOM", |o| &mut o.memcg_events_oom),
        ("a cgroup's count of OOM kills", "MEMCG_OOM_KILL", |o| &mut o.memcg_events_oom_kill),
        ("a cgroup's count of group kills", "MEMCG_OOM_GROUP_KILL", |o| &mut o.memcg_events_oom_group_kill),
    ];
    for (fact, name, offset) in events {
        if let Some(event) = f.enumerator(fact, OOM, "memcg_memory_event", name) {
            let count = [Member("memory_events_local"), Index(event), Member("counter")];
            f.find(fact, OOM, offset, 8, &[(memcg, &count)]);
        }
    }
}

/// Why: `oom_control`, and what an allocation is charged to.
fn decisions(f: &mut Finder<'_, '_>) {
    let oc = "oom_control";
    type Fact = (&'static str, &'static str, u32, fn(&mut Offsets) -> &mut u32);
    let facts: [Fact; 7] = [
        ("for which limit the OOM killer decides", "memcg", 8, |o| &mut o.oc_memcg),
        ("the flags of the failing allocation", "gfp_mask", 4, |o| &mut o.oc_gfp_mask),
        ("the order of the failing allocation", "order", 4, |o| &mut o.oc_order),
        ("the pages that the OOM killer counts on", "totalpages", 8, |o| &mut o.oc_totalpages),
        ("whom the OOM killer has chosen", "chosen", 8, |o| &mut o.oc_chosen),
        ("the score of the chosen", "chosen_points", 8, |o| &mut o.oc_chosen_points),
        ("the constraint of an OOM decision", "constraint", 4, |o| &mut o.oc_constraint),
    ];
    for (fact, member, size, offset) in facts {
        f.find(fact, DECISION, offset, size, &[(oc, &[Member(member)])]);
    }
    let names = ["CONSTRAINT_NONE", "CONSTRAINT_CPUSET", "CONSTRAINT_MEMORY_POLICY", "CONSTRAINT_MEMCG"];
    for (name, place) in names.into_iter().zip(0..) {
        let value = f.enumerator("the constraint of an OOM decision", DECISION, "oom_constraint", name);
        f.located.oom_constraints[place] = value;
    }
    let fact = "the memory cgroup that a task charges in place of its own";
    let active = [Member("active_memcg")];
    f.find(fact, RECLAIM, |o| &mut o.task_active_memcg, 8, &[("task_struct", &active)]);
    let fact = "whose memory cgroup page faults are charged to";
    f.find(fact, RECLAIM, |o| &mut o.mm_owner, 8, &[("mm_struct", &[Member("owner")])]);
}

/// In which mount namespace: `nsproxy`, `mnt_namespace`.
fn namespaces(f: &mut Finder<'_, '_>) {
    let fact = "the writer's mount namespace";
    f.find(fact, SWAP, |o| &mut o.task_nsproxy, 8, &[("task_struct", &[Member("nsproxy")])]);
    f.find(fact, SWAP, |o| &mut o.nsproxy_mnt_ns, 8, &[("nsproxy", &[Member("mnt_ns")])]);
    let inum = [Member("ns"), Member("inum")];
    f.find(fact, SWAP, |o| &mut o.mnt_ns_inum, 4, &[("mnt_namespace", &inum)]);
}

/// What is open, and where it lies: `files_struct`, `file`, `dentry`, `inode`, `super_block`.
fn files(f: &mut Finder<'_, '_>) {
    let task = "task_struct";
    let fact = "a task's open files";
    f.find(fact, READ, |o| &mut o.task_files, 8, &[(task, &[Member("files")])]);
    f.find(fact, READ, |o| &mut o.files_fdt, 8, &[("files_struct", &[Member("fdt")])]);
    f.find(fact, READ, |o| &mut o.fdtable_max_fds, 4, &[("fdtable", &[Member("max_fds")])]);
    f.find(fact, READ, |o| &mut o.fdtable_fd, 8, &[("fdtable", &[Member("fd")])]);
    let file = "file";
    let entry = [Member("f_path"), Member("dentry")];
    f.find("a file's directory entry", READ, |o| &mut o.file_dentry, 8, &[(file, &entry)]);
    f.find("how a file was opened", READ, |o| &mut o.file_flags, 4, &[(file, &[Member("f_flags")])]);
    f.find("an inotify group", NOTIFY, |o| &mut o.file_private, 8, &[(file, &[Member("private_data")])]);

    let entry = "dentry";
    let parent = [Member("d_parent")];
    f.find("a directory entry's parent", READ, |o| &mut o.dentry_parent, 8, &[(entry, &parent)]);
    let inode = [Member("d_inode")];
    f.find("a directory entry's inode", READ, |o| &mut o.dentry_inode, 8, &[(entry, &inode)]);
    f.find("a directory entry's file system", READ, |o| &mut o.dentry_sb, 8, &[(entry, &[Member("d_sb")])]);
    let name = [Member("d_name"), Member("name")];
    f.find("a directory entry's name", READ, |o| &mut o.dentry_name, 8, &[(entry, &name)]);
    let hash = [Member("d_name"), Member("hash_len")];
    f.find("the hash of a directory entry's name", READ, |o| &mut o.dentry_name_hash, 8, &[(entry, &hash)]);

    let inode = "inode";
    f.find("an inode's number", VOLUMES, |o| &mut o.inode_ino, 8, &[(inode, &[Member("i_ino")])]);
    f.find("an inode's file system", VOLUMES, |o| &mut o.inode_sb, 8, &[(inode, &[Member("i_sb")])]);
    f.find("an inode's type", READ, |o| &mut o.inode_mode, 2, &[(inode, &[Member("i_mode")])]);
    let device = [Member("s_dev")];
    f.find("a file system's device", VOLUMES, |o| &mut o.sb_dev, 4, &[("super_block", &device)]);
}

/// What a rename and an inotify event are about: `renamedata`, `fsnotify_mark`, `qstr`.
fn renames_and_watches(f: &mut Finder<'_, '_>) {
    // Not said to be missing from the tracepoint tier, which has no use for it.
    let data = "renamedata";
    let none: &[Subject] = &[];
    let fact = "what a rename renames";
    f.find(fact, none, |o| &mut o.renamedata_old_dentry, 8, &[(data, &[Member("old_dentry")])]);
    f.find(fact, none, |o| &mut o.renamedata_new_dentry, 8, &[(data, &[Member("new_dentry")])]);
    let group = [Member("group")];
    f.find("whose an inotify watch is", NOTIFY, |o| &mut o.mark_group, 8, &[("fsnotify_mark", &group)]);
    let name = [Member("name")];
    f.find("the name in an inotify event", NOTIFY, |o| &mut o.qstr_name, 8, &[("qstr", &name)]);
}

/// What `mark_victim` passes: `(task, uid)` from 6.9 on and in backports of it, `(pid)` before.
fn mark_victim(f: &mut Finder<'_, '_>) {
    let arguments = f.btf.tracepoint_arguments("mark_victim");
    f.located.mark_victim_passes = match arguments.as_deref() {
        Some([Argument::PointerTo(task), ..]) if task == "task_struct" => mark_victim_passes::TASK,
        Some([Argument::Integer(4)]) => mark_victim_passes::PID,
        _ => {
            let fact = "which task mark_victim names";
            let missing = MissingFact { fact, subjects: CGROUPS, reason: MissingReason::UnknownArgument };
            f.located.missing.push(missing);
            mark_victim_passes::UNKNOWN
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_type_every_fact_is_missing_by_name_and_nothing_is_guessed() {
        // A header and one empty string.
        let blob = [0x0001_eb9f_u32, 24, 0, 0, 0, 1].iter().flat_map(|word| word.to_le_bytes());
        let blob: Vec<u8> = blob.chain([0]).collect();
        let located = locate(&Btf::parse(&blob).unwrap());
        assert_eq!(located.offsets, Offsets::NONE);
        assert_eq!(located.mark_victim_passes, mark_victim_passes::UNKNOWN);
        for fact in ["a task's tgid", "a memory cgroup's limit", "the writer's mount namespace"] {
            assert!(located.missing.iter().any(|missing| missing.fact == fact), "{fact}");
        }
        let limit = located.missing.iter().find(|missing| missing.fact == "a memory cgroup's limit").unwrap();
        assert_eq!(limit.to_string(), "a memory cgroup's limit (this kernel has no `mem_cgroup`)");
    }

    #[test]
    fn this_kernel_offers_every_fact() {
        let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            println!("SKIPPED: this kernel offers no BTF in /sys/kernel/btf/vmlinux");
            return;
        };
        let located = locate(&Btf::parse(&blob).unwrap());
        let is_optional =
            |missing: &MissingFact| missing.fact == "for which limit an OOM decision is under way";
        let missing: Vec<_> = located.missing.iter().filter(|missing| !is_optional(missing)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert_ne!(located.mark_victim_passes, mark_victim_passes::UNKNOWN);
        assert_eq!(located.offsets.pid_numbers_stride, 16);
    }
}
