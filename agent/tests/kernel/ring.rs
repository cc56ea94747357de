//! A ring buffer that overflows: what finds no room is counted, once each.

use std::{fs, num::NonZeroU32};

use aftertrace_agent::kernel::{Kernel, KernelConfig, LoadError, Record, Subject};
use tokio::sync::mpsc;

#[tokio::test(flavor = "current_thread")]
async fn every_record_is_either_read_or_counted_as_lost() {
    // One page: a few renames fill it.
    let config = KernelConfig { ring_bytes: NonZeroU32::new(4096).unwrap(), ..KernelConfig::default() };
    let Kernel { attached, drain, mut losses, .. } = match Kernel::load(&config) {
        Ok(kernel) => kernel,
        Err(error @ (LoadError::NotPermitted(_) | LoadError::NoBtf { .. })) => {
            return println!("SKIPPED: {error}");
        }
        Err(error) => panic!("{error}: {error:?}"),
    };
    let swap = attached.subjects().iter().find(|status| status.subject == Subject::Swap).unwrap();
    if swap.tier.is_none() {
        return println!("SKIPPED: renames cannot be observed here: {:?}", swap.missing_hooks);
    }

    const RENAMES: u64 = 50;
    let volume = tempfile::tempdir().unwrap();
    let (staged, data) = (volume.path().join("..data_tmp"), volume.path().join("..data"));
    for _ in 0..RENAMES {
        fs::write(&staged, "").unwrap();
        fs::rename(&staged, &data).unwrap();
    }
    // Only now is anything read, so the ring overflowed in between.
    let (sender, mut records) = mpsc::channel(1);
    let reading = tokio::spawn(drain.run(sender));
    // A swap that comes when there is room again is the marker behind all others.
    let marker = volume.path().join("marker");
    fs::create_dir(&marker).unwrap();
    let mut read = 0;
    let mut markers = 0;
    loop {
        let wait = tokio::time::timeout(std::time::Duration::from_millis(100), records.recv()).await;
        match wait {
            Ok(Some(Record::Rename(rename))) if rename.new_path.starts_with(&marker) => break,
            Ok(Some(Record::Rename(rename))) if rename.new_path.starts_with(volume.path()) => read += 1,
            Ok(Some(_)) => {}
            Ok(None) => panic!("the drain ended"),
            Err(_) => {
                markers += 1;
                assert!(markers < 100, "the marker never came");
                fs::write(marker.join("..data_tmp"), "").unwrap();
                fs::rename(marker.join("..data_tmp"), marker.join("..data")).unwrap();
            }
        }
    }
    let lost = losses.take().into_iter().find(|loss| loss.reason.as_str() == "ring_full_rename");
    let lost = lost.map_or(0, |loss| loss.count);
    assert!(read > 0 && lost > 0, "{read} read, {lost} lost");
    // Other tests of this machine may rename onto ..data too; theirs can be lost here as well.
    assert!(read + lost >= RENAMES, "{read} read, {lost} lost of {RENAMES}");
    drop(records);
    reading.await.unwrap().unwrap();
}
