//! 50 mounted volumes swapped: each one row, at the time of the rename, caused by the version it shows.

use std::collections::BTreeSet;

use aftertrace_stage::kubelet::Pace;

use crate::rig::{Rig, config_map, mounting_pod};

const VOLUMES: usize = 50;

/// How far the stored time may lie from the rename itself, in microseconds.
const RENAME_BOUND_US: i64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_swaps_are_fifty_rows_at_the_time_of_the_rename() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    let cluster = rig.stage().cluster();
    for n in 0..VOLUMES {
        let (config, pod) = (format!("cfg-{n:02}"), format!("reader-{n:02}"));
        cluster.apply(config_map(&config, "one")).expect("the ConfigMap is well formed");
        rig.stage().kubelet().run_pod(mounting_pod(&pod, &config)).expect("the pod is well formed");
    }
    rig.wait_for("the pods to run", async |rig| {
        (rig.stage().truth().starts().len() >= VOLUMES).then_some(())
    })
    .await;
    rig.wait_for("the pods' states to be stored", async |rig| {
        let running =
            rig.number("select count(distinct pod_uid) from events where kind = 'container_started'")?;
        (running >= u64::try_from(VOLUMES).expect("small")).then_some(())
    })
    .await;
    assert_eq!(
        rig.number("select count(*) from events where kind = 'config_swapped'"),
        Some(0),
        "the first write of a volume is a mount and no swap"
    );
    for n in 0..VOLUMES {
        cluster.apply(config_map(&format!("cfg-{n:02}"), "two")).expect("the ConfigMap is well formed");
    }
    let swaps = rig
        .wait_for("the swaps", async |rig| {
            let swaps = rig.stage().truth().swaps();
            (swaps.len() >= VOLUMES).then_some(swaps)
        })
        .await;
    rig.wait_for("the rows", async |rig| {
        let rows = rig.number("select count(*) from events where kind = 'config_swapped'")?;
        (rows >= u64::try_from(swaps.len()).expect("small")).then_some(())
    })
    .await;
    let rows = rig
        .sql(
            "select pod_uid, epoch_us(occurred_at) as at, attributes::json->>'$.\"aftertrace.volume.generation\"' as generation, \
             event_id::varchar as id from events where kind = 'config_swapped'",
        )
        .expect("the catalog answers");
    assert_eq!(rows.len(), swaps.len(), "one row for each swap");
    for swap in &swaps {
        let row = rows
            .iter()
            .find(|row| row["pod_uid"] == swap.pod_uid.as_str() && row["generation"] == swap.new.as_str())
            .unwrap_or_else(|| panic!("no row for {swap:?} in {rows:?}"));
        let at = row["at"].as_i64().expect("microseconds");
        let [before, after] = [swap.before, swap.after].map(|t| t.wall_ns / 1_000);
        assert!(
            before - RENAME_BOUND_US <= at && at <= after + RENAME_BOUND_US,
            "stored {at}, renamed between {before} and {after}"
        );
    }
    rig.wait_for("an edge for each swap", async |rig| {
        let edges = rig.sql(
            "select effect_id::varchar as id, grade from edges where rule_id = 'config_changed.config_swapped'",
        );
        let edges = edges.ok()?;
        let effects: BTreeSet<_> = edges.iter().map(|e| e["id"].to_string()).collect();
        (edges.len() == swaps.len() && effects.len() == swaps.len()).then(|| {
            assert!(edges.iter().all(|e| e["grade"] == "identified"), "tied by content: {edges:?}");
        })
    })
    .await;
    rig.stop().await;
}
