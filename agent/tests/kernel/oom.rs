//! Real OOM kills in memory cgroups of the test's own.

use std::process::Command;

use aftertrace_agent::kernel::{
    DecidedBy, Exit, Fired, KernelConfig, Limit, LossReason, OomConstraint, OomDecision, OomKill, OomRole,
    Record, Subject, Tier, clock::boot_now_ns, fired::fired,
};

use crate::machine::{Cgroup, HOG, Held, Observer, compile};

/// A limit that a shell fits in and that an allocating process reaches at once.
const LIMIT: u64 = 16 << 20;

/// The kill of one process, and its decision where the kernel tells it.
async fn told_kill_of(observer: &mut Observer, tgid: u32) -> (OomKill, Option<OomDecision>) {
    let mut decision = None;
    let kill = observer
        .next(|record| match record {
            Record::OomDecision(told) if told.chosen.tgid == tgid => {
                decision = Some(*told);
                None
            }
            Record::OomKill(kill) if kill.victim.tgid == tgid => Some(*kill),
            _ => None,
        })
        .await;
    assert_eq!(
        decision.is_some(),
        observer.tier(Subject::OomDecision) == Some(Tier::Tracing),
        "each decision is told where it can be"
    );
    (kill, decision)
}

/// That the limit of the cgroup `id` fired: by the counts in the kill alone, and by the kernel's word.
fn assert_fired(kill: &OomKill, decision: Option<&OomDecision>, id: u64) {
    let derived = Fired::Memcg { kernfs_id: id, by: DecidedBy::OomEvents };
    assert_eq!(fired(kill, None), derived, "{:?} {:?}", kill.charge, kill.levels);
    if let Some(decision) = decision {
        assert_eq!(fired(kill, Some(decision)), Fired::Memcg { kernfs_id: id, by: DecidedBy::OomControl });
        assert_eq!(decision.constraint, Some(OomConstraint::Memcg));
        assert_eq!(decision.levels.first().and_then(|l| l.kernfs_id), Some(id));
        assert_eq!((&decision.allocator, &decision.chosen), (&kill.allocator, &kill.victim));
        assert_eq!((decision.order, decision.reclaims), (Some(0), kill.charge.reclaims));
        let limit = kill.levels.iter().find(|l| l.kernfs_id == Some(id)).and_then(|l| l.limit);
        let Some(Limit::Bytes(limit)) = limit else { panic!("{limit:?}") };
        assert!(decision.total_pages.is_some_and(|pages| pages * 4096 >= limit), "{decision:?}");
        assert!(decision.gfp_mask.is_some_and(|mask| mask != 0));
        assert!(decision.boot_ns <= kill.signal_boot_ns);
    }
}

async fn exit_of(observer: &mut Observer, tgid: u32) -> Exit {
    observer
        .next(|record| match record {
            Record::Exit(exit) if exit.task.tgid == tgid => Some(exit),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "current_thread")]
async fn a_kill_names_its_victim_and_every_cgroup_up_to_the_root() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(outer) = Cgroup::make("levels") else { return };
    outer.limit(64 << 20);
    let inner = outer.child("inner");
    inner.limit(LIMIT);

    let mut victim = inner.shell(HOG);
    let pid = victim.pid();
    let before = boot_now_ns();
    victim.run();
    let after = boot_now_ns();

    let (kill, decision) = told_kill_of(&mut observer, pid).await;
    assert_fired(&kill, decision.as_ref(), inner.id());
    assert_eq!(kill.role, OomRole::Marked);
    assert!(before <= kill.signal_boot_ns && kill.signal_boot_ns <= kill.boot_ns && kill.boot_ns <= after);
    assert_eq!((kill.victim.tid, kill.victim.uid), (pid, Some(0)));
    assert_eq!(kill.victim.comm.as_deref(), Some("tail"));
    assert_eq!(kill.victim.ns_tgid, Some(pid), "no pid namespace of its own");
    assert!(kill.victim.start_boot_ns.is_some_and(|start| start < before));
    assert_eq!(kill.allocator.tgid, pid, "it was its own allocation");
    assert_eq!(kill.allocator_memcg, Some(inner.id()));
    assert!(
        kill.victim_parent_memcg.is_some_and(|id| id != inner.id() && id != outer.id()),
        "it is this test"
    );
    let anonymous = kill.rss_anon_bytes.expect("every kernel counts anonymous pages");
    assert!((LIMIT / 2..=LIMIT).contains(&anonymous), "{anonymous}");
    assert!(kill.total_vm_bytes.is_some_and(|mapped| mapped >= anonymous));
    assert!(kill.pgtables_bytes.is_some_and(|bytes| bytes > 0));
    assert_eq!(kill.oom_score_adj, Some(0));
    assert_eq!(kill.swap_bytes, Some(0));

    let [own, above, root] = kill.levels.as_slice() else { panic!("{:?}", kill.levels) };
    assert!(!kill.levels_truncated);
    assert_eq!((own.kernfs_id, own.name.clone()), (Some(inner.id()), Some(inner.name())));
    assert_eq!((above.kernfs_id, above.name.clone()), (Some(outer.id()), Some(outer.name())));
    assert_eq!(root.name, None);
    assert_eq!(own.limit, Some(Limit::Bytes(LIMIT)));
    assert_eq!(above.limit, Some(Limit::Bytes(64 << 20)));
    assert_eq!(root.limit, Some(Limit::Unlimited));
    assert!(own.usage_bytes.is_some_and(|usage| (LIMIT / 2..=LIMIT).contains(&usage)), "{own:?}");
    assert_eq!((own.oom_events, above.oom_events), (Some(1), Some(0)), "the inner limit fired");
    if own.under_oom.is_some() {
        assert_eq!((own.under_oom, above.under_oom, root.under_oom), (Some(true), Some(false), Some(false)));
    }
    assert_eq!(own.oom_kill_events, Some(1));
    assert_eq!(own.oom_group, Some(false));
    assert_eq!(inner.oom_kills(), 1);

    let stalls = observer.stalls.take();
    let own = stalls.iter().find(|stalls| stalls.kernfs_id == inner.id()).expect("it reclaimed in vain");
    assert!(own.total_ns > 0 && own.total_ns < after - before, "{own:?}");

    let exit = exit_of(&mut observer, pid).await;
    assert_eq!((exit.signal, exit.code), (Some(9), None));
    assert_eq!(exit.kill_boot_ns, kill.boot_ns);
    assert_eq!(exit.task.start_boot_ns, kill.victim.start_boot_ns);
    assert!(kill.boot_ns <= exit.boot_ns && exit.boot_ns <= after);
}

