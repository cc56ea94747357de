//! Real opens of files of volumes written as a kubelet does, and near misses.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, symlink},
    path::{Path, PathBuf},
};

use aftertrace_agent::kernel::{FileOpen, Record, Subject, VolumeId, clock::boot_now_ns};

use crate::machine::{Cgroup, Observer};

/// As in `rename.rs`: what two readings of the clock may differ by.
const CLOCK_SLACK_NS: u64 = 1_000_000;

/// A volume with a first generation, and its identity as the kernel has it.
pub(crate) struct Volume {
    dir: tempfile::TempDir,
    pub(crate) id: VolumeId,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let meta = fs::metadata(dir.path()).expect("it was just made");
        let device = rustix::fs::major(meta.dev()) << 20 | rustix::fs::minor(meta.dev());
        let volume = Self { id: VolumeId { device, inode: meta.ino() }, dir };
        volume.swap("..1", &["a", "sub/b"]);
        volume
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a generation, swaps the link, and removes the generation before.
    pub(crate) fn swap(&self, generation: &str, files: &[&str]) {
        let before = fs::read_link(self.path("..data"));
        for file in files {
            let file = self.path(generation).join(file);
            fs::create_dir_all(file.parent().expect("the volume is the test's own"))
                .expect("the volume is the test's own");
            fs::write(file, generation).expect("the volume is the test's own");
        }
        symlink(generation, self.path("..data_tmp")).expect("the volume is the test's own");
        fs::rename(self.path("..data_tmp"), self.path("..data")).expect("the volume is the test's own");
        if let Ok(before) = before {
            fs::remove_dir_all(self.dir.path().join(before)).expect("the volume is the test's own");
        }
    }
}

/// A container's cgroup where the observer expects it, and what watches it.
pub(crate) struct Container {
    pub(crate) observer: Observer,
    /// From the container up to the kubelet's root; dropped in this order.
    pub(crate) cgroups: [Cgroup; 4],
}

impl Container {
    pub(crate) fn start(name: &str, subject: Subject) -> Option<Self> {
        let root = Cgroup::make(name)?;
        let kubepods = root.child("kubepods");
        let pod = kubepods.child("pod7c925680-6d5c-463d-b7a3-c322719af62a");
        let container = pod.child("2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596");
        let observer = Observer::start(&root.kubelet(), subject)?;
        Some(Self { observer, cgroups: [container, pod, kubepods, root] })
    }

    /// Runs a script in the container; the shell is the process that it names.
    fn run(&self, script: &str) -> u32 {
        let mut shell = self.cgroups[0].shell(script);
        assert!(shell.run().success(), "{script}");
        shell.pid()
    }

    /// Reads a file in one process of the container.
    fn read(&self, path: &Path) -> u32 {
        self.run(&format!("exec cat {} >/dev/null", path.display()))
    }

    /// The next record of a volume.
    async fn next(&mut self, volume: &Volume) -> FileOpen {
        self.observer
            .next(|record| match record {
                Record::FileOpen(open) if open.volume == volume.id => Some(*open),
                _ => None,
            })
            .await
    }
}

fn inode(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).expect("the file is there").ino())
}

#[tokio::test(flavor = "current_thread")]
async fn a_first_open_is_seen_with_its_process_generation_and_time() {
    let Some(mut container) = Container::start("opens", Subject::Read) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));

    let before = boot_now_ns();
    let pid = container.read(&volume.path("..data/a"));
    let after = boot_now_ns();
    let open = container.next(&volume).await;
    assert_eq!((open.generation.as_str(), open.name.as_str(), open.is_direct), ("..1", "a", true));
    assert_eq!(open.inode, inode(&volume.path("..1/a")));
    assert_eq!((open.task.tgid, open.task.comm.as_deref()), (pid, Some("cat")));
    assert_eq!(open.cgroup_id, Some(container.cgroups[0].id()));
    assert_eq!(open.task.process_start_boot_ns, open.task.start_boot_ns, "the only thread");
    assert!(open.boot_ns + CLOCK_SLACK_NS >= before && open.boot_ns <= after + CLOCK_SLACK_NS);

    // A folder of the generation, by another way in, from a cgroup that the container made itself.
    let nested = container.cgroups[0].child("nested");
    assert!(nested.shell(&format!("cat {} >/dev/null", volume.path("..1/sub/b").display())).run().success());
    let open = container.next(&volume).await;
    assert_eq!((open.generation.as_str(), open.name.as_str(), open.is_direct), ("..1", "b", false));
    assert_eq!(open.cgroup_id, Some(container.cgroups[0].id()));
}

