//! One `task_struct` → [`Task`]: who it is, by ids, start time and name.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::COMM_BYTES,
    loss::Loss,
    record::{ABSENT_U32, ABSENT_U64, Task},
};

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task};

use crate::{
    maps::{config, count},
    read::{pointer, value, walk, walk_fact, walk_string, walk_word},
};

/// Reads the identity of the task at `task`; each fact that is missing is absent by itself.
#[inline(always)]
pub(crate) fn identity(task: u64) -> Task {
    Task {
        start_boot_ns: start_boot_ns(task),
        process_start_boot_ns: process_start_boot_ns(task),
        tid: value(task, config!(offsets.task_pid)).unwrap_or(ABSENT_U32),
        tgid: value(task, config!(offsets.task_tgid)).unwrap_or(ABSENT_U32),
        ns_tgid: ns_tgid(task),
        uid: value(pointer(task, config!(offsets.task_real_cred)), config!(offsets.cred_uid))
            .unwrap_or(ABSENT_U32),
        comm: value(task, config!(offsets.task_comm)).unwrap_or([0; COMM_BYTES]),
    }
}

/// Writes the identity of the task at `task`, field by field and without a branch, so that a fact that is missing
/// makes no further way through the program for the verifier to follow.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
pub(crate) fn write_identity(task: u64, into: *mut Task) {
    // What lies behind a further pointer may be gone already, which is no failure to read.
    let (mut failed, mut gone) = (0, 0);
    let cred = walk(task, config!(offsets.task_real_cred), &mut failed);
    let leader = walk(task, config!(offsets.task_group_leader), &mut gone);
    let signal = walk(task, config!(offsets.task_signal), &mut failed);
    let pid = walk(signal, config!(offsets.signal_tgid_pid), &mut gone);
    let level = walk_word(pid, config!(offsets.pid_level), &mut gone);
    let deepest = pid + u64::from(level) * u64::from(config!(offsets.pid_numbers_stride));
    let comm = match config!(offsets.task_comm) {
        NO_OFFSET => 0,
        offset => task + u64::from(offset),
    };
    let start = config!(offsets.task_start_boottime);
    // SAFETY: `into` is a whole Task in reserved ring-buffer memory, which the verifier checks.
    unsafe {
        (&raw mut (*into).start_boot_ns).write(walk_fact(task, start, &mut failed));
        (&raw mut (*into).process_start_boot_ns).write(walk_fact(leader, start, &mut gone));
        (&raw mut (*into).tid).write(walk_word(task, config!(offsets.task_pid), &mut failed));
        (&raw mut (*into).tgid).write(walk_word(task, config!(offsets.task_tgid), &mut failed));
        (&raw mut (*into).ns_tgid).write(walk_word(deepest, config!(offsets.pid_numbers_nr), &mut gone));
        (&raw mut (*into).uid).write(walk_word(cred, config!(offsets.cred_uid), &mut gone));
        walk_string(comm, &raw mut (*into).comm);
    }
    let is_whole = config!(offsets.task_real_cred) != NO_OFFSET
        && config!(offsets.task_signal) != NO_OFFSET
        && start != NO_OFFSET;
    // What this kernel lacks is no failure to read it.
    if failed != 0 && is_whole {
        count(Loss::ReadFailed);
    }
}

/// When the task was made, in nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn start_boot_ns(task: u64) -> u64 {
    value(task, config!(offsets.task_start_boottime)).unwrap_or(ABSENT_U64)
}

/// When the task's process was made: the start of its first thread, for which it keeps even if that is gone.
#[inline(always)]
pub(crate) fn process_start_boot_ns(task: u64) -> u64 {
    match pointer(task, config!(offsets.task_group_leader)) {
        0 => ABSENT_U64,
        leader => start_boot_ns(leader),
    }
}

/// The address of the parent's task; 0 if it cannot be told. Programs run inside an RCU read section, and a
/// parent's task is freed by RCU, so it is still there for the reads that follow.
#[inline(always)]
pub(crate) fn parent(task: u64) -> u64 {
    pointer(task, config!(offsets.task_real_parent))
}

/// The process's id in its innermost pid namespace: the deepest of `signal->pids[PIDTYPE_TGID]->numbers`.
#[inline(always)]
fn ns_tgid(task: u64) -> u32 {
    let pid = pointer(pointer(task, config!(offsets.task_signal)), config!(offsets.signal_tgid_pid));
    let Some(level) = value::<u32>(pid, config!(offsets.pid_level)) else { return ABSENT_U32 };
    let deepest = pid + u64::from(level) * u64::from(config!(offsets.pid_numbers_stride));
    value(deepest, config!(offsets.pid_numbers_nr)).unwrap_or(ABSENT_U32)
}

/// The address of the current task.
#[expect(unsafe_code, reason = "generated helpers are unsafe as a whole")]
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes nothing and returns an address that is only read through helpers.
    unsafe { bpf_get_current_task() }
}

/// The current thread's id in the initial pid namespace.
#[inline(always)]
pub(crate) fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}
