//! Real renames onto `..data`, and near misses.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aftertrace_agent::kernel::{
    KernelConfig, Record, Rename, RenameCall, Subject, Tier, VolumeId, clock::boot_now_ns,
};
use rustix::fs::{CWD, Mode, OFlags};

use crate::machine::Observer;

/// A record may lie this far from the moments that the test takes around the call. The programs run inside
/// the call, so the excess is only what the two clock readings differ by.
const CLOCK_SLACK_NS: u64 = 1_000_000;

/// The next rename whose target lies in `folder`; other writers' are passed by.
async fn rename_in(observer: &mut Observer, folder: &Path) -> Rename {
    observer
        .next(|record| match record {
            Record::Rename(rename) if rename.new_path.starts_with(folder) => Some(*rename),
            Record::Rename(rename) if rename.volume == Some(id(folder)) => Some(*rename),
            _ => None,
        })
        .await
}

/// A folder's identity as the kernel has it; the tests' folders lie on no btrfs.
fn id(folder: &Path) -> VolumeId {
    let meta = fs::metadata(folder).expect("the folder is there");
    let device = rustix::fs::major(meta.dev()) << 20 | rustix::fs::minor(meta.dev());
    VolumeId { device, inode: meta.ino() }
}

/// The paths that a rename in `folder` tells: whole ones, or bare names where the folder itself is told.
fn told_in(rename: &Rename, folder: &Path) -> (PathBuf, PathBuf) {
    match rename.volume {
        Some(volume) => {
            assert_eq!((volume, rename.call), (id(folder), RenameCall::Any));
            (folder.join(&rename.old_path), folder.join(&rename.new_path))
        }
        None => (rename.old_path.clone(), rename.new_path.clone()),
    }
}

/// One atomic write as a kubelet does it: a new link, renamed onto `..data`.
fn swap(folder: &Path, generation: &str) -> io::Result<()> {
    let staged = folder.join("..data_tmp");
    std::os::unix::fs::symlink(generation, &staged)?;
    fs::rename(staged, folder.join("..data"))
}

#[tokio::test(flavor = "current_thread")]
async fn a_swap_is_seen_with_its_writer_paths_and_time() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::Swap) else { return };
    let volume = tempfile::tempdir().unwrap();

    let before = boot_now_ns();
    swap(volume.path(), "..1").unwrap();
    let after = boot_now_ns();

    let rename = rename_in(&mut observer, volume.path()).await;
    assert_eq!(rename.result, Ok(()));
    let expected = (volume.path().join("..data_tmp"), volume.path().join("..data"));
    assert_eq!(told_in(&rename, volume.path()), expected);
    assert_eq!((rename.old_dfd, rename.new_dfd), (None, None));
    assert_eq!(rename.writer.tgid, std::process::id());
    assert_eq!(rename.writer.uid, Some(rustix::process::getuid().as_raw()));
    let namespace = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(
        Some(namespace.to_string_lossy().into_owned()),
        rename.mount_namespace.map(|id| format!("mnt:[{id}]"))
    );
    assert!(rename.enter_boot_ns <= rename.boot_ns);
    assert!(
        before.saturating_sub(CLOCK_SLACK_NS) <= rename.enter_boot_ns,
        "{before} {}",
        rename.enter_boot_ns
    );
    assert!(rename.boot_ns <= after + CLOCK_SLACK_NS, "{} {after}", rename.boot_ns);
}

#[tokio::test(flavor = "current_thread")]
async fn a_failed_swap_has_its_errno() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::Swap) else { return };
    if observer.tier(Subject::Swap) == Some(Tier::Tracing) {
        println!("SKIPPED: what is not there is not renamed by the kernel's function");
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    let missing = volume.path().join("..data_tmp");
    let error = fs::rename(&missing, volume.path().join("..data")).unwrap_err();

    let rename = rename_in(&mut observer, volume.path()).await;
    assert_eq!(rename.result, Err(error.raw_os_error().unwrap()));
}

#[tokio::test(flavor = "current_thread")]
async fn only_the_whole_last_component_counts() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::Swap) else { return };
    let volume = tempfile::tempdir().unwrap();
    let root = volume.path();
    fs::write(root.join("file"), "").unwrap();
    fs::create_dir(root.join("..data")).unwrap();
    for name in ["other", "..data_tmp", "x..data", "..dat", "data", "..data/inside", ".data", "...data"] {
        fs::rename(root.join("file"), root.join(name)).unwrap();
        fs::rename(root.join(name), root.join("file")).unwrap();
    }
    fs::remove_dir(root.join("..data")).unwrap();
    swap(root, "..1").unwrap();

    // The first record is the swap: nothing before it was reported.
    let rename = rename_in(&mut observer, root).await;
    assert_eq!(told_in(&rename, root), (root.join("..data_tmp"), root.join("..data")));
}

#[tokio::test(flavor = "current_thread")]
async fn relative_swaps_name_their_directory_and_long_ones_are_counted() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::Swap) else { return };
    if observer.tier(Subject::Swap) == Some(Tier::Tracing) {
        println!("SKIPPED: this tier reads no paths");
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    let folder = rustix::fs::open(volume.path(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    rustix::fs::symlinkat("..1", &folder, "..data_tmp").unwrap();
    rustix::fs::renameat(&folder, "..data_tmp", &folder, "..data").unwrap();
    let me = std::process::id();
    let rename = observer
        .next(|record| match record {
            Record::Rename(rename) if rename.writer.tgid == me && rename.new_path == Path::new("..data") => {
                Some(*rename)
            }
            _ => None,
        })
        .await;
    use std::os::fd::AsRawFd as _;
    assert_eq!(rename.new_dfd, Some(folder.as_raw_fd()));
    assert_eq!(rename.old_path, Path::new("..data_tmp"));

    // Longer than a record holds, but not than the kernel takes.
    observer.losses.take();
    let mut long = volume.path().to_path_buf();
    for _ in 0..4 {
        long.push("d".repeat(200));
    }
    fs::create_dir_all(&long).unwrap();
    rustix::fs::symlinkat("..1", CWD, long.join("..data_tmp")).unwrap();
    fs::rename(long.join("..data_tmp"), long.join("..data")).unwrap();
    fs::rename(long.join("..data"), long.join("other")).unwrap();
    let losses = observer.losses.take();
    let truncated = losses.iter().find(|loss| loss.reason.as_str() == "path_truncated");
    assert_eq!(truncated.map(|loss| loss.count), Some(1), "{losses:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_failed_swap_onto_something_and_a_swap_of_something_else_are_told_as_such() {
    let Some(mut observer) = Observer::start(&KernelConfig::default(), Subject::Swap) else { return };
    let volume = tempfile::tempdir().unwrap();
    let root = volume.path();
    fs::create_dir_all(root.join("..data/full")).unwrap();
    fs::create_dir(root.join("other")).unwrap();
    let error = fs::rename(root.join("other"), root.join("..data")).unwrap_err();
    let rename = rename_in(&mut observer, root).await;
    assert_eq!(rename.result, Err(error.raw_os_error().unwrap()));
    let (old, new) = told_in(&rename, root);
    assert_ne!(old, root.join("..data_tmp"));
    assert_eq!(new, root.join("..data"));
}
