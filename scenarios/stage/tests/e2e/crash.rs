//! kill -9 of agent or aggregator at 25 random moments under load: what was stored stays, and is there once.

use std::collections::BTreeSet;
use std::time::Duration;

use aftertrace_stage::kubelet::Pace;
use rand::Rng;

use crate::rig::{Rig, config_map, mounting_pod, pod};

const DEATHS: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stored_event_survives_and_is_there_once() {
    let Some(mut rig) = Rig::start(Pace::fast()).await else { return };
    let cluster = rig.stage().cluster().clone();
    cluster.apply(config_map("cfg", "0")).expect("the ConfigMap is well formed");
    rig.stage().kubelet().run_pod(mounting_pod("reader", "cfg")).expect("the pod is well formed");
    for n in 0..3 {
        let hog = pod(&format!("hog-{n}"), &["memhog", "64", "0", "16", "5"], "24Mi");
        rig.stage().kubelet().run_pod(hog).expect("the pod is well formed");
    }
    let mut stored: BTreeSet<String> = BTreeSet::new();
    for death in 0..DEATHS {
        cluster.apply(config_map("cfg", &death.to_string())).expect("the ConfigMap is well formed");
        let moment = rand::rng().random_range(50..900);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        if let Ok(rows) = rig.sql("select event_id::varchar as id from events") {
            stored.extend(rows.iter().map(|row| row["id"].to_string()));
        }
        if rand::rng().random_bool(0.5) {
            rig.kill_agent();
            rig.start_agent();
        } else {
            rig.kill_aggregator();
            rig.start_aggregator();
        }
    }
    rig.wait_for("the agent to be back", async |rig| rig.agent_is_watching().await.then_some(())).await;
    let kills = rig.stage().truth().kills().len();
    rig.wait_for("kills after the last death", async |rig| {
        (rig.stage().truth().kills().len() > kills + 3).then_some(())
    })
    .await;
    let last = rig.stage().truth().kills().pop().expect("there were kills").container.container_id;
    rig.wait_for("the last kill to be stored", async |rig| {
        let query =
            format!("select count(*) from events where kind = 'oom_kill' and container_id = '{last}'");
        (rig.number(&query)? > 0).then_some(())
    })
    .await;

    let rows = rig.sql("select event_id::varchar as id from events").expect("the catalog answers");
    let now: BTreeSet<String> = rows.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!(now.len(), rows.len(), "no event is there twice");
    let lost: Vec<_> = stored.difference(&now).collect();
    assert!(lost.is_empty(), "{} of {} stored events are gone: {lost:?}", lost.len(), stored.len());
    assert!(stored.len() > DEATHS, "the load was real: {} events", stored.len());
    let twice = rig.sql(
        "select pod_uid, container_id, kind, count(*) from events \
         where kind in ('oom_kill', 'container_started', 'container_terminated') and pod_uid is not null \
         group by pod_uid, container_id, kind having count(*) > 1",
    );
    assert_eq!(twice, Ok(Vec::new()), "each life starts once, is killed once and ends once");
    let torn = rig.sql(
        "select count(*) as edges from edges where effect_id not in (select event_id from events) \
         or cause_id not in (select event_id from events)",
    );
    assert_eq!(torn.expect("the catalog answers")[0]["edges"], 0, "edges come with their events");
    let truth: BTreeSet<String> =
        rig.stage().truth().kills().into_iter().map(|k| k.container.container_id).collect();
    let invented = rig
        .sql("select distinct container_id from events where kind = 'oom_kill' and pod_uid is not null")
        .expect("the catalog answers")
        .into_iter()
        .filter(|row| !truth.contains(row["container_id"].as_str().unwrap_or_default()))
        .count();
    assert_eq!(invented, 0, "no kill is stored that the kernel did not count");
    let gaps = rig.number("select count(*) from gaps where reason in ('agent_down', 'aggregator_down')");
    assert!(gaps > Some(0), "the deaths are counted as gaps");
    println!("{} events stored before a death were there after {DEATHS} deaths", stored.len());
    rig.stop().await;
}
