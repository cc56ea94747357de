//! Recordings of a real cluster, through an API server: the pods, states and edges that their own `commands.log`
//! and watch lines show, and nothing else. There is no kernel evidence here, so no kill may be claimed.

use std::time::Duration;

use aftertrace_stage::api::{ApiServer, Cluster, ServerConfig};
use aftertrace_stage::replay::recording::recordings_folder;
use aftertrace_stage::replay::{Player, Recording};

use crate::rig::Rig;

/// What a recording shows. Written down by hand from `commands.log`, `pods.watch.jsonl` and
/// `configmaps.watch.jsonl`.
struct Expected {
    recording: &'static str,
    namespace: &'static str,
    pod: &'static str,
    pod_uid: &'static str,
    /// Facts of containers: kind, restart count, container id's beginning, `HH:MM:SS` of the status, exit code.
    /// What waits has no time of its own.
    states: &'static [(&'static str, i64, &'static str, &'static str, Option<i64>)],
    /// Cause and effect with their restart counts.
    edges: &'static [(&'static str, i64, &'static str, i64)],
    /// Changes of ConfigMaps: name, resource version, keys that changed.
    changes: &'static [(&'static str, &'static str, &'static str)],
    /// The pod's phases in order, without repetition; `deleted` where it is gone in the end.
    phases: &'static [&'static str],
}

const S01: Expected = Expected {
    recording: "s01-oom-crashloop",
    namespace: "s01",
    pod: "oom-app-586c49d66d-pnqzn",
    pod_uid: "7c925680-6d5c-463d-b7a3-c322719af62a",
    states: &[
        ("container_started", 0, "2c3d4f330fa6", "10:52:01", None),
        ("container_started", 1, "6e347eb16b23", "10:52:03", None),
        ("container_started", 2, "58c02e0ece84", "10:52:15", None),
        ("container_started", 3, "223afe3d8e7a", "10:52:40", None),
        ("container_started", 4, "f03fd2703a4e", "10:53:39", None),
        ("container_terminated", 0, "2c3d4f330fa6", "10:52:02", Some(137)),
        ("container_terminated", 1, "6e347eb16b23", "10:52:04", Some(137)),
        ("container_terminated", 2, "58c02e0ece84", "10:52:16", Some(137)),
        ("container_terminated", 3, "223afe3d8e7a", "10:52:41", Some(137)),
        ("container_waiting", 1, "", "", None),
        ("container_waiting", 2, "", "", None),
        ("container_waiting", 3, "", "", None),
    ],
    edges: &[
        ("container_terminated", 0, "container_started", 1),
        ("container_terminated", 1, "container_started", 2),
        ("container_terminated", 1, "container_waiting", 1),
        ("container_terminated", 2, "container_started", 3),
        ("container_terminated", 2, "container_waiting", 2),
        ("container_terminated", 3, "container_started", 4),
        ("container_terminated", 3, "container_waiting", 3),
        ("container_waiting", 1, "container_started", 2),
        ("container_waiting", 2, "container_started", 3),
        ("container_waiting", 3, "container_started", 4),
    ],
    changes: &[("oom-app-config", "284", "ALLOC_MIB,LOG_LEVEL"), ("oom-app-config", "354", "ALLOC_MIB")],
    phases: &["Pending", "Running"],
};

const S03: Expected = Expected {
    recording: "s03-volume-swap",
    namespace: "s03",
    pod: "vol-pod",
    pod_uid: "d3964cba-aabb-44b3-9b72-a1f3c378c40e",
    states: &[("container_started", 0, "1c530224f8fd", "10:55:33", None)],
    edges: &[],
    changes: &[
        ("vol-config", "569", "app.conf,other.txt"),
        ("vol-config", "582", "app.conf"),
        ("vol-config", "603", "added.txt,app.conf,other.txt"),
        ("vol-config", "630", "app.conf"),
    ],
    phases: &["Pending", "Running"],
};

