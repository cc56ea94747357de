//! The DuckDB CLI while everything runs: 100 answers of 100, each a prefix of what was acknowledged.

use aftertrace_stage::kubelet::Pace;

use crate::rig::{Rig, pod};

const ASKED: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_questions_under_load_are_a_hundred_answers() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    for n in 0..5 {
        let hog = pod(&format!("hog-{n}"), &["memhog", "64", "0", "16", "0"], "24Mi");
        rig.stage().kubelet().run_pod(hog).expect("the pod is well formed");
    }
    rig.wait_for("a first kill", async |rig| {
        rig.number("select count(*) from events where kind = 'oom_kill'").filter(|n| *n > 0)
    })
    .await;
    let (mut events, mut edges) = (0, 0);
    for n in 0..ASKED {
        let row = rig
            .sql(
                "select (select count(*) from events) as events, (select count(*) from edges) as edges, \
                 (select count(*) from edges where effect_id not in (select event_id from events)) as ahead",
            )
            .unwrap_or_else(|error| panic!("question {n} failed: {error}"))
            .remove(0);
        let now = |name: &str| row[name].as_u64().expect("a count");
        assert!(now("events") >= events && now("edges") >= edges, "a later answer knows no less");
        assert_eq!(now("ahead"), 0, "edges of an answer belong to events of the same answer");
        (events, edges) = (now("events"), now("edges"));
    }
    println!("{ASKED} answers; the last had {events} events and {edges} edges");
    rig.stop().await;
}
