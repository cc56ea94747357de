//! Renames onto `..data`, by which an atomic writer publishes a volume's new content → [`Rename`].
//!
//! Tracepoints of the system calls, for the tier without fentry. The target's last component is compared
//! before anything else, so that a storm of other renames costs one copy of a path and no more. The
//! paths themselves are read when the call returns, from user memory: they are hints, and what
//! really lies in the volume is for the agent to look up.
//!
//! Blind spots of this tier, named: io_uring (`IORING_OP_RENAMEAT`) and 32-bit callers on a 64-bit kernel
//! run no system-call tracepoint; a target written with a trailing slash does not end in `..data`.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    limits::{PATH_BYTES, USER_PATH_BYTES},
    loss::Loss,
    record::{ABSENT_U32, Rename, kind, rename_call},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_task},
    macros::tracepoint,
    programs::TracePointContext,
};

use crate::{
    diagnose,
    emit::{boot_ns, header, reserve},
    maps::{PATH_SCRATCH, PENDING_RENAMES, PendingRename, config, count},
    read::{pointer, user_string, value},
    task,
};

/// `/..data` with its terminating NUL: the end of every longer path that matches.
const SUFFIX: [u8; 8] = *b"/..data\0";
/// The working directory in place of a directory's descriptor.
const AT_FDCWD: i32 = -100;

/// `sys_enter_rename(const char *oldname, const char *newname)`; arm64 has no such call.
#[tracepoint]
fn enter_rename(ctx: TracePointContext) -> u32 {
    entered::<{ rename_call::RENAME as usize }>(&ctx)
}

/// `sys_enter_renameat(int olddfd, const char *oldname, int newdfd, const char *newname)`
#[tracepoint]
fn enter_renameat(ctx: TracePointContext) -> u32 {
    entered::<{ rename_call::RENAMEAT as usize }>(&ctx)
}

/// `sys_enter_renameat2(int olddfd, const char *oldname, int newdfd, const char *newname, unsigned int flags)`
#[tracepoint]
fn enter_renameat2(ctx: TracePointContext) -> u32 {
    entered::<{ rename_call::RENAMEAT2 as usize }>(&ctx)
}

/// `sys_exit_rename(long ret)`
#[tracepoint]
fn exit_rename(ctx: TracePointContext) -> u32 {
    returned::<{ rename_call::RENAME as usize }>(&ctx)
}

/// `sys_exit_renameat(long ret)`
#[tracepoint]
fn exit_renameat(ctx: TracePointContext) -> u32 {
    returned::<{ rename_call::RENAMEAT as usize }>(&ctx)
}

/// `sys_exit_renameat2(long ret)`
#[tracepoint]
fn exit_renameat2(ctx: TracePointContext) -> u32 {
    returned::<{ rename_call::RENAMEAT2 as usize }>(&ctx)
}

/// A call is entered: remembered if its target matches, or cannot be read yet.
#[inline(always)]
fn entered<const CALL: usize>(ctx: &TracePointContext) -> u32 {
    let Some(new_name) = argument::<u64>(ctx, config!(renames[CALL].new_name)) else { return 0 };
    let matched = match target_is_data(new_name) {
        Target::Other => return 0,
        Target::Data => 1,
        Target::Unreadable => 0,
    };
    let pending = PendingRename {
        enter_boot_ns: boot_ns(),
        old_name: argument(ctx, config!(renames[CALL].old_name)).unwrap_or(0),
        new_name,
        old_dfd: argument(ctx, config!(renames[CALL].old_dfd)).unwrap_or(AT_FDCWD),
        new_dfd: argument(ctx, config!(renames[CALL].new_dfd)).unwrap_or(AT_FDCWD),
        flags: argument(ctx, config!(renames[CALL].flags)).unwrap_or(0),
        matched,
    };
    if PENDING_RENAMES.insert(bpf_get_current_pid_tgid() as u32, pending, 0).is_err() {
        count(Loss::RenameTableFull);
    }
    0
}

