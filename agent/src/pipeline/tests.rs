//! Records and pods in, spooled items out. Each case is a short story of one pod.

mod reloads;

use aftertrace_model::{Edge, Kind};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::attribute::pending::WAIT_US;
use crate::episode::tests::kill as kill_record;
use crate::kernel::OomRole;
use crate::recordings;
use crate::spool::{self, Options, Reader};

const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";
const OTHER: &str = "223afe3d8e7a9aa5dd3a155170373b69429dcb031d5956d9cbd77683a5cfde84";

/// `Killed process` lines of the recordings' `kmsg.log`, microseconds since the epoch.
const KMSG_S01: [i64; 4] =
    [1_795_171_922_326_826, 1_795_171_924_384_513, 1_795_171_936_319_467, 1_795_171_961_346_918];
const KMSG_S06: i64 = 1_795_172_415_731_892;

/// A pipeline over a temporary spool.
struct Bench {
    dir: tempfile::TempDir,
    pipeline: Pipeline,
    reader: Reader,
    _wanted: watch::Receiver<Vec<MountedObject>>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ledger = Arc::new(Ledger::default());
        let options = Options { dir: dir.path().join("spool"), bytes_max: 64 << 20 };
        let (spool, reader, _) = spool::start(&options, Arc::clone(&ledger)).expect("the spool opens");
        let (wanted, wanted_out) = watch::channel(Vec::new());
        let key = aftertrace_model::config::ObjectKey::from_bytes([1; 32]);
        let pipeline = Pipeline::new(Parts {
            origin: Origin { cluster: "c".into(), node: "n".into() },
            cgroup_root: CgroupRoot::default(),
            proc: "/proc".into(),
            log_root: dir.path().join("log"),
            cgroup_mount: None,
            roots: Roots::new(dir.path(), std::path::Path::new("/proc"), None, key),
            pressure: None,
            correlator: Correlator::new(Vec::new()),
            spool_progress: reader.progress(),
            spool,
            ledger,
            kernel: None,
            subjects: status::no_kernel("test"),
            trouble: Vec::new(),
            wanted,
            status: watch::Sender::new(proto::AgentStatus::default()),
            watch_health: watch::channel("ok".to_owned()).1,
            stale_after_us: 5_000_000,
        });
        Self { dir, pipeline, reader, _wanted: wanted_out }
    }

    async fn apply(&mut self, pod: serde_json::Value) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pipeline.change(Change::Apply(Box::new(pod), clock::now())).await;
    }

    async fn kill(&mut self, kill: OomKill) {
        self.pipeline.record(Record::OomKill(Box::new(kill))).await;
    }

    /// All items so far.
    async fn items(&mut self) -> (Vec<Event>, Vec<Edge>, Vec<Gap>) {
        let last = self.pipeline.parts.spool.next() - 1;
        let mut progress = self.reader.progress();
        let written = progress.wait_for(|p| p.available >= last);
        tokio::time::timeout(Duration::from_secs(20), written).await.expect("in time").expect("runs");
        let (mut events, mut edges, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        let mut next = 1;
        while let Some(batch) = self.reader.read(next, 1_000).await {
            next = batch.first + batch.items.len() as u64;
            for item in batch.items {
                match item.item.expect("one of them") {
                    item::Item::Event(e) => events.push(e.try_into().expect("ours")),
                    item::Item::Edge(e) => edges.push(e.try_into().expect("ours")),
                    item::Item::Gap(g) => gaps.push(g.try_into().expect("ours")),
                }
            }
        }
        (events, edges, gaps)
    }
}

fn pod(uid: &str, id: &str) -> serde_json::Value {
    json!({"metadata": {"uid": uid, "name": "p", "namespace": "n"}, "spec": {"containers": []},
        "status": {"containerStatuses": [{"name": "app", "restartCount": 3, "ready": true, "image": "i",
            "imageID": "", "containerID": format!("containerd://{id}"), "state": {"running": {}}}]}})
}

fn cgroup(id: &str) -> String {
    format!("/kubepods/burstable/pod{UID}/{id}")
}

fn marked(allocator: u32, tgid: u32, group: Option<u64>, id: &str) -> OomKill {
    kill_record(allocator, tgid, OomRole::Marked, group, &cgroup(id))
}

fn kinds(events: &[Event]) -> Vec<Kind> {
    events.iter().map(|e| e.kind).collect()
}

