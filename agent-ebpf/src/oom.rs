//! The OOM killer's kills: SIGKILL and mark of one task → [`OomKill`].
//!
//! For each victim the kernel runs, on the allocator's stack and under the victim's `task_lock`
//! (`mm/oom_kill.c`, `__oom_kill_process`):
//!
//! ```text
//! memcg_memory_event_mm(mm, MEMCG_OOM_KILL);
//! do_send_sig_info(SIGKILL, SEND_SIG_PRIV, victim, PIDTYPE_TGID);   → signal_generate
//! mark_oom_victim(victim);                                          → mark_victim
//! pr_err("… Killed process …"); task_unlock(victim);
//! for each process that shares mm: do_send_sig_info(SIGKILL, …);    → signal_generate, no mark
//! ```
//!
//! With `memory.oom.group` it then does the same to each process of the group, the victim among them, which it
//! signals again and does not mark again.
//!
//! A SIGKILL to a process that is dying already is ignored, which the tracepoint's `result` says; whatever is
//! marked then was killed by somebody else, and is counted, never emitted.
//!
//! So the pair is joined by the allocator's tid, never by a window of time, and the victim's `mm` is still
//! there when it is marked. `mark_victim` alone means a task that was exiting already, which is no kill;
//! the SIGKILL alone has many senders (the teardown of a pid namespace for one) and is no evidence.

use aftertrace_ebpf_common::{
    config::mark_victim_passes,
    loss::Loss,
    record::{ABSENT_I32, OomKill, kind, oom_role},
};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    diagnose,
    emit::{boot_ns, header, reserve},
    maps::{AwaitedExit, SIGNALLED, Signalled, VICTIMS, config, count},
    memcg,
    read::{pointer, value, walk_fact},
    reclaim,
    task::{self, current, current_tid},
};

/// The signal's number on every architecture Linux has.
const SIGKILL: i32 = 9;
/// `SEND_SIG_PRIV`, "from the kernel", in place of a pointer; so `info` is never dereferenced.
const SEND_SIG_PRIV: u64 = 1;
/// `enum` in `include/trace/events/signal.h`: the signal was taken up. Any other outcome of a SIGKILL means that
/// its target was dying already.
const TRACE_SIGNAL_DELIVERED: i32 = 0;
/// `task_struct.flags`: the task is on its way out.
const PF_EXITING: u32 = 0x4;

/// `include/trace/events/signal.h`, since 2.6.33.
/// Prototype: `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
/// int result)`
#[raw_tracepoint(tracepoint = "signal_generate")]
fn signal_generate(ctx: RawTracePointContext) -> i32 {
    if ctx.arg::<i32>(0) == SIGKILL && ctx.arg::<u64>(1) == SEND_SIG_PRIV {
        killed_by_kernel(&ctx, ctx.arg::<u64>(2), ctx.arg::<i32>(4) == TRACE_SIGNAL_DELIVERED);
    }
    0
}

/// `include/trace/events/oom.h`, since 4.14.
/// Prototype until 6.8: `mark_victim(int pid)`
/// Prototype: `mark_victim(struct task_struct *task, uid_t uid)`, from 6.9 on and where that was backported
#[raw_tracepoint(tracepoint = "mark_victim")]
fn mark_victim(ctx: RawTracePointContext) -> i32 {
    marked(&ctx, ctx.arg::<u64>(0));
    0
}

/// A SIGKILL of the kernel's own: remembered, or emitted if it hits a sharer of the memory just marked.
#[inline(always)]
fn killed_by_kernel(ctx: &RawTracePointContext, target: u64, is_delivered: bool) {
    let sender = current();
    let Some(tgid) = value::<u32>(target, config!(offsets.task_tgid)) else {
        return count(Loss::VictimUnreadable);
    };
    let signal = Signalled {
        task: target,
        mm: pointer(target, config!(offsets.task_mm)),
        sender_start_boot_ns: task::start_boot_ns(sender),
        boot_ns: boot_ns(),
        tid: value(target, config!(offsets.task_pid)).unwrap_or(0),
        tgid,
        marked: 0,
        was_dying: u32::from(!is_delivered),
    };
    if let Some(before) = remembered(signal.sender_start_boot_ns)
        && before.marked == 1
        && before.mm != 0
        && before.mm == signal.mm
        && before.tgid != tgid
        && !is_exiting(sender)
        && is_delivered
        // A group kill comes back to a sharer it has killed already, and then marks it: that is the pair.
        && VICTIMS.get_ptr(tgid).is_none()
    {
        // The marked victim stays remembered: a further sharer may follow.
        emit(ctx, &signal, oom_role::SHARED_MM, before.tgid, signal.boot_ns);
        return;
    }
    if SIGNALLED.insert(current_tid(), signal, 0).is_err() {
        count(Loss::SignalTableFull);
    }
}

