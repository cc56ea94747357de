//! Records of one allocator or several, one per word, and the episodes they make.

use super::*;
use crate::attribute::cgroup_name::{Cgroup, CgroupRoot};
use crate::kernel::{Charge, ChargedLevel, LastReclaim, Limit, OomConstraint, OomLimit};

/// A kill of `tgid` by the allocation of thread `allocator`, in a container cgroup of `uid` and `id`.
pub(crate) fn kill(allocator: u32, tgid: u32, role: OomRole, group: Option<u64>, cgroup: &str) -> OomKill {
    let task = |tid: u32, comm: &str| Task {
        tid,
        tgid: tid,
        ns_tgid: Some(1),
        uid: Some(0),
        start_boot_ns: Some(1),
        process_start_boot_ns: Some(1),
        comm: Some(comm.to_owned()),
    };
    let level = |name: Option<&str>, id: u64| MemcgLevel {
        kernfs_id: Some(id),
        name: name.map(str::to_owned),
        name_truncated: false,
        usage_bytes: Some(64 << 20),
        limit: Some(if name.is_some() { Limit::Bytes(64 << 20) } else { Limit::Unlimited }),
        max_events: None,
        oom_events: None,
        oom_kill_events: None,
        oom_group_kill_events: None,
        oom_group: Some(group == Some(id)),
        under_oom: None,
    };
    let names: Vec<&str> = cgroup.split('/').filter(|c| !c.is_empty()).collect();
    let mut levels = vec![level(None, 1)];
    levels.extend(names.iter().zip(2..).map(|(name, id)| level(Some(name), id)));
    levels.reverse();
    OomKill {
        boot_ns: 2_000,
        signal_boot_ns: 1_000,
        role,
        victim: task(tgid, "memhog"),
        allocator: task(allocator, "alloc"),
        allocator_memcg: None,
        // The root's: where the shim of a container lies in these stories.
        victim_parent_memcg: Some(1),
        rss_anon_bytes: Some(1),
        rss_file_bytes: None,
        rss_shmem_bytes: None,
        swap_bytes: None,
        total_vm_bytes: None,
        pgtables_bytes: None,
        oom_score_adj: Some(-5),
        levels,
        levels_truncated: false,
        charge: charge(None, ""),
    }
}

/// What was charged: the counts of each level, the root first, as `before>now`, `?` for what is not known. The
/// root's id is 1, and so on downward.
pub(crate) fn charge(last_reclaim: Option<LastReclaim>, counts: &str) -> Charge {
    let level = |(counts, id): (&str, u64)| {
        let (before, now) = counts.split_once('>').expect("before>now");
        ChargedLevel {
            kernfs_id: Some(id),
            oom_events: now.parse().ok(),
            oom_events_before: before.parse().ok(),
            name: None,
            name_truncated: false,
        }
    };
    let mut levels: Vec<_> = counts.split_whitespace().zip(1..).map(level).collect();
    levels.reverse();
    Charge { reclaims: None, last_reclaim, levels, levels_truncated: false }
}

/// The decision that a kill follows from, for `limit`.
pub(crate) fn decision(kill: &OomKill, limit: OomLimit) -> OomDecision {
    OomDecision {
        boot_ns: kill.signal_boot_ns,
        allocator: kill.allocator.clone(),
        chosen: kill.victim.clone(),
        constraint: Some(OomConstraint::Memcg),
        limit,
        total_pages: Some(16_384),
        chosen_points: Some(500),
        gfp_mask: Some(0xcc0),
        order: Some(0),
        reclaims: kill.charge.reclaims,
        levels: Vec::new(),
        levels_truncated: false,
    }
}

/// `a1:10` is a mark of process 10 by allocator 1, `g1:10` the same in a group cgroup, `s1:10>11` the kill of
/// 11 that shares the memory of 10, `d1:10` the decision for 10 that the kernel told. Behind it may stand `@3`, the
/// allocator's count of reclaims, `+7`, the cgroup's count of group kills, and `~2`, seconds later.
fn check(records: &str, expected: &str) {
    let mut episodes = Episodes::default();
    let mut shown = Vec::new();
    for word in records.split_whitespace() {
        let (what, rest) = word.split_at(1);
        let (allocator, who) = rest.split_once(':').expect("allocator:process");
        let allocator = allocator.parse().expect("a number");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let (who, seconds) = who.split_once('~').map_or((who, None), |(w, s)| (w, Some(number(s))));
        let (who, groups) = who.split_once('+').map_or((who, None), |(w, g)| (w, Some(number(g))));
        let (who, reclaims) = who.split_once('@').map_or((who, None), |(w, r)| (w, Some(number(r))));
        let mut kill = match what {
            "s" => {
                let (marked, sharer) = who.split_once('>').expect("marked>sharer");
                let role = OomRole::SharedMm { marked_tgid: number(marked) };
                kill(allocator, number(sharer), role, None, "/a/b")
            }
            "g" => kill(allocator, number(who), OomRole::Marked, Some(3), "/a/b"),
            _ => kill(allocator, number(who), OomRole::Marked, None, "/a/b"),
        };
        kill.charge.reclaims = reclaims.map(u64::from);
        kill.boot_ns += u64::from(seconds.unwrap_or(0)) * 1_000_000_000;
        for level in &mut kill.levels {
            level.oom_group_kill_events = groups.map(u64::from);
        }
        if what == "d" {
            episodes.announce(Box::new(decision(&kill, OomLimit::Memcg(3))));
            continue;
        }
        shown.push(match episodes.assign(&kill) {
            Some(member) => format!("{}:{}", member.episode, member.role.as_str()),
            None => "again".to_owned(),
        });
    }
    assert_eq!(shown.join(" "), expected, "{records}");
}

