//! SIGKILL and SIGTERM that a process sends to the init of a container → [`Signal`].
//!
//! The kernel's own signals are not told: those of the OOM killer and of a pid namespace that is torn down
//! come with `SEND_SIG_PRIV` in place of their origin, and timers with a code of their own. `cgroup.kill` comes
//! with nothing at all, from the task that wrote to the file. What the kernel drops because the process is
//! dying already is no signal; what an init ignores for want of a handler is told as ignored.
//!
//! A second program beside the OOM killer's on the same tracepoint: each subject is attached, or refused, by
//! itself, and a signal is rare enough for the second call (about 20 ns) not to matter.

use aftertrace_ebpf_common::{
    limits::{CGROUP_NAME_BYTES, MAX_SENDER_LEVELS, MAX_SIGNALS_IN_WINDOW, SIGNAL_WINDOW_NS},
    loss::Loss,
    record::{ABSENT_I32, ABSENT_U64, Signal, kind, signal_result},
};
use aya_ebpf::{
    helpers::generated::bpf_get_current_task, macros::raw_tracepoint, programs::RawTracePointContext,
};

use crate::{
    cgroups::{self, place_of},
    emit::{boot_ns, header, reserve},
    init::{self, Init},
    maps::{SIGNAL_COUNTS, SignalCount, SignalPair, config, count},
    memcg,
    read::{kernel_string, pointer, value},
    task,
};

/// The signals' numbers on every architecture Linux has.
const SIGKILL: i32 = 9;
/// Likewise.
const SIGTERM: i32 = 15;
/// `SEND_SIG_NOINFO`, from a process that says no more, in place of a pointer.
const SEND_SIG_NOINFO: u64 = 0;
/// `SEND_SIG_PRIV`, "from the kernel", in place of a pointer.
const SEND_SIG_PRIV: u64 = 1;
/// `si_code` of `kill`.
const SI_USER: i32 = 0;
/// `si_code` of `sigqueue`.
const SI_QUEUE: i32 = -1;
/// `si_code` of `tkill` and `tgkill`.
const SI_TKILL: i32 = -6;
/// `signal_struct.flags`: the process is on its way out.
const SIGNAL_GROUP_EXIT: u32 = 0x4;

/// `include/trace/events/signal.h`, since 2.6.33. Runs as the sender, after the kernel has decided.
///
/// Prototype: `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group,
/// int result)`
#[raw_tracepoint(tracepoint = "signal_generate")]
fn signal_sent(ctx: RawTracePointContext) -> i32 {
    let signal = ctx.arg::<i32>(0);
    if signal != SIGKILL && signal != SIGTERM {
        return 0;
    }
    let Some(code) = code_of_process(ctx.arg::<u64>(1)) else { return 0 };
    let target = ctx.arg::<u64>(2);
    let result = ctx.arg::<i32>(4) as u32;
    if let Some(init) = init::of_container(target)
        && !(result == signal_result::IGNORED && is_dying(target))
    {
        let sent = Sent { signal: signal as u32, code, group: ctx.arg::<i32>(3) as u32, result };
        told(target, &init, &sent);
    }
    0
}

/// What the tracepoint says of a signal.
#[derive(Clone, Copy)]
struct Sent {
    signal: u32,
    code: i32,
    group: u32,
    result: u32,
}

/// How a process sent it; nothing if it was no process. `info` may be a sentinel in place of an address.
#[inline(always)]
fn code_of_process(info: u64) -> Option<i32> {
    match info {
        SEND_SIG_NOINFO => Some(ABSENT_I32),
        SEND_SIG_PRIV => None,
        _ => value::<i32>(info, config!(offsets.siginfo_code))
            .filter(|code| matches!(*code, SI_USER | SI_QUEUE | SI_TKILL)),
    }
}

