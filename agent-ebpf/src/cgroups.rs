//! Which cgroups are the kubelet's: those made and removed → `POD_CGROUPS` and [`CgroupChange`].
//!
//! The agent fills `POD_CGROUPS` with what there is and keeps in `AWAITED_CGROUPS` what the kubelet will name
//! its top directories; from then on these two hooks keep it up, before anybody can enter a new directory.
//! Only the hierarchy that has the memory controller counts: ids are unique in one hierarchy alone.
//!
//! What a container makes below its own cgroup is not kept, so that no container can fill the table; a task
//! there is found by its ancestors. [`place_of`] is what other subjects filter by.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::{AWAITED_NAME_BYTES, MAX_MEMCG_LEVELS},
    loss::Loss,
    record::{ABSENT_U64, AwaitedName, CgroupChange, kind, pod_level},
};
use aya_ebpf::{bindings::BPF_EXIST, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    emit::{boot_ns, header, reserve},
    maps::{AWAITED_CGROUPS, POD_CGROUPS, config, count},
    memcg,
    read::{kernel_string, pointer, value},
};

/// `include/trace/events/cgroup.h`, since 4.13. The directory is made and not visible yet; its memory
/// controller is there if its parent hands it down.
///
/// Prototype: `cgroup_mkdir(struct cgroup *cgrp, const char *path)`
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = ctx.arg::<u64>(0);
    if is_of_memory(cgroup) {
        made(cgroup);
    }
    0
}

/// `include/trace/events/cgroup.h`, since 4.13. The directory is gone, and so are its tasks.
///
/// Prototype: `cgroup_rmdir(struct cgroup *cgrp, const char *path)`
#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    let cgroup = ctx.arg::<u64>(0);
    if is_of_memory(cgroup) {
        gone(cgroup);
    }
    0
}

/// Where a task is in the kubelet's tree.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The kernfs id of the nearest of the kubelet's cgroups, the task's own or one above it.
    pub(crate) id: u64,
    /// One of [`pod_level`]: what that cgroup is.
    pub(crate) level: u32,
    /// How many levels the task's own cgroup lies below it.
    pub(crate) below: u32,
}

/// Where the task is in the kubelet's tree; nothing if it is outside.
///
/// What cannot be read ends the walk at once: the verifier follows every way through a loop, and takes those
/// for one that end alike.
#[inline(always)]
pub(crate) fn place_of(task: u64) -> Option<Place> {
    let mut css = memcg::state_of(task);
    for below in 0..MAX_MEMCG_LEVELS as u32 {
        let cgroup = value::<u64>(css, config!(offsets.css_cgroup))?;
        let node = value::<u64>(cgroup, config!(offsets.cgroup_kn))?;
        let id = value::<u64>(node, config!(offsets.kernfs_id))?;
        if let Some(level) = level_of(id) {
            return Some(Place { id, level, below });
        }
        // Nearly every task of the host is known by its depth alone.
        if below == 0 && !may_lie_below_a_member(cgroup) {
            return None;
        }
        css = value::<u64>(css, config!(offsets.css_parent))?;
    }
    None
}

/// Whether a cgroup lies deep enough to be one that a container made below its own.
#[inline(always)]
fn may_lie_below_a_member(cgroup: u64) -> bool {
    let kubepods = config!(kubepods_level);
    match value::<u32>(cgroup, config!(offsets.cgroup_level)) {
        // A pod lies one or two below kubepods, its members one below it.
        Some(level) if kubepods != NO_OFFSET => level > kubepods.saturating_add(2),
        _ => true,
    }
}

/// A directory was made: kept and told if its parent is the kubelet's, or if it was awaited.
#[inline(always)]
fn made(cgroup: u64) {
    let parent_id = id_of(parent_of(cgroup));
    let level = match level_of(parent_id) {
        None => match awaited(parent_id, cgroup) {
            Some(level) => level,
            None => return,
        },
        Some(pod_level::KUBEPODS) => awaited(0, cgroup).unwrap_or(pod_level::POD),
        Some(pod_level::CLASS) => pod_level::POD,
        Some(pod_level::POD) => pod_level::MEMBER,
        Some(_) => return,
    };
    let id = id_of(cgroup);
    if id == ABSENT_U64 {
        return;
    }
    let flag = if level == pod_level::MEMBER { pod_level::AWAITS_EXEC } else { 0 };
    if POD_CGROUPS.insert(id, level | flag, 0).is_err() {
        count(Loss::CgroupTableFull);
    }
    tell(kind::CGROUP_MADE, id, parent_id, level, name_of(cgroup));
}

