//! 200 real OOM kills in 20 pods: each one row, with the right pod and container, and none invented.

use std::collections::BTreeMap;
use std::time::Duration;

use aftertrace_stage::api::Resource;
use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::kubelet::Pace;

use crate::rig::{Rig, pod};

const PODS: usize = 20;
const KILLS: u64 = 200;
/// The machine may run other things that die of memory; of ours each has its pod.
const OURS: &str = "events where kind = 'oom_kill' and pod_uid is not null";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_are_two_hundred_rows() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    let killed = || rig.stage().truth().kills().iter().map(|k| k.kills).sum::<u64>();
    let bystander = rig.stage().kubelet().run_pod(pod("bystander", &["memhog", "4"], "32Mi"));
    bystander.expect("the pod is well formed");
    for n in 0..PODS {
        let hog = pod(&format!("hog-{n:02}"), &["memhog", "64", "0", "16", "0"], "24Mi");
        rig.stage().kubelet().run_pod(hog).expect("the pod is well formed");
    }
    rig.wait_for("200 kills", async |_| (killed() >= KILLS).then_some(())).await;
    for n in 0..PODS {
        let key = ObjectKey::new("shop", format!("hog-{n:02}"));
        rig.stage().cluster().delete(Resource::Pods, &key, None).expect("the pod is there");
    }
    // A life that was being ended when its pod was deleted may still be counted by the kernel.
    let mut before = killed();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = killed();
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }

    let mut truth: BTreeMap<(String, String), u64> = BTreeMap::new();
    for kill in rig.stage().truth().kills() {
        *truth.entry((kill.container.pod_uid, kill.container.container_id)).or_default() += kill.kills;
    }
    let total: u64 = truth.values().sum();
    rig.wait_for("all rows", async |rig| {
        (rig.number(&format!("select count(*) from {OURS}"))? >= total).then_some(())
    })
    .await;
    let rows = rig
        .sql(&format!("select pod_uid, container_id, count(*) as kills from {OURS} group by all"))
        .expect("the catalog answers");
    let stored: BTreeMap<(String, String), u64> = rows
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or("none").to_owned();
            ((text("pod_uid"), text("container_id")), row["kills"].as_u64().expect("a count"))
        })
        .collect();
    assert_eq!(stored, truth, "rows by pod uid and container id against the kernel's own counters");
    assert!(total >= KILLS);
    let episodes = rig.number(&format!("select count(distinct episode_id) from {OURS}"));
    assert_eq!(episodes, Some(total), "without group kills each kill is its own decision");
    println!("{total} kills in {} containers, all stored once", truth.len());
    rig.stop().await;
}
