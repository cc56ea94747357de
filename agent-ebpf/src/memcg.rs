//! One task → its memory cgroup and each ancestor, as they stand at this instant.
//!
//! The hooks run while the kernel holds what keeps these alive: a task's cgroup pins its ancestors. The
//! walk goes by `cgroup_subsys_state.parent`, which both hierarchies have, so it is the same for v1 and v2.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::MAX_MEMCG_LEVELS,
    loss::Loss,
    record::{ABSENT_U64, ChargedLevel, MemcgLevel},
};

use crate::{
    maps::{self, config},
    read::{pointer, value, walk, walk_fact, walk_flag, walk_string},
};

/// The address of the task's state in the memory controller's hierarchy; 0 if it cannot be told.
#[inline(always)]
pub(crate) fn state_of(task: u64) -> u64 {
    pointer(pointer(task, config!(offsets.task_cgroups)), config!(offsets.css_set_memory))
}

/// The address of the cgroup that a state belongs to; 0 if it cannot be told.
#[inline(always)]
pub(crate) fn cgroup_of(css: u64) -> u64 {
    pointer(css, config!(offsets.css_cgroup))
}

/// The kernfs id of the cgroup that a state belongs to.
#[inline(always)]
pub(crate) fn kernfs_id(css: u64) -> u64 {
    value(node(css), config!(offsets.kernfs_id)).unwrap_or(ABSENT_U64)
}

/// Fills `levels` from `css` upward to the root: how many were filled, and the first state left out (0 if
/// none was).
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
pub(crate) fn ancestors(mut css: u64, levels: *mut [MemcgLevel; MAX_MEMCG_LEVELS]) -> (u32, u64) {
    let (mut count, mut failed) = (0, 0);
    for index in 0..MAX_MEMCG_LEVELS {
        if css == 0 {
            break;
        }
        // SAFETY: `index` is below the array's length, and the array is reserved ring-buffer memory.
        fill(css, unsafe { levels.cast::<MemcgLevel>().add(index) }, &mut failed);
        count += 1;
        css = above(css, &mut failed);
    }
    if failed != 0 {
        maps::count(Loss::ReadFailed);
    }
    (count, css)
}

/// The address of the state that belongs to the `mem_cgroup` at `memcg`.
#[inline(always)]
pub(crate) fn state(memcg: u64) -> u64 {
    match config!(offsets.memcg_css) {
        NO_OFFSET => 0,
        offset => memcg + u64::from(offset),
    }
}

/// How many OOM decisions there were for the limit of this very cgroup; read as [`walk`] does.
#[inline(always)]
pub(crate) fn oom_events(css: u64, failed: &mut i64) -> u64 {
    match config!(offsets.memcg_css) {
        NO_OFFSET => walk(0, NO_OFFSET, failed),
        offset => walk(css - u64::from(offset), config!(offsets.memcg_events_oom), failed),
    }
}

/// The address of the state above, 0 above the root; read as [`walk`] does.
#[inline(always)]
pub(crate) fn above(css: u64, failed: &mut i64) -> u64 {
    walk(css, config!(offsets.css_parent), failed)
}

/// Writes every field of one level of the allocator's but the count before; reads as [`walk`] does.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
pub(crate) fn fill_charged(css: u64, level: *mut ChargedLevel, failed: &mut i64) {
    let cgroup = walk(css, config!(offsets.css_cgroup), failed);
    let node = walk(cgroup, config!(offsets.cgroup_kn), failed);
    let id = walk(node, config!(offsets.kernfs_id), failed);
    let events = oom_events(css, failed);
    let name = walk(node, config!(offsets.kernfs_name), failed);
    // SAFETY: `level` points to a whole level in reserved ring-buffer memory, which the verifier checks.
    unsafe {
        (&raw mut (*level).kernfs_id).write(id);
        (&raw mut (*level).oom_events).write(events);
        walk_string(name, &raw mut (*level).name);
    }
}

/// The address of the `mem_cgroup` whose state this is; 0 if this kernel's cannot be told.
#[inline(always)]
fn of(css: u64) -> u64 {
    match config!(offsets.memcg_css) {
        NO_OFFSET => 0,
        offset => css - u64::from(offset),
    }
}

/// Writes every field of one level; reads as [`walk`] does.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn fill(css: u64, level: *mut MemcgLevel, failed: &mut i64) {
    let memcg = of(css);
    let cgroup = walk(css, config!(offsets.css_cgroup), failed);
    let node = walk(cgroup, config!(offsets.cgroup_kn), failed);
    // What this kernel lacks is no failure to read it.
    let mut lacking = 0;
    let mut fact = |base, offset| match offset {
        NO_OFFSET => walk_fact(base, NO_OFFSET, &mut lacking),
        offset => walk_fact(base, offset, failed),
    };
    // SAFETY: `level` points to a whole level in reserved ring-buffer memory, which the verifier checks.
    unsafe {
        (&raw mut (*level).kernfs_id).write(fact(node, config!(offsets.kernfs_id)));
        (&raw mut (*level).usage_pages).write(fact(memcg, config!(offsets.memcg_usage)));
        (&raw mut (*level).limit_pages).write(fact(memcg, config!(offsets.memcg_max)));
        (&raw mut (*level).max_events).write(fact(memcg, config!(offsets.memcg_events_max)));
        (&raw mut (*level).oom_events).write(fact(memcg, config!(offsets.memcg_events_oom)));
        (&raw mut (*level).oom_kill_events).write(fact(memcg, config!(offsets.memcg_events_oom_kill)));
        (&raw mut (*level).oom_group_kill_events)
            .write(fact(memcg, config!(offsets.memcg_events_oom_group_kill)));
        (&raw mut (*level).oom_group).write(walk_flag(memcg, config!(offsets.memcg_oom_group), &mut lacking));
        (&raw mut (*level).under_oom).write(walk_flag(memcg, config!(offsets.memcg_oom_lock), &mut lacking));
        walk_string(walk(node, config!(offsets.kernfs_name), &mut lacking), &raw mut (*level).name);
    }
}

/// The address of the kernfs node of a state's cgroup directory.
#[inline(always)]
fn node(css: u64) -> u64 {
    pointer(cgroup_of(css), config!(offsets.cgroup_kn))
}