/// `mark_victim` ran: a kill if this very task sent the same process the SIGKILL just before.
#[inline(always)]
fn marked(ctx: &RawTracePointContext, argument: u64) {
    let Some(mut signal) = remembered(task::start_boot_ns(current())) else {
        return count(Loss::MarkWithoutSignal);
    };
    let same = match config!(mark_victim_passes) {
        mark_victim_passes::TASK => signal.task == argument,
        mark_victim_passes::PID => signal.tid == argument as u32,
        // Without BTF's word on the argument nothing here can be told apart, and nothing is guessed.
        _ => return count(Loss::VictimUnreadable),
    };
    if !same || signal.marked != 0 {
        return count(Loss::MarkWithoutSignal);
    }
    signal.marked = 1;
    if SIGNALLED.insert(current_tid(), signal, 0).is_err() {
        count(Loss::SignalTableFull);
    }
    if signal.was_dying == 1 {
        return count(Loss::MarkWithoutSignal);
    }
    emit(ctx, &signal, oom_role::MARKED, signal.tgid, boot_ns());
}

/// Writes the record of one kill, and remembers the victim until it exits.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn emit(ctx: &RawTracePointContext, signal: &Signalled, role: u32, marked_tgid: u32, boot_ns: u64) {
    let awaited = AwaitedExit { kill_boot_ns: boot_ns, role, padding: 0 };
    if VICTIMS.insert(signal.tgid, awaited, 0).is_err() {
        count(Loss::VictimTableFull);
    }
    let Some(mut entry) = reserve::<OomKill>(Loss::RingFullOomKill) else { return };
    let record = entry.as_mut_ptr();
    let allocator = current();
    let charged_to = memcg::state_of(allocator);
    // Of a process without memory nothing is to be read.
    let mut gone = 0;
    let mut pages = |offset| walk_fact(signal.mm, offset, &mut gone);
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written below,
    // of `levels` those up to `level_count`.
    unsafe {
        (&raw mut (*record).header).write(header::<OomKill>(kind::OOM_KILL, boot_ns));
        (&raw mut (*record).signal_boot_ns).write(signal.boot_ns);
        task::write_identity(signal.task, &raw mut (*record).victim);
        task::write_identity(allocator, &raw mut (*record).allocator);
        (&raw mut (*record).allocator_memcg).write(memcg::kernfs_id(charged_to));
        (&raw mut (*record).victim_parent_memcg)
            .write(memcg::kernfs_id(memcg::state_of(task::parent(signal.task))));
        (&raw mut (*record).rss_anon_pages).write(pages(config!(offsets.mm_rss_anon)));
        (&raw mut (*record).rss_file_pages).write(pages(config!(offsets.mm_rss_file)));
        (&raw mut (*record).rss_shmem_pages).write(pages(config!(offsets.mm_rss_shmem)));
        (&raw mut (*record).swap_pages).write(pages(config!(offsets.mm_swap_entries)));
        (&raw mut (*record).total_vm_pages).write(pages(config!(offsets.mm_total_vm)));
        (&raw mut (*record).pgtables_bytes).write(pages(config!(offsets.mm_pgtables_bytes)));
        (&raw mut (*record).oom_score_adj).write(oom_score_adj(signal.task));
        (&raw mut (*record).role).write(role);
        (&raw mut (*record).marked_tgid).write(marked_tgid);
        (&raw mut (*record).padding).write(0);
        let (level_count, left_out) =
            memcg::ancestors(memcg::state_of(signal.task), &raw mut (*record).levels);
        (&raw mut (*record).level_count).write(level_count);
        (&raw mut (*record).levels_truncated).write(u32::from(left_out != 0));
        if left_out != 0 {
            count(Loss::LevelsTruncated);
        }
        reclaim::charge(charged_to, &raw mut (*record).charge);
    }
    entry.submit(0);
    diagnose!(ctx, "oom kill of tgid {} by tid {}", signal.tgid, current_tid());
}

/// What the current task signalled last, unless that was an earlier task with its tid.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn remembered(sender_start_boot_ns: u64) -> Option<Signalled> {
    // SAFETY: the key is the current task's tid, so no other task writes this entry; should the table
    // evict it meanwhile, the start time and the caller's comparison of task or mm reject what replaced it.
    let signal = unsafe { SIGNALLED.get(current_tid()) }.copied()?;
    (signal.sender_start_boot_ns == sender_start_boot_ns).then_some(signal)
}

/// The victim's `oom_score_adj`, a `short` in the kernel.
#[inline(always)]
fn oom_score_adj(task: u64) -> i32 {
    let signal = pointer(task, config!(offsets.task_signal));
    value::<i16>(signal, config!(offsets.signal_oom_score_adj)).map_or(ABSENT_I32, i32::from)
}

/// True if the task is exiting, as the init of a pid namespace is while it kills the rest of it.
#[inline(always)]
fn is_exiting(task: u64) -> bool {
    value::<u32>(task, config!(offsets.task_flags)).is_none_or(|flags| flags & PF_EXITING != 0)
}
