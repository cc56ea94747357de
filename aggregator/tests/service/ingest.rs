//! What agents send: durable before acknowledged, once however often sent, refused where it must be.

use aftertrace_api::proto;
use aftertrace_api::proto::item::Item;
use aftertrace_api::proto::stream_request::Message as Request;
use aftertrace_api::proto::stream_response::Message as Response;
use aftertrace_model::Kind;
use aftertrace_stage::api::{Cluster, Resource};
use tonic::Code;

use crate::harness::{Setup, event, hello, items, now, oom_story, pod, timeline, why};

/// Facts and live edges of the story, without what differs by the moment of recording.
async fn remembered(setup: &Setup, name: &str) -> (Vec<proto::Event>, Vec<proto::Edge>) {
    let mut memory = setup.memory().await;
    let timeline = memory.timeline(timeline(name)).await.expect("known").into_inner();
    let why = memory.why(why(name)).await.expect("known").into_inner();
    let events = timeline.events.into_iter().map(|e| proto::Event { recorded_at_us: None, ..e }).collect();
    let edges = why.edges.into_iter().map(|e| proto::Edge { recorded_at_us: None, ..e }).collect();
    (events, edges)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let mut setup = Setup::unwatched().await;
    let (events, edges) = oom_story("checkout", 1, now());
    setup.agent("node1").await.deliver(1, items(&events, &edges)).await;
    let before = remembered(&setup, "checkout").await;
    assert_eq!((before.0.len(), before.1.len()), (4, 3), "four facts; two edges of the agent, one of ours");
    setup.stop().await;
    setup.start().await;
    assert_eq!(remembered(&setup, "checkout").await, before);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_twice_and_shuffled_it_is_the_same_memory() {
    let (events, edges) = oom_story("checkout", 1, now());
    let mut memories = Vec::new();
    for shuffled in [false, true] {
        let mut setup = Setup::unwatched().await;
        let mut agent = setup.agent("node1").await;
        let mut sent = items(&events, &edges);
        if shuffled {
            sent.reverse();
            sent.swap(0, 3);
        }
        agent.deliver(1, sent.clone()).await;
        agent.deliver(1, sent).await;
        memories.push(remembered(&setup, "checkout").await);
        let status =
            setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner();
        let agent = &status.agents[0];
        assert_eq!((agent.events, agent.duplicates), (4, 6), "the second time all six items were there");
        setup.stop().await;
    }
    assert_eq!(memories[0], memories[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_token_or_cluster_is_told_what_is_right() {
    let mut setup = Setup::unwatched().await;
    let refused = |token: String, hello: proto::Hello| {
        let setup = &setup;
        async move { setup.client().stream(&token, hello).await.err().expect("refused") }
    };
    let reader = refused(setup.client().read("tokens/reader.token"), hello("test", "node1")).await;
    assert_eq!(reader.code(), Code::PermissionDenied);
    assert!(reader.message().contains("agent.token"), "{}", reader.message());
    let guess = refused("guess".to_owned(), hello("test", "node1")).await;
    assert_eq!(guess.code(), Code::Unauthenticated);
    let token = setup.client().read("tokens/agent.token");
    let other = refused(token.clone(), hello("staging", "node1")).await;
    assert_eq!(other.code(), Code::FailedPrecondition);
    assert!(
        other.message().contains("\"test\"") && other.message().contains("\"staging\""),
        "{}",
        other.message()
    );
    let nameless = refused(token.clone(), hello("test", "")).await;
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let wordy = refused(token, proto::Hello { version: "x".repeat(65), ..hello("test", "node1") }).await;
    assert_eq!(wordy.code(), Code::InvalidArgument);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_and_a_future_item_are_counted_and_the_rest_goes_on() {
    let mut setup = Setup::unwatched().await;
    let good = event(1, Kind::OomKill, "checkout", now());
    let future = event(2, Kind::OomKill, "checkout", now().plus_micros(2 * 3_600 * 1_000_000));
    let broken = proto::Event { kind: "moon".to_owned(), ..(&good).into() };
    let sent = vec![Item::Event(broken), Item::Event((&future).into()), Item::Event((&good).into())];
    let mut agent = setup.agent("node1").await;
    agent.deliver(1, sent.clone()).await;
    agent.deliver(1, sent).await;
    let told = setup.memory().await.timeline(timeline("checkout")).await.expect("known").into_inner();
    assert_eq!(told.events.len(), 1);
    let mut reasons: Vec<_> = told.gaps.iter().map(|g| g.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["future_time", "record_malformed"], "each once, though sent twice");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fact_waits_for_its_pod_and_keeps_acknowledgements_in_order() {
    let cluster = Cluster::new();
    cluster.create(Resource::Pods, pod("known", "node1")).expect("created");
    cluster.create(Resource::Pods, pod("elsewhere", "node2")).expect("created");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    let mut agent = setup.agent("node1").await;
    agent.send(1, vec![Item::Event((&event(1, Kind::OomKill, "late", now())).into())]).await;
    agent.send(2, vec![Item::Event((&event(2, Kind::OomKill, "known", now())).into())]).await;
    agent.send(3, vec![Item::Event((&event(3, Kind::OomKill, "elsewhere", now())).into())]).await;
    // The fact about the known pod is there although the one before it waits.
    let mut memory = setup.memory().await;
    crate::harness::eventually("the second fact is remembered", || {
        let mut memory = memory.clone();
        async move {
            let told = memory.timeline(timeline("known")).await.ok()?.into_inner();
            told.events.iter().any(|e| e.kind == "oom_kill").then_some(())
        }
    })
    .await;
    cluster.create(Resource::Pods, pod("late", "node1")).expect("created");
    for sequence in 1..=3 {
        let ack = agent.next().await.expect("an acknowledgement");
        assert_eq!(ack, Response::Ack(proto::Ack { first_sequence: sequence, last_sequence: sequence }));
    }
    let late = memory.timeline(timeline("late")).await.expect("known").into_inner();
    assert!(late.events.iter().any(|e| e.kind == "oom_kill" && e.node.as_deref() == Some("node1")));
    let elsewhere = memory.timeline(timeline("elsewhere")).await.expect("known").into_inner();
    assert!(elsewhere.events.iter().all(|e| e.kind != "oom_kill"), "node1 may not speak of node2's pods");
    assert!(elsewhere.gaps.iter().any(|g| g.reason == "unauthorized"));
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hashing_key_goes_only_where_the_object_is_mounted() {
    let cluster = Cluster::new();
    cluster.create(Resource::Pods, pod("checkout", "node1")).expect("created");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    let wanted = |name: &str| {
        Request::ObjectKeyRequest(proto::ObjectKeyRequest {
            kind: "ConfigMap".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        })
    };
    let mut here = setup.agent("node1").await;
    let mut there = setup.agent("node2").await;
    here.say(wanted("secret-plans")).await;
    here.say(wanted("app")).await;
    there.say(wanted("app")).await;
    let Response::ObjectKey(key) = here.next().await.expect("the key") else { panic!("no key") };
    assert_eq!(
        (key.name.as_str(), key.key.len()),
        ("app", 32),
        "the one that is mounted, not the one before"
    );
    // node2 gets nothing until a pod of its own mounts the object: its next answer is the ack of this batch.
    there.deliver(1, vec![Item::Gap((&crate::questions::gap("agent/test")).into())]).await;
    cluster.create(Resource::Pods, pod("second", "node2")).expect("created");
    let Response::ObjectKey(same) = there.next().await.expect("the key") else { panic!("no key") };
    assert_eq!(same.key, key.key);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_streams_so_that_agents_come_again() {
    let mut setup = Setup::unwatched().await;
    let mut agent = setup.agent("node1").await;
    setup.stop().await;
    let ended = agent.next().await.expect_err("the stream ends");
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("shutting down"), "{}", ended.message());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_says_beside_its_facts_is_bounded() {
    let mut setup = Setup::unwatched().await;
    let mut agent = setup.agent("node1").await;
    let version = "x".repeat(300_000);
    agent.say(Request::Status(proto::AgentStatus { version, ..Default::default() })).await;
    let (events, edges) = oom_story("checkout", 1, now());
    agent.deliver(1, items(&events, &edges)).await;
    let status = setup.memory().await.status(proto::StatusRequest {}).await.expect("answers").into_inner();
    let agent_state = &status.agents[0];
    let version = agent_state.status.as_ref().map(|s| s.version.len());
    assert_eq!(agent_state.events, events.len() as u64, "its facts are kept");
    assert!(version.is_some_and(|bytes| bytes < 65), "a status of 300 kB is not: {version:?}");
    let name = "x".repeat(254);
    agent.say(Request::ObjectKeyRequest(proto::ObjectKeyRequest { name, ..Default::default() })).await;
    assert_eq!(agent.next().await.expect_err("refused").code(), Code::InvalidArgument);
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cannot_join_another_nodes_facts() {
    let mut setup = Setup::unwatched().await;
    let (events, edges) = oom_story("checkout", 1, now());
    setup.agent("node1").await.deliver(1, items(&events, &[])).await;
    let mut liar = setup.agent("node2").await;
    liar.deliver(1, items(&[], &edges)).await;
    let told = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    let by_agents = |told: &proto::WhyResponse| {
        told.edges.iter().filter(|e| e.rule_id == "oom_kill.container_terminated").count()
    };
    assert_eq!(by_agents(&told), 0);
    let refused = told.gaps.iter().filter(|g| g.reason == "unauthorized").count();
    let all = setup.memory().await.timeline(timeline("")).await.expect("known").into_inner();
    let refused_anywhere = all.gaps.iter().filter(|g| g.reason == "unauthorized").count();
    assert_eq!((refused, refused_anywhere), (0, edges.len()), "told as gaps of the node that said it");
    // From segments too: after a restart nothing of before is all in memory.
    setup.stop().await;
    setup.start().await;
    setup.agent("node2").await.deliver(10, items(&[], &edges)).await;
    let told = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    assert_eq!(by_agents(&told), 0);
    setup.agent("node1").await.deliver(10, items(&[], &edges)).await;
    let told = setup.memory().await.why(why("checkout")).await.expect("known").into_inner();
    assert_eq!(by_agents(&told), 1, "their own node may");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_stream_of_a_node_ends_its_first() {
    let mut setup = Setup::unwatched().await;
    let mut first = setup.agent("node1").await;
    let mut second = setup.agent("node1").await;
    first.deliver(1, items(&[event(1, Kind::OomKill, "checkout", now())], &[])).await;
    let mut third = setup.agent("node1").await;
    let ended = first.next().await.expect_err("the first ends");
    assert_eq!(ended.code(), Code::Aborted);
    for (sequence, agent) in [(2, &mut second), (3, &mut third)] {
        let fact = event(sequence, Kind::OomKill, "checkout", now());
        agent.deliver(sequence, items(&[fact], &[])).await;
    }
    let mut other = setup.agent("node2").await;
    other.deliver(4, items(&[event(4, Kind::OomKill, "other", now())], &[])).await;
    setup.stop().await;
}
