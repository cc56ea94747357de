//! The program of a container's init is in place → [`Exec`], once in the life of the container's cgroup.
//!
//! A runtime prepares the init as itself (`runc init`, `crun`) and lets it execute the container's program
//! last, so the first exec of an init is the container's own. Runtimes that execute themselves anew do so by
//! `/proc/self/…` or a descriptor, and mostly before they enter the namespace; those do not count. What the
//! program executes later, as a shell does, is no new start.
//!
//! Which exec is the first is known only for cgroups that were made while the programs watched; for others
//! nothing is told.

use aftertrace_ebpf_common::{
    limits::EXECUTABLE_BYTES,
    loss::Loss,
    record::{Exec, kind},
};
use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    cgroups,
    emit::{boot_ns, header, reserve},
    init::{self, Init},
    maps::config,
    read::{kernel_string, pointer},
    task,
};

/// `include/trace/events/sched.h`, since 3.4. Runs as the task, whose new name, memory and credentials are in
/// place.
///
/// Prototype: `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    let task = ctx.arg::<u64>(0);
    if let Some(init) = init::of_container(task) {
        executed(task, &init, pointer(ctx.arg::<u64>(2), config!(offsets.binprm_filename)));
    }
    0
}

/// An init executes: emits if it is the container's own program.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn executed(task: u64, init: &Init, path: u64) {
    if !cgroups::awaits_exec(init.member) {
        return;
    }
    let Some(mut entry) = reserve::<Exec>(Loss::RingFullExec) else {
        cgroups::has_executed(init.member);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written before it
    // is handed over.
    unsafe {
        kernel_string(path, &raw mut (*record).executable);
        if is_runtimes_own(&(*record).executable) {
            return entry.discard(0);
        }
        (&raw mut (*record).header).write(header::<Exec>(kind::EXEC, boot_ns()));
        task::write_identity(task, &raw mut (*record).task);
        task::write_identity(task::parent(task), &raw mut (*record).parent);
        (&raw mut (*record).memcg).write(init.memcg);
        (&raw mut (*record).member).write(init.member);
    }
    entry.submit(0);
    cgroups::has_executed(init.member);
}

/// Whether a path is one by which a program executes itself.
#[inline(always)]
fn is_runtimes_own(path: &[u8; EXECUTABLE_BYTES]) -> bool {
    path.starts_with(b"/proc/self/") || path.starts_with(b"/dev/fd/")
}
