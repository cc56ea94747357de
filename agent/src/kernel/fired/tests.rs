//! Counts before and at the kill → the limit that fired. Cgroups are numbered from the root's 1 downward.

use super::*;
use crate::episode::tests::{charge, kill};
use crate::kernel::record::OomRole;

/// A kill whose victim lies in `/kubepods/burstable/pod/c` (root 1 … container 5) and whose allocator lies in
/// the same. `counts` are the allocator's levels, the root first: `before>now`; `?` for what is not known.
/// `locked` is the topmost flagged of the victim's levels.
fn a_kill(last: Option<LastReclaim>, counts: &str, locked: Option<u64>) -> OomKill {
    let mut kill = kill(7, 10, OomRole::Marked, None, "/kubepods/burstable/pod/c");
    kill.charge = charge(last, counts);
    for level in &mut kill.levels {
        level.under_oom = locked.map(|top| level.kernfs_id.is_some_and(|id| id >= top));
    }
    kill
}

fn show(fired: Fired) -> String {
    match fired {
        Fired::Memcg { kernfs_id, by } => format!("{kernfs_id} by {}", by.as_str()),
        Fired::Machine { by } => format!("machine by {}", by.as_str()),
        Fired::Unknown(because) => format!("{because:?}"),
    }
}

fn check(last: LastReclaim, counts: &str, locked: Option<u64>, expected: &str) {
    let kill = a_kill(Some(last), counts, locked);
    assert_eq!(show(fired(&kill, None)), expected, "{last:?} {counts} {locked:?}");
}

#[test]
fn the_one_count_that_rose_is_the_limit() {
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>3 0>1", None, "5 by oom_events");
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>4 0>0", None, "4 by oom_events");
    check(LastReclaim::Memcg, "0>0 0>0 2>3 3>3 9>9", None, "3 by oom_events");
    check(LastReclaim::Memcg, "0>0 7>8 0>0 0>0 0>0", Some(2), "2 by oom_events");
    // Others decided for the same limit meanwhile.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>9 0>0", None, "4 by oom_events");
}

#[test]
fn another_decision_that_ran_while_this_one_waited_makes_it_unknown() {
    // This task decided for its container, another for the pod, before or after it: both counts rose.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>4 0>1", None, "SeveralRose");
    // The same, and the other still holds its lock: that says whose lock it is, not whose kill.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>4 0>1", Some(4), "SeveralRose");
    // The other had been counted before this task's reclaim began, and holds the lock still.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 4>4 0>1", Some(4), "LockDisagrees");
    // No lock could be had, because another is held below, beside the victim.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>4 0>0", Some(99), "4 by oom_events");
}

#[test]
fn what_was_charged_to_another_is_not_guessed() {
    check(LastReclaim::MemcgOfAnother, "0>0 0>0 0>0 3>4 0>0", None, "ChargedToAnother");
    // Whoever writes a limit below what is used reclaims, and is not in that cgroup.
    check(LastReclaim::Memcg, "0>0 0>0 0>0 3>3 0>0", None, "NoneRose");
    // The task moved: the counts before are another cgroup's, and the hook leaves them out.
    check(LastReclaim::Memcg, "?>0 ?>0 ?>0 ?>4 ?>1", None, "Moved");
    // A kernel that does not count at the very cgroup.
    check(LastReclaim::Memcg, "?>? ?>? ?>? ?>? ?>?", None, "Moved");
}

#[test]
fn the_victim_lies_below_the_limit() {
    let mut kill = a_kill(Some(LastReclaim::Memcg), "0>0 0>0 0>0 3>3 0>1", None);
    kill.charge.levels[0].kernfs_id = Some(77);
    assert_eq!(show(fired(&kill, None)), "NotTheVictims");
    // Its neighbour allocated, and the pod's limit fired.
    let mut kill = a_kill(Some(LastReclaim::Memcg), "0>0 0>0 0>0 3>4 0>0", None);
    kill.charge.levels[0].kernfs_id = Some(77);
    assert_eq!(show(fired(&kill, None)), "4 by oom_events");
}

#[test]
fn a_direct_reclaim_means_the_machine_unless_a_decision_came_before_it() {
    check(LastReclaim::Direct, "?>0 ?>0 ?>0 ?>3 ?>0", None, "machine by last_reclaim");
    // Another's decision for the pod was counted while this one waited.
    check(LastReclaim::Direct, "0>0 0>0 0>0 3>4 0>0", None, "machine by last_reclaim");
    check(LastReclaim::Direct, "0>0 0>0 0>0 3>4 0>0", Some(4), "LockDisagrees");
    // The report of a decision for a cgroup allocates, on older kernels.
    check(LastReclaim::DirectAfterOom, "0>0 0>0 0>0 3>4 0>0", None, "DirectAfterOom");
    // Without counts that case cannot be told.
    check(LastReclaim::Direct, "?>? ?>? ?>? ?>? ?>?", None, "Moved");
}

#[test]
fn nothing_remembered_decides_nothing() {
    assert_eq!(show(fired(&a_kill(None, "?>0 ?>0 ?>0 ?>1 ?>0", Some(4)), None)), "NoReclaim");
    let mut kill = a_kill(Some(LastReclaim::Memcg), "0>0 0>0 0>0 3>3 0>1", None);
    kill.charge.levels_truncated = true;
    assert_eq!(show(fired(&kill, None)), "TooDeep");
}

#[test]
fn the_kernels_word_comes_first() {
    let kill = a_kill(Some(LastReclaim::Memcg), "0>0 0>0 0>0 3>4 0>1", None);
    let told = |limit| crate::episode::tests::decision(&kill, limit);
    assert_eq!(show(fired(&kill, Some(&told(OomLimit::Memcg(5))))), "5 by oom_control");
    assert_eq!(show(fired(&kill, Some(&told(OomLimit::Machine)))), "machine by oom_control");
    assert_eq!(show(fired(&kill, Some(&told(OomLimit::Unknown)))), "SeveralRose");
}
