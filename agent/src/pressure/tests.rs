//! One container of one pod in a made-up hierarchy, second by second.

use std::path::PathBuf;

use aftertrace_model::{EventId, Occurrence};
use serde_json::{Value, json};

use super::*;
use crate::episode::tests::kill as kill_record;
use crate::kernel::OomRole;
use crate::recordings;

const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
const ID: &str = "223afe3d8e7a9aa5dd3a155170373b69429dcb031d5956d9cbd77683a5cfde84";
const MIB: u64 = 1 << 20;

/// A node with that container, its limit 100 MiB, its pod's none.
struct Node {
    mount: tempfile::TempDir,
    is_v1: bool,
    pressure: Pressure,
    pods: Pods,
    second: i64,
}

impl Node {
    fn new(is_v1: bool) -> Self {
        let mount = tempfile::tempdir().expect("a temporary directory");
        let path = mount.path().to_owned();
        let cgroupfs = if is_v1 { Cgroupfs::V1(path) } else { Cgroupfs::V2(path) };
        let pressure = Pressure::new(cgroupfs, CgroupRoot::default());
        let node = Self { mount, is_v1, pressure, pods: pods(), second: 100 };
        for is_pod in [true, false] {
            std::fs::create_dir_all(node.dir(is_pod)).expect("makes folders");
            node.write(is_pod, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
            node.limit(is_pod, (!is_pod).then_some(100 * MIB));
            node.hits(is_pod, 0, 0);
            node.usage(is_pod, 0);
        }
        node
    }

    fn dir(&self, is_pod: bool) -> PathBuf {
        let pod = self.mount.path().join("kubepods/burstable").join(format!("pod{UID}"));
        if is_pod { pod } else { pod.join(ID) }
    }

    fn write(&self, is_pod: bool, file: &str, text: &str) {
        std::fs::write(self.dir(is_pod).join(file), text).expect("the folder is the test's own");
    }

    fn limit(&self, is_pod: bool, bytes: Option<u64>) {
        if self.is_v1 {
            let bytes = bytes.unwrap_or(9_223_372_036_854_771_712);
            self.write(is_pod, "memory.limit_in_bytes", &format!("{bytes}\n"));
        } else {
            let text = bytes.map_or("max\n".to_owned(), |bytes| format!("{bytes}\n"));
            self.write(is_pod, "memory.max", &text);
        }
    }

    fn usage(&self, is_pod: bool, bytes: u64) {
        let file = if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" };
        self.write(is_pod, file, &format!("{bytes}\n"));
        let anon = bytes / 2;
        let stat = if self.is_v1 {
            format!("cache 1\nrss 2\ntotal_cache {anon}\ntotal_rss {anon}\ntotal_shmem 0\n")
        } else {
            format!("anon {anon}\nfile {anon}\nshmem 0\n")
        };
        self.write(is_pod, "memory.stat", &stat);
    }

    /// Hits and kills of the cgroup itself.
    fn hits(&self, is_pod: bool, hits: u64, kills: u64) {
        if self.is_v1 {
            self.write(is_pod, "memory.failcnt", &format!("{hits}\n"));
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n");
            self.write(is_pod, "memory.oom_control", &text);
        } else {
            let text = format!("low 0\nhigh 3\nmax {hits}\noom 0\noom_kill {kills}\noom_group_kill 0\n");
            self.write(is_pod, "memory.events.local", &text);
            self.write(is_pod, "memory.events", &text);
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.second * 1_000_000)
    }

    /// A look, a second after the last.
    fn look(&mut self) -> Vec<Event> {
        self.second += 1;
        let now = self.now();
        self.pressure.look(&origin(), &self.pods, now)
    }

    /// Looks at these usages in MiB; the reasons of the rows that each gave.
    fn looks(&mut self, usages: &[u64]) -> Vec<String> {
        let mut told = Vec::new();
        for (index, usage) in usages.iter().enumerate() {
            self.usage(false, usage * MIB);
            told.extend(self.look().iter().map(|event| format!("{index}:{}", reason(event))));
        }
        told
    }

    /// The row of a kill half a second after the last look.
    fn run_up(&mut self, episode: u128) -> Option<Event> {
        let at = self.now().plus_micros(500_000);
        let kill = Kill {
            occurred: Occurrence::within(at, 10),
            episode_id: EventId(uuid::Uuid::from_u128(episode)),
        };
        let uid = CgroupUid::parse(UID).expect("a uid");
        let id = ContainerId::parse(ID).expect("an id");
        let mut record =
            kill_record(1, 2, OomRole::Marked, None, &format!("/kubepods/burstable/pod{UID}/{ID}"));
        use std::os::unix::fs::MetadataExt as _;
        record.levels[0].kernfs_id = Some(std::fs::metadata(self.dir(false)).expect("it is there").ino());
        record.levels[0].usage_bytes = Some(100 * MIB);
        self.pressure.run_up(&origin(), &self.pods, (&uid, &id), kill, &record.levels)
    }
}

fn origin() -> Origin {
    Origin { cluster: "c".into(), node: "n".into() }
}

fn pods() -> Pods {
    let mut pods = Pods::default();
    let pod = json!({"metadata": {"uid": UID, "name": "p", "namespace": "n"},
        "status": {"containerStatuses": [{"name": "app", "restartCount": 1, "ready": true, "image": "",
            "imageID": "", "containerID": format!("containerd://{ID}")}]}});
    pods.apply(&serde_json::from_value(pod).expect("a pod"), Timestamp::from_micros(0));
    pods
}

fn get<'a>(event: &'a Event, name: &str) -> &'a Value {
    event.attributes.get(name).unwrap_or(&Value::Null)
}

