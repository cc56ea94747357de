//! Real watches by inotify on a volume written as a kubelet does. `tail -F` watches its file's folder.

use std::fs;

use aftertrace_agent::kernel::{Notice, Record, Subject, Tier};

use crate::{
    machine::Held,
    reads::{Container, Volume},
};

/// `IN_MOVED_TO` of `inotify(7)`.
const MOVED_TO: u32 = 0x80;

/// Lets a `tail` in the container follow a file, and waits until it watches.
async fn follow(container: &mut Container, file: &std::path::Path) -> Held {
    let mut tail = container.cgroups[0].shell(&format!("exec tail -F {} >/dev/null", file.display()));
    tail.release();
    let pid = tail.pid();
    let added = container
        .observer
        .next(|record| match record {
            Record::WatchAdded(added) if added.task.tgid == pid => Some(added),
            _ => None,
        })
        .await;
    assert_eq!(added.cgroup_id, Some(container.cgroups[0].id()));
    assert_eq!(added.task.comm.as_deref(), Some("tail"));
    // The first of its watches is told, and the second follows at once.
    let fdinfo = format!("/proc/{pid}/fdinfo");
    for _ in 0..500 {
        let watches: usize = fs::read_dir(&fdinfo)
            .expect("the process runs")
            .flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .map(|text| text.lines().filter(|line| line.starts_with("inotify wd:")).count())
            .sum();
        if watches >= 2 {
            return tail;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("tail does not watch its file and its folder");
}

async fn notice(container: &mut Container, volume: &Volume) -> Notice {
    container
        .observer
        .next(|record| match record {
            Record::Notice(notice) if notice.volume == volume.id => Some(*notice),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "current_thread")]
async fn a_watcher_of_the_root_is_told_of_each_swap() {
    let Some(mut container) = Container::start("watches", Subject::Notify) else { return };
    let volume = Volume::new();
    assert!(container.observer.volumes.insert(volume.id));
    fs::write(volume.path("beside"), "").unwrap();
    let tail = follow(&mut container, &volume.path("beside")).await;
    if container.observer.tier(Subject::Notify) != Some(Tier::Tracing) {
        println!("SKIPPED: that a watcher was told is seen in the tracing tier alone");
        return;
    }
    for generation in ["..2", "..3"] {
        volume.swap(generation, &["a"]);
        let notice = notice(&mut container, &volume).await;
        assert_eq!(notice.tgid, tail.pid());
        assert_eq!(notice.mask & MOVED_TO, MOVED_TO);
        assert_eq!(
            (notice.comm.as_deref(), notice.cgroup_id),
            (Some("tail"), Some(container.cgroups[0].id()))
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_watcher_of_a_former_generation_is_told_nothing_of_the_new_one() {
    let Some(mut container) = Container::start("files", Subject::Notify) else { return };
    if container.observer.tier(Subject::Notify) != Some(Tier::Tracing) {
        println!("SKIPPED: that a watcher was told is seen in the tracing tier alone");
        return;
    }
    let (volume, other) = (Volume::new(), Volume::new());
    assert!(container.observer.volumes.insert(volume.id) && container.observer.volumes.insert(other.id));
    fs::write(other.path("beside"), "").unwrap();
    let _file = follow(&mut container, &volume.path("..1/a")).await;
    let root = follow(&mut container, &other.path("beside")).await;
    volume.swap("..2", &["a"]);
    other.swap("..2", &["a"]);
    // The first notice is of the other volume.
    let any =
        |record| if let Record::Notice(notice) = record { Some((notice.volume, notice.tgid)) } else { None };
    assert_eq!(container.observer.next(any).await, (other.id, root.pid()));
}
