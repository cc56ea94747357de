//! Answers: the causal tree, the reason where there is none, and errors that say what to do.

use std::collections::BTreeSet;

use aftertrace_api::proto;
use aftertrace_api::proto::item::Item;
use aftertrace_model::{Event, EventId, Gap, GapReason, Kind, Occurrence, Severity, attribute};
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use uuid::Uuid;

use crate::harness::{Bearer, Setup, event, items, now, oom_story, timeline, why};

pub(crate) fn gap(component: &str) -> Gap {
    Gap {
        gap_id: Uuid::new_v4(),
        cluster: String::new(),
        node: None,
        component: component.to_owned(),
        reason: GapReason::RingFull,
        // From before any fact made just now, however slow the machine is.
        from: now().plus_micros(-1_000_000),
        to: now(),
        count: 3,
        detail: "three records did not fit".to_owned(),
        recorded_at: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_gives_the_chain_of_the_last_failure_with_its_gaps() {
    let mut setup = Setup::unwatched().await;
    let (events, edges) = oom_story("checkout", 1, now());
    let mut sent = items(&events, &edges);
    sent.push(Item::Gap((&gap("kernel/oom")).into()));
    setup.agent("node1").await.deliver(1, sent).await;
    let answer = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    assert_eq!(answer.anchor_id, events[3].event_id.0.as_bytes(), "the termination is the newest failure");
    let kinds: Vec<_> = answer.events.iter().map(|e| e.kind.as_str()).collect();
    assert_eq!(kinds, ["memory_pressure", "oom_episode", "oom_kill", "container_terminated"]);
    let grades: Vec<_> = answer.edges.iter().map(|e| (e.rule_id.as_str(), e.grade.as_str())).collect();
    assert_eq!(
        grades,
        [
            ("memory_pressure.oom_episode", "inferred"),
            ("oom_episode.oom_kill", "proven"),
            ("oom_kill.container_terminated", "identified"),
        ]
    );
    assert_eq!(answer.no_cause_because, "");
    assert!(answer.gaps.iter().any(|g| g.reason == "ring_full" && g.node.as_deref() == Some("node1")));
    assert!(answer.as_of.expect("given").wal_position > 0);
    assert!(answer.remediation.iter().any(|r| r.contains("memory limit")));
    let by_id = proto::WhyRequest { event_id: answer.anchor_id.clone(), ..Default::default() };
    let same = setup.memory().await.why(by_id).await.expect("known").into_inner();
    assert_eq!(same.edges, answer.edges);
    setup.stop().await;
}

/// The edges that the SQL macro `why` shows, as pairs of ids.
fn edges_by_sql(catalog: &str, pod: &str) -> BTreeSet<(String, String)> {
    let config = duckdb::Config::default().access_mode(duckdb::AccessMode::ReadOnly).expect("a setting");
    let catalog = duckdb::Connection::open_with_flags(catalog, config).expect("the catalog was published");
    let mut query = catalog
        .prepare(
            "SELECT cause_id::VARCHAR, effect_id::VARCHAR FROM why('shop', ?) WHERE cause_id IS NOT NULL",
        )
        .expect("the macro is there");
    let rows = query.query_map([pod], |row| Ok((row.get(0)?, row.get(1)?))).expect("it answers");
    rows.collect::<Result<_, _>>().expect("rows")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_gives_the_same_chain() {
    let mut setup = Setup::unwatched().await;
    let at = now();
    let (events, edges) = oom_story("checkout", 1, at);
    // A second victim of the same episode, an older story, and a later swap: none of them is this chain.
    let sibling = Event { episode_id: Some(events[1].event_id), ..event(50, Kind::OomKill, "other", at) };
    let (old_events, old_edges) = oom_story("checkout", 20, at.plus_micros(-100_000_000));
    let swap = event(60, Kind::ConfigSwapped, "checkout", at.plus_micros(1_000_000));
    let mut agent = setup.agent("node1").await;
    agent.deliver(20, items(&old_events, &old_edges)).await;
    agent.deliver(1, items(&events, &edges)).await;
    agent.deliver(50, items(&[sibling, swap], &[])).await;
    let answer = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    let text = |id: &[u8]| Uuid::from_slice(id).expect("an id").to_string();
    let told: BTreeSet<_> = answer.edges.iter().map(|e| (text(&e.cause_id), text(&e.effect_id))).collect();
    assert_eq!((told.len(), answer.anchor_id.as_slice()), (3, events[3].event_id.0.as_bytes().as_slice()));
    let status = setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner();
    setup.stop().await;
    assert_eq!(edges_by_sql(&status.catalog, "checkout"), told);
}

/// The event of depth 0 that the SQL macro `why` shows.
fn anchor_by_sql(catalog: &str, pod: &str) -> Option<String> {
    let config = duckdb::Config::default().access_mode(duckdb::AccessMode::ReadOnly).expect("a setting");
    let catalog = duckdb::Connection::open_with_flags(catalog, config).expect("the catalog was published");
    let mut query = catalog
        .prepare("SELECT event_id::VARCHAR FROM why('shop', ?) WHERE depth = 0")
        .expect("the macro is there");
    let mut rows = query.query([pod]).expect("it answers");
    rows.next().expect("rows").map(|row| row.get(0).expect("an id"))
}

/// Each pod's anchor is the fact that its name says, over gRPC and in SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_why_starts_from_is_the_newest_of_the_surest_sort() {
    let mut setup = Setup::unwatched().await;
    let t = now().plus_micros(-100_000_000);
    let mut sequence = 0;
    let mut fact = |pod: &str, kind, second: i64| {
        sequence += 1;
        event(sequence, kind, pod, t.plus_micros(second * 1_000_000))
    };
    let by_signal = |mut e: Event, episode: Option<EventId>| {
        e.attributes.insert(attribute::EXIT_SIGNAL.to_owned(), 9.into());
        e.episode_id = episode;
        e
    };
    let with_result = |mut e: Event, name: &str, result: &str| {
        e.reason = Some(name.to_owned());
        e.attributes.insert(attribute::SIGNAL_RESULT.to_owned(), result.into());
        e
    };
    let signal = |e: Event, name: &str| with_result(e, name, attribute::SIGNAL_DELIVERED);
    // A status: the kill below comes within its second.
    let floored = |mut e: Event| {
        e.occurred.latest = e.occurred.at.plus_micros(999_999);
        e
    };
    let expected = [
        ("sigkill", signal(fact("sigkill", Kind::ProcessKilled, 1), "SIGKILL")),
        ("sigterm", signal(fact("sigterm", Kind::ProcessKilled, 1), "SIGTERM")),
        ("stale", fact("stale", Kind::ConfigStale, 1)),
        ("exited", by_signal(fact("exited", Kind::ProcessExited, 1), None)),
        ("killed", fact("killed", Kind::OomKill, 1)),
        ("swapped", fact("swapped", Kind::ConfigSwapped, 1)),
        ("ended", floored(fact("ended", Kind::ContainerTerminated, 1))),
    ];
    let mut events: Vec<_> = expected.iter().map(|(_, e)| e.clone()).collect();
    // Later, and less to whoever asks.
    let episode = Some(EventId(Uuid::from_u128(5)));
    let killed = signal(fact("ended", Kind::ProcessKilled, 1), "SIGKILL");
    let half = Occurrence::within(killed.occurred.at.plus_micros(500_000), 50);
    events.extend([
        Event { occurred: half, ..killed },
        fact("sigkill", Kind::ConfigStale, 2),
        fact("stale", Kind::ConfigSwapped, 2),
        by_signal(fact("killed", Kind::ProcessExited, 2), episode),
        signal(fact("killed", Kind::ProcessKilled, 3), "SIGTERM"),
        fact("swapped", Kind::ConfigRead, 2),
        fact("swapped", Kind::ProcessExited, 3),
        Event { severity: Severity::Info, ..fact("swapped", Kind::ConfigStale, 4) },
        with_result(fact("swapped", Kind::ProcessKilled, 5), "SIGTERM", "ignored"),
        Event { severity: Severity::Info, ..fact("swapped", Kind::ContainerTerminated, 4) },
    ]);
    setup.agent("node1").await.deliver(1, items(&events, &[])).await;
    for (pod, anchor) in &expected {
        let answer = setup.memory().await.why(why(pod)).await.expect("known").into_inner();
        assert_eq!(answer.anchor_id, anchor.event_id.0.as_bytes(), "{pod}");
    }
    let status = setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner();
    setup.stop().await;
    for (pod, anchor) in &expected {
        assert_eq!(anchor_by_sql(&status.catalog, pod), Some(anchor.event_id.to_string()), "{pod}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cause_the_answer_says_why() {
    let mut setup = Setup::unwatched().await;
    let ended = Event {
        exit_code: Some(137),
        reason: Some("OOMKilled".to_owned()),
        ..event(1, Kind::ContainerTerminated, "checkout", now())
    };
    let mut agent = setup.agent("node1").await;
    agent.deliver(1, items(&[ended], &[])).await;
    drop(agent);
    let answer = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    assert!(answer.edges.is_empty());
    let told = answer.no_cause_because;
    assert!(told.contains("no OOM kill of the kernel is recorded") && told.contains("node1"), "{told}");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_cannot_be_answered_names_the_remedy() {
    let mut setup = Setup::unwatched().await;
    let mut memory = setup.memory().await;
    let unknown = memory.why(why("nobody")).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("shop/nobody") && unknown.message().contains("aft timeline"));
    let nameless = memory.why(proto::WhyRequest::default()).await.expect_err("malformed");
    assert_eq!((nameless.code(), nameless.message().starts_with("namespace")), (Code::InvalidArgument, true));
    let short = proto::WhyRequest { event_id: vec![1], ..Default::default() };
    assert_eq!(memory.why(short).await.expect_err("malformed").code(), Code::InvalidArgument);
    let backwards = proto::TimelineRequest { since_us: Some(2), until_us: Some(1), ..timeline("a") };
    assert_eq!(memory.timeline(backwards).await.expect_err("malformed").code(), Code::InvalidArgument);
    let beyond = proto::TimelineRequest { until_us: Some(i64::MAX), ..timeline("a") };
    let beyond = memory.timeline(beyond).await.expect_err("malformed");
    assert!(beyond.message().starts_with("until"), "{}", beyond.message());
    let pattern = proto::HistoryRequest { pattern: "P999".to_owned(), ..Default::default() };
    let pattern = memory.history(pattern).await.expect_err("unknown");
    assert!(pattern.code() == Code::NotFound && pattern.message().contains("P001"), "{}", pattern.message());
    let kind = proto::StateAtRequest { kind: "Gadget".to_owned(), ..Default::default() };
    let kind = memory.state_at(kind).await.expect_err("malformed");
    assert!(
        kind.code() == Code::InvalidArgument && kind.message().contains("ConfigMap"),
        "{}",
        kind.message()
    );
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_counts_what_segments_and_memory_hold_once() {
    let mut setup = Setup::unwatched().await;
    let mut agent = setup.agent("node1").await;
    for n in 0..5 {
        let (events, edges) = oom_story("checkout", 1 + 10 * n, now());
        agent.deliver(1 + 10 * n, items(&events, &edges)).await;
        // Some of these fall before a flush, some after.
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let asked = proto::HistoryRequest { pattern: "p001".to_owned(), limit: 2, ..Default::default() };
        let told = setup.memory().await.history(asked).await.expect("known").into_inner();
        assert_eq!(told.total, n + 1);
        assert_eq!(told.occurrences.len(), usize::try_from(n + 1).expect("small").min(2));
        assert_eq!((told.groups.len(), told.groups[0].count), (1, n + 1));
        assert_eq!(told.groups[0].workload, "Pod/checkout");
    }
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_knows_each_pattern_and_kills_outside_any_pod() {
    let mut setup = Setup::unwatched().await;
    let outside = Event { pod: None, container: None, ..event(1, Kind::OomKill, "x", now()) };
    let signalled = |n, result: &str| {
        let mut kill = event(n, Kind::ProcessKilled, "checkout", now());
        kill.attributes.insert(attribute::SIGNAL_RESULT.to_owned(), result.into());
        kill
    };
    let events = [
        outside,
        signalled(2, attribute::SIGNAL_DELIVERED),
        event(3, Kind::ConfigSwapped, "checkout", now()),
        signalled(4, "ignored"),
    ];
    setup.agent("node1").await.deliver(1, items(&events, &[])).await;
    for place in ["memory", "segments"] {
        for (pattern, owner) in [("P001", "Node/node1"), ("P006", "Pod/checkout"), ("P003", "Pod/checkout")] {
            let asked = proto::HistoryRequest { pattern: pattern.to_owned(), ..Default::default() };
            let told = setup.memory().await.history(asked).await.expect("known").into_inner();
            let owners: Vec<_> = told.groups.iter().map(|g| (g.workload.as_str(), g.count)).collect();
            assert_eq!(owners, [(owner, 1)], "{pattern} from {place}");
            assert!(!told.remediation.is_empty(), "{pattern}");
        }
        setup.stop().await;
        setup.start().await;
    }
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_need_their_token_and_health_needs_none() {
    let mut setup = Setup::unwatched().await;
    let channel = setup.client().channel().await;
    let mut agent = proto::memory_client::MemoryClient::with_interceptor(
        channel.clone(),
        Bearer::new(&setup.client().read("tokens/agent.token")),
    );
    let refused = agent.status(proto::StatusRequest {}).await.expect_err("an agent may not read");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("reader.token"), "{}", refused.message());
    let service = "aftertrace.v1.Memory".to_owned();
    let health = HealthClient::new(channel).check(HealthCheckRequest { service }).await.expect("open to all");
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    let services = reflected_services(setup.client().channel().await).await;
    for service in ["aftertrace.v1.Ingest", "aftertrace.v1.Memory", "grpc.health.v1.Health"] {
        assert!(services.iter().any(|s| s == service), "{service} is not in {services:?}");
    }
    setup.stop().await;
}

async fn reflected_services(channel: tonic::transport::Channel) -> Vec<String> {
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let answers = client.server_reflection_info(tokio_stream::iter([question])).await.expect("open to all");
    let answer = answers.into_inner().message().await.expect("an answer").expect("one");
    match answer.message_response.expect("content") {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("no list but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_tells_what_is_degraded() {
    let mut setup = Setup::unwatched().await;
    let status = setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner();
    assert!(status.degraded.iter().any(|d| d.contains("no agent was heard")), "{:?}", status.degraded);
    assert!(status.degraded.iter().any(|d| d.contains("--no-watch")), "{:?}", status.degraded);
    assert!(status.rss_bytes > 1_000_000);
    assert!(status.catalog.ends_with("memory.duckdb"));
    setup.stop().await;
}
