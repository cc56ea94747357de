//! Reads of kernel and user memory: an address and an offset in, a value or its `ABSENT` out.
//!
//! An address here is only ever handed to a helper that checks it; no program dereferences one.

use aftertrace_ebpf_common::{config::NO_OFFSET, loss::Loss};
use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};

use crate::maps::count;

/// Reads a plain value at `base + offset`; counts the failure if this kernel should have it.
#[expect(unsafe_code, reason = "the helper takes a raw kernel address")]
#[inline(always)]
pub(crate) fn value<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if base == 0 || offset == NO_OFFSET {
        return None;
    }
    // SAFETY: bpf_probe_read_kernel fails on an address that is not mapped instead of faulting, and every
    // `T` read here is an integer or an array of bytes, for which any bits are a value.
    let read = unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) };
    if read.is_err() {
        count(Loss::ReadFailed);
    }
    read.ok()
}

/// Reads a pointer at `base + offset`: 0 if it is null, unreadable or not of this kernel.
#[inline(always)]
pub(crate) fn pointer(base: u64, offset: u32) -> u64 {
    value(base, offset).unwrap_or(0)
}

/// Copies the NUL-terminated kernel string at `address`. An absent or unreadable one leaves the empty string.
#[expect(unsafe_code, reason = "the helper takes raw addresses")]
#[inline(always)]
pub(crate) fn kernel_string<const N: usize>(address: u64, into: *mut [u8; N]) {
    let mut length = -1;
    if address != 0 {
        // SAFETY: `into` is N bytes of the ring buffer or of a map, which the verifier checks against N; the
        // helper fails on an unmapped source.
        length = unsafe { generated::bpf_probe_read_kernel_str(into.cast(), N as u32, address as *const _) };
        if length < 0 {
            count(Loss::ReadFailed);
        }
    }
    if length <= 0 {
        // SAFETY: as above; N is at least 1.
        unsafe { into.cast::<u8>().write(0) };
    }
}

/// Copies the NUL-terminated user string at `address`: its length with the NUL, `N` if it was cut, or a
/// negated errno if the page is not in memory now.
#[expect(unsafe_code, reason = "the helper takes raw addresses")]
#[inline(always)]
pub(crate) fn user_string<const N: usize>(address: u64, into: *mut [u8; N]) -> i64 {
    // SAFETY: `into` is N bytes of the ring buffer or of a map, which the verifier checks against N; the
    // helper does not fault on a user page that is absent, it fails.
    unsafe { generated::bpf_probe_read_user_str(into.cast(), N as u32, address as *const _) as i64 }
}
