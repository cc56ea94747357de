//! Inits of containers whose pods are known early, late, or never.

use aftertrace_model::attribute;

use super::*;
use crate::kernel::{CgroupChange, PodLevel};
use crate::lifetimes::tests as record;

/// The kernfs ids of the pod's cgroup, of its sandbox's and of the container's.
const POD_CGROUP: u64 = 3;
const SANDBOX: u64 = 4;
const MEMBER: u64 = 5;
/// The sandbox's id, which no status lists.
const SANDBOX_ID: &str = "e277d8ec68e01e0bd82b88efabcfb1d3542ca0b8ef28734728ecb4bcda2d2314";

fn made(kernfs_id: u64, parent_id: u64, level: PodLevel, name: &str) -> Record {
    let name = Some(name.to_owned());
    Record::CgroupMade(CgroupChange { boot_ns: 1, kernfs_id, parent_id, level, name, name_truncated: false })
}

impl Bench {
    /// The container's cgroup as the kernel tells it.
    async fn cgroups(&mut self) {
        for made in [
            made(2, 1, PodLevel::Kubepods, "kubepods"),
            made(POD_CGROUP, 2, PodLevel::Pod, &format!("pod{UID}")),
            made(SANDBOX, POD_CGROUP, PodLevel::Member, SANDBOX_ID),
            made(MEMBER, POD_CGROUP, PodLevel::Member, ID),
        ] {
            self.pipeline.record(made).await;
        }
    }

    /// A life of milliseconds.
    async fn life(&mut self) {
        self.pipeline.record(Record::Exec(Box::new(record::exec(MEMBER)))).await;
        self.pipeline.record(Record::Signal(Box::new(record::signal(MEMBER, 9)))).await;
        self.pipeline.record(Record::InitExit(record::exit(MEMBER, Some(9), None))).await;
    }

    async fn delete(&mut self, pod: serde_json::Value) {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pipeline.change(Change::Delete(Box::new(pod), clock::now())).await;
    }

    /// A log link as the kubelet makes it.
    fn log_link(&self, restart: u32) {
        let root = &self.pipeline.parts.log_root;
        std::fs::create_dir_all(root.join("containers")).expect("a folder of ours");
        let link = root.join("containers").join(format!("p_n_app-{ID}.log"));
        let target = format!("/var/log/pods/n_p_{UID}/app/{restart}.log");
        std::os::unix::fs::symlink(target, link).expect("a link of ours");
    }
}

const LIFE: [Kind; 3] = [Kind::ProcessStarted, Kind::ProcessKilled, Kind::ProcessExited];

/// Of the events those that were told of the init.
fn of_life(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|e| LIFE.contains(&e.kind)).collect()
}

fn attributed_by(event: &Event) -> Option<&str> {
    attribute::text(event, "aftertrace.attributed_by")
}

#[tokio::test]
async fn a_short_life_is_tied_when_the_status_lists_it() {
    let mut bench = Bench::new();
    bench.cgroups().await;
    bench.life().await;
    assert!(bench.items().await.0.is_empty(), "nothing is told while the pod is unknown");
    bench.apply(pod(UID, ID)).await;
    let (events, edges, gaps) = bench.items().await;
    let life = of_life(&events);
    assert_eq!(life.iter().map(|e| e.kind).collect::<Vec<_>>(), LIFE);
    for event in &life {
        assert_eq!((event.pod_uid(), event.container.as_deref()), (Some(UID), Some("app")));
        assert_eq!((event.container_id.as_deref(), event.restart_count), (Some(ID), Some(3)));
        assert_eq!((event.container_init, attributed_by(event)), (Some(true), Some("status")));
    }
    let summary = "app (pid 44), the init of container app of n/p, was ended by signal 9";
    assert_eq!((life[2].summary.as_str(), life[2].exit_code), (summary, Some(137)));
    assert_eq!(edges.len(), 1, "the signal ended it");
    assert_eq!((edges[0].cause_id, edges[0].effect_id), (life[1].event_id, life[2].event_id));
    assert!(gaps.is_empty());
}