#[tokio::test(flavor = "current_thread")]
async fn the_level_whose_limit_fired_is_not_taken_for_the_victims_own() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(pod) = Cgroup::make("pod") else { return };
    pod.limit(LIMIT);
    let container = pod.child("container");
    container.limit(4 * LIMIT);

    let mut victim = container.shell(HOG);
    let pid = victim.pid();
    victim.run();
    let (kill, decision) = told_kill_of(&mut observer, pid).await;
    assert_fired(&kill, decision.as_ref(), pod.id());
    let [own, above, root] = kill.levels.as_slice() else { panic!("{:?}", kill.levels) };
    assert_eq!((own.kernfs_id, above.kernfs_id), (Some(container.id()), Some(pod.id())));
    assert_eq!((own.oom_events, above.oom_events), (Some(0), Some(1)), "the pod's limit fired");
    assert_eq!((own.oom_kill_events, above.oom_kill_events), (Some(1), Some(0)), "the container's task died");
    if own.under_oom.is_some() {
        assert_eq!((own.under_oom, above.under_oom, root.under_oom), (Some(true), Some(true), Some(false)));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_limit_far_above_fires_for_whoever_lies_below() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(class) = Cgroup::make("class") else { return };
    class.limit(LIMIT);
    let (first, second) = (class.child("pod1"), class.child("pod2"));
    let (container, neighbour) = (first.child("container"), second.child("container"));
    container.limit(4 * LIMIT);

    let mut victim = container.shell(HOG);
    let pid = victim.pid();
    victim.run();
    let (kill, decision) = told_kill_of(&mut observer, pid).await;
    assert_fired(&kill, decision.as_ref(), class.id());

    // The neighbour fills the class's limit and is chosen for it, while another allocates.
    let mut large = neighbour.shell("head -c 11000000 /dev/zero | tail | cat; exec sleep 60");
    large.release();
    drop(large);
    let mut victim = neighbour.shell(HOG);
    let pid = victim.pid();
    victim.run();
    let (kill, decision) = told_kill_of(&mut observer, pid).await;
    assert_fired(&kill, decision.as_ref(), class.id());
}

