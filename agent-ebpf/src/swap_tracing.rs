//! Renames onto `..data`, as the kernel's own function does them → [`VolumeRename`]: by the identity of the
//! directory, whatever path, mount or system call led there.
//!
//! The entry compares the target's name, which all other renames fail by its length, and remembers the time
//! and what is renamed, for after the rename the old entry bears the new name.

use aftertrace_ebpf_common::{
    loss::Loss,
    record::{VolumeRename, kind},
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

use crate::{
    dentry, diagnose,
    emit::{boot_ns, header, reserve},
    maps::{PENDING_RENAMES, PendingRename, config, count},
    read::{pointer, value},
    read_file::current,
    swap::mount_namespace,
    task,
};

/// `fs/namei.c`, since 5.12 with this one argument.
///
/// Prototype: `int vfs_rename(struct renamedata *rd)`
#[fentry(function = "vfs_rename")]
fn vfs_rename_enter(ctx: FEntryContext) -> i32 {
    let data = ctx.arg::<u64>(0);
    let target = pointer(data, config!(offsets.renamedata_new_dentry));
    if !dentry::is_named(target, *b"..data") {
        return 0;
    }
    let staged = pointer(data, config!(offsets.renamedata_old_dentry));
    let pending = PendingRename {
        enter_boot_ns: boot_ns(),
        old_name: 0,
        new_name: target,
        old_dfd: 0,
        new_dfd: 0,
        flags: u32::from(dentry::is_named(staged, *b"..data_tmp")),
        matched: 1,
    };
    if PENDING_RENAMES.insert(bpf_get_current_pid_tgid() as u32, pending, 0).is_err() {
        count(Loss::RenameTableFull);
    }
    0
}

/// `fs/namei.c`, since 5.12 with this one argument.
///
/// Prototype: `int vfs_rename(struct renamedata *rd)`
#[fexit(function = "vfs_rename")]
fn vfs_rename_exit(ctx: FExitContext) -> i32 {
    let tid = bpf_get_current_pid_tgid() as u32;
    if PENDING_RENAMES.get_ptr(tid).is_some() {
        // The return value follows the arguments.
        renamed(&ctx, tid, ctx.arg::<i32>(1));
    }
    0
}

/// A rename onto `..data` returns.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn renamed(ctx: &FExitContext, tid: u32, result: i32) {
    // SAFETY: the key is the current task's tid, so no other task writes this entry; the value is copied.
    let Some(pending) = (unsafe { PENDING_RENAMES.get(tid) }).copied() else { return };
    // It was found just now; if it is gone already it has been evicted, which changes nothing.
    let _ = PENDING_RENAMES.remove(tid);
    // The caller still holds the target's entry, and with it its parent.
    let root = pointer(pending.new_name, config!(offsets.dentry_parent));
    let device: Option<u32> = value(pointer(root, config!(offsets.dentry_sb)), config!(offsets.sb_dev));
    let Some(device) = device else { return };
    let Some(mut room) = reserve::<VolumeRename>(Loss::RingFullRename) else { return };
    let record = room.as_mut_ptr();
    let writer = current();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<VolumeRename>(kind::VOLUME_RENAME, boot_ns()));
        (&raw mut (*record).enter_boot_ns).write(pending.enter_boot_ns);
        (&raw mut (*record).writer).write(task::identity(writer));
        (&raw mut (*record).result).write(i64::from(result));
        (&raw mut (*record).volume).write([u64::from(device), dentry::inode_number(root)]);
        (&raw mut (*record).mount_namespace).write(mount_namespace(writer));
        (&raw mut (*record).is_staged).write(pending.flags);
    }
    room.submit(0);
    diagnose!(ctx, "rename onto ..data by tid {}", tid);
}