const S06: Expected = Expected {
    recording: "s06-shortlived",
    namespace: "s06",
    pod: "short",
    pod_uid: "2bfe3c1c-729e-4c82-89e9-2e9b80776fe0",
    states: &[
        ("container_started", 0, "ed6428dadd7f", "11:00:09", None),
        ("container_terminated", 0, "ed6428dadd7f", "11:00:15", Some(137)),
    ],
    edges: &[],
    changes: &[],
    phases: &["Pending", "Running", "Failed", "deleted"],
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s01_crash_loop() {
    check(&S01).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s03_volume_swap() {
    check(&S03).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s06_short_life() {
    check(&S06).await;
}

async fn check(expected: &Expected) {
    let source = recordings_folder().join(expected.recording);
    if !source.exists() {
        println!("SKIPPED: no recording at {}; set AFTERTRACE_SHARED", source.display());
        return;
    }
    let recording = Recording::read(&source).expect("the recording is whole");
    let cluster = Cluster::new();
    let mut player = Player::new(cluster.clone(), recording);
    let server = ApiServer::start(cluster, ServerConfig::default()).await.expect("loopback");
    let folder = tempfile::tempdir().expect("the folder for temporary files is writable");
    let rig = Rig::on_api(&server, "node1", folder.path()).await;
    rig.wait_for("both watches", async |rig| {
        let status =
            rig.memory().await?.status(aftertrace_api::proto::StatusRequest {}).await.ok()?.into_inner();
        let watching = status.watches.len() >= 2 && status.watches.values().all(|state| state == "ok");
        let agent = status.agents.iter().filter_map(|a| a.status.as_ref()).any(|s| s.watch == "ok");
        (watching && agent).then_some(())
    })
    .await;
    player.finish();

    let (pod, uid) = (expected.pod, expected.pod_uid);
    let facts = format!(
        "select kind, restart_count, coalesce(container_id, '') as id, strftime(occurred_at, '%H:%M:%S') as at, \
         exit_code from events where pod = '{pod}' and pod_uid = '{uid}' and namespace = '{}' \
         and kind like 'container_%' order by kind, restart_count",
        expected.namespace
    );
    let wanted = expected.states.len();
    rig.wait_for("the states", async |rig| rig.sql(&facts).ok().filter(|rows| rows.len() >= wanted)).await;
    let changes = format!(
        "select object_name, object_resource_version as version, \
         array_to_string(list_sort(attributes::json->>'$.changed_keys[*]'), ',') as keys from events \
         where kind = 'config_changed' and namespace = '{0}' or (kind = 'config_changed' and object_namespace = '{0}') \
         order by object_resource_version::int",
        expected.namespace
    );
    let wanted = expected.changes.len();
    rig.wait_for("the changes", async |rig| rig.sql(&changes).ok().filter(|rows| rows.len() >= wanted)).await;
    let objects = format!(
        "select case when deleted then 'deleted' else state::json->>'$.status.phase' end as phase from objects \
         where kind = 'Pod' and name = '{pod}' and uid = '{uid}' order by valid_from, resource_version::int, deleted"
    );
    let last = expected.phases.last().expect("a pod has a phase");
    rig.wait_for("the pod's last phase", async |rig| {
        rig.sql(&objects).ok().filter(|rows| rows.last().is_some_and(|row| row["phase"] == *last))
    })
    .await;
    // What should not be there has had its time to come.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let states: Vec<_> = rig.sql(&facts).expect("the catalog answers");
    let states: Vec<_> = states
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let waits = row["kind"] == "container_waiting";
            let id = text("id").chars().take(12).collect::<String>();
            (
                text("kind"),
                row["restart_count"].as_i64().expect("a count"),
                if waits { String::new() } else { id },
                if waits { String::new() } else { text("at") },
                row["exit_code"].as_i64(),
            )
        })
        .collect();
    let wanted: Vec<_> = expected
        .states
        .iter()
        .map(|(kind, n, id, at, code)| ((*kind).to_owned(), *n, (*id).to_owned(), (*at).to_owned(), *code))
        .collect();
    assert_eq!(states, wanted, "{}: states", expected.recording);

    let edges = rig.sql(
        "select cause.kind as cause, cause.restart_count as before, effect.kind as effect, \
         effect.restart_count as after from edges join events cause on cause.event_id = cause_id \
         join events effect on effect.event_id = effect_id order by all",
    );
    let edges: Vec<_> = edges
        .expect("the catalog answers")
        .iter()
        .map(|row| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let count = |name: &str| row[name].as_i64().expect("a count");
            (text("cause"), count("before"), text("effect"), count("after"))
        })
        .collect();
    let mut wanted: Vec<_> =
        expected.edges.iter().map(|(c, b, e, a)| ((*c).to_owned(), *b, (*e).to_owned(), *a)).collect();
    wanted.sort();
    let mut found = edges;
    found.sort();
    assert_eq!(found, wanted, "{}: edges", expected.recording);

    let changes: Vec<_> = rig.sql(&changes).expect("the catalog answers");
    let changes: Vec<_> = changes
        .iter()
        .map(|row| {
            ["object_name", "version", "keys"].map(|name| row[name].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    let wanted: Vec<_> = expected
        .changes
        .iter()
        .map(|(name, version, keys)| [*name, *version, *keys].map(str::to_owned))
        .collect();
    assert_eq!(changes, wanted, "{}: changes", expected.recording);

    let phases: Vec<_> = rig.sql(&objects).expect("the catalog answers");
    let mut phases: Vec<_> =
        phases.iter().map(|row| row["phase"].as_str().unwrap_or_default().to_owned()).collect();
    phases.dedup();
    assert_eq!(phases, expected.phases, "{}: phases", expected.recording);

    let claimed = rig.number("select count(*) from events where source = 'kernel'");
    assert_eq!(claimed, Some(0), "{}: no kernel saw this", expected.recording);
    rig.stop().await;
}
