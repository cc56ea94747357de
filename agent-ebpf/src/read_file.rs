//! Opens of files of registered volumes by processes of pods → [`FileOpen`], once per container, generation
//! and file.
//!
//! Tracing tier: the exit of the security check that every open passes. Tracepoint tier: the exits of the
//! open calls, where the descriptor leads to the file. In both the file system's device is compared first,
//! for containers open their own root's files far more often than a volume's.
//!
//! An application that reads its file on each request opens the same file over and over; what has been told
//! is remembered by cgroup, generation and inode, and not told again. The cgroup and not the process: a shell
//! that runs `cat` is a new process each time, and the fact is about the container.
//!
//! Blind spots of the tracepoint tier: io_uring, 32-bit callers, and `open_by_handle_at`, which containers may
//! not call without a capability.

use aftertrace_ebpf_common::{
    config::NO_OFFSET,
    loss::Loss,
    record::{ABSENT_U64, FileOpen, kind, open_call, pod_level},
};
use aya_ebpf::{
    helpers::generated::bpf_get_current_task,
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};

use crate::{
    cgroups, dentry, diagnose,
    emit::{boot_ns, header, reserve},
    maps::{SEEN_OPENS, SeenOpen, config},
    read::{pointer, value, walk_string},
    task,
};

/// `O_PATH` of `include/uapi/asm-generic/fcntl.h`, the same on x86-64 and arm64: nothing can be read by it.
const O_PATH: u32 = 0o10_000_000;

/// `sys_exit_open(long ret)`; arm64 has no such call.
#[tracepoint]
fn exit_open(ctx: TracePointContext) -> u32 {
    returned::<{ open_call::OPEN as usize }>(&ctx)
}

/// `sys_exit_openat(long ret)`
#[tracepoint]
fn exit_openat(ctx: TracePointContext) -> u32 {
    returned::<{ open_call::OPENAT as usize }>(&ctx)
}

/// `sys_exit_openat2(long ret)`
#[tracepoint]
fn exit_openat2(ctx: TracePointContext) -> u32 {
    returned::<{ open_call::OPENAT2 as usize }>(&ctx)
}

/// `security/security.c`, since 2.6.35 with this one argument since 4.18.
///
/// Prototype: `int security_file_open(struct file *file)`
///
/// At its exit, for at entry the open may still be denied. `O_PATH` opens do not come here.
#[fexit(function = "security_file_open")]
fn security_file_open(ctx: FExitContext) -> i32 {
    // The return value follows the arguments.
    if ctx.arg::<i32>(1) == 0 {
        opened(&ctx, ctx.arg::<u64>(0), current(), open_call::ANY);
    }
    0
}

/// An open call returns: its descriptor leads to the file.
#[expect(unsafe_code, reason = "the context is read through a helper by raw address")]
#[inline(always)]
fn returned<const CALL: usize>(ctx: &TracePointContext) -> u32 {
    let offset = config!(opens[CALL]);
    if offset == NO_OFFSET {
        return 0;
    }
    // SAFETY: the offset is from this tracepoint's own format; the helper fails rather than faults.
    let Ok(descriptor) = (unsafe { ctx.read_at::<i64>(offset as usize & 0xfff) }) else { return 0 };
    if descriptor < 0 {
        return 0;
    }
    let task = current();
    let file = file_of(task, descriptor as u32);
    let flags: u32 = value(file, config!(offsets.file_flags)).unwrap_or(0);
    if file != 0 && flags & O_PATH == 0 {
        opened(ctx, file, task, CALL as u32);
    }
    0
}

/// The address of the file behind a descriptor of a task; 0 if it cannot be told. The task is the current
/// one, so its table stays, though another of its threads may just have closed the descriptor.
#[inline(always)]
pub(crate) fn file_of(task: u64, descriptor: u32) -> u64 {
    let table = pointer(pointer(task, config!(offsets.task_files)), config!(offsets.files_fdt));
    if value::<u32>(table, config!(offsets.fdtable_max_fds)).is_none_or(|count| descriptor >= count) {
        return 0;
    }
    let files = pointer(table, config!(offsets.fdtable_fd));
    if files == 0 { 0 } else { pointer(files + u64::from(descriptor) * 8, 0) }
}

/// A file was opened: told if it is a pod's, of a registered volume, and the first of its kind.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn opened<C>(ctx: &C, file: u64, task: u64, call: u32) {
    let entry = pointer(file, config!(offsets.file_dentry));
    let Some(device) = dentry::watched_device(entry) else { return };
    let Some(container) = cgroups::place_of(task).filter(|place| place.level >= pod_level::POD) else {
        return;
    };
    let inode = dentry::inode(entry);
    if !dentry::is_regular(inode) {
        return;
    }
    let Some(place) = dentry::place(entry, device) else { return };
    if place.depth == 0 {
        return;
    }
    let seen = SeenOpen {
        cgroup_id: container.id,
        generation: dentry::name_hash(place.generation),
        volume_inode: place.volume[1],
        inode: dentry::inode_number(entry),
        device: u64::from(device),
    };
    if SEEN_OPENS.get_ptr(seen).is_some() {
        return;
    }
    let Some(mut room) = reserve::<FileOpen>(Loss::RingFullRead) else { return };
    let record = room.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written, but for
    // what follows a name's NUL.
    unsafe {
        (&raw mut (*record).header).write(header::<FileOpen>(kind::FILE_OPEN, boot_ns()));
        (&raw mut (*record).task).write(task::identity(task));
        (&raw mut (*record).cgroup_id).write(container.id);
        (&raw mut (*record).volume).write(place.volume);
        (&raw mut (*record).inode).write(seen.inode);
        (&raw mut (*record).depth).write(place.depth);
        (&raw mut (*record).call).write(call);
        walk_string(dentry::name(place.generation), &raw mut (*record).generation);
        walk_string(dentry::name(entry), &raw mut (*record).name);
    }
    room.submit(0);
    // Only what was told is remembered. Without an inode a key would stand for several files.
    if seen.inode != ABSENT_U64 {
        let _ = SEEN_OPENS.insert(seen, 1, 0);
    }
    diagnose!(ctx, "first open of a volume's file");
}

/// The address of the current task.
#[expect(unsafe_code, reason = "generated helpers are unsafe as a whole")]
#[inline(always)]
pub(crate) fn current() -> u64 {
    // SAFETY: the helper takes nothing and returns an address that only helpers read.
    unsafe { bpf_get_current_task() }
}
