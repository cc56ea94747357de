//! Volumes written as a kubelet does, and renames as the kernel reports them.

use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::clock;
use crate::kernel::{RenameCall, Task};

const UID: &str = "d3964cba-aabb-44b3-9b72-a1f3c378c40e";

/// A kubelet's root with one ConfigMap volume `cfg`.
struct Kubelet {
    dir: tempfile::TempDir,
    roots: Roots,
    boot_ns: u64,
}

impl Kubelet {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pid = Some(std::process::id());
        let roots = Roots::new(dir.path(), Path::new("/proc"), pid, ObjectKey::from_bytes([9; 32]));
        let kubelet = Self { dir, roots, boot_ns: 1_000 };
        std::fs::create_dir_all(kubelet.volume()).expect("makes folders");
        kubelet
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("pods").join(UID).join("volumes/kubernetes.io~configmap/cfg")
    }

    /// Writes a generation and renames the link, as the AtomicWriter does.
    fn write(&self, generation: &str, files: &[(&str, &str)]) {
        let dir = self.volume().join(generation);
        std::fs::create_dir(&dir).expect("makes a folder");
        for (name, content) in files {
            std::fs::write(dir.join(name), content).expect("writes");
        }
        std::os::unix::fs::symlink(generation, self.volume().join(path::DATA_TMP)).expect("links");
        std::fs::rename(self.volume().join(path::DATA_TMP), self.volume().join(path::DATA)).expect("renames");
    }

    /// The record of that rename.
    fn record(&mut self) -> Rename {
        self.boot_ns += 10;
        Rename {
            boot_ns: self.boot_ns,
            enter_boot_ns: self.boot_ns - 1,
            writer: Task {
                tid: std::process::id(),
                tgid: std::process::id(),
                ns_tgid: None,
                uid: None,
                start_boot_ns: None,
                process_start_boot_ns: None,
                comm: Some("kubelet".into()),
            },
            mount_namespace: mount_namespace(Path::new("/proc/self")),
            result: Ok(()),
            call: RenameCall::Renameat,
            old_dfd: None,
            new_dfd: None,
            flags: 0,
            old_path: self.volume().join(path::DATA_TMP),
            new_path: self.volume().join(path::DATA),
            volume: None,
        }
    }

    fn judge(&mut self, rename: &Rename) -> String {
        shown(&self.roots.judge(rename, clock::now()))
    }

    fn swap(&mut self, generation: &str, files: &[(&str, &str)]) -> String {
        self.write(generation, files);
        let rename = self.record();
        self.judge(&rename)
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Swapped(swap) => {
            let changed = swap.changed.as_ref().expect("small files");
            format!("{} -> {}: {}", swap.previous, swap.generation, changed.join(" "))
        }
        Outcome::Mounted(_) => "mounted".to_owned(),
        Outcome::Known => "known".to_owned(),
        Outcome::Rejected(why) => format!("{why:?}"),
    }
}

#[test]
fn the_first_rename_is_the_mount_and_later_ones_are_swaps() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1"), ("b", "1")]), "mounted");
    assert_eq!(kubelet.swap("..2", &[("a", "2"), ("b", "1")]), "..1 -> ..2: a");
    assert_eq!(kubelet.swap("..3", &[("b", "1"), ("c", "1")]), "..2 -> ..3: a c");
}

#[test]
fn a_volume_that_was_there_before_is_registered_by_the_scan() {
    let mut kubelet = Kubelet::new();
    kubelet.write("..1", &[("a", "1")]);
    assert_eq!(kubelet.roots.scan(2_000), 1);
    // Its mount's record comes late: it is known already.
    let rename = kubelet.record();
    assert_eq!(kubelet.judge(&rename), "known");
    assert_eq!(kubelet.swap("..2", &[("a", "2")]), "..1 -> ..2: a");
    // A later scan must not take a swap for known before its record is judged.
    kubelet.write("..3", &[("a", "3")]);
    kubelet.roots.scan(9_000);
    let rename = kubelet.record();
    assert_eq!(kubelet.judge(&rename), "..2 -> ..3: a");
}

/// A rename that fails one check; the volume then still swaps.
fn check(spoil: impl FnOnce(&mut Kubelet, &mut Rename), expected: Rejection) {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    kubelet.write("..2", &[("a", "2")]);
    let mut rename = kubelet.record();
    spoil(&mut kubelet, &mut rename);
    assert_eq!(kubelet.judge(&rename), format!("{expected:?}"));
}

