//! Memory that grows until the kernel kills, and memory that only fills its limit: a run-up with each kill, and
//! a near miss without one.

use std::time::Duration;

use aftertrace_stage::kubelet::Pace;

use crate::rig::{Rig, pod};

const KILLS: u64 = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_has_its_run_up_and_a_full_page_cache_is_a_near_miss() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    // Three seconds from nothing to the limit, so that several looks see it.
    let climber = pod("climber", &["memhog", "64", "0", "1", "125"], "24Mi");
    rig.stage().kubelet().run_pod(climber).expect("the pod is well formed");
    let file = rig.stage().folder().join("page-cache");
    let script = format!("sleep 3; head -c 96M /dev/zero > {0}; rm {0}; exec sleep 3600", file.display());
    rig.stage()
        .kubelet()
        .run_pod(pod("writer", &["sh", "-c", &script], "24Mi"))
        .expect("the pod is well formed");

    rig.wait_for("kills with their causes", async |rig| {
        let caused = "select count(*) from edges where rule_id = 'memory_pressure.oom_episode'";
        (rig.number(caused)? >= KILLS).then_some(())
    })
    .await;
    let near_misses = "select count(*) from events where kind = 'memory_pressure' and pod = 'writer' \
                       and (attributes->>'$.\"aftertrace.pressure.reason\"') = 'limit_hit'";
    rig.wait_for("the near miss", async |rig| (rig.number(near_misses)? >= 1).then_some(())).await;
    // Nothing more comes of the writer: its pages were given back.
    tokio::time::sleep(Duration::from_secs(3)).await;

    let run_ups = rig
        .sql(
            "select e.event_id, e.occurred_at < k.occurred_at as is_before, e.pod, e.container_id is not null as has_life, \
             e.attributes->>'$.\"aftertrace.pressure.growth_bytes_per_s\"' as growth, \
             json_array_length(e.attributes->'$.\"aftertrace.pressure.samples\"') as samples, e.summary \
             from events e join events k on e.episode_id = k.event_id \
             where e.kind = 'memory_pressure' and k.kind = 'oom_episode'",
        )
        .expect("the catalog answers");
    assert!(run_ups.len() as u64 >= KILLS, "{run_ups:?}");
    for row in &run_ups {
        assert_eq!((&row["is_before"], &row["has_life"]), (&true.into(), &true.into()), "{row}");
        assert_eq!(row["pod"], "climber", "{row}");
        let number = |name: &str| row[name].as_str().and_then(|text| text.parse::<i64>().ok());
        let growth = number("growth").expect("two points at least");
        // 8 MiB/s, less what a busy machine makes of its pauses.
        assert!((1 << 20..16 << 20).contains(&growth), "{row}");
        assert!(number("samples").is_some_and(|n| n >= 1), "{row}");
    }
    let twice = "select count(*) - count(distinct (episode_id, container_id)) from events \
                 where kind = 'memory_pressure' and episode_id is not null";
    assert_eq!(rig.number(twice), Some(0), "one row for each episode and container");
    let chosen = rig.sql(
        "select c.attributes->>'$.\"aftertrace.pressure.reason\"' as reason, count(*) as n from edges d \
         join events c on c.event_id = d.cause_id where d.rule_id = 'memory_pressure.oom_episode' group by all",
    );
    println!("{} run-ups, such as {:?}; causes {chosen:?}", run_ups.len(), run_ups[0]);
    for row in chosen.expect("the catalog answers") {
        assert_eq!(row["reason"], "run_up", "the run-up is the last pressure before its kill");
    }
    assert!(
        rig.number(near_misses).is_some_and(|rows| rows <= 4),
        "one for the pod, one for the container, rarely"
    );
    rig.stop().await;
}