fn reason(event: &Event) -> &str {
    get(event, "aftertrace.pressure.reason").as_str().expect("every row has a reason")
}

#[test]
fn a_crossing_is_told_once_and_again_after_calm() {
    for is_v1 in [true, false] {
        let mut node = Node::new(is_v1);
        assert_eq!(node.looks(&[50, 79, 80, 90, 95, 85, 79, 82]), ["2:near_limit"], "v1: {is_v1}");
        // Calm, but told a moment ago: the crossings wait for the pause and come in one row.
        assert_eq!(node.looks(&[70, 85, 60, 86]), Vec::<String>::new());
        node.usage(false, 50 * MIB);
        node.second += 10;
        let rows = node.look();
        assert_eq!(rows.len(), 1);
        assert_eq!(get(&rows[0], "aftertrace.pressure.crossings"), 2);
        assert_eq!(rows[0].container_id.as_deref(), Some(ID));
        assert_eq!(rows[0].restart_count, Some(1));
        assert_eq!(rows[0].summary, "container app of n/p uses 86.0 of 100.0 MiB (86 %)");
        let occurred = rows[0].occurred;
        assert!(occurred.earliest < occurred.at && occurred.at < node.now().plus_micros(-5_000_000));
    }
}

#[test]
fn a_hit_without_a_kill_is_a_near_miss_with_exact_counts() {
    for is_v1 in [true, false] {
        let mut node = Node::new(is_v1);
        node.usage(false, 60 * MIB);
        node.hits(false, 5, 0);
        assert_eq!(node.looks(&[60, 60]), Vec::<String>::new(), "what was before is no news");
        node.hits(false, 9, 0);
        assert_eq!(node.looks(&[60]), Vec::<String>::new(), "it waits for a kill");
        let seen = node.now();
        let rows = node.look();
        assert_eq!(rows.len(), 1, "v1: {is_v1}");
        assert_eq!(reason(&rows[0]), "limit_hit");
        assert_eq!(get(&rows[0], "aftertrace.memory.new_limit_hits"), 4);
        assert_eq!(get(&rows[0], "aftertrace.memory.limit_hits"), 9);
        assert_eq!(rows[0].occurred, Occurrence::between(seen.plus_micros(-1_000_000), seen));
        assert_eq!(rows[0].summary, "container app of n/p hit its limit of 100.0 MiB 4 times without a kill");
        assert_eq!(node.looks(&[60, 60, 60]), Vec::<String>::new());
    }
}

#[test]
fn the_limit_of_memory_and_swap_together_counts_too() {
    let mut node = Node::new(true);
    node.usage(false, 60 * MIB);
    node.write(false, "memory.memsw.failcnt", "2\n");
    assert_eq!(node.looks(&[60]), Vec::<String>::new());
    node.write(false, "memory.memsw.failcnt", "9\n");
    node.look();
    let rows = node.look();
    assert_eq!(
        (reason(&rows[0]), get(&rows[0], "aftertrace.memory.new_limit_hits")),
        ("limit_hit", &json!(7))
    );
}

