//! Whether a task is the init of a container, and of which: nothing that a container can imitate.
//!
//! A container's init has id 1 in its innermost pid namespace, its memory cgroup is a direct member of a pod
//! (or crun's `container` in one), and its parent, a runtime or its shim, is in no cgroup of that member. A
//! namespace nested in a container has an init, too; but whoever made it lies in the container's cgroup or
//! below, however deep it has moved itself.
//!
//! Where a pod shares its processes' namespace, or the host's, its containers have no init by this rule.

use aftertrace_ebpf_common::record::pod_level;

use crate::{
    cgroups::{self, place_of},
    maps::config,
    memcg,
    read::{kernel_string, pointer, value},
    task,
};

/// The cgroup below a container's own that crun puts its processes in, with its NUL.
const CRUN_CHILD: [u8; 16] = *b"container\0\0\0\0\0\0\0";

/// Where the init of a container is.
#[derive(Clone, Copy)]
pub(crate) struct Init {
    /// The kernfs id of its memory cgroup.
    pub(crate) memcg: u64,
    /// The kernfs id of the pod's member.
    pub(crate) member: u64,
}

/// Where `task` is, if it is a thread of a container's init. The test that nearly all tasks fail comes first.
#[inline(always)]
pub(crate) fn of_container(task: u64) -> Option<Init> {
    if !is_of_namespace(task) {
        return None;
    }
    let place = place_of(task)?;
    if place.level != pod_level::MEMBER || place.below > 1 {
        return None;
    }
    let css = memcg::state_of(task);
    if place.below == 1 && !is_crun_child(css) {
        return None;
    }
    let parent = task::parent(task);
    let parents = place_of(parent).map_or(0, |place| place.id);
    (parent != 0 && parents != place.id).then(|| Init { memcg: memcg::kernfs_id(css), member: place.id })
}

/// Whether the task's process has id 1 in a pid namespace below the first.
#[inline(always)]
fn is_of_namespace(task: u64) -> bool {
    let pid = pointer(pointer(task, config!(offsets.task_signal)), config!(offsets.signal_tgid_pid));
    match value::<u32>(pid, config!(offsets.pid_level)) {
        None | Some(0) => false,
        Some(level) => {
            let deepest = pid + u64::from(level) * u64::from(config!(offsets.pid_numbers_stride));
            value::<u32>(deepest, config!(offsets.pid_numbers_nr)) == Some(1)
        }
    }
}

/// Whether the cgroup of a state has crun's name.
#[inline(always)]
fn is_crun_child(css: u64) -> bool {
    let mut name = [0; CRUN_CHILD.len()];
    kernel_string(cgroups::name_of(memcg::cgroup_of(css)), &raw mut name);
    name == CRUN_CHILD
}