#[tokio::test]
async fn a_kill_waits_for_its_pod_and_is_then_told_whole() {
    let mut bench = Bench::new();
    bench.kill(marked(1, 10, None, ID)).await;
    assert!(bench.items().await.0.is_empty(), "nothing is told while the pod is unknown");
    bench.apply(pod(UID, ID)).await;
    let (events, edges, gaps) = bench.items().await;
    assert_eq!(kinds(&events), [Kind::OomEpisode, Kind::OomKill]);
    for event in &events {
        assert_eq!(event.pod_uid(), Some(UID));
        assert_eq!((event.container_id.as_deref(), event.restart_count), (Some(ID), Some(3)));
    }
    let kill = &events[1];
    assert_eq!((kill.episode_id, kill.container_init), (Some(events[0].event_id), Some(true)));
    assert_eq!(kill.attributes["aftertrace.oom.levels"][1]["level"], "pod");
    assert!(
        kill.summary.starts_with("memhog (pid 10) OOM-killed in container app of n/p: "),
        "{}",
        kill.summary
    );
    assert_eq!(edges.len(), 1);
    assert_eq!((edges[0].cause_id, edges[0].effect_id), (events[0].event_id, kill.event_id));
    assert!(gaps.is_empty());
}

#[tokio::test]
async fn a_kill_that_no_status_claims_is_told_without_a_container_and_counted() {
    let mut bench = Bench::new();
    // The cgroup's place names the pod, but the status lists another container.
    bench.apply(pod(UID, OTHER)).await;
    bench.kill(marked(1, 10, None, ID)).await;
    assert!(bench.items().await.0.is_empty());
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    bench.pipeline.spool_gaps(clock::now(), true).await;
    let (events, _, gaps) = bench.items().await;
    assert_eq!(kinds(&events), [Kind::OomEpisode, Kind::OomKill]);
    assert!(events.iter().all(|e| e.pod_uid() == Some(UID) && e.container_id.is_none()));
    assert_eq!(events[1].container_init, None);
    assert_eq!(events[1].attributes["aftertrace.hint.container.id"], ID);
    let gap = gaps.iter().find(|g| g.reason == GapReason::Unattributed).expect("it is counted");
    assert_eq!(gap.count, 1);
}

#[tokio::test]
async fn an_exit_waits_for_its_kill_and_lies_where_it_did() {
    let mut bench = Bench::new();
    let kill = marked(1, 10, None, ID);
    let exit = |kill: &OomKill, signal| Exit {
        boot_ns: kill.boot_ns + 2_000_000,
        kill_boot_ns: kill.boot_ns,
        task: kill.victim.clone(),
        signal,
        code: signal.is_none().then_some(3),
    };
    let told = exit(&kill, Some(9));
    bench.kill(kill.clone()).await;
    bench.pipeline.record(Record::Exit(told)).await;
    assert!(bench.items().await.0.is_empty(), "nothing is told while the pod is unknown");
    bench.apply(pod(UID, ID)).await;
    let (events, edges, _) = bench.items().await;
    assert_eq!(kinds(&events), [Kind::OomEpisode, Kind::OomKill, Kind::ProcessExited]);
    let (kill_event, exited) = (&events[1], &events[2]);
    assert_eq!((exited.pid, exited.exit_code), (Some(10), Some(137)));
    assert_eq!(exited.attributes["process.exit.signal"], 9);
    assert_eq!((&exited.pod, &exited.container_id), (&kill_event.pod, &kill_event.container_id));
    assert_eq!((exited.restart_count, exited.container_init), (Some(3), kill_event.container_init));
    assert_eq!(exited.episode_id, kill_event.episode_id);
    let start = "aftertrace.process.start_boot_ns";
    assert_eq!(exited.attributes[start], kill_event.attributes[start]);
    let ids: Vec<_> = edges.iter().map(|e| (e.cause_id, e.effect_id)).collect();
    assert!(ids.contains(&(kill_event.event_id, exited.event_id)), "{edges:?}");

    // The kill's record was lost: its end is told all the same, in the end.
    let mut lost = marked(1, 11, None, ID);
    lost.boot_ns += 1;
    bench.pipeline.record(Record::Exit(exit(&lost, None))).await;
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    let (events, _, _) = bench.items().await;
    let exited = events.last().expect("told");
    assert_eq!((exited.pid, exited.exit_code, &exited.pod), (Some(11), Some(3), &None));
    assert_eq!(exited.attributes["process.exit.code"], 3);
}