#[test]
fn where_hits_are_not_counted_reaching_the_limit_is_told_once() {
    let mut node = Node::new(true);
    node.usage(false, 60 * MIB);
    node.write(false, "memory.max_usage_in_bytes", &format!("{}\n", 60 * MIB));
    node.look();
    node.write(false, "memory.max_usage_in_bytes", &format!("{}\n", 100 * MIB));
    node.look();
    let rows = node.look();
    assert_eq!(
        (rows.len(), reason(&rows[0]), get(&rows[0], "aftertrace.memory.new_limit_hits")),
        (1, "limit_hit", &Value::Null)
    );
    assert!(
        rows[0].summary.ends_with("without a kill; how often is not counted here"),
        "{}",
        rows[0].summary
    );
    assert_eq!(node.looks(&[60; 30]), Vec::<String>::new());
}

#[test]
fn far_below_the_limit_hits_are_read_now_and_then_and_none_is_missed() {
    let mut node = Node::new(false);
    assert_eq!(node.looks(&[10]), Vec::<String>::new());
    let read = node.now();
    node.hits(false, 4, 0);
    let rows: Vec<Event> = (0..6).flat_map(|_| node.look()).collect();
    assert_eq!((rows.len(), get(&rows[0], "aftertrace.memory.new_limit_hits")), (1, &json!(4)));
    assert_eq!(rows[0].occurred, Occurrence::between(read, read.plus_micros(5_000_000)));
}

#[test]
fn hits_that_go_on_are_told_ever_more_seldom_and_none_is_forgotten() {
    let mut node = Node::new(true);
    node.usage(false, 60 * MIB);
    node.look();
    let (mut told, mut rows) = (0, Vec::new());
    for second in 1..=1_500_u64 {
        node.hits(false, 3 * second, 0);
        for event in node.look() {
            told += get(&event, "aftertrace.memory.new_limit_hits").as_u64().expect("a count");
            assert_eq!(told, 3 * second);
            rows.push(second);
        }
    }
    assert_eq!(rows, [2, 12, 32, 72, 152, 312, 632, 1_272]);
}

#[test]
fn hits_that_end_in_a_kill_are_no_near_miss() {
    for is_v1 in [true, false] {
        let mut node = Node::new(is_v1);
        node.usage(false, 60 * MIB);
        node.look();
        node.hits(false, 9, 0);
        node.look();
        node.hits(false, 9, 1);
        assert_eq!(node.looks(&[60, 60, 60]), Vec::<String>::new(), "the kernel's count says so");

        node.hits(false, 20, 1);
        node.look();
        node.hits(false, 24, 1);
        let row = node.run_up(1).expect("samples were taken");
        assert_eq!(get(&row, "aftertrace.memory.new_limit_hits"), 15, "up to the row itself");
        assert_eq!(node.looks(&[60, 60, 60]), Vec::<String>::new(), "the kill's record says so");

        node.hits(false, 25, 1);
        assert_eq!(node.looks(&[60, 60]), ["1:limit_hit"], "a later hit is one again");
    }
}

#[test]
fn a_run_up_tells_the_minute_before_the_kill_once() {
    let mut node = Node::new(true);
    let usages: Vec<u64> = (0..100).map(|n| if n < 30 { 10 } else { 80 }).collect();
    node.looks(&usages);
    node.looks(&[84, 88, 92]);
    node.hits(false, 7, 0);
    node.looks(&[96]);
    let kill_at = node.now().plus_micros(500_000);
    let row = node.run_up(1).expect("samples were taken");
    assert_eq!(reason(&row), "run_up");
    assert_eq!(row.episode_id, Some(EventId(uuid::Uuid::from_u128(1))));
    assert_eq!(row.container_id.as_deref(), Some(ID));
    let samples = get(&row, "aftertrace.pressure.samples").as_array().expect("an array");
    assert_eq!(samples.len(), 60);
    assert_eq!((&samples[0]["before_ms"], &samples[59]["before_ms"]), (&json!(59_499), &json!(499)));
    assert_eq!(samples[59]["limit_hits"], 7);
    // 20 MiB in 59.49999 s, up to what the kernel told with the kill.
    assert_eq!(get(&row, "aftertrace.pressure.growth_bytes_per_s"), 352_462);
    // Half of it is anonymous: 8 MiB in the 59 s between the first and the last sample.
    assert_eq!(get(&row, "aftertrace.pressure.rss_growth_bytes_per_s"), 142_179);
    assert_eq!(get(&row, "aftertrace.pressure.usage_at_kill_bytes"), 100 * MIB);
    assert_eq!(get(&row, "aftertrace.memory.new_limit_hits"), 7);
    assert_eq!(get(&row, "aftertrace.pressure.lacks"), &json!(["high", "psi"]));
    assert_eq!(
        row.summary,
        "container app of n/p went from 80.0 to 100.0 of 100.0 MiB in the 59.4 s before the kill (0.3 MiB/s)"
    );
    let occurred = row.occurred;
    assert_eq!(occurred.earliest, kill_at.plus_micros(-59_500_000));
    assert!(occurred.earliest <= occurred.at && occurred.at < kill_at && occurred.latest <= kill_at);
    assert!(
        occurred.at > node.now(),
        "later than any other row of that look, so that it is the cause chosen"
    );
    assert!(node.run_up(1).is_none(), "once per episode");
    assert!(node.run_up(2).is_some());
}