#[tokio::test(flavor = "current_thread")]
async fn an_open_right_after_the_swap_is_of_the_new_generation() {
    let Some(mut container) = Container::start("swaps", Subject::Read) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));
    for generation in ["..2", "..3", "..4", "..5"] {
        // The file system uses inode numbers again; the generation tells the files apart.
        volume.swap(generation, &["a"]);
        container.read(&volume.path("..data/a"));
        let open = container.next(&volume).await;
        assert_eq!((open.generation.as_str(), open.inode), (generation, inode(&volume.path("..data/a"))));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_file_that_is_opened_again_and_again_is_told_once() {
    let Some(mut container) = Container::start("again", Subject::Read) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));
    let file = volume.path("..data/a");
    // By one process and by many.
    let pid = container.run(&format!(
        "n=0; while [ $n -lt 1000 ]; do read x <{0}; n=$((n+1)); done; cat {0} >/dev/null",
        file.display()
    ));
    container.read(&file);
    container.read(&volume.path("..data/sub/b"));
    let open = container.next(&volume).await;
    assert_eq!((open.name.as_str(), open.task.tgid), ("a", pid));
    assert_eq!(container.next(&volume).await.name, "b");
}

#[tokio::test(flavor = "current_thread")]
async fn what_reads_no_file_of_a_generation_in_a_pod_is_not_told() {
    let Some(mut container) = Container::start("others", Subject::Read) else { return };
    let (volume, other) = (Volume::new(), Volume::new());
    assert!(container.observer.volumes.insert(volume.id));
    fs::write(volume.path("beside"), "").unwrap();

    container.read(&volume.path("beside"));
    container.read(&other.path("..data/a"));
    container.run(&format!("ls {0} {0}/sub >/dev/null; ! cat {0}/absent", volume.path("..data").display()));
    let path_only = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::PATH.bits().cast_signed())
        .open(volume.path("..data/a"));
    assert!(path_only.is_ok());
    // Of the host, as the kubelet and the agent are.
    fs::read(volume.path("..data/a")).unwrap();
    // The first record is of the first real open.
    container.read(&volume.path("..data/sub/b"));
    assert_eq!(container.next(&volume).await.name, "b");

    container.observer.volumes.remove(volume.id);
    assert!(container.observer.volumes.insert(other.id));
    volume.swap("..2", &["a"]);
    container.read(&volume.path("..data/a"));
    container.read(&other.path("..data/a"));
    let any = |record| if let Record::FileOpen(open) = record { Some(open.volume) } else { None };
    assert_eq!(
        container.observer.next(any).await,
        other.id,
        "a volume that was taken out is watched no more"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_file_bound_before_the_swap_is_told_as_of_its_old_generation() {
    let Some(mut container) = Container::start("bound", Subject::Read) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));
    // As a subPath mount holds it: by the file, not by the path.
    let held = fs::File::open(volume.path("..data/a")).unwrap();
    volume.swap("..2", &["a"]);
    let held = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&held));
    container.read(Path::new(&held));
    assert_eq!(container.next(&volume).await.generation, "..1");
    container.read(&volume.path("..data/a"));
    assert_eq!(container.next(&volume).await.generation, "..2");
}

#[tokio::test(flavor = "current_thread")]
async fn a_deep_item_is_seen_and_one_below_the_bound_is_not() {
    let Some(mut container) = Container::start("deep", Subject::Read) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));
    let deepest = "1/2/3/4/5/6/7/8/f";
    let too_deep = "1/2/3/4/5/6/7/8/9/g";
    volume.swap("..2", &[deepest, too_deep]);
    container.read(&volume.path("..data").join(too_deep));
    container.read(&volume.path("..data").join(deepest));
    assert_eq!(container.next(&volume).await.name, "f");
}