#[test]
fn what_fails_a_check_is_rejected() {
    check(|_, r| r.result = Err(2), Rejection::Failed);
    check(|_, r| r.mount_namespace = Some(7), Rejection::ForeignNamespace);
    check(|_, r| r.mount_namespace = None, Rejection::ForeignNamespace);
    check(|k, _| k.roots.kubelet_pid = Some(u32::MAX), Rejection::ForeignNamespace);
    check(|_, r| r.old_path.set_file_name("..other"), Rejection::NotAVolume);
    check(|_, r| r.old_path = "/tmp/..data_tmp".into(), Rejection::NotAVolume);
    let relative = |_: &mut Kubelet, r: &mut Rename| {
        r.new_path = path::DATA.into();
        r.new_dfd = Some(987_654);
    };
    check(relative, Rejection::Unresolved);
    check(|k, _| std::fs::remove_dir_all(k.volume()).expect("removes"), Rejection::Gone);
    check(
        |k, _| std::fs::remove_file(k.volume().join(path::DATA)).expect("removes"),
        Rejection::NoGeneration,
    );
    let outside = |k: &mut Kubelet, _: &mut Rename| {
        std::fs::remove_file(k.volume().join(path::DATA)).expect("removes");
        std::os::unix::fs::symlink("../..", k.volume().join(path::DATA)).expect("links");
    };
    check(outside, Rejection::NoGeneration);
    check(|k, _| std::fs::remove_dir_all(k.volume().join("..2")).expect("removes"), Rejection::Superseded);
}

#[test]
fn an_imitation_of_a_swap_is_no_swap() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    // The right paths, the right namespace, and no new generation on disk.
    let rename = kubelet.record();
    assert_eq!(kubelet.judge(&rename), "Unchanged");
}

#[test]
fn of_two_swaps_in_a_row_the_first_is_not_given_the_seconds_generation() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    kubelet.write("..2", &[("a", "2")]);
    let first = kubelet.record();
    let first_at = clock::now();
    std::thread::sleep(std::time::Duration::from_millis(40));
    kubelet.write("..3", &[("a", "3")]);
    assert_eq!(shown(&kubelet.roots.judge(&first, first_at)), "Superseded");
    let second = kubelet.record();
    assert_eq!(kubelet.judge(&second), "..1 -> ..3: a");
}

#[test]
fn a_volume_that_was_set_up_again_is_a_new_one() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    // Made aside first: another directory, whatever the file system does with freed inode numbers.
    let aside = kubelet.dir.path().join("aside");
    std::fs::create_dir(&aside).expect("makes a folder");
    std::fs::remove_dir_all(kubelet.volume()).expect("removes");
    std::fs::rename(&aside, kubelet.volume()).expect("renames");
    assert_eq!(kubelet.swap("..9", &[("a", "9")]), "mounted");
}

#[test]
fn a_volume_that_was_set_up_again_with_the_same_inode_is_a_new_one() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    let inode = |k: &Kubelet| std::fs::metadata(k.volume()).expect("is there").ino();
    let first = inode(&kubelet);
    // Most file systems give a freed number out again soon, some of them at once.
    for _ in 0..100 {
        std::fs::remove_dir_all(kubelet.volume()).expect("removes");
        std::thread::sleep(std::time::Duration::from_millis(10));
        std::fs::create_dir(kubelet.volume()).expect("makes a folder");
        if inode(&kubelet) == first {
            assert_eq!(kubelet.swap("..9", &[("a", "9")]), "mounted");
            return;
        }
    }
    println!("SKIPPED: this file system does not give an inode number out again");
}

#[test]
fn a_relative_path_is_resolved_through_the_writer() {
    let mut kubelet = Kubelet::new();
    assert_eq!(kubelet.swap("..1", &[("a", "1")]), "mounted");
    kubelet.write("..2", &[("a", "2")]);
    let mut rename = kubelet.record();
    let dir = std::fs::File::open(kubelet.volume()).expect("opens");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
    rename.old_path = path::DATA_TMP.into();
    rename.new_path = path::DATA.into();
    (rename.old_dfd, rename.new_dfd) = (Some(fd), Some(fd));
    assert_eq!(kubelet.judge(&rename), "..1 -> ..2: a");
}
