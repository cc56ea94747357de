//! Volumes written as a kubelet does, opens as the kernel tells them, and what is said of both.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::kernel::{CgroupChange, FileOpen, PodLevel, Rename, RenameCall, Task, VolumeId};
use crate::volumes::roots::kubelet_namespace;

/// The container's cgroup; the kernel's numbers of those above it are smaller.
const CGROUP: u64 = 4;
/// Seconds after which the tests' containers are stale.
const STALE_AFTER_S: i64 = 5;

/// One pod with a container `app`, and the volumes that its kubelet wrote.
struct Story {
    bench: Bench,
    /// When the container was started, before everything else.
    started: Timestamp,
}

impl Story {
    /// A pod whose container `app` has these mounts of these volumes.
    async fn new(volumes: serde_json::Value, mounts: serde_json::Value) -> Self {
        let mut bench = Bench::new();
        let started = clock::now().plus_micros(-60_000_000);
        bench.pipeline.reload = Reload::new(Some(started));
        let chain = [
            (2, 1, PodLevel::Kubepods, "kubepods".to_owned()),
            (3, 2, PodLevel::Pod, format!("pod{UID}")),
            (CGROUP, 3, PodLevel::Member, ID.to_owned()),
        ];
        for (kernfs_id, parent_id, level, name) in chain {
            let name = Some(name);
            let made = CgroupChange { boot_ns: 1, kernfs_id, parent_id, level, name, name_truncated: false };
            bench.pipeline.record(Record::CgroupMade(made)).await;
        }
        let mut story = Self { bench, started };
        story.apply(ID, started, &volumes, &mounts).await;
        story
    }

    async fn apply(
        &mut self,
        id: &str,
        started: Timestamp,
        volumes: &serde_json::Value,
        mounts: &serde_json::Value,
    ) {
        let mut pod = pod(UID, id);
        pod["spec"] = json!({"volumes": volumes, "containers": [{"name": "app", "image": "i", "volumeMounts": mounts}]});
        let second = started.to_string();
        pod["status"]["containerStatuses"][0]["state"] = json!({"running": {"startedAt": second}});
        self.bench.apply(pod).await;
    }

    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.bench.dir.path().join("pods").join(UID).join("volumes").join(plugin).join(name)
    }

    /// Writes a generation of the ConfigMap volume `cfg`, and tells the rename.
    async fn swap(&mut self, generation: &str, files: &[(&str, &str)]) {
        let rename = self.write("kubernetes.io~configmap", "cfg", generation, files);
        self.bench.pipeline.record(rename).await;
    }

    /// Writes a generation; the record of the rename.
    fn write(&self, plugin: &str, name: &str, generation: &str, files: &[(&str, &str)]) -> Record {
        let root = self.volume(plugin, name);
        for (file, content) in files {
            let file = root.join(generation).join(file);
            std::fs::create_dir_all(file.parent().expect("it lies in the volume")).expect("makes folders");
            std::fs::write(file, content).expect("writes");
        }
        std::os::unix::fs::symlink(generation, root.join("..data_tmp")).expect("links");
        std::fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renames");
        let boot_ns = crate::kernel::clock::boot_now_ns();
        Record::Rename(Box::new(Rename {
            boot_ns,
            enter_boot_ns: boot_ns - 1_000,
            writer: task("kubelet"),
            mount_namespace: kubelet_namespace(Path::new("/proc"), None),
            result: Ok(()),
            call: RenameCall::Renameat,
            old_dfd: None,
            new_dfd: None,
            flags: 0,
            old_path: root.join("..data_tmp"),
            new_path: root.join("..data"),
            volume: None,
        }))
    }

    /// The record of an open of a file of `cfg`.
    fn open(&self, generation: &str, file: &str) -> Record {
        self.open_in("kubernetes.io~configmap", "cfg", generation, file)
    }

    fn open_in(&self, plugin: &str, name: &str, generation: &str, file: &str) -> Record {
        let root = self.volume(plugin, name);
        let meta = std::fs::metadata(&root).expect("the volume is there");
        let device = rustix::fs::major(meta.dev()) << 20 | rustix::fs::minor(meta.dev());
        Record::FileOpen(Box::new(FileOpen {
            boot_ns: crate::kernel::clock::boot_now_ns(),
            task: task("app\n"),
            cgroup_id: Some(CGROUP),
            volume: VolumeId { device, inode: meta.ino() },
            inode: std::fs::metadata(root.join(generation).join(file)).ok().map(|m| m.ino()),
            is_direct: !file.contains('/'),
            generation: generation.to_owned(),
            name: file.rsplit('/').next().unwrap_or_default().to_owned(),
            call: None,
        }))
    }

    async fn opens(&mut self, generation: &str, file: &str) {
        let open = self.open(generation, file);
        self.bench.pipeline.record(open).await;
    }

    /// Lets so many seconds pass, and judges.
    async fn pass(&mut self, seconds: i64) {
        let now = clock::now().plus_micros(seconds * 1_000_000);
        self.bench.pipeline.judge_stale(now).await;
    }

    /// What was said of opens, in short.
    async fn said(&mut self) -> Vec<String> {
        let (events, _, _) = self.bench.items().await;
        events.iter().filter_map(short).collect()
    }
}

