//! One kill reported by twenty status updates, a relist and an agent restart is one row.

use aftertrace_stage::api::Resource;
use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::kubelet::Pace;

use crate::rig::{Rig, pod};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_it_is_reported() {
    let Some(mut rig) = Rig::start(Pace::fast()).await else { return };
    let mut hog = pod("once", &["memhog", "64", "0", "16", "0"], "24Mi");
    hog["spec"]["restartPolicy"] = "Never".into();
    rig.stage().kubelet().run_pod(hog).expect("the pod is well formed");
    let all = "select kind, count(*) as rows from events where pod = 'once' group by kind order by kind";
    rig.wait_for("the termination", async |rig| {
        rig.number("select count(*) from events where kind = 'container_terminated'").filter(|n| *n > 0)
    })
    .await;

    let key = ObjectKey::new("shop", "once");
    for n in 0..20 {
        let note = serde_json::json!({ "metadata": { "labels": { "update": n.to_string() } } });
        rig.stage().cluster().patch(Resource::Pods, &key, &note).expect("the pod is there");
    }
    rig.stage().cluster().compact();
    rig.stage().cluster().expire_watches();
    rig.kill_agent();
    rig.start_agent();
    rig.wait_for("the agent to be back", async |rig| rig.agent_is_watching().await.then_some(())).await;
    let mut after = pod("after", &["memhog", "64", "0", "16", "0"], "24Mi");
    after["spec"]["restartPolicy"] = "Never".into();
    rig.stage().kubelet().run_pod(after).expect("the pod is well formed");
    rig.wait_for("a later termination", async |rig| {
        rig.number("select count(*) from events where kind = 'container_terminated' and pod = 'after'")
            .filter(|n| *n > 0)
    })
    .await;

    let rows = rig.sql(all).expect("the catalog answers");
    for kind in ["oom_episode", "oom_kill", "container_started", "container_terminated"] {
        let row = rows.iter().find(|row| row["kind"] == kind);
        assert_eq!(row.map(|r| r["rows"].clone()), Some(1.into()), "{kind} in {rows:?}");
    }
    let edges = rig.sql(
        "select rule_id, count(*) as n from edges where effect_id in (select event_id from events where pod = 'once') \
         group by rule_id order by rule_id",
    );
    let edges = edges.expect("the catalog answers");
    for rule in ["oom_episode.oom_kill", "oom_kill.container_terminated"] {
        let row = edges.iter().find(|row| row["rule_id"] == rule);
        assert_eq!(row.map(|r| r["n"].clone()), Some(1.into()), "{rule} in {edges:?}");
    }
    rig.stop().await;
}
