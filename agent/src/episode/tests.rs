//! Records of one allocator or several, one per word, and the episodes they make.

use super::*;

/// A kill of `tgid` by the allocation of thread `allocator`, in a container cgroup of `uid` and `id`.
pub(crate) fn kill(allocator: u32, tgid: u32, role: OomRole, group: Option<u64>, cgroup: &str) -> OomKill {
    let task = |tid: u32, comm: &str| Task {
        tid,
        tgid: tid,
        ns_tgid: Some(1),
        uid: Some(0),
        start_boot_ns: Some(1),
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
    }
}

/// `a1:10` is a mark of process 10 by allocator 1, `g1:10` the same in a group cgroup, `s1:10>11` the kill of
/// 11 that shares the memory of 10.
fn check(records: &str, expected: &str) {
    let mut episodes = Episodes::default();
    let mut shown = Vec::new();
    for word in records.split_whitespace() {
        let (what, rest) = word.split_at(1);
        let (allocator, who) = rest.split_once(':').expect("allocator:process");
        let allocator = allocator.parse().expect("a number");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let kill = match what {
            "s" => {
                let (marked, sharer) = who.split_once('>').expect("marked>sharer");
                let role = OomRole::SharedMm { marked_tgid: number(marked) };
                kill(allocator, number(sharer), role, None, "/a/b")
            }
            "g" => kill(allocator, number(who), OomRole::Marked, Some(3), "/a/b"),
            _ => kill(allocator, number(who), OomRole::Marked, None, "/a/b"),
        };
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
fn a_summary_states_limits_and_claims_nothing() {
    let id = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";
    let path = format!("/kubepods/burstable/pod7c925680-6d5c-463d-b7a3-c322719af62a/{id}");
    let kill = kill(1, 4242, OomRole::Marked, None, &path);
    let summary = kill_summary(&kill, "in container app of shop/x", &CgroupRoot::default());
    assert_eq!(
        summary,
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