#[tokio::test]
async fn a_pod_that_is_deleted_is_not_waited_for_and_the_log_link_names_the_container() {
    let mut bench = Bench::new();
    // Its last status lists nothing: the container lived between two reports.
    let mut silent = pod(UID, ID);
    silent["status"] = json!({});
    bench.apply(silent.clone()).await;
    bench.cgroups().await;
    bench.log_link(5);
    bench.life().await;
    assert!(of_life(&bench.items().await.0).is_empty());
    bench.delete(silent).await;
    let (events, _, gaps) = bench.items().await;
    let life = of_life(&events);
    assert_eq!(life.len(), 3);
    for event in life {
        assert_eq!((event.pod_uid(), event.container.as_deref()), (Some(UID), Some("app")));
        assert_eq!((event.restart_count, attributed_by(event)), (Some(5), Some("log_link")));
    }
    assert!(gaps.is_empty());
}

#[tokio::test]
async fn without_the_api_the_log_link_names_pod_and_container() {
    let mut bench = Bench::new();
    bench.cgroups().await;
    bench.life().await;
    bench.log_link(0);
    bench.pipeline.tick().await;
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    let (events, _, _) = bench.items().await;
    let life = of_life(&events);
    assert_eq!(life.len(), 3);
    let pod = life[0].pod.as_ref().expect("the link names it");
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("n", "p", UID));
    assert_eq!((life[0].container.as_deref(), life[0].restart_count), (Some("app"), Some(0)));
}

#[tokio::test]
async fn where_only_the_cgroup_speaks_the_pod_alone_is_named() {
    let mut bench = Bench::new();
    bench.apply(pod(UID, OTHER)).await;
    bench.cgroups().await;
    bench.life().await;
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    let (events, _, _) = bench.items().await;
    let life = of_life(&events);
    assert_eq!(life.len(), 3);
    for event in life {
        assert_eq!((event.pod_uid(), event.container.as_deref()), (Some(UID), None));
        assert_eq!((event.container_id.as_deref(), event.container_init), (None, None));
        assert_eq!(
            (attributed_by(event), &event.attributes["aftertrace.hint.container.id"]),
            (Some("cgroup"), &json!(ID))
        );
    }
}

#[tokio::test]
async fn a_sandbox_is_no_container() {
    let mut bench = Bench::new();
    bench.apply(pod(UID, ID)).await;
    bench.cgroups().await;
    bench.pipeline.record(Record::Exec(Box::new(record::exec(SANDBOX)))).await;
    bench.pipeline.record(Record::InitExit(record::exit(SANDBOX, None, Some(0)))).await;
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    bench.pipeline.spool_gaps(clock::now(), true).await;
    let (events, _, gaps) = bench.items().await;
    assert!(of_life(&events).is_empty() && gaps.is_empty(), "{gaps:?}");
    assert_eq!(bench.pipeline.sandboxes, 2);
}

#[tokio::test]
async fn a_link_that_was_made_after_the_exec_is_found_when_the_pod_goes() {
    let mut bench = Bench::new();
    let mut silent = pod(UID, ID);
    silent["status"] = json!({});
    bench.apply(silent.clone()).await;
    bench.cgroups().await;
    bench.life().await;
    bench.log_link(0);
    bench.delete(silent).await;
    let (events, _, _) = bench.items().await;
    let life = of_life(&events);
    assert!(life.len() == 3 && life.iter().all(|e| attributed_by(e) == Some("log_link")));
}

#[tokio::test]
async fn what_nobody_names_is_told_without_a_pod_and_counted() {
    let mut bench = Bench::new();
    bench.cgroups().await;
    bench.life().await;
    bench.pipeline.settle_pending(clock::now().plus_micros(WAIT_US)).await;
    bench.pipeline.spool_gaps(clock::now(), true).await;
    let (events, _, gaps) = bench.items().await;
    let life = of_life(&events);
    assert!(life.len() == 3 && life.iter().all(|e| e.pod.is_none()));
    assert_eq!(life[0].attributes["aftertrace.hint.pod.uid"], UID);
    let gap = gaps.iter().find(|g| g.reason == GapReason::Unattributed).expect("it is counted");
    assert_eq!(gap.count, 3);
}

#[tokio::test]
async fn a_cgroup_id_that_comes_again_is_the_newer_container() {
    let mut bench = Bench::new();
    bench.apply(pod(UID, OTHER)).await;
    bench.cgroups().await;
    bench.pipeline.record(made(MEMBER, POD_CGROUP, PodLevel::Member, OTHER)).await;
    bench.life().await;
    let (events, _, _) = bench.items().await;
    let life = of_life(&events);
    assert!(life.len() == 3 && life.iter().all(|e| e.container_id.as_deref() == Some(OTHER)));
}
