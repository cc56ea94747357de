//! The end of the OOM killer's victims and of containers' inits, and of nobody else: their last thread's exit
//! → [`Exit`] or [`InitExit`], one record for each process.

use aftertrace_ebpf_common::{
    loss::Loss,
    record::{ABSENT_U32, Exit, InitExit, kind},
};
use aya_ebpf::{
    bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, macros::raw_tracepoint,
    programs::RawTracePointContext,
};

use crate::{
    diagnose,
    emit::{boot_ns, header, reserve},
    init::{self, Init},
    maps::{EXITED, ProcessId, VICTIMS, config},
    read::{pointer, value},
    task,
};

/// `include/trace/events/sched.h`, since 2.6.33.
/// Prototype until 6.15: `sched_process_exit(struct task_struct *p)`
/// Prototype from 6.16: `sched_process_exit(struct task_struct *p, bool group_dead)`
///
/// Runs for every thread, as that thread; so the tests that nearly all fail come first, and read little.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let exiting = ctx.arg::<u64>(0);
    let is_victim = VICTIMS.get_ptr(tgid).is_some();
    let init = if is_victim { None } else { init::of_container(exiting) };
    if is_victim || init.is_some() {
        thread(&ctx, tgid, exiting, init);
    }
    0
}

/// A thread of a victim or of an init exits: emits once, with the process's last. A victim that is an init,
/// too, is told as a victim.
#[inline(always)]
fn thread(ctx: &RawTracePointContext, tgid: u32, exiting: u64, init: Option<Init>) {
    let signal = pointer(exiting, config!(offsets.task_signal));
    if value::<u32>(signal, config!(offsets.signal_live)).is_some_and(|live| live != 0) {
        return;
    }
    // Two threads may both see that none is left; only the first of them gets in.
    let process = ProcessId { start_boot_ns: task::process_start_boot_ns(exiting), tgid, padding: 0 };
    if EXITED.insert(process, 1, u64::from(BPF_NOEXIST)).is_err() {
        return;
    }
    let status = wait_status(exiting, signal);
    match init {
        None => victim(ctx, tgid, exiting, status),
        Some(init) => init_exit(exiting, &init, status),
    }
}

/// A victim is gone.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn victim(ctx: &RawTracePointContext, tgid: u32, exiting: u64, status: u32) {
    // SAFETY: the value is copied before the entry is removed; an entry that a later victim with this tgid
    // had overwritten would be that victim's, and it is the one that exits.
    let Some(awaited) = (unsafe { VICTIMS.get(tgid) }).copied() else { return };
    // Evicted meanwhile, it is gone as well.
    let _ = VICTIMS.remove(tgid);
    let Some(mut entry) = reserve::<Exit>(Loss::RingFullExit) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<Exit>(kind::EXIT, boot_ns()));
        task::write_identity(exiting, &raw mut (*record).task);
        (&raw mut (*record).kill_boot_ns).write(awaited.kill_boot_ns);
        (&raw mut (*record).wait_status).write(status);
        (&raw mut (*record).role).write(awaited.role);
    }
    entry.submit(0);
    diagnose!(ctx, "oom victim {} exits", tgid);
}

/// A container's init is gone.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn init_exit(exiting: u64, init: &Init, status: u32) {
    let Some(mut entry) = reserve::<InitExit>(Loss::RingFullExit) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<InitExit>(kind::INIT_EXIT, boot_ns()));
        task::write_identity(exiting, &raw mut (*record).task);
        (&raw mut (*record).memcg).write(init.memcg);
        (&raw mut (*record).member).write(init.member);
        (&raw mut (*record).wait_status).write(status);
        (&raw mut (*record).padding).write(0);
    }
    entry.submit(0);
}

/// The process's status: the group's if it exits as a group, else the thread's own.
#[inline(always)]
fn wait_status(exiting: u64, signal: u64) -> u32 {
    match value::<u32>(signal, config!(offsets.signal_group_exit_code)) {
        Some(status) if status != 0 => status,
        _ => value(exiting, config!(offsets.task_exit_code)).unwrap_or(ABSENT_U32),
    }
}