fn task(comm: &str) -> Task {
    Task {
        tid: 70,
        tgid: 70,
        ns_tgid: None,
        uid: None,
        start_boot_ns: None,
        process_start_boot_ns: None,
        comm: Some(comm.into()),
    }
}

fn short(event: &Event) -> Option<String> {
    let attribute = |name: &str| event.attributes.get(name).map(|v| v.to_string().replace('"', ""));
    let object = event.object.as_ref().map_or("?", |o| o.name.as_str());
    let generation = attribute("aftertrace.volume.generation")?;
    match event.kind {
        Kind::ConfigSwapped => Some(format!("swapped {object} {generation}")),
        Kind::ConfigRead => {
            assert_eq!((event.container_id.as_deref(), event.pid), (Some(ID), Some(70)));
            let how = if event.attributes["aftertrace.file.changed"] == true { "" } else { " unchanged" };
            Some(format!("read {object} {generation} {}{how}", attribute("aftertrace.file")?))
        }
        Kind::ConfigStale => {
            let before = attribute("aftertrace.stale.was_read_before").unwrap_or_else(|| "unknown".into());
            let superseded = attribute("aftertrace.stale.superseded").map(|n| format!(" superseded {n}"));
            let (reason, files) = (event.reason.as_deref()?, attribute("aftertrace.stale.files")?);
            Some(format!(
                "{reason} {object} {generation} {files} before: {before}{}",
                superseded.unwrap_or_default()
            ))
        }
        _ => None,
    }
}

async fn config_map() -> Story {
    let volumes = json!([{"name": "cfg", "configMap": {"name": "cm"}}]);
    Story::new(volumes, json!([{"name": "cfg", "mountPath": "/etc/cfg"}])).await
}

#[tokio::test]
async fn the_first_open_of_each_file_of_a_generation_is_told_once() {
    let items = json!([{"key": "a", "path": "a"}, {"key": "b", "path": "sub/b"}, {"key": "c", "path": "c"}]);
    let volumes = json!([{"name": "cfg", "configMap": {"name": "cm", "items": items}}]);
    let mut story = Story::new(volumes, json!([{"name": "cfg", "mountPath": "/etc/cfg"}])).await;
    story.swap("..1", &[("a", "1"), ("sub/b", "1"), ("c", "1")]).await;
    story.opens("..1", "a").await;
    story.swap("..2", &[("a", "2"), ("sub/b", "2"), ("c", "1")]).await;
    for file in ["a", "a", "sub/b", "c"] {
        story.opens("..2", file).await;
    }
    story.pass(STALE_AFTER_S + 2).await;
    assert_eq!(
        story.said().await,
        ["swapped cm ..2", "read cm ..2 a", "read cm ..2 sub/b", "read cm ..2 c unchanged"]
    );
    let (events, edges, _) = story.bench.items().await;
    let read = events.iter().find(|e| e.kind == Kind::ConfigRead).expect("it was told");
    assert_eq!(read.hook, "fexit:security_file_open");
    assert_eq!((read.pod_uid(), read.restart_count, read.cgroup_id), (Some(UID), Some(3), Some(CGROUP)));
    assert_eq!(read.attributes["process.command"], "app\\n");
    assert!(read.attributes["aftertrace.read.latency_us"].as_u64().expect("a number") < 60_000_000);
    assert_eq!(edges.iter().filter(|e| e.effect_kind == Kind::ConfigRead).count(), 3);
}

#[tokio::test]
async fn an_open_that_is_read_before_its_swap_is_not_lost() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1")]).await;
    let rename = story.write("kubernetes.io~configmap", "cfg", "..2", &[("a", "2")]);
    story.opens("..2", "a").await;
    assert!(story.said().await.is_empty());
    story.bench.pipeline.record(rename).await;
    story.pass(STALE_AFTER_S + 2).await;
    assert_eq!(story.said().await, ["swapped cm ..2", "read cm ..2 a"]);
}

#[tokio::test]
async fn an_open_of_an_old_generation_proves_nothing() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1")]).await;
    story.opens("..1", "a").await;
    story.swap("..2", &[("a", "2")]).await;
    story.opens("..1", "a").await;
    story.pass(STALE_AFTER_S + 2).await;
    story.pass(STALE_AFTER_S + 9).await;
    assert_eq!(story.said().await, ["swapped cm ..2", "not_reopened cm ..2 [a] before: true"]);
}

