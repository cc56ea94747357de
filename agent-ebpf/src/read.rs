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

/// Reads a pointer as [`pointer`] does, but without a branch: what cannot be read is 0 and sets a bit in `failed`.
///
/// For walks: older verifiers follow every way through every turn of a loop, and a failure to read each of ten
/// fields in each of twelve turns are more ways than they care to follow.
#[inline(always)]
pub(crate) fn walk(base: u64, offset: u32, failed: &mut i64) -> u64 {
    let (word, result) = bytes::<8>(base, offset);
    *failed |= result;
    u64::from_ne_bytes(word)
}

/// Reads a 64-bit fact as [`walk`] does; `ABSENT_U64` if it cannot be read.
#[inline(always)]
pub(crate) fn walk_fact(base: u64, offset: u32, failed: &mut i64) -> u64 {
    let (word, result) = bytes::<8>(base, offset);
    *failed |= result;
    // An error is negative, so its sign fills the word with ones.
    u64::from_ne_bytes(word) | (result >> 63) as u64
}

/// Reads a 32-bit fact as [`walk`] does; `ABSENT_U32` if it cannot be read.
#[inline(always)]
pub(crate) fn walk_word(base: u64, offset: u32, failed: &mut i64) -> u32 {
    let (word, result) = bytes::<4>(base, offset);
    *failed |= result;
    u32::from_ne_bytes(word) | (result >> 63) as u32
}

/// Reads a flag of one byte as [`walk`] does; `ABSENT_U32` if it cannot be read.
#[inline(always)]
pub(crate) fn walk_flag(base: u64, offset: u32, failed: &mut i64) -> u32 {
    let ([flag], result) = bytes::<1>(base, offset);
    *failed |= result;
    u32::from(flag) | (result >> 63) as u32
}

/// The bytes at `base + offset` and 0, or zero and an error. That a kernel lacks the member is no failure to
/// read, and yet none of it was read.
#[expect(unsafe_code, reason = "the helper takes raw addresses")]
#[inline(always)]
fn bytes<const N: usize>(base: u64, offset: u32) -> ([u8; N], i64) {
    let mut bytes = [0; N];
    if offset == NO_OFFSET {
        return (bytes, -1);
    }
    let from = (base + u64::from(offset)) as *const _;
    // SAFETY: `bytes` is N bytes of the stack; the helper fails on an unmapped source instead of faulting, and
    // leaves zero then.
    let result = unsafe { generated::bpf_probe_read_kernel(bytes.as_mut_ptr().cast(), N as u32, from) };
    (bytes, result as i64)
}

/// Copies as [`kernel_string`] does, but without a branch: a string that cannot be read is empty.
#[expect(unsafe_code, reason = "the helper takes raw addresses")]
#[inline(always)]
pub(crate) fn walk_string<const N: usize>(address: u64, into: *mut [u8; N]) {
    // SAFETY: `into` is N bytes of the ring buffer or of a map, which the verifier checks against N; the helper
    // fills them with NUL if it cannot read the source.
    unsafe { generated::bpf_probe_read_kernel_str(into.cast(), N as u32, address as *const _) };
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
