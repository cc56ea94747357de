//! What a task did before the OOM killer came: its reclaims, and how its cgroups' counts stood then.
//!
//! The kernel does not tell its tracepoints which limit an OOM decision is for. But before each decision the
//! deciding task itself reclaims, and counts the decision at the cgroup whose limit it could not stay below
//! (`mm/memcontrol.c`, `try_charge_memcg`):
//!
//! ```text
//! try_to_free_mem_cgroup_pages(mem_over_limit, …);      → mm_vmscan_memcg_reclaim_begin, …_end
//! mem_cgroup_oom(mem_over_limit, …):
//!     memcg_memory_event(mem_over_limit, MEMCG_OOM);    counted at that very cgroup
//!     mem_cgroup_out_of_memory(mem_over_limit, …);      waits for the mutex `oom_lock`, chooses, kills
//! ```
//!
//! So here the counts of the task's cgroup and of each ancestor are kept as its reclaim begins, and stand in
//! the record of each kill beside those of that instant. The kernel counts a decision at one cgroup alone, in
//! both hierarchies, in what v2 shows as `memory.events.local`. When the whole machine is out of memory, the
//! last reclaim was a direct one (`mm/page_alloc.c`, `__alloc_pages_slowpath`). What follows from it is the
//! agent's affair, see its `kernel::fired`.
//!
//! A second use: the time from begin to end is the time that a cgroup's limit makes its tasks wait.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::MAX_MEMCG_LEVELS,
    loss::Loss,
    record::{ABSENT_U64, Charge, ChargedLevel, last_reclaim},
};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    emit::boot_ns,
    maps::{RECLAIM_STALLS, RECLAIMER_SCRATCH, RECLAIMERS, Stall, add, config, count},
    memcg,
    read::pointer,
    task::{self, current, current_tid},
};

/// `include/trace/events/vmscan.h`, since 2.6.37; the arguments are not read.
///
/// Prototype: `mm_vmscan_memcg_reclaim_begin(int order, gfp_t gfp_flags)`
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_begin")]
fn memcg_reclaim_begin(_ctx: RawTracePointContext) -> i32 {
    let task = current();
    let css = memcg::state_of(task);
    let kind = if is_own_charge(task, css) { last_reclaim::MEMCG } else { last_reclaim::MEMCG_OF_ANOTHER };
    begin(task, css, kind);
    0
}

/// `include/trace/events/vmscan.h`, since 2.6.37; the argument is not read.
///
/// Prototype: `mm_vmscan_memcg_reclaim_end(unsigned long nr_reclaimed)`
#[raw_tracepoint(tracepoint = "mm_vmscan_memcg_reclaim_end")]
fn memcg_reclaim_end(_ctx: RawTracePointContext) -> i32 {
    if let Some((begun_boot_ns, memcg)) = under_way() {
        add_stall(memcg, boot_ns().saturating_sub(begun_boot_ns));
    }
    0
}

/// `include/trace/events/vmscan.h`, since 2.6.37; the arguments are not read.
///
/// Prototype: `mm_vmscan_direct_reclaim_begin(int order, gfp_t gfp_flags)`
#[raw_tracepoint(tracepoint = "mm_vmscan_direct_reclaim_begin")]
fn direct_reclaim_begin(_ctx: RawTracePointContext) -> i32 {
    let task = current();
    let css = memcg::state_of(task);
    let kind = if has_oom_since(task, css) { last_reclaim::DIRECT_AFTER_OOM } else { last_reclaim::DIRECT };
    begin(task, css, kind);
    0
}

/// Writes what the allocation that fails now was charged to, `css` being its task's state.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
pub(crate) fn charge(css: u64, into: *mut Charge) {
    let start_boot_ns = task::start_boot_ns(current());
    let own = memcg::kernfs_id(css);
    let (mut reclaims, mut kind) = (ABSENT_U64, last_reclaim::NONE);
    // Ancestors never change, so one cgroup's own id stands for the whole path. What is not known of it has all
    // bits set: a mask, for a branch in each turn of the loop would be too much for older verifiers.
    let mut unknown = u64::MAX;
    // SAFETY: `into` is reserved ring-buffer memory of the record's size; its every field is written, of `levels`
    // those up to `level_count`.
    let levels = unsafe { (&raw mut (*into).levels).cast::<ChargedLevel>() };
    // SAFETY: only the current task writes its entry of the table; should the table give it to another task while
    // it is copied, its start time is another afterwards.
    if let Some(before) = unsafe { RECLAIMERS.get(current_tid()) } {
        for index in 0..MAX_MEMCG_LEVELS {
            // SAFETY: `index` is below the array's length.
            unsafe { (&raw mut (*levels.add(index)).oom_events_before).write(before.oom_events[index]) };
        }
        let is_same_path = before.memcg == own;
        let told = (before.reclaims, before.last_reclaim);
        if before.start_boot_ns == start_boot_ns {
            (reclaims, kind) = told;
            if is_same_path {
                unknown = 0;
            }
        }
    }
    let unknown = core::hint::black_box(unknown);
    let (mut at, mut level_count, mut failed) = (css, 0, 0);
    // SAFETY: as above.
    unsafe {
        for index in 0..MAX_MEMCG_LEVELS {
            if at == 0 {
                break;
            }
            let before = &raw mut (*levels.add(index)).oom_events_before;
            before.write(before.read() | unknown);
            memcg::fill_charged(at, levels.add(index), &mut failed);
            level_count += 1;
            at = memcg::above(at, &mut failed);
        }
        (&raw mut (*into).reclaims).write(reclaims);
        (&raw mut (*into).last_reclaim).write(kind);
        // A level that could not be read whole may be any, so none is told.
        (&raw mut (*into).level_count).write(if failed == 0 { level_count } else { 0 });
        (&raw mut (*into).levels_truncated).write(u32::from(at != 0));
        (&raw mut (*into).padding).write(0);
    }
    if failed != 0 && config!(offsets.memcg_events_oom) != NO_OFFSET {
        count(Loss::ReadFailed);
    }
}

