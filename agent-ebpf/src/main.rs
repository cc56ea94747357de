//! The programs in the kernel: hooks → filters → records in one ring buffer.
//!
//! The first stage of the pipeline; the agent's `kernel` module loads them, tells them through `CONFIG`
//! where this kernel keeps what they read, and drains what they emit. One subject per file:
//!
//! - [`cgroups`]: which cgroups are the kubelet's, for all that asks whether a task is of a pod
//! - [`oom_decision`]: why the OOM killer kills; the one that needs the privileged tier
//! - [`reclaim`]: what the allocator did before, from which the limit that fired follows
//! - [`oom`]: who the OOM killer kills, in which cgroups, on whose behalf
//! - [`lifetime`], [`exit`]: when the inits of containers begin and end, and when those victims do
//! - [`signal`]: who sends SIGKILL or SIGTERM to such an init
//! - [`swap`]: renames onto `..data`, by which a kubelet publishes a volume's new content
//! - [`swap_tracing`]: the same by the kernel's own function, told by the volume's identity
//! - [`notify`]: whom inotify told of it
//! - [`read_file`]: who opens a file of such a volume first
//!
//! The others need no privileged tier: raw tracepoints, tracepoints, `bpf_probe_read_*` and a ring buffer run on
//! every kernel from 5.8 on. Nothing here decides what an event means, and no program ever waits.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod cgroups;
mod dentry;
mod emit;
mod exit;
mod init;
mod lifetime;
mod maps;
mod memcg;
mod notify;
mod oom;
mod oom_decision;
mod read;
mod read_file;
mod reclaim;
mod signal;
mod swap;
mod swap_tracing;
mod task;

/// Helpers that the kernel offers to GPL-compatible programs only are needed (`bpf_probe_read_kernel`).
#[expect(unsafe_code, reason = "the loader finds the licence by section, so the symbol's place is set here")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Diagnosis on the way of one record; nothing at all unless built with the feature `log`.
#[macro_export]
macro_rules! diagnose {
    ($ctx:expr, $($message:tt)+) => {{
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!($ctx, $($message)+);
        #[cfg(not(feature = "log"))]
        let _ = $ctx;
    }};
}

/// Rust demands a handler; the verifier accepts no program from which it can be reached.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