#[test]
fn a_kill_out_of_calm_has_one_sample_and_one_of_the_first_second_none() {
    let mut node = Node::new(false);
    assert!(node.run_up(1).is_none(), "nothing was looked at yet");
    node.looks(&[10, 11, 12]);
    let row = node.run_up(2).expect("the last quiet sample is kept");
    assert_eq!(get(&row, "aftertrace.pressure.samples").as_array().map(Vec::len), Some(1));
    // 88 MiB in half a second less the clock's error.
    assert_eq!(get(&row, "aftertrace.pressure.growth_bytes_per_s"), 184_553_067);
}

#[test]
fn a_pods_limit_brings_the_minute_of_its_containers() {
    let mut node = Node::new(false);
    node.limit(false, None);
    node.limit(true, Some(100 * MIB));
    node.usage(true, 90 * MIB);
    node.write(
        false,
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=100\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=40\n",
    );
    assert_eq!(node.looks(&[40]), Vec::<String>::new(), "it was found above; nobody saw it cross");
    node.write(
        false,
        "memory.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=350\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=50\n",
    );
    let id = node.pressure.watched.values().find(|w| w.container.is_some()).map(|w| w.id).expect("watched");
    node.pressure.note_reclaim(id, 1, 2_500_000);
    node.pressure.note_reclaim(id, 1, 500_000);
    node.looks(&[50]);
    let row = node.run_up(1).expect("samples");
    assert_eq!(get(&row, "aftertrace.pressure.level"), "container");
    assert_eq!(get(&row, "aftertrace.reclaim.stalls"), 2);
    assert_eq!(get(&row, "aftertrace.reclaim.stall_us"), 3_000);
    let last = &get(&row, "aftertrace.pressure.samples")[1];
    assert_eq!(
        (&last["psi_some_us"], &last["psi_full_us"], &last["high_hits"]),
        (&json!(250), &json!(10), &json!(0))
    );

    // The pod's crossing together with its container's would say the same twice.
    node.limit(false, Some(100 * MIB));
    node.usage(true, 10 * MIB);
    node.second += 30;
    node.pressure.search_soon();
    node.looks(&[10]);
    node.usage(true, 90 * MIB);
    let rows = node.looks(&[85]);
    assert_eq!((rows.len(), node.looks(&[70]).len()), (1, 0));

    // The pod's own crossing is tied to the pod and to no container.
    node.usage(true, 10 * MIB);
    node.look();
    node.second += 20;
    node.usage(true, 90 * MIB);
    let rows = node.look();
    assert_eq!((rows.len(), rows[0].container.is_none(), rows[0].pod_uid()), (1, true, Some(UID)));
    assert!(rows[0].summary.starts_with("pod n/p uses 90.0 of 100.0 MiB"), "{}", rows[0].summary);
}

#[test]
fn without_any_limit_nothing_is_looked_at_and_a_raised_one_counts_at_once() {
    let mut node = Node::new(true);
    node.limit(false, None);
    assert_eq!(node.looks(&[99]), Vec::<String>::new());
    assert!(node.pressure.watched.values().all(|w| !w.is_open()));

    let mut node = Node::new(true);
    node.looks(&[10]);
    node.limit(false, Some(200 * MIB));
    assert_eq!(node.looks(&[99]), Vec::<String>::new());
}

#[test]
fn a_row_waits_for_the_status_that_names_the_container() {
    let mut node = Node::new(true);
    let known = std::mem::take(&mut node.pods);
    assert_eq!(node.looks(&[10, 90, 90]), Vec::<String>::new());
    node.pods = known;
    assert_eq!(node.looks(&[90]), ["0:near_limit"]);
}