/// How many reclaims the current task has begun, as far as it is remembered.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
pub(crate) fn reclaims_of_current() -> u64 {
    let start_boot_ns = task::start_boot_ns(current());
    // SAFETY: as in `charge`.
    let before = unsafe { RECLAIMERS.get(current_tid()) }.filter(|r| r.start_boot_ns == start_boot_ns);
    before.map_or(ABSENT_U64, |r| r.reclaims)
}

/// Remembers a reclaim that begins. The counts are those of the last reclaim for a memory cgroup, so that a
/// direct one leaves them as they are.
#[expect(unsafe_code, reason = "the scratch is kernel memory that only a pointer reaches")]
#[expect(clippy::needless_borrows_for_generic_args, reason = "by value it would be copied to the stack")]
#[inline(always)]
fn begin(task: u64, css: u64, kind: u32) {
    let Some(scratch) = RECLAIMER_SCRATCH.get_ptr_mut(0) else { return };
    let start_boot_ns = task::start_boot_ns(task);
    let is_memcg = kind == last_reclaim::MEMCG || kind == last_reclaim::MEMCG_OF_ANOTHER;
    // SAFETY: the scratch is this CPU's, and no other program that uses it runs in between; the entry is read
    // as in `charge`, and copied at once.
    unsafe {
        match RECLAIMERS.get(current_tid()).filter(|r| r.start_boot_ns == start_boot_ns) {
            Some(before) => {
                (*scratch) = *before;
                (*scratch).reclaims += 1;
            }
            None => {
                (*scratch).start_boot_ns = start_boot_ns;
                (*scratch).reclaims = 1;
                (*scratch).memcg = ABSENT_U64;
            }
        }
        (*scratch).last_reclaim = kind;
        (*scratch).padding = 0;
        (*scratch).begun_boot_ns = if is_memcg { boot_ns() } else { 0 };
        if is_memcg {
            (*scratch).memcg = memcg::kernfs_id(css);
            let (mut at, mut failed) = (css, 0);
            for index in 0..MAX_MEMCG_LEVELS {
                if at == 0 {
                    break;
                }
                (*scratch).oom_events[index] = memcg::oom_events(at, &mut failed);
                at = memcg::above(at, &mut failed);
            }
            if failed != 0 {
                (*scratch).memcg = ABSENT_U64;
            }
        }
        if RECLAIMERS.insert(current_tid(), &*scratch, 0).is_err() {
            count(Loss::ReclaimTableFull);
        }
    }
}

/// Whether the task charges its own memory cgroup: neither one set for it for the time being, nor that of
/// another process whose memory it shares. What a task writes into another's memory (`ptrace`,
/// `process_vm_writev`) cannot be told.
#[inline(always)]
fn is_own_charge(task: u64, css: u64) -> bool {
    let active = pointer(task, config!(offsets.task_active_memcg));
    let mm = pointer(task, config!(offsets.task_mm));
    let owner = pointer(mm, config!(offsets.mm_owner));
    (active == 0 || memcg::state(active) == css) && (owner == 0 || memcg::state_of(owner) == css)
}

/// Whether some count of the task's cgroups has risen since its last reclaim for a memory cgroup; true also
/// where that cannot be said, because it has moved since.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn has_oom_since(task: u64, css: u64) -> bool {
    let start_boot_ns = task::start_boot_ns(task);
    // SAFETY: as in `charge`.
    let before = unsafe { RECLAIMERS.get(current_tid()) }.filter(|r| r.start_boot_ns == start_boot_ns);
    let Some(before) = before.filter(|r| r.memcg != ABSENT_U64) else { return false };
    if before.memcg != memcg::kernfs_id(css) {
        return true;
    }
    let (mut at, mut failed, mut difference) = (css, 0, 0);
    for index in 0..MAX_MEMCG_LEVELS {
        if at == 0 {
            break;
        }
        difference |= memcg::oom_events(at, &mut failed) ^ before.oom_events[index];
        at = memcg::above(at, &mut failed);
    }
    failed != 0 || difference != 0
}

/// Since when, and in which memory cgroup, the current task reclaims for a memory cgroup.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn under_way() -> Option<(u64, u64)> {
    // SAFETY: as in `charge`; an end is always preceded by its own task's begin, so the start time need not be
    // compared. Without room for that begin the time is 0 or another's, and a stall is a measure, no evidence.
    let reclaimer = unsafe { RECLAIMERS.get(current_tid()) }?;
    (reclaimer.begun_boot_ns != 0).then_some((reclaimer.begun_boot_ns, reclaimer.memcg))
}

/// Adds the time of one reclaim to its cgroup's.
#[expect(unsafe_code, reason = "the sums are kernel memory that only a pointer reaches")]
#[inline(always)]
fn add_stall(memcg: u64, stall_ns: u64) {
    match RECLAIM_STALLS.get_ptr_mut(memcg) {
        // SAFETY: the pointer is to a whole value of the map; the additions are atomic.
        Some(stall) => unsafe {
            add(&raw mut (*stall).total_ns, stall_ns);
            add(&raw mut (*stall).count, 1);
        },
        None => {
            // Two tasks may both be the first, and one stall is then lost from the sum.
            let _ = RECLAIM_STALLS.insert(memcg, Stall { total_ns: stall_ns, count: 1 }, 0);
        }
    }
}
