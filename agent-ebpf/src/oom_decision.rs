//! The OOM killer's decision, where functions of the kernel can be hooked → [`OomDecision`].
//!
//! `oom_kill_process` runs on the allocator's stack, under the mutex `oom_lock`, once a process is chosen and
//! before anything is killed. All kills that follow on that thread are this decision's, until the next; none
//! follows if the chosen is exiting already. It is not reached when the allocator itself is dying.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::MAX_MEMCG_LEVELS,
    loss::Loss,
    record::{ABSENT_I32, ABSENT_U64, MemcgLevel, OomDecision, kind},
};
use aya_ebpf::{macros::fentry, programs::FEntryContext};

use crate::{
    diagnose,
    emit::{boot_ns, header, reserve},
    maps::config,
    memcg,
    read::{pointer, value, walk_fact, walk_word},
    reclaim,
    task::{self, current},
};

/// `mm/oom_kill.c`, since 2.6.11; with these two arguments since 4.9.
///
/// Prototype: `void oom_kill_process(struct oom_control *oc, const char *message)`
#[fentry(function = "oom_kill_process")]
fn oom_kill_process(ctx: FEntryContext) -> i32 {
    decided(&ctx, ctx.arg::<*const core::ffi::c_void>(0) as u64);
    0
}

/// Writes the record of one decision.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn decided(ctx: &FEntryContext, oc: u64) {
    let Some(mut entry) = reserve::<OomDecision>(Loss::RingFullOomDecision) else { return };
    let record = entry.as_mut_ptr();
    let memcg = value::<u64>(oc, config!(offsets.oc_memcg));
    let css = match memcg {
        None | Some(0) => 0,
        Some(memcg) if config!(offsets.memcg_css) != NO_OFFSET => memcg::state(memcg),
        Some(_) => 0,
    };
    let id = if css == 0 { ABSENT_U64 } else { memcg::kernfs_id(css) };
    // What one kernel lacks and another has; it lies on this thread's stack, so nothing else can fail.
    let mut lacking = 0;
    let mut word = |offset| walk_word(oc, offset, &mut lacking);
    let order = word(config!(offsets.oc_order));
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written, of
    // `levels` those up to `level_count`.
    unsafe {
        (&raw mut (*record).header).write(header::<OomDecision>(kind::OOM_DECISION, boot_ns()));
        (&raw mut (*record).constraint).write(word(config!(offsets.oc_constraint)));
        (&raw mut (*record).gfp_mask).write(word(config!(offsets.oc_gfp_mask)));
        let is_known = config!(offsets.oc_order) != NO_OFFSET;
        (&raw mut (*record).order).write(if is_known { order as i32 } else { ABSENT_I32 });
        let mut fact = |offset| walk_fact(oc, offset, &mut lacking);
        (&raw mut (*record).total_pages).write(fact(config!(offsets.oc_totalpages)));
        (&raw mut (*record).chosen_points).write(fact(config!(offsets.oc_chosen_points)));
        task::write_identity(current(), &raw mut (*record).allocator);
        task::write_identity(pointer(oc, config!(offsets.oc_chosen)), &raw mut (*record).chosen);
        (&raw mut (*record).memcg).write(id);
        (&raw mut (*record).reclaims).write(reclaim::reclaims_of_current());
        (&raw mut (*record).memcg_is_null).write(u32::from(memcg == Some(0)));
        let levels: *mut [MemcgLevel; MAX_MEMCG_LEVELS] = &raw mut (*record).levels;
        let (level_count, left_out) = memcg::ancestors(css, levels);
        (&raw mut (*record).level_count).write(level_count);
        (&raw mut (*record).levels_truncated).write(u32::from(left_out != 0));
    }
    entry.submit(0);
    diagnose!(ctx, "oom decision of tid {}", task::current_tid());
}
