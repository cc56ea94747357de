//! OOM kills and stale configuration: the same answer over gRPC, from memory and from segments, and in SQL.

use std::collections::BTreeSet;
use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::{Derived, Edge, Engine, Event, Kind, ObjectRef, Owner, Timestamp, attribute};
use serde_json::json;
use tonic::Code;
use uuid::Uuid;

use crate::harness::{Setup, event, items, now};

/// What the agent's engine concludes.
fn edges(events: &[Event]) -> Vec<Edge> {
    let mut engine = Engine::new(Owner::Node, 1_000);
    let derived = events.iter().flat_map(|e| engine.observe(&Arc::new(e.clone())));
    derived
        .filter_map(|d| match d {
            Derived::Edge(edge) => Some(edge),
            Derived::Retraction(_) => None,
        })
        .collect()
}

/// A fact of volume `flags`, generation `g`, of a pod.
fn volume(n: u64, kind: Kind, pod: &str, g: &str, at: Timestamp) -> Event {
    let mut fact = event(n, kind, pod, at);
    fact.node = Some("node1".to_owned());
    fact.attributes.insert(attribute::VOLUME_NAME.to_owned(), "flags".into());
    fact.attributes.insert(attribute::VOLUME_GENERATION.to_owned(), g.into());
    fact.object = Some(ObjectRef {
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: "flags".to_owned(),
        ..ObjectRef::default()
    });
    fact
}

fn stale(n: u64, pod: &str, g: &str, reason: &str, at: Timestamp) -> Event {
    let mut fact = volume(n, Kind::ConfigStale, pod, g, at);
    fact.reason = Some(reason.to_owned());
    fact.attributes.insert(attribute::STALE_AFTER_S.to_owned(), json!(30));
    fact
}

fn oom_kill(n: u64, pod: &str, role: &str, level: &str, episode: &Event, at: Timestamp) -> Event {
    let mut kill = event(n, Kind::OomKill, pod, at);
    kill.node = Some("node1".to_owned());
    kill.episode_id = Some(episode.event_id);
    kill.pid = Some(4_000 + u32::try_from(n).expect("small"));
    for (name, value) in [
        (attribute::OOM_ROLE, json!(role)),
        (attribute::OOM_LEVEL, json!(level)),
        (attribute::PROCESS_COMMAND, json!("memhog")),
        (attribute::OOM_ALLOCATOR_COMMAND, json!("writer")),
        (attribute::OOM_ALLOCATOR_PID, json!(4_100)),
        (attribute::OOM_RSS_ANON_BYTES, json!(60_000_000)),
        (attribute::OOM_RSS_FILE_BYTES, json!(4_096)),
    ] {
        kill.attributes.insert(name.to_owned(), value);
    }
    kill
}

fn ids(answer: &proto::TimelineResponse) -> Vec<String> {
    let text = |id: &[u8]| Uuid::from_slice(id).expect("an id").to_string();
    answer.events.iter().map(|e| text(&e.event_id)).collect()
}

fn names(events: &[&Event]) -> Vec<String> {
    events.iter().map(|e| e.event_id.to_string()).collect()
}

/// The text of a query's first column.
fn by_sql(catalog: &str, sql: &str) -> Vec<String> {
    let config = duckdb::Config::default().access_mode(duckdb::AccessMode::ReadOnly).expect("a setting");
    let catalog = duckdb::Connection::open_with_flags(catalog, config).expect("the catalog was published");
    let mut query = catalog.prepare(sql).expect("the macro is there");
    let rows = query.query_map([], |row| row.get(0)).expect("it answers");
    rows.collect::<Result<_, _>>().expect("rows")
}

async fn ask(setup: &Setup, request: proto::TimelineRequest) -> proto::TimelineResponse {
    setup.memory().await.timeline(request).await.expect("answers").into_inner()
}

