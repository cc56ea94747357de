//! A ring buffer that overflows: what finds no room is counted, once each.

use std::num::NonZeroU32;

use aftertrace_agent::kernel::{Kernel, KernelConfig, LoadError, Subject};

use crate::storm::{Outcome, overload};

/// Records of the storm, unless `AFTERTRACE_RING_RECORDS` gives another number: seconds on a slow machine.
const RECORDS: u64 = 200_000;

/// Threads that rename: more than most machines of a test have processors, so that the reader is starved.
const THREADS: u64 = 3;

#[tokio::test(flavor = "current_thread")]
async fn every_record_is_either_read_or_counted_as_lost() {
    // Sixteen pages: some thirty renames fill it.
    let config =
        KernelConfig { ring_bytes: NonZeroU32::new(64 << 10).expect("not zero"), ..KernelConfig::default() };
    let kernel = match Kernel::load(&config) {
        Ok(kernel) => kernel,
        Err(error @ (LoadError::NotPermitted(_) | LoadError::NoBtf { .. })) => {
            return println!("SKIPPED: {error}");
        }
        Err(error) => panic!("{error}: {error:?}"),
    };
    let swap = kernel.attached.subjects().iter().find(|status| status.subject == Subject::Swap);
    let swap = swap.expect("every subject has a status");
    if swap.tier.is_none() {
        return println!("SKIPPED: renames cannot be observed here: {:?}", swap.missing_hooks);
    }
    let records = std::env::var("AFTERTRACE_RING_RECORDS")
        .map_or(RECORDS, |text| text.parse().expect("AFTERTRACE_RING_RECORDS is a number"));
    let folder = tempfile::tempdir().expect("a temporary directory");
    let outcome = overload(kernel, folder.path(), THREADS, records / THREADS).await;
    let Outcome { emitted, read, foreign, lost, losses, elapsed } = outcome;
    println!("{emitted} emitted in {elapsed:?}, {read} read, {lost} lost ({losses:?}), {foreign} of others");
    assert_eq!(emitted, records / THREADS * THREADS, "each of these renames succeeds");
    assert!(read > 0 && lost > 0, "the ring overflowed and was read");
    // Other tests of this machine may rename onto ..data too; theirs can be lost here as well.
    assert!(read + lost >= emitted, "some records are neither read nor counted");
    assert!(foreign > 0 || read + lost == emitted, "more were counted than there were");
}
