//! Which programs observe which subject: for each subject the ways to do it, the best first.
//!
//! A hook is written as its label, which `aft status` and events show too: `raw_tp:<tracepoint>`,
//! `tp:<category>/<tracepoint>`, `fentry:<function>` or `fexit:<function>`.

use super::hook::{Subject, Tier};

/// One way to observe a subject.
pub(super) struct Plan {
    pub(super) subject: Subject,
    pub(super) tier: Tier,
    /// In the order in which they are attached: what a hook hands on to is there before it.
    pub(super) hooks: &'static [Hook],
    pub(super) enough: Enough,
}

/// One program and where it belongs.
pub(super) struct Hook {
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// Where it is attached.
    pub(super) label: &'static str,
}

/// How many of its hooks a plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enough {
    /// Every one; fewer say nothing.
    All,
    /// Entry and exit of one system call at least; which call a program uses is its own affair, and each
    /// architecture has its own.
    OneCall,
    /// One at least: each is a call of its own.
    Any,
    /// It follows from what these hooks of other subjects, which are tried before, tell.
    From(&'static [&'static str]),
}

impl Plan {
    /// Whether the hooks attached are enough.
    pub(super) fn is_enough(&self, attached: &[&str]) -> bool {
        match self.enough {
            Enough::All => self.hooks.iter().all(|hook| attached.contains(&hook.label)),
            // Whether the others are attached is looked at before.
            Enough::From(_) => true,
            Enough::Any => !attached.is_empty(),
            Enough::OneCall => attached.iter().any(|entry| {
                let exit = entry.replace("/sys_enter_", "/sys_exit_");
                exit != *entry && attached.contains(&exit.as_str())
            }),
        }
    }
}

const fn hook(program: &'static str, label: &'static str) -> Hook {
    Hook { program, label }
}

/// Every plan; those of one subject from the best to the last.
pub(super) const PLANS: &[Plan] = &[
    Plan {
        subject: Subject::Lifetime,
        tier: Tier::Tracepoint,
        hooks: &[
            hook("cgroup_mkdir", "raw_tp:cgroup_mkdir"),
            hook("cgroup_rmdir", "raw_tp:cgroup_rmdir"),
            hook("sched_process_exec", "raw_tp:sched_process_exec"),
            hook("sched_process_exit", "raw_tp:sched_process_exit"),
        ],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::Reclaim,
        tier: Tier::Tracepoint,
        hooks: &[
            hook("memcg_reclaim_end", "raw_tp:mm_vmscan_memcg_reclaim_end"),
            hook("memcg_reclaim_begin", "raw_tp:mm_vmscan_memcg_reclaim_begin"),
            // Without it an old reclaim for a cgroup would be taken for the last one.
            hook("direct_reclaim_begin", "raw_tp:mm_vmscan_direct_reclaim_begin"),
        ],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::OomDecision,
        tier: Tier::Tracing,
        hooks: &[hook("oom_kill_process", "fentry:oom_kill_process")],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::OomDecision,
        tier: Tier::Tracepoint,
        // Nothing of its own: each kill carries what the decision is derived from.
        hooks: &[],
        enough: Enough::From(&[
            "raw_tp:mm_vmscan_memcg_reclaim_begin",
            "raw_tp:mm_vmscan_direct_reclaim_begin",
        ]),
    },
    Plan {
        subject: Subject::Signal,
        tier: Tier::Tracepoint,
        hooks: &[hook("signal_sent", "raw_tp:signal_generate")],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::OomKill,
        tier: Tier::Tracepoint,
        // Either of the pair alone says nothing.
        hooks: &[
            hook("mark_victim", "raw_tp:mark_victim"),
            hook("signal_generate", "raw_tp:signal_generate"),
        ],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::Swap,
        tier: Tier::Tracing,
        hooks: &[hook("vfs_rename_exit", "fexit:vfs_rename"), hook("vfs_rename_enter", "fentry:vfs_rename")],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::Swap,
        tier: Tier::Tracepoint,
        hooks: &[
            hook("exit_rename", "tp:syscalls/sys_exit_rename"),
            hook("exit_renameat", "tp:syscalls/sys_exit_renameat"),
            hook("exit_renameat2", "tp:syscalls/sys_exit_renameat2"),
            hook("enter_rename", "tp:syscalls/sys_enter_rename"),
            hook("enter_renameat", "tp:syscalls/sys_enter_renameat"),
            hook("enter_renameat2", "tp:syscalls/sys_enter_renameat2"),
        ],
        enough: Enough::OneCall,
    },
    Plan {
        subject: Subject::Read,
        tier: Tier::Tracing,
        hooks: &[hook("security_file_open", "fexit:security_file_open")],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::Read,
        tier: Tier::Tracepoint,
        hooks: &[
            hook("exit_open", "tp:syscalls/sys_exit_open"),
            hook("exit_openat", "tp:syscalls/sys_exit_openat"),
            hook("exit_openat2", "tp:syscalls/sys_exit_openat2"),
        ],
        enough: Enough::Any,
    },
    Plan {
        subject: Subject::Notify,
        tier: Tier::Tracing,
        hooks: &[
            hook("inotify_handle_inode_event", "fentry:inotify_handle_inode_event"),
            hook("exit_inotify_add_watch", "tp:syscalls/sys_exit_inotify_add_watch"),
            hook("enter_inotify_add_watch", "tp:syscalls/sys_enter_inotify_add_watch"),
        ],
        enough: Enough::All,
    },
    Plan {
        subject: Subject::Notify,
        tier: Tier::Tracepoint,
        hooks: &[hook("exit_inotify_add_watch", "tp:syscalls/sys_exit_inotify_add_watch")],
        enough: Enough::All,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_a_plan_and_the_better_tier_comes_first() {
        for subject in Subject::ALL {
            let tiers: Vec<Tier> = PLANS.iter().filter(|p| p.subject == subject).map(|p| p.tier).collect();
            assert!(matches!(*tiers, [_] | [Tier::Tracing, Tier::Tracepoint]), "{subject}: {tiers:?}");
        }
    }

    #[test]
    fn a_call_is_observed_by_its_entry_and_its_exit() {
        let swap = PLANS.iter().find(|p| p.enough == Enough::OneCall).expect("renames are calls");
        let enter = "tp:syscalls/sys_enter_renameat2";
        assert!(!swap.is_enough(&[enter, "tp:syscalls/sys_exit_rename"]));
        assert!(swap.is_enough(&[enter, "tp:syscalls/sys_exit_renameat2"]));
    }
}
