//! The one way into the ring buffer: room is reserved, a whole record written, then handed over.
//!
//! A record that finds no room is counted under its kind, per CPU, and is gone; no program waits.

use aftertrace_ebpf_common::{loss::Loss, record::Header};
use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, maps::ring_buf::RingBufEntry};

use crate::maps::{EVENTS, count};

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
#[expect(unsafe_code, reason = "generated helpers are unsafe as a whole")]
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Reserves room for a record, or counts `full`. The bytes are what the ring held before: the caller
/// writes every field that a reader looks at.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(full: Loss) -> Option<RingBufEntry<T>> {
    let entry = EVENTS.reserve::<T>(0);
    if entry.is_none() {
        count(full);
    }
    entry
}

/// The header of a record of type `T`.
#[inline(always)]
pub(crate) fn header<T>(kind: u32, boot_ns: u64) -> Header {
    Header { kind, size: size_of::<T>() as u32, boot_ns }
}