/// A call returns: emitted if it was remembered and does match.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn returned<const CALL: usize>(ctx: &TracePointContext) -> u32 {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: the key is the current task's tid, so no other task writes this entry; the value is copied.
    let Some(pending) = (unsafe { PENDING_RENAMES.get(tid) }).copied() else { return 0 };
    // It was found just now; if it is gone already it has been evicted, which changes nothing.
    let _ = PENDING_RENAMES.remove(tid);
    let boot_ns = boot_ns();
    // By now the kernel has read the target itself, so its page is in memory.
    match target_is_data(pending.new_name) {
        Target::Data => {}
        Target::Other if pending.matched == 1 => {
            count(Loss::PathChanged);
            return 0;
        }
        Target::Other => return 0,
        Target::Unreadable => {
            count(Loss::PathUnreadable);
            return 0;
        }
    }
    let Some(mut entry) = reserve::<Rename>(Loss::RingFullRename) else { return 0 };
    let record = entry.as_mut_ptr();
    // SAFETY: bpf_get_current_task takes nothing and returns an address that only helpers read.
    let writer = unsafe { bpf_get_current_task() };
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    let (old, new) = unsafe {
        (&raw mut (*record).header).write(header::<Rename>(kind::RENAME, boot_ns));
        (&raw mut (*record).enter_boot_ns).write(pending.enter_boot_ns);
        (&raw mut (*record).writer).write(task::identity(writer));
        (&raw mut (*record).result).write(argument(ctx, config!(renames[CALL].ret)).unwrap_or(i64::MIN));
        (&raw mut (*record).mount_namespace).write(mount_namespace(writer));
        (&raw mut (*record).call).write(CALL as u32);
        (&raw mut (*record).old_dfd).write(pending.old_dfd);
        (&raw mut (*record).new_dfd).write(pending.new_dfd);
        (&raw mut (*record).flags).write(pending.flags);
        (&raw mut (*record).padding).write(0);
        (
            user_string(pending.old_name, &raw mut (*record).old_path),
            user_string(pending.new_name, &raw mut (*record).new_path),
        )
    };
    if old < 0 || new < 0 {
        count(Loss::PathUnreadable);
        entry.discard(0);
    } else if old >= PATH_BYTES as i64 || new >= PATH_BYTES as i64 {
        count(Loss::PathTruncated);
        entry.discard(0);
    } else {
        entry.submit(0);
        diagnose!(ctx, "rename onto ..data by tid {}", tid);
    }
    0
}

/// What a rename's target is.
enum Target {
    /// `..data`, in whatever directory.
    Data,
    /// Something else.
    Other,
    /// Its page is not in memory.
    Unreadable,
}

/// Reads a target and compares its last component.
#[expect(unsafe_code, reason = "the scratch is a map's value, which only a pointer reaches")]
#[inline(always)]
fn target_is_data(address: u64) -> Target {
    let Some(scratch) = PATH_SCRATCH.get_ptr_mut(0) else { return Target::Unreadable };
    let length = user_string(address, scratch);
    if length < 0 {
        return Target::Unreadable;
    }
    let length = length as usize;
    // SAFETY: the scratch is USER_PATH_BYTES long; both reads begin at most eight bytes before `length`,
    // which is at most that, and the verifier checks each.
    unsafe {
        let bytes = scratch.cast::<u8>();
        if length == SUFFIX.len() - 1 {
            // The bare name: as the suffix, without its slash.
            let name = bytes.cast::<[u8; 7]>().read_unaligned();
            return if name == [b'.', b'.', b'd', b'a', b't', b'a', 0] {
                Target::Data
            } else {
                Target::Other
            };
        }
        if length < SUFFIX.len() || length > USER_PATH_BYTES {
            return Target::Other;
        }
        let end = bytes.add(length - SUFFIX.len()).cast::<[u8; 8]>().read_unaligned();
        if end == SUFFIX { Target::Data } else { Target::Other }
    }
}

/// One argument out of a tracepoint's context; nothing if this call does not have it.
#[expect(unsafe_code, reason = "the context is read through a helper by raw address")]
#[inline(always)]
pub(crate) fn argument<T: Copy>(ctx: &TracePointContext, offset: u32) -> Option<T> {
    if offset == NO_OFFSET {
        return None;
    }
    // SAFETY: the offset is from this tracepoint's own format; the helper fails rather than faults.
    unsafe { ctx.read_at::<T>(offset as usize & 0xfff) }.ok()
}

/// The inode number of a task's mount namespace.
#[inline(always)]
pub(crate) fn mount_namespace(task: u64) -> u32 {
    let mnt_ns = pointer(pointer(task, config!(offsets.task_nsproxy)), config!(offsets.nsproxy_mnt_ns));
    value(mnt_ns, config!(offsets.mnt_ns_inum)).unwrap_or(ABSENT_U32)
}
