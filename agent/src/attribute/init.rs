//! Whether a killed process was its container's init, or the init of something the container made itself.
//!
//! Id 1 in the innermost pid namespace is not enough: `unshare --pid --fork` and docker in docker nest
//! namespaces. But the container's init was started by a shim (containerd-shim, conmon) that lies outside the
//! container's cgroup, and whoever nests a namespace lies in it. Taking a child's death for the container's
//! would join it to an end that it did not bring, so in doubt the answer is that we do not know.

use super::cgroup_name::{CRUN_CHILD, ContainerId, container};
use crate::kernel::{MemcgLevel, OomKill};

/// Whether the victim was the init of container `id`, whose pod shares no pid namespace; `None` if the record
/// does not tell.
///
/// One case cannot be told and is taken for an init: a nested namespace's init in the container's own cgroup
/// whose parent has moved to a cgroup beside it, below the container's. Cgroup v2 forbids processes beside
/// such children unless crun's `container` is in between.
pub(crate) fn container_init(kill: &OomKill, id: &ContainerId) -> Option<bool> {
    if kill.victim.ns_tgid? != 1 {
        return Some(false);
    }
    // The outermost that bears the id: the container may imitate names, but only below its own cgroup.
    let is_own = |level: &MemcgLevel| level.name.as_deref().and_then(container).as_ref() == Some(id);
    let own = kill.levels.iter().rposition(is_own)?;
    let inside = kill.levels.get(..=own)?;
    let parent = kill.victim_parent_memcg?;
    if inside.iter().any(|level| level.kernfs_id == Some(parent)) {
        return Some(false);
    }
    let is_known = inside.iter().all(|level| level.kernfs_id.is_some());
    let is_direct = match inside {
        [_] => true,
        [victims, _] => victims.name.as_deref() == Some(CRUN_CHILD),
        _ => false,
    };
    (is_known && is_direct).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::tests::kill;
    use crate::kernel::OomRole;

    const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";
    /// The levels' kernfs ids count from the root's 1: `kubepods` 2, the pod 3, the container 4.
    const POD: &str = "/kubepods/pod7c925680-6d5c-463d-b7a3-c322719af62a";

    fn check(below: &str, ns_tgid: Option<u32>, parent: Option<u64>, expected: Option<bool>) {
        let mut kill = kill(1, 10, OomRole::Marked, None, &format!("{POD}/{below}"));
        kill.victim.ns_tgid = ns_tgid;
        kill.victim_parent_memcg = parent;
        let id = ContainerId::parse(ID).expect("an id");
        assert_eq!(container_init(&kill, &id), expected, "{below} {ns_tgid:?} {parent:?}");
    }

    #[test]
    fn an_init_whose_parent_lies_outside_is_the_containers() {
        check(ID, Some(1), Some(1), Some(true));
        check(ID, Some(1), Some(3), Some(true));
        check(ID, Some(1), Some(77), Some(true));
        check(&format!("cri-containerd-{ID}.scope"), Some(1), Some(77), Some(true));
        check(&format!("crio-{ID}.scope/container"), Some(1), Some(77), Some(true));
    }

    #[test]
    fn an_init_whose_parent_lies_in_the_container_is_a_nested_ones() {
        check(ID, Some(1), Some(4), Some(false));
        check(&format!("crio-{ID}.scope/container"), Some(1), Some(5), Some(false));
        check(&format!("crio-{ID}.scope/container"), Some(1), Some(4), Some(false));
        check(&format!("{ID}/docker/{ID}"), Some(1), Some(4), Some(false));
        check(&format!("{ID}/docker/{ID}"), Some(1), Some(6), Some(false));
    }

    #[test]
    fn any_other_process_is_none() {
        check(ID, Some(2), Some(77), Some(false));
        check(ID, Some(17), None, Some(false));
        check(&format!("{ID}/docker"), Some(2), None, Some(false));
    }

    #[test]
    fn what_the_record_does_not_tell_is_not_guessed() {
        check(ID, None, Some(77), None);
        check(ID, Some(1), None, None);
        // A cgroup of the container's making: its parent may be a shim of the container's own.
        check(&format!("{ID}/docker"), Some(1), Some(77), None);
        check(&format!("{ID}/container/docker"), Some(1), Some(77), None);
        check("", Some(1), Some(77), None);
        let mut kill = kill(1, 10, OomRole::Marked, None, &format!("{POD}/{ID}"));
        kill.levels[0].kernfs_id = None;
        assert_eq!(container_init(&kill, &ContainerId::parse(ID).expect("an id")), None);
    }
}