/// A directory is gone: forgotten and told if it was kept.
#[inline(always)]
fn gone(cgroup: u64) {
    let id = id_of(cgroup);
    let Some(level) = level_of(id) else { return };
    // Nobody else removes a directory that this one has removed.
    let _ = POD_CGROUPS.remove(id);
    tell(kind::CGROUP_GONE, id, id_of(parent_of(cgroup)), level, 0);
}

/// Writes one record; `name` is the address of the name, or 0.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn tell(kind: u32, kernfs_id: u64, parent_id: u64, level: u32, name: u64) {
    let Some(mut entry) = reserve::<CgroupChange>(Loss::RingFullCgroup) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<CgroupChange>(kind, boot_ns()));
        (&raw mut (*record).kernfs_id).write(kernfs_id);
        (&raw mut (*record).parent_id).write(parent_id);
        (&raw mut (*record).level).write(level);
        (&raw mut (*record).padding).write(0);
        kernel_string(name, &raw mut (*record).name);
    }
    entry.submit(0);
}

/// The level that a new directory was awaited at.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn awaited(parent_id: u64, cgroup: u64) -> Option<u32> {
    let mut key = AwaitedName { parent_id, name: [0; AWAITED_NAME_BYTES] };
    kernel_string(name_of(cgroup), &raw mut key.name);
    // SAFETY: the agent alone writes this map, whole values of four bytes.
    unsafe { AWAITED_CGROUPS.get(key) }.copied()
}

/// The level of a cgroup that is kept.
#[inline(always)]
fn level_of(id: u64) -> Option<u32> {
    value_of(id).map(|value| value & pod_level::LEVEL)
}

/// What is kept of a cgroup.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn value_of(id: u64) -> Option<u32> {
    if id == ABSENT_U64 {
        return None;
    }
    // SAFETY: a value is four aligned bytes, written when its cgroup is made and once more at its first exec.
    unsafe { POD_CGROUPS.get(id) }.copied()
}

/// Whether a pod's member was made while the programs watched, and its init has not executed its program.
#[inline(always)]
pub(crate) fn awaits_exec(member: u64) -> bool {
    value_of(member).is_some_and(|value| value & pod_level::AWAITS_EXEC != 0)
}

/// The init of a pod's member has executed its program.
#[inline(always)]
pub(crate) fn has_executed(member: u64) {
    // Only where it is kept still: its cgroup outlives it, but a table that was full may not have it.
    let _ = POD_CGROUPS.insert(member, pod_level::MEMBER, u64::from(BPF_EXIST));
}

/// Whether a cgroup is of the hierarchy that has the memory controller.
#[inline(always)]
fn is_of_memory(cgroup: u64) -> bool {
    let root = pointer(cgroup, config!(offsets.cgroup_root));
    let mask = value::<u32>(root, config!(offsets.root_subsys_mask)).unwrap_or(0);
    mask & config!(memory_controller) != 0
}

/// The address of the cgroup above; 0 if there is none.
#[inline(always)]
fn parent_of(cgroup: u64) -> u64 {
    match config!(offsets.cgroup_self) {
        NO_OFFSET => 0,
        _ if cgroup == 0 => 0,
        offset => memcg::cgroup_of(pointer(cgroup + u64::from(offset), config!(offsets.css_parent))),
    }
}

/// The kernfs id of a cgroup's directory.
#[inline(always)]
fn id_of(cgroup: u64) -> u64 {
    value(pointer(cgroup, config!(offsets.cgroup_kn)), config!(offsets.kernfs_id)).unwrap_or(ABSENT_U64)
}

/// The address of a directory's name.
#[inline(always)]
pub(crate) fn name_of(cgroup: u64) -> u64 {
    pointer(pointer(cgroup, config!(offsets.cgroup_kn)), config!(offsets.kernfs_name))
}
