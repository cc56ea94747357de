//! The end of the OOM killer's victims, and of nobody else: their last thread's exit → [`Exit`].

use aftertrace_ebpf_common::{
    loss::Loss,
    record::{ABSENT_U32, Exit, kind},
};
use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    diagnose,
    emit::{boot_ns, header, reserve},
    maps::{VICTIMS, config},
    read::{pointer, value},
    task,
};

/// `include/trace/events/sched.h`, since 2.6.33.
/// Prototype until 6.15: `sched_process_exit(struct task_struct *p)`
/// Prototype from 6.16: `sched_process_exit(struct task_struct *p, bool group_dead)`
///
/// Runs for every thread, as that thread; so the test that nearly all fail comes first, and needs nothing
/// but the current tgid.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if VICTIMS.get_ptr(tgid).is_some() {
        victim_thread(&ctx, tgid, ctx.arg::<u64>(0));
    }
    0
}

/// A thread of a victim exits: emits once, with the process's last.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn victim_thread(ctx: &RawTracePointContext, tgid: u32, exiting: u64) {
    let signal = pointer(exiting, config!(offsets.task_signal));
    if value::<u32>(signal, config!(offsets.signal_live)).is_some_and(|live| live != 0) {
        return;
    }
    // SAFETY: the value is copied before the entry is removed; an entry that a later victim with this tgid
    // had overwritten would be that victim's, and it is the one that exits.
    let Some(awaited) = (unsafe { VICTIMS.get(tgid) }).copied() else { return };
    // Two threads may both see that none is left; only one of them removes the entry.
    if VICTIMS.remove(tgid).is_err() {
        return;
    }
    let Some(mut entry) = reserve::<Exit>(Loss::RingFullExit) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<Exit>(kind::EXIT, boot_ns()));
        (&raw mut (*record).task).write(task::identity(exiting));
        (&raw mut (*record).kill_boot_ns).write(awaited.kill_boot_ns);
        (&raw mut (*record).wait_status).write(wait_status(exiting, signal));
        (&raw mut (*record).role).write(awaited.role);
    }
    entry.submit(0);
    diagnose!(ctx, "oom victim {} exits", tgid);
}

/// The process's status: the group's if it exits as a group, else the thread's own.
#[inline(always)]
fn wait_status(exiting: u64, signal: u64) -> u32 {
    match value::<u32>(signal, config!(offsets.signal_group_exit_code)) {
        Some(status) if status != 0 => status,
        _ => value(exiting, config!(offsets.task_exit_code)).unwrap_or(ABSENT_U32),
    }
}