#[tokio::test(flavor = "current_thread")]
async fn a_group_dies_with_its_chosen_each_process_once_and_is_counted_in_between() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(pod) = Cgroup::make("group") else { return };
    let container = pod.child("container");
    container.limit(LIMIT);
    if !container.kill_as_group() {
        return;
    }
    let members: Vec<_> = (0..3).map(|_| container.shell("exec sleep 60")).collect();
    let mut hog = container.shell(HOG);
    let chosen = hog.pid();
    hog.run();
    let (kill, decision) = told_kill_of(&mut observer, chosen).await;
    assert_fired(&kill, decision.as_ref(), container.id());
    let before = kill.levels[0].oom_group_kill_events.expect("it is counted where there are groups");
    let mut seen = Vec::new();
    while seen.len() < members.len() {
        let member = observer
            .next(|record| match record {
                Record::OomKill(kill) if kill.levels.first()?.kernfs_id == Some(container.id()) => {
                    Some(*kill)
                }
                Record::OomDecision(told) => panic!("a group makes no decision of its own: {told:?}"),
                _ => None,
            })
            .await;
        assert_eq!((member.role, &member.allocator), (OomRole::Marked, &kill.allocator));
        assert_eq!(member.charge.reclaims, kill.charge.reclaims, "one decision");
        assert_eq!(member.levels[0].oom_group_kill_events, Some(before + 1));
        assert_eq!(member.levels[0].oom_group, Some(true));
        seen.push(member.victim.tgid);
    }
    seen.sort_unstable();
    let mut expected: Vec<u32> = members.iter().map(Held::pid).collect();
    expected.sort_unstable();
    assert_eq!(seen, expected, "the chosen, which the kernel signals again, is told once");
}

#[tokio::test(flavor = "current_thread")]
async fn a_limit_written_below_what_is_used_is_never_told_wrong() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(pod) = Cgroup::make("resize") else { return };
    let container = pod.child("container");
    container.limit(4 * LIMIT);
    let holder = container.shell("x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 60");
    let mut holder = holder;
    holder.release();
    // Until it holds all it wants: one that still allocates would meet the new limit itself.
    let mut before = 0;
    for _ in 0..100 {
        let usage = container.usage();
        if usage > LIMIT && usage == before {
            break;
        }
        before = usage;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert!(container.usage() > LIMIT, "{}", container.usage());
    if !container.try_limit(LIMIT / 4) {
        return println!("SKIPPED: this hierarchy refuses a limit below what is used");
    }
    let (kill, decision) = told_kill_of(&mut observer, holder.pid()).await;
    assert_eq!(kill.allocator.tgid, std::process::id(), "whoever writes the limit decides");
    assert!(matches!(fired(&kill, None), Fired::Unknown(_)), "{:?}", kill.charge);
    if let Some(decision) = decision {
        let by = DecidedBy::OomControl;
        assert_eq!(fired(&kill, Some(&decision)), Fired::Memcg { kernfs_id: container.id(), by });
    }
}