async fn catalog(setup: &Setup) -> String {
    setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner().catalog
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_configuration_that_stands_is_the_same_everywhere() {
    let mut setup = Setup::unwatched().await;
    let t = now().plus_micros(-3_600_000_000);
    let s = |seconds: i64| t.plus_micros(seconds * 1_000_000);
    let swap = volume(1, Kind::ConfigSwapped, "stands", "..2", s(0));
    let stands = stale(2, "stands", "..2", "not_reopened", s(30));
    let read_later =
        [stale(3, "read", "..2", "not_reopened", s(30)), volume(4, Kind::ConfigRead, "read", "..2", s(31))];
    let read_newer =
        [stale(5, "newer", "..2", "deaf_watcher", s(30)), volume(6, Kind::ConfigRead, "newer", "..3", s(60))];
    let sub_path = [
        stale(7, "sub-path", "..2", "sub_path", s(30)),
        volume(8, Kind::ConfigRead, "sub-path", "..3", s(60)),
    ];
    let restarted = [
        stale(9, "restarted", "..2", "sub_path", s(30)),
        Event {
            container_id: Some("next".to_owned()),
            restart_count: Some(1),
            ..event(10, Kind::ContainerStarted, "restarted", s(29))
        },
    ];
    let ended =
        [stale(11, "ended", "..2", "sub_path", s(30)), event(12, Kind::ContainerTerminated, "ended", s(40))];
    let superseded = stale(13, "again", "..2", "not_reopened", s(30));
    let again = stale(14, "again", "..3", "notified_not_reopened", s(60));
    let watched = Event {
        pid: Some(77),
        reason: Some("deaf".to_owned()),
        object: None,
        ..volume(15, Kind::ConfigWatched, "stands", "..2", s(2))
    };
    let mut events = vec![swap, stands.clone(), superseded, again.clone(), watched.clone()];
    let of_files = |mut fact: Event, files: &[&str]| {
        fact.attributes.insert(attribute::STALE_FILES.to_owned(), files.into());
        fact
    };
    let read_of = |n, pod: &str, file: &str| {
        let mut read = volume(n, Kind::ConfigRead, pod, "..2", s(40));
        read.attributes.insert(attribute::FILE.to_owned(), file.into());
        read
    };
    let half = of_files(stale(16, "half", "..2", "not_reopened", s(31)), &["a", "b"]);
    let whole = of_files(stale(17, "whole", "..2", "not_reopened", s(31)), &["a", "b"]);
    events.extend([half.clone(), whole, read_of(18, "half", "a")]);
    events.extend([read_of(19, "whole", "a"), read_of(20, "whole", "b")]);
    for group in [read_later, read_newer, restarted, ended, sub_path.clone()] {
        events.extend(group);
    }
    let edges = edges(&events);
    let mut agent = setup.agent("node1").await;
    agent.deliver(1, items(&events, &edges)).await;
    let expected = names(&[&watched, &stands, &sub_path[0], &half, &again]);

    let request = || proto::TimelineRequest { standing: true, with_edges: true, ..Default::default() };
    let from_memory = ask(&setup, request()).await;
    assert_eq!(ids(&from_memory), expected, "whatever namespace, in order of time");
    let rules: BTreeSet<_> = from_memory.edges.iter().map(|e| e.rule_id.as_str()).collect();
    assert_eq!(
        rules,
        BTreeSet::from(["config_swapped.config_stale", "config_swapped.config_watched"]),
        "the swap is named"
    );
    let elsewhere = proto::TimelineRequest { namespace: "bank".to_owned(), ..request() };
    assert!(ask(&setup, elsewhere).await.events.is_empty());
    let only = proto::TimelineRequest { kinds: vec!["config_watched".to_owned()], ..request() };
    assert_eq!(ids(&ask(&setup, only).await), names(&[&watched]));
    let of_pod = proto::TimelineRequest {
        namespace: "shop".to_owned(),
        pod: "stands".to_owned(),
        limit: 1,
        ..request()
    };
    let of_pod = ask(&setup, of_pod).await;
    assert_eq!((ids(&of_pod), of_pod.truncated), (names(&[&stands]), true));

    let path = catalog(&setup).await;
    drop(agent);
    setup.stop().await;
    assert_eq!(by_sql(&path, "SELECT event_id::VARCHAR FROM stale_configs()"), expected);
    let swapped = "SELECT (swapped_at IS NOT NULL)::VARCHAR || ' ' || coalesce(after_s::VARCHAR, '') || ' ' || \
                   volume || ' ' || coalesce(object_name, '') FROM stale_configs()";
    assert_eq!(
        by_sql(&path, swapped),
        [
            "true  flags ",
            "true 30.0 flags flags",
            "false 30.0 flags flags",
            "false 30.0 flags flags",
            "false 30.0 flags flags",
        ]
    );
    setup.start().await;
    assert_eq!(ids(&ask(&setup, request()).await), expected, "from segments");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oom_kills_are_the_same_everywhere() {
    let mut setup = Setup::unwatched().await;
    let t = now().plus_micros(-60_000_000);
    let episode = event(1, Kind::OomEpisode, "a", t);
    let chosen = oom_kill(2, "a", "chosen", "pod", &episode, t.plus_micros(100));
    let group = oom_kill(3, "a", "group", "pod", &episode, t.plus_micros(200));
    let other_episode = event(4, Kind::OomEpisode, "b", t.plus_micros(1_000_000));
    let other = oom_kill(5, "b", "chosen", "container", &other_episode, t.plus_micros(1_000_100));
    let events = [episode, chosen.clone(), group.clone(), other_episode, other.clone()];
    let mut agent = setup.agent("node1").await;
    agent.deliver(1, items(&events, &edges(&events))).await;
    drop(agent);

    let request = |attributes: &[(&str, &str)]| proto::TimelineRequest {
        kinds: vec!["oom_kill".to_owned()],
        attributes: attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Default::default()
    };
    for place in ["memory", "segments"] {
        assert_eq!(ids(&ask(&setup, request(&[])).await), names(&[&chosen, &group, &other]), "{place}");
        let of_level = request(&[(attribute::OOM_LEVEL, "pod")]);
        assert_eq!(ids(&ask(&setup, of_level).await), names(&[&chosen, &group]), "{place}");
        let of_both = request(&[(attribute::OOM_LEVEL, "pod"), (attribute::OOM_ROLE, "group")]);
        assert_eq!(ids(&ask(&setup, of_both).await), names(&[&group]), "{place}");
        let number = request(&[(attribute::OOM_ALLOCATOR_PID, "4100")]);
        assert_eq!(ask(&setup, number).await.events.len(), 3, "{place}: a number is compared by its digits");
        let odd = request(&[("no \"such' attribute\\", "x")]);
        assert!(ask(&setup, odd).await.events.is_empty(), "{place}");
        let pod =
            proto::TimelineRequest { namespace: "shop".to_owned(), pod: "b".to_owned(), ..request(&[]) };
        assert_eq!(ids(&ask(&setup, pod).await), names(&[&other]), "{place}");
        setup.stop().await;
        setup.start().await;
    }
    let path = catalog(&setup).await;
    let sql = "SELECT event_id::VARCHAR || ' ' || role || ' ' || level || ' ' || command || ' ' || rss_bytes || ' ' || \
               allocator || ' ' || allocator_pid FROM oom_kills()";
    let row = |e: &Event, role, level| format!("{} {role} {level} memhog 60004096 writer 4100", e.event_id);
    assert_eq!(
        by_sql(&path, sql),
        [row(&chosen, "chosen", "pod"), row(&group, "group", "pod"), row(&other, "chosen", "container")]
    );
    assert_eq!(by_sql(&path, "SELECT count(DISTINCT episode_id)::VARCHAR FROM oom_kills()"), ["2"]);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_means_nothing_is_refused() {
    let mut setup = Setup::unwatched().await;
    let mut memory = setup.memory().await;
    for (request, field) in [
        (proto::TimelineRequest::default(), "namespace"),
        (proto::TimelineRequest { kinds: vec!["oom".to_owned()], ..Default::default() }, "kinds"),
        (
            proto::TimelineRequest {
                standing: true,
                kinds: vec!["oom_kill".to_owned()],
                ..Default::default()
            },
            "kinds",
        ),
        (
            proto::TimelineRequest {
                kinds: vec!["oom_kill".to_owned()],
                pod: "checkout".to_owned(),
                ..Default::default()
            },
            "namespace",
        ),
    ] {
        let refused = memory.timeline(request).await.expect_err("malformed");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().starts_with(field), "{}", refused.message());
    }
    setup.stop().await;
}