#[test]
fn each_decision_is_an_episode() {
    check("a1:10 a2:11", "1:chosen 2:chosen");
    check("a1:10 a1:11", "1:chosen 2:chosen");
}

#[test]
fn a_group_dies_in_one_episode_and_its_chosen_victim_once() {
    check("g1:10 g1:10 g1:11 g1:12", "1:chosen again 1:group 1:group");
    check("g1:10 a1:11", "1:chosen 2:chosen");
    check("g1:10 g2:11", "1:chosen 2:chosen");
}

#[test]
fn a_thread_that_has_reclaimed_again_decides_again() {
    check("g1:10@1 g1:11@1 g1:12@2", "1:chosen 1:group 2:chosen");
    check("g1:10@1 g1:10@1 g1:11@1", "1:chosen again 1:group");
    // A sharer of the earlier victim's memory cannot be killed in the later decision.
    check("a1:10@1 s1:10>11@2", "1:chosen 2:shared_mm");
    check("a1:10@1 a1:11@1", "1:chosen 2:chosen");
}

#[test]
fn a_group_is_counted_between_its_chosen_and_its_members() {
    check("g1:10+4 g1:10+5 g1:11+5 g1:12+5", "1:chosen again 1:group 1:group");
    check("g1:10@1+4 g1:11@1+5", "1:chosen 1:group");
    // The next decision of the thread, for the same cgroup.
    check("g1:10+4 g1:11+4", "1:chosen 2:chosen");
    check("g1:10+4 g1:11+5 g1:12+6", "1:chosen 1:group 2:chosen");
    check("g1:10+4 g1:11+9", "1:chosen 2:chosen");
    // Nothing is counted: a second is long.
    check("g1:10 g1:11~1 g1:12~2", "1:chosen 1:group 2:chosen");
    check("g1:10@1 g1:12@1~9", "1:chosen 1:group");
}

#[test]
fn a_decision_that_was_told_takes_the_kills_that_follow() {
    check("d1:10 a1:10 s1:10>11 d1:12 a1:12", "1:chosen 1:shared_mm 2:chosen");
    check("d1:10 g1:10+4 g1:11+5 d1:12 g1:12+5", "1:chosen 1:group 2:chosen");
    // Its chosen was exiting already, and the next decision kills.
    check("d1:10 d1:11 a1:11", "1:chosen");
    check("d2:10 a1:11", "1:chosen");
    // The chosen was gone, and its group dies all the same.
    check("d1:10 g1:11+5 g1:12+5", "1:group 1:group");
    // The ring had no room for the second decision.
    check("d1:10@1 a1:10@1 a1:11@2", "1:chosen 2:chosen");
    check("d1:10@1 a1:11@2", "1:chosen");
}

#[test]
fn an_episode_told_after_it_was_forgotten_is_not_kept() {
    let mut episodes = Episodes::default();
    for tid in 1..=EPISODES_MAX as u32 + 1 {
        assert!(episodes.assign(&kill(tid, tid, OomRole::Marked, None, "/a")).is_some());
    }
    for number in [1, 2] {
        episodes.emitted(number, EventId(uuid::Uuid::nil()));
    }
    assert_eq!((episodes.id(1), episodes.ids.len()), (None, 1));
}

#[test]
fn a_sharer_follows_its_victim() {
    check("a1:10 s1:10>11 s1:10>11", "1:chosen 1:shared_mm again");
    check("s1:10>11", "1:shared_mm");
    check("a1:10 s1:99>11", "1:chosen 2:shared_mm");
}

#[test]
fn a_summary_states_limits_and_names_the_one_that_fired_where_it_is_known() {
    let id = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";
    let path = format!("/kubepods/burstable/pod7c925680-6d5c-463d-b7a3-c322719af62a/{id}");
    let mut kill = kill(1, 4242, OomRole::Marked, None, &path);
    let mut summary = |charge| {
        kill.charge = charge;
        let member = Episodes::default().assign(&kill).expect("the first");
        kill_summary(&kill, &member, "in container app of shop/x", &CgroupRoot::default())
    };
    let known = summary(charge(Some(LastReclaim::Memcg), "0>0 0>0 0>0 0>1 0>0"));
    assert!(known.contains(" of shop/x: the pod's limit fired; container 64.0 of 64.0 MiB, "), "{known}");
    let node = summary(charge(Some(LastReclaim::Direct), "0>0 0>0 0>0 0>0 0>0"));
    assert!(node.contains(" of shop/x: the node was out of memory; container "), "{node}");
    assert_eq!(
        summary(charge(None, "")),
        "memhog (pid 4242) OOM-killed in container app of shop/x: container 64.0 of 64.0 MiB, \
         pod 64.0 of 64.0 MiB, burstable 64.0 of 64.0 MiB, kubepods 64.0 of 64.0 MiB"
    );
    assert!(matches!(classify(&kill, &CgroupRoot::default()), Some(Cgroup::Container { .. })));
}

#[test]
fn a_path_that_is_not_whole_names_nobody() {
    let mut kill = kill(1, 2, OomRole::Marked, None, "/kubepods/x");
    kill.levels_truncated = true;
    assert_eq!(classify(&kill, &CgroupRoot::default()), None);
    kill.levels_truncated = false;
    kill.levels[0].name_truncated = true;
    assert_eq!(classify(&kill, &CgroupRoot::default()), None);
    kill.levels.clear();
    assert_eq!(classify(&kill, &CgroupRoot::default()), None);
}