#[tokio::test(flavor = "current_thread")]
async fn two_containers_at_their_own_limits_at_once_are_told_apart() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(pod) = Cgroup::make("two") else { return };
    let containers: Vec<Cgroup> = (0..4).map(|n| pod.child(&format!("container{n}"))).collect();
    let mut victims: Vec<_> = containers
        .iter()
        .map(|container| {
            container.limit(LIMIT);
            container.shell(HOG)
        })
        .collect();
    for victim in &mut victims {
        victim.release();
    }
    let mut seen = 0;
    while seen < victims.len() {
        let kill = observer
            .next(|record| match record {
                Record::OomKill(kill) if victims.iter().any(|v| v.pid() == kill.victim.tgid) => Some(*kill),
                _ => None,
            })
            .await;
        let own = containers.iter().zip(&victims).find(|(_, v)| v.pid() == kill.victim.tgid);
        assert_fired(&kill, None, own.expect("one of them").0.id());
        seen += 1;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn as_many_records_come_as_the_kernel_counts_kills() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(cgroup) = Cgroup::make("count") else { return };
    cgroup.limit(LIMIT);

    const KILLS: u64 = 5;
    let mut victims = Vec::new();
    for _ in 0..KILLS {
        let mut victim = cgroup.shell(HOG);
        victims.push(victim.pid());
        victim.run();
    }
    assert_eq!(cgroup.oom_kills(), KILLS);

    // A marker behind all kills: once its record is here, so is everything before it.
    let mut last = cgroup.shell(HOG);
    let marker = last.pid();
    last.run();
    let mut seen = Vec::new();
    let own = cgroup.id();
    observer
        .next(|record| match record {
            Record::OomKill(kill) if kill.victim.tgid == marker => Some(()),
            Record::OomKill(kill) if kill.levels.first().and_then(|level| level.kernfs_id) == Some(own) => {
                seen.push((kill.victim.tgid, kill.levels[0].oom_kill_events));
                None
            }
            _ => None,
        })
        .await;
    let expected: Vec<_> = victims.into_iter().zip((1..=KILLS).map(Some)).collect();
    assert_eq!(seen, expected, "each once, in order, at the kernel's own count");
    let lost: Vec<_> = observer.losses.take().into_iter().filter(|loss| loss.reason.loses_event()).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_process_killed_by_anything_else_is_no_oom_kill() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(cgroup) = Cgroup::make("kill9") else { return };
    cgroup.limit(LIMIT);

    let killed = cgroup.shell("exec sleep 60");
    let innocent = killed.pid();
    drop(killed);

    let mut victim = cgroup.shell(HOG);
    let marker = victim.pid();
    victim.run();
    observer
        .next(|record| match record {
            Record::OomKill(kill) if kill.victim.tgid == innocent => panic!("{kill:?}"),
            Record::Exit(exit) if exit.task.tgid == innocent => panic!("{exit:?}"),
            Record::Exit(exit) if exit.task.tgid == marker => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_init_of_a_pid_namespace_is_known_as_such_and_its_teardown_makes_no_kill() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(cgroup) = Cgroup::make("pidns") else { return };
    cgroup.limit(LIMIT);

    // The init of the namespace has a child when it is killed; the kernel then sends that child a SIGKILL
    // of its own, without a mark.
    let mut shell =
        cgroup.shell("exec unshare --pid --fork --kill-child sh -c 'sleep 60 & exec tail /dev/zero'");
    shell.run();
    let kill = observer
        .next(|record| match record {
            Record::OomKill(kill) if kill.levels.first()?.kernfs_id == Some(cgroup.id()) => Some(*kill),
            _ => None,
        })
        .await;
    assert_eq!(kill.victim.ns_tgid, Some(1));
    assert_ne!(kill.victim.tgid, 1);
    assert_eq!(kill.victim_parent_memcg, Some(cgroup.id()), "it was made inside, and is nested");
    assert_eq!(cgroup.oom_kills(), 1);

    let mut victim = cgroup.shell(HOG);
    let marker = victim.pid();
    victim.run();
    observer
        .next(|record| match record {
            Record::OomKill(kill) if kill.victim.tgid == marker => Some(()),
            Record::OomKill(kill) if kill.levels.first()?.kernfs_id == Some(cgroup.id()) => {
                panic!("{kill:?}")
            }
            _ => None,
        })
        .await;
    let losses = observer.losses.take();
    assert!(!losses.iter().any(|loss| loss.reason == LossReason::Malformed), "{losses:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_init_that_was_made_outside_its_cgroup_has_its_parent_there() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let Some(cgroup) = Cgroup::make("shim") else { return };
    cgroup.limit(LIMIT);

    // As a shim does: it stays where it is, and the init enters the cgroup before it becomes the program.
    let script = format!("echo 0 > {} && {HOG}", cgroup.procs().display());
    let output = Command::new("unshare").args(["--pid", "--fork", "sh", "-c", &script]).output();
    assert!(!output.expect("a command of the base system starts").status.success(), "the init was killed");
    let kill = observer
        .next(|record| match record {
            Record::OomKill(kill) if kill.levels.first()?.kernfs_id == Some(cgroup.id()) => Some(*kill),
            _ => None,
        })
        .await;
    assert_eq!(kill.victim.ns_tgid, Some(1));
    assert!(kill.victim_parent_memcg.is_some_and(|id| id != cgroup.id()), "{kill:?}");
}

/// Two processes on one memory.
const SHARERS: &str = include_str!("c/sharers.c");

#[tokio::test(flavor = "current_thread")]
async fn a_process_that_shares_the_victims_memory_dies_with_it_and_says_so() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::OomKill) else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = compile(folder.path(), SHARERS) else { return };
    let Some(cgroup) = Cgroup::make("shared") else { return };
    cgroup.limit(LIMIT);

    let mut parent = cgroup.hold(Command::new(program));
    parent.run();
    let own = cgroup.id();
    // Either may be gone before the other is signalled, so all four records are gathered first.
    let (mut kills, mut exits) = (Vec::<OomKill>::new(), Vec::<Exit>::new());
    while kills.len() < 2 || exits.len() < 2 {
        observer
            .next(|record| match record {
                Record::OomKill(kill) if kill.levels.first()?.kernfs_id == Some(own) => {
                    kills.push(*kill);
                    Some(())
                }
                Record::Exit(exit) if kills.iter().any(|kill| kill.victim.tgid == exit.task.tgid) => {
                    exits.push(exit);
                    Some(())
                }
                _ => None,
            })
            .await;
    }
    let [marked, sharer] = kills.as_slice() else { panic!("{kills:?}") };
    assert_eq!(marked.role, OomRole::Marked);
    assert_eq!(sharer.role, OomRole::SharedMm { marked_tgid: marked.victim.tgid });
    assert_ne!(sharer.victim.tgid, marked.victim.tgid);
    assert_eq!(sharer.allocator, marked.allocator, "one decision");
    assert!([marked.victim.tgid, sharer.victim.tgid].contains(&parent.pid()));
    assert_eq!(cgroup.oom_kills(), 1, "the kernel counts one kill where two processes died");
    for kill in [marked, sharer] {
        let exit = exits.iter().find(|exit| exit.task.tgid == kill.victim.tgid).unwrap();
        assert_eq!((exit.signal, exit.kill_boot_ns), (Some(9), kill.boot_ns));
    }
}
