//! Whom inotify tells of a volume's swap → [`Notice`], and who begins to watch → [`WatchAdded`].
//!
//! An inotify event is queued for a group, which does not say whose it is: the call that adds a watch does,
//! and is remembered by the group's address. Watchers from before the agent's start are not known by it until
//! they add another watch, and events for them are not told.
//!
//! The delivery is seen in the tracing tier alone; who begins to watch in both.

use aftertrace_ebpf_common::{
    limits::WATCH_ADDED_PERIOD_NS,
    loss::Loss,
    record::{Notice, VolumeKey, WatchAdded, kind, pod_level},
};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, tracepoint},
    programs::{FEntryContext, TracePointContext},
};

use crate::{
    cgroups, dentry, diagnose,
    emit::{boot_ns, header, reserve},
    maps::{PENDING_WATCHES, TOLD_WATCHES, WATCHING_GROUPS, Watcher, config},
    read::{pointer, value},
    read_file::{current, file_of},
    swap::argument,
    task,
};

/// `IN_MOVED_TO` of `include/uapi/linux/inotify.h`.
const MOVED_TO: u32 = 0x80;

/// `sys_enter_inotify_add_watch(int fd, const char *pathname, u32 mask)`
#[tracepoint]
fn enter_inotify_add_watch(ctx: TracePointContext) -> u32 {
    if let Some(descriptor) = argument::<u32>(&ctx, config!(add_watch_fd)) {
        let _ = PENDING_WATCHES.insert(bpf_get_current_pid_tgid() as u32, descriptor, 0);
    }
    0
}

/// `sys_exit_inotify_add_watch(long ret)`
#[tracepoint]
fn exit_inotify_add_watch(ctx: TracePointContext) -> u32 {
    let is_added = argument::<i64>(&ctx, config!(add_watch_ret)).is_some_and(|watch| watch >= 0);
    let task = current();
    if !is_added {
        return 0;
    }
    if let Some(place) = cgroups::place_of(task).filter(|place| place.level >= pod_level::POD) {
        added(&ctx, task, place.id);
    }
    0
}

/// A process of a pod added a watch: its group is remembered, and it is told now and then.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn added(ctx: &TracePointContext, task: u64, cgroup_id: u64) {
    let ids = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    // SAFETY: the key is the current task's tid, so no other task writes this entry; the value is copied.
    if let Some(descriptor) = unsafe { PENDING_WATCHES.get(tid) }.copied() {
        let group = pointer(file_of(task, descriptor), config!(offsets.file_private));
        if group != 0 {
            let comm = value(task, config!(offsets.task_comm)).unwrap_or_default();
            let process_start_boot_ns = task::process_start_boot_ns(task);
            let watcher = Watcher { cgroup_id, process_start_boot_ns, tgid, padding: 0, comm };
            let _ = WATCHING_GROUPS.insert(group, watcher, 0);
        }
    }
    let now = boot_ns();
    // SAFETY: the value is one aligned word, which is copied.
    let told = unsafe { TOLD_WATCHES.get(tgid) }.copied().unwrap_or(0);
    if told != 0 && now.saturating_sub(told) < WATCH_ADDED_PERIOD_NS {
        return;
    }
    let Some(mut room) = reserve::<WatchAdded>(Loss::RingFullNotice) else { return };
    let record = room.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<WatchAdded>(kind::WATCH_ADDED, now));
        (&raw mut (*record).task).write(task::identity(task));
        (&raw mut (*record).cgroup_id).write(cgroup_id);
    }
    room.submit(0);
    let _ = TOLD_WATCHES.insert(tgid, now, 0);
    diagnose!(ctx, "tgid {} added a watch", tgid);
}

/// `fs/notify/inotify/inotify_fsnotify.c`, since 5.10 with these arguments.
///
/// Prototype: `int inotify_handle_inode_event(struct fsnotify_mark *inode_mark, u32 mask, struct inode *inode, struct inode *dir, const struct qstr *name, u32 cookie)`
///
/// For an event in a directory `dir` is that directory; for one of the watched inode itself it is null. That a
/// watched file of the former generation ends is told to its watcher, too, but is no word of the new one.
#[fentry(function = "inotify_handle_inode_event")]
fn inotify_handle_inode_event(ctx: FEntryContext) -> i32 {
    let (mask, dir) = (ctx.arg::<u32>(1), ctx.arg::<u64>(3));
    if mask & MOVED_TO == 0 || dir == 0 || !is_data(ctx.arg::<u64>(4)) {
        return 0;
    }
    if let Some(volume) = dentry::root_of(dir) {
        told(&ctx, pointer(ctx.arg::<u64>(0), config!(offsets.mark_group)), volume, mask);
    }
    0
}

/// Whether a name is `..data`.
#[inline(always)]
fn is_data(name: u64) -> bool {
    value::<[u8; 7]>(pointer(name, config!(offsets.qstr_name)), 0) == Some(*b"..data\0")
}

/// Writes one notice, if the group is a container's.
#[expect(unsafe_code, reason = "the record lies in the ring buffer, which only a pointer reaches")]
#[inline(always)]
fn told(ctx: &FEntryContext, group: u64, volume: VolumeKey, mask: u32) {
    // SAFETY: the value is copied; one that is being overwritten is of the same group's next watch.
    let Some(watcher) = (unsafe { WATCHING_GROUPS.get(group) }).copied() else { return };
    let Some(mut room) = reserve::<Notice>(Loss::RingFullNotice) else { return };
    let record = room.as_mut_ptr();
    // SAFETY: `record` is reserved ring-buffer memory of the record's size; every field is written.
    unsafe {
        (&raw mut (*record).header).write(header::<Notice>(kind::NOTICE, boot_ns()));
        (&raw mut (*record).cgroup_id).write(watcher.cgroup_id);
        (&raw mut (*record).process_start_boot_ns).write(watcher.process_start_boot_ns);
        (&raw mut (*record).volume).write(volume);
        (&raw mut (*record).tgid).write(watcher.tgid);
        (&raw mut (*record).mask).write(mask);
        (&raw mut (*record).comm).write(watcher.comm);
    }
    room.submit(0);
    diagnose!(ctx, "a container was told of a volume");
}
