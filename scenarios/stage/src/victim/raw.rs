//! The system calls of victims that have no safe wrapper: shared memory, half-dead threads, traced exits.

#![expect(unsafe_code, reason = "this module exists for the calls that cannot be made without")]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;

use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::Pid;

/// Stack of the sharing child, which makes one kind of call only.
const STACK_BYTES: usize = 1 << 16;

/// Starts a process that has this one's memory (`CLONE_VM`) and fills it.
///
/// # Errors
/// The system's.
pub fn allocate_in_sharing_child(mib: usize) -> io::Result<()> {
    // Never freed: the child runs on it for as long as it lives.
    let stack = Box::leak(vec![0_u128; STACK_BYTES / 16].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let mib = std::ptr::without_provenance_mut::<c_void>(mib);
    // SAFETY: the stack is ours alone, aligned and never freed; `fill` touches nothing of the shared memory but
    // what it maps itself.
    let pid = unsafe { libc::clone(fill, top, libc::CLONE_VM | libc::SIGCHLD, mib) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

extern "C" fn fill(mib: *mut c_void) -> c_int {
    for _ in 0..mib.addr() {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at a place of the kernel's choice, takes nothing from anyone.
        let page = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), 1 << 20, protection, MapFlags::PRIVATE)
        };
        let Ok(page) = page else { return 1 };
        // SAFETY: the mapping is as long and writable.
        unsafe { page.cast::<u8>().write_bytes(1, 1 << 20) };
    }
    loop {
        // SAFETY: it only waits.
        unsafe { libc::pause() };
    }
}

/// Ends this thread and leaves the others of its process running, also if it is the first.
pub fn end_this_thread() -> ! {
    // SAFETY: nothing of this thread's stack is borrowed by the others, which own what they use.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the call does not return")
}

/// Makes `pid` stop before it frees its memory when it ends.
///
/// # Errors
/// The system's.
pub fn stop_at_exit(pid: Pid) -> io::Result<()> {
    ptrace(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_TRACEEXIT)
}

/// Waits until it has stopped there.
///
/// # Errors
/// The system's; it may have ended instead.
pub fn wait_for_stop(pid: Pid) -> io::Result<()> {
    let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED)?;
    let stopped = status.is_some_and(|(_, status)| status.stopped());
    if stopped { Ok(()) } else { Err(io::Error::other("it ended without stopping")) }
}

/// Lets it go on.
///
/// # Errors
/// The system's.
pub fn go_on(pid: Pid) -> io::Result<()> {
    ptrace(libc::PTRACE_CONT, pid, 0)
}

fn ptrace(request: libc::c_uint, pid: Pid, data: c_int) -> io::Result<()> {
    let data = std::ptr::without_provenance_mut::<c_void>(data as usize);
    // SAFETY: these requests read and write no memory of this process.
    let result = unsafe { libc::ptrace(request, pid.as_raw_nonzero().get(), 0, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Maps a whole file for reading, for as long as this process lives, and returns its first byte.
///
/// # Errors
/// The system's.
pub fn map_for_ever(file: &File) -> io::Result<u8> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    // SAFETY: a new mapping, at a place of the kernel's choice, takes nothing from anyone.
    let start = unsafe {
        rustix::mm::mmap(std::ptr::null_mut(), length.max(1), ProtFlags::READ, MapFlags::PRIVATE, file, 0)
    }?;
    // SAFETY: the caller's file has a first byte, else the read is a SIGBUS that ends a program which is made to
    // be ended; it is never written in place.
    Ok(unsafe { start.cast::<u8>().read_volatile() })
}