#[tokio::test]
async fn an_episode_names_the_limit_and_the_allocators_container() {
    let mut bench = Bench::new();
    let mut both = pod(UID, ID);
    let statuses = both["status"]["containerStatuses"].as_array_mut().expect("an array");
    let mut other = statuses[0].clone();
    other["name"] = "sidecar".into();
    other["containerID"] = format!("containerd://{OTHER}").into();
    statuses.push(other);
    bench.apply(both).await;
    let mut kill = marked(1, 10, None, ID);
    kill.charge =
        crate::episode::tests::charge(Some(crate::kernel::LastReclaim::Memcg), "0>0 0>0 0>0 4>5 0>0");
    let names = ["kubepods", "burstable", &format!("pod{UID}"), OTHER];
    for (level, name) in kill.charge.levels.iter_mut().rev().skip(1).zip(names) {
        level.name = Some(name.to_owned());
    }
    kill.charge.levels[0].kernfs_id = Some(99);
    bench.kill(kill).await;
    let (events, _, _) = bench.items().await;
    let (episode, kill) = (&events[0].attributes, &events[1].attributes);
    for attributes in [episode, kill] {
        assert_eq!(attributes["aftertrace.oom.level"], "pod");
        assert_eq!(attributes["aftertrace.oom.level.cgroup_id"], 4);
        assert_eq!(attributes["aftertrace.oom.level.decided_by"], "oom_events");
        assert_eq!(attributes["aftertrace.oom.constraint"], "memcg");
        assert_eq!(attributes["aftertrace.oom.allocator.container.id"], OTHER);
        assert_eq!(attributes["aftertrace.oom.allocator.pod.uid"], UID);
        assert!(!attributes.contains_key("aftertrace.oom.level.unknown_because"));
    }
    let summary = &events[0].summary;
    assert!(summary.starts_with("the pod's limit of 64.0 MiB left no memory for alloc (pid 1)"), "{summary}");
    let levels: Vec<_> = episode["aftertrace.oom.levels"]
        .as_array()
        .expect("levels")
        .iter()
        .map(|l| l["level"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(levels, ["container", "pod", "qos", "kubepods", "node"]);
}

#[tokio::test]
async fn a_process_of_the_host_is_no_gap() {
    let mut bench = Bench::new();
    bench.kill(kill_record(1, 10, OomRole::Marked, None, "/system.slice/x.service")).await;
    bench.pipeline.spool_gaps(clock::now(), true).await;
    let (events, _, gaps) = bench.items().await;
    assert_eq!(kinds(&events), [Kind::OomEpisode, Kind::OomKill]);
    let summary = "memhog (pid 10) OOM-killed outside any pod, in /system.slice/x.service";
    assert!(events[1].summary.starts_with(summary), "{}", events[1].summary);
    assert!(gaps.iter().all(|g| g.reason != GapReason::Unattributed));
}

#[tokio::test]
async fn a_group_is_one_episode_and_each_process_one_row() {
    let mut bench = Bench::new();
    let group = Some(5);
    for tgid in [10, 10, 11] {
        bench.kill(marked(1, tgid, group, ID)).await;
    }
    bench.apply(pod(UID, ID)).await;
    bench.kill(marked(1, 12, group, ID)).await;
    let (events, edges, _) = bench.items().await;
    assert_eq!(kinds(&events), [Kind::OomEpisode, Kind::OomKill, Kind::OomKill, Kind::OomKill]);
    let roles: Vec<_> = events[1..].iter().map(|e| e.attributes["aftertrace.oom.role"].clone()).collect();
    assert_eq!(roles, [json!("chosen"), json!("group"), json!("group")]);
    assert!(events[1..].iter().all(|e| e.episode_id == Some(events[0].event_id)));
    assert_eq!(edges.len(), 3);
}

#[tokio::test]
async fn pid_1_tells_nothing_where_pids_are_shared() {
    let mut bench = Bench::new();
    let mut shared = pod(UID, ID);
    shared["spec"]["shareProcessNamespace"] = true.into();
    bench.apply(shared).await;
    bench.kill(marked(1, 10, None, ID)).await;
    let (events, _, _) = bench.items().await;
    assert_eq!(events[1].container_init, None);
    assert_eq!(events[1].pod_uid(), Some(UID));
}

#[tokio::test]
async fn a_missing_hook_is_a_gap_that_reaches_over_now() {
    let mut bench = Bench::new();
    bench.pipeline.tick().await;
    let now = clock::now();
    let (_, _, gaps) = bench.items().await;
    let missing: Vec<&Gap> = gaps.iter().filter(|g| g.reason == GapReason::HookMissing).collect();
    assert_eq!(missing.len(), crate::kernel::Subject::ALL.len(), "one for each subject");
    assert!(missing.iter().all(|g| g.overlaps(now, now)));
}

#[tokio::test]
async fn objects_are_asked_for_while_they_are_mounted() {
    let mut bench = Bench::new();
    let mut mounting = pod(UID, ID);
    mounting["spec"]["volumes"] = json!([{"name": "cfg", "configMap": {"name": "cm"}}]);
    bench.apply(mounting.clone()).await;
    let names = |bench: &Bench| bench._wanted.borrow().iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&bench), ["cm"]);
    let pod = serde_json::from_value(mounting).expect("a pod");
    bench.pipeline.change(Change::Delete(Box::new(pod), clock::now())).await;
    assert!(names(&bench).is_empty());
}

