//! Measures kernel hook → acknowledged: from the kernel's time of a swap to the moment that the aggregator had it
//! on disk, through the real programs; and what both programs weigh. Prints rows for `cargo xtask bench`.

#[expect(dead_code, reason = "the rig serves tests too, which use more of it")]
#[path = "../tests/e2e/rig.rs"]
mod rig;

use std::time::Duration;

use aftertrace_stage::kubelet::Pace;
use rig::{Rig, config_map, mounting_pod};

/// Swaps measured.
const SWAPS: usize = 200;

/// Between two swaps: longer than one takes from kernel to disk.
const PAUSE: Duration = Duration::from_millis(50);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    let cluster = rig.stage().cluster();
    cluster.apply(config_map("cfg", "start")).expect("the ConfigMap is well formed");
    rig.stage().kubelet().run_pod(mounting_pod("reader", "cfg")).expect("the pod is well formed");
    rig.wait_for("the pod to run", async |rig| {
        rig.number("select count(*) from events where kind = 'container_started'").filter(|n| *n > 0)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    weigh(&rig, "idle").await;
    for n in 0..SWAPS {
        cluster.apply(config_map("cfg", &n.to_string())).expect("the ConfigMap is well formed");
        tokio::time::sleep(PAUSE).await;
    }
    let swaps = rig.stage().truth().swaps().len();
    rig.wait_for("the rows", async |rig| {
        let rows = rig.number("select count(*) from events where kind = 'config_swapped'")?;
        (rows >= u64::try_from(swaps).expect("small")).then_some(())
    })
    .await;
    let row = rig
        .sql(
            "select quantile_cont(us, 0.5) as p50, quantile_cont(us, 0.99) as p99 from \
             (select epoch_us(recorded_at) - epoch_us(occurred_at) as us from events where kind = 'config_swapped')",
        )
        .expect("the catalog answers")
        .remove(0);
    for (name, target) in [("p50", ""), ("p99", "10")] {
        let us = row[name].as_f64().expect("a number");
        println!("row\tkernel hook to acknowledged, {name}\t{:.2}\tms\t{target}", us / 1e3);
    }
    weigh(&rig, "after the swaps").await;
    rig.stop().await;
}

async fn weigh(rig: &Rig, when: &str) {
    let mut memory = rig.memory().await.expect("the aggregator answers");
    let status =
        memory.status(aftertrace_api::proto::StatusRequest {}).await.expect("it has a status").into_inner();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("row\taggregator RSS, {when}\t{:.1}\tMiB\t", mib(status.rss_bytes));
    for agent in status.agents.iter().filter_map(|a| a.status.as_ref()) {
        println!("row\tagent RSS, {when}\t{:.1}\tMiB\t8", mib(agent.rss_bytes));
    }
}