#[tokio::test]
async fn a_file_that_nobody_ever_read_is_told_as_such() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1"), ("b", "1")]).await;
    story.swap("..2", &[("a", "2"), ("b", "2")]).await;
    story.pass(STALE_AFTER_S - 1).await;
    assert_eq!(story.said().await, ["swapped cm ..2"], "its time is not over");
    story.opens("..2", "b").await;
    story.pass(STALE_AFTER_S + 2).await;
    // The agent came after the container: what was read before is not known.
    let expected = ["swapped cm ..2", "read cm ..2 b", "not_reopened cm ..2 [a] before: unknown"];
    assert_eq!(story.said().await, expected);
}

#[tokio::test]
async fn a_newer_swap_supersedes_what_was_not_judged() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1")]).await;
    story.opens("..1", "a").await;
    story.swap("..2", &[("a", "2")]).await;
    story.swap("..3", &[("a", "3")]).await;
    story.pass(STALE_AFTER_S + 2).await;
    assert_eq!(
        story.said().await,
        ["swapped cm ..2", "swapped cm ..3", "not_reopened cm ..3 [a] before: true superseded 1"]
    );
    // Late, but it is the first open of what ..3 brought.
    story.opens("..3", "a").await;
    assert_eq!(story.said().await.last().expect("told"), "read cm ..3 a");
}

#[tokio::test]
async fn a_container_that_started_after_the_swap_is_not_asked() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1")]).await;
    story.opens("..1", "a").await;
    story.swap("..2", &[("a", "2")]).await;
    let volumes = json!([{"name": "cfg", "configMap": {"name": "cm"}}]);
    let mounts = json!([{"name": "cfg", "mountPath": "/etc/cfg"}]);
    story.apply(OTHER, clock::now(), &volumes, &mounts).await;
    story.pass(STALE_AFTER_S + 2).await;
    assert_eq!(story.said().await, ["swapped cm ..2"]);
}

#[tokio::test]
async fn where_an_open_may_have_been_missed_nothing_is_said_to_be_stale() {
    let mut story = config_map().await;
    story.swap("..1", &[("a", "1")]).await;
    story.swap("..2", &[("a", "2")]).await;
    story.bench.pipeline.reload.missed(clock::now());
    story.pass(STALE_AFTER_S + 2).await;
    story.bench.pipeline.spool_gaps(clock::now(), true).await;
    assert_eq!(story.said().await, ["swapped cm ..2"]);
    let (_, _, gaps) = story.bench.items().await;
    let gap = gaps.iter().find(|gap| gap.component == "agent/reload").expect("it is told as not known");
    assert!(gap.detail.contains("container app of n/p opened ConfigMap cm"), "{}", gap.detail);
}

#[tokio::test]
async fn a_part_mounted_by_sub_path_is_stale_at_once() {
    let volumes = json!([{"name": "cfg", "configMap": {"name": "cm"}}]);
    let mut story = Story::new(volumes, json!([{"name": "cfg", "mountPath": "/a", "subPath": "a"}])).await;
    story.swap("..1", &[("a", "1"), ("b", "1")]).await;
    story.opens("..1", "a").await;
    story.swap("..2", &[("a", "1"), ("b", "2")]).await;
    story.swap("..3", &[("a", "3"), ("b", "2")]).await;
    story.opens("..1", "a").await;
    story.pass(STALE_AFTER_S + 2).await;
    let expected = ["swapped cm ..2", "swapped cm ..3", "sub_path cm ..3 [a] before: unknown"];
    assert_eq!(story.said().await, expected);
    assert!(story.started < clock::now());
}

#[tokio::test]
async fn tokens_and_unchanged_objects_of_a_projected_volume_are_no_configuration() {
    let volumes = json!([{"name": "api", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token"}},
        {"configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"secret": {"name": "sec", "items": [{"key": "k", "path": "deep/k"}]}}]}}]);
    let mut story = Story::new(volumes, json!([{"name": "api", "mountPath": "/api"}])).await;
    let generations = [
        ("..1", [("token", "1"), ("ca.crt", "1"), ("deep/k", "1")]),
        ("..2", [("token", "2"), ("ca.crt", "1"), ("deep/k", "1")]),
        ("..3", [("token", "2"), ("ca.crt", "1"), ("deep/k", "3")]),
        ("..4", [("token", "4"), ("ca.crt", "1"), ("deep/k", "3")]),
    ];
    for (generation, files) in &generations {
        let rename = story.write("kubernetes.io~projected", "api", generation, files);
        story.bench.pipeline.record(rename).await;
        let opened = if *generation == "..3" { &files[..2] } else { &files[..] };
        for (file, _) in opened {
            let open = story.open_in("kubernetes.io~projected", "api", generation, file);
            story.bench.pipeline.record(open).await;
        }
    }
    story.pass(STALE_AFTER_S + 2).await;
    // The key was opened in ..4, which shows what ..3 brought.
    assert_eq!(story.said().await, ["swapped sec ..3", "read sec ..3 deep/k"]);
    let (events, ..) = story.bench.items().await;
    let read = events.iter().find(|e| e.kind == Kind::ConfigRead).expect("it was told");
    assert_eq!(read.attributes["aftertrace.volume.opened_generation"], "..4");
}