/// Replays a recorded pod watch; the edges as `cause restart -> effect restart`.
async fn replay(folder: &str, kills: &[(&str, i64)]) -> Option<Vec<String>> {
    let root = recordings::root()?;
    let mut bench = Bench::new();
    let lines = recordings::pod_watch(&root.join(folder));
    for line in &lines {
        bench.pipeline.change(Change::Apply(line.pod.clone(), line.arrived)).await;
    }
    // The recorded kills, at their recorded times: what the kernel's records of then would have made.
    for (id, at_us) in kills {
        let occurred = Occurrence::within(Timestamp::from_micros(*at_us), 1_000);
        let origin = bench.pipeline.parts.origin.clone();
        let source = aftertrace_model::Source::Kernel;
        let mut kill = crate::draft::event(&origin, Kind::OomKill, source, "test", occurred);
        let find = |p: &crate::attribute::pods::KnownPod| {
            p.containers().find(|(c, _)| c.as_str().starts_with(id)).map(|(c, l)| (c.clone(), l.clone()))
        };
        let known = bench.pipeline.pods.live().find(|p| find(p).is_some()).expect("the pod is known");
        let (container, life) = find(known).expect("found above");
        crate::draft::of_life(&mut kill, known, container.as_str(), &life);
        kill.container_init = Some(true);
        bench.pipeline.put_record(kill).await;
    }
    let (events, edges, _) = bench.items().await;
    let side = |id: EventId, kind: Kind| {
        let event = events.iter().find(|e| e.event_id == id).expect("edges join facts of the spool");
        assert_eq!(event.kind, kind);
        format!("{kind} {}", event.restart_count.unwrap_or(-1))
    };
    let mut shown: Vec<String> = edges
        .iter()
        .map(|e| format!("{} -> {}", side(e.cause_id, e.cause_kind), side(e.effect_id, e.effect_kind)))
        .collect();
    shown.sort();
    Some(shown)
}

#[tokio::test]
async fn s01_gives_the_recorded_edges() {
    let kills =
        [("2c3d4f", KMSG_S01[0]), ("6e347e", KMSG_S01[1]), ("58c02e", KMSG_S01[2]), ("223afe", KMSG_S01[3])];
    let Some(edges) = replay("s01-oom-crashloop", &kills).await else { return };
    assert_eq!(
        edges,
        [
            "container_terminated 0 -> container_started 1",
            "container_terminated 1 -> container_started 2",
            "container_terminated 1 -> container_waiting 1",
            "container_terminated 2 -> container_started 3",
            "container_terminated 2 -> container_waiting 2",
            "container_terminated 3 -> container_started 4",
            "container_terminated 3 -> container_waiting 3",
            "container_waiting 1 -> container_started 2",
            "container_waiting 2 -> container_started 3",
            "container_waiting 3 -> container_started 4",
            "oom_kill 0 -> container_terminated 0",
            "oom_kill 1 -> container_terminated 1",
            "oom_kill 2 -> container_terminated 2",
            "oom_kill 3 -> container_terminated 3",
        ]
    );
}

#[tokio::test]
async fn s06_gives_the_recorded_edge() {
    let Some(edges) = replay("s06-shortlived", &[("ed6428", KMSG_S06)]).await else { return };
    assert_eq!(edges, ["oom_kill 0 -> container_terminated 0"]);
}

mod processes;