/// A signal to an init: emits unless this sender's cgroup has sent too many.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn told(target: u64, init: &Init, sent: &Sent) {
    let sender = current();
    let css = memcg::state_of(sender);
    let sender_memcg = memcg::kernfs_id(css);
    let now = boot_ns();
    let pair = SignalPair { sender_memcg, target_member: init.member };
    let Some(untold) = admit(&pair, now) else { return count(Loss::SignalFlood) };
    let Some(mut entry) = reserve::<Signal>(Loss::RingFullSignal) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written, of
    // `sender_levels` those up to their count.
    unsafe {
        (&raw mut (*record).header).write(header::<Signal>(kind::SIGNAL, now));
        task::write_identity(target, &raw mut (*record).target);
        task::write_identity(sender, &raw mut (*record).sender);
        (&raw mut (*record).target_memcg).write(init.memcg);
        (&raw mut (*record).target_member).write(init.member);
        (&raw mut (*record).sender_memcg).write(sender_memcg);
        (&raw mut (*record).sender_place).write(place_of(sender).map_or(ABSENT_U64, |place| place.id));
        (&raw mut (*record).signal).write(sent.signal);
        (&raw mut (*record).result).write(sent.result);
        (&raw mut (*record).code).write(sent.code);
        (&raw mut (*record).group).write(u32::from(sent.group != 0));
        (&raw mut (*record).untold).write(untold);
        let levels = names(css, &raw mut (*record).sender_levels);
        (&raw mut (*record).sender_level_count).write(levels);
    }
    entry.submit(0);
}

/// Whether one more signal of a pair is told, and then how many were not before it. Two at the same instant
/// may both be the last that is.
#[expect(unsafe_code, reason = "the map's value is shared kernel memory")]
#[inline(always)]
fn admit(pair: &SignalPair, now: u64) -> Option<u32> {
    // SAFETY: the value is copied; if another CPU writes it meanwhile, a signal more or less is told.
    let before = unsafe { SIGNAL_COUNTS.get(pair) }.copied();
    let fresh = SignalCount { since_boot_ns: now, told: 0, untold: 0 };
    let mut counted = before.unwrap_or(fresh);
    if now.saturating_sub(counted.since_boot_ns) >= SIGNAL_WINDOW_NS {
        counted = SignalCount { untold: counted.untold, ..fresh };
    }
    let is_told = counted.told < MAX_SIGNALS_IN_WINDOW;
    let untold = counted.untold;
    if is_told {
        counted.told += 1;
        counted.untold = 0;
    } else {
        counted.untold = counted.untold.saturating_add(1);
    }
    // A table that takes no more forgets its oldest, so there is room.
    let _ = SIGNAL_COUNTS.insert(pair, counted, 0);
    is_told.then_some(untold)
}

/// Writes the names of a state's cgroup and of those above it; returns how many. The root has none.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn names(mut css: u64, into: *mut [[u8; CGROUP_NAME_BYTES]; MAX_SENDER_LEVELS]) -> u32 {
    let mut filled = 0;
    for index in 0..MAX_SENDER_LEVELS {
        let above = pointer(css, config!(offsets.css_parent));
        if above == 0 {
            break;
        }
        // SAFETY: `index` is below the array's length, and the array is reserved ring-buffer memory.
        let level = unsafe { into.cast::<[u8; CGROUP_NAME_BYTES]>().add(index) };
        kernel_string(cgroups::name_of(memcg::cgroup_of(css)), level);
        filled += 1;
        css = above;
    }
    filled
}

/// Whether the task's process is on its way out.
#[inline(always)]
fn is_dying(task: u64) -> bool {
    let signal = pointer(task, config!(offsets.task_signal));
    value::<u32>(signal, config!(offsets.signal_flags)).is_some_and(|flags| flags & SIGNAL_GROUP_EXIT != 0)
}

/// The address of the current task.
#[expect(unsafe_code, reason = "generated helpers are unsafe as a whole")]
#[inline(always)]
fn current() -> u64 {
    // SAFETY: the helper takes nothing and returns an address that is only read through helpers.
    unsafe { bpf_get_current_task() }
}