#[test]
fn one_that_was_made_since_the_last_search_is_told_from_its_beginning() {
    let mut node = Node::new(true);
    let (there, elsewhere) = (node.dir(true), node.mount.path().join("elsewhere"));
    std::fs::rename(&there, &elsewhere).expect("the folder is the test's own");
    node.look();
    let searched = node.now();
    std::fs::rename(&elsewhere, &there).expect("the folder is the test's own");
    node.second += 2;
    node.hits(false, 3, 0);
    node.usage(false, 85 * MIB);
    node.pressure.search_soon();
    let rows = node.look();
    assert_eq!(rows.iter().map(reason).collect::<Vec<_>>(), ["near_limit"]);
    assert_eq!((rows[0].occurred.earliest, rows[0].occurred.latest), (searched, node.now()));
    let rows = node.look();
    assert_eq!(rows.iter().map(reason).collect::<Vec<_>>(), ["limit_hit"]);
    assert_eq!(get(&rows[0], "aftertrace.memory.new_limit_hits"), 3);
}

#[test]
fn what_is_gone_is_forgotten_after_a_minute() {
    let mut node = Node::new(true);
    node.looks(&[90]);
    std::fs::remove_dir_all(node.dir(true)).expect("the folder is the test's own");
    // An open file of a folder that was removed is still read here, unlike a cgroup's; a search sees it.
    node.pressure.search_soon();
    node.look();
    node.second += 59;
    node.look();
    assert!(!node.pressure.watched.is_empty());
    node.second += 1;
    node.look();
    assert!(node.pressure.watched.is_empty());
}

/// `<file>: <line> | <line>` as the recordings have it, for one container of the fixture.
fn replay(node: &Node, line: &str) {
    let Some((file, text)) = line.split_once(": ") else { return };
    let (is_pod, file) = file.strip_prefix("pod ").map_or((false, file), |file| (true, file));
    if file.starts_with("memory.") {
        let lines: Vec<&str> = text.split('|').map(str::trim).filter(|l| !l.is_empty()).collect();
        node.write(is_pod, file, &format!("{}\n", lines.join("\n")));
    }
}

#[test]
fn recorded_counters_of_a_kill_by_the_pods_limit_are_no_near_miss() {
    let Some(root) = recordings::root() else { return };
    let folder = root.join("s01-oom-crashloop/node");
    let mut node = Node::new(true);
    let before = std::fs::read_to_string(folder.join("6e347eb16b23a.2278.memcg")).expect("a recording");
    before.lines().for_each(|line| replay(&node, line));
    assert!(node.look().is_empty());
    let watched = |node: &Node| {
        let container = node.pressure.watched.values().find(|w| w.container.is_some()).expect("watched");
        (container.limits.max, *container.samples.last().expect("a look was taken"))
    };
    let (limit, sample) = watched(&node);
    assert_eq!((limit, sample.usage, sample.hits.max), (Some(67_108_864), 9_318_400, 0));
    let after = std::fs::read_to_string(folder.join("58c02e0ece840.memcg-events")).expect("a recording");
    for line in after.lines() {
        replay(&node, line);
        if line.starts_with("cgroup.procs") {
            assert!(node.look().is_empty());
        }
    }
    assert_eq!(watched(&node).1.usage, 315_392);
    assert_eq!(counters::kills(&node.dir(false), &node.pressure.cgroupfs), Some(1));
    assert_eq!(counters::kills(&node.dir(true), &node.pressure.cgroupfs), Some(1), "the child's counts too");
}

#[test]
fn recorded_counters_of_cgroup_v2_are_read() {
    let Some(root) = recordings::root() else { return };
    let text = std::fs::read_to_string(root.join("v2-node2/node2.procs.1.txt")).expect("a recording");
    let mut node = Node::new(false);
    let first = text.lines().take_while(|line| !line.starts_with("oom_score_adj"));
    first.for_each(|line| replay(&node, line));
    assert!(node.look().is_empty());
    let container = node.pressure.watched.values().find(|w| w.container.is_some()).expect("watched");
    let sample = container.samples.last().expect("a look was taken");
    assert_eq!((container.limits.max, container.limits.high), (Some(67_108_864), None));
    assert_eq!((sample.usage, sample.hits.max, sample.hits.high), (413_696, 0, Some(0)));
    assert_eq!(counters::kills(&node.dir(true), &node.pressure.cgroupfs), Some(0));
    let pod = node.pressure.watched.values().find(|w| w.container.is_none()).expect("watched");
    assert_eq!(pod.limits.max, Some(67_108_864));
}
