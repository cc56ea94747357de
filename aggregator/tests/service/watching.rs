//! The cluster's objects: changes told once, with their keys, over restarts and outages.

use aftertrace_api::proto;
use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::api::{Cluster, Resource};
use serde_json::json;

use crate::harness::{Setup, config_map, eventually, now, pod, timeline};

impl Setup {
    pub(crate) async fn watches_are_up(&self) {
        let memory = self.memory().await;
        eventually("the watches are up", || {
            let mut memory = memory.clone();
            async move {
                let status = memory.status(proto::StatusRequest {}).await.expect("answers").into_inner();
                let up = status.watches.len() == 2 && status.watches.values().all(|w| w == "ok");
                up.then_some(())
            }
        })
        .await;
    }

    /// Waits until the state of ConfigMap `app` satisfies.
    async fn state(&self, wanted: impl Fn(&proto::ObjectVersion) -> bool) -> proto::StateAtResponse {
        let memory = self.memory().await;
        eventually("the state is as wanted", || {
            let mut memory = memory.clone();
            let asked = proto::StateAtRequest {
                kind: "configmap".to_owned(),
                namespace: "shop".to_owned(),
                name: "app".to_owned(),
                at_us: None,
            };
            let wanted = &wanted;
            async move {
                let answer = memory.state_at(asked).await.expect("answers").into_inner();
                answer.version.as_ref().is_some_and(wanted).then_some(answer)
            }
        })
        .await
    }

    /// `change: keys` of each `config_changed`, and `deleted`, oldest first.
    async fn changes(&self) -> Vec<String> {
        let told = self.memory().await.timeline(timeline("")).await.expect("answers").into_inner();
        let line = |e: &proto::Event| match e.kind.as_str() {
            "config_changed" => {
                let attributes: serde_json::Value = serde_json::from_str(&e.attributes).expect("JSON");
                Some(format!("{}: {}", attributes["change"].as_str()?, attributes["changed_keys"]))
            }
            "object_deleted" => Some("deleted".to_owned()),
            _ => None,
        };
        told.events.iter().filter_map(line).collect()
    }
}

fn app() -> ObjectKey {
    ObjectKey::new("shop", "app")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told_once_with_its_keys_over_restarts_and_relists() {
    let cluster = Cluster::new();
    cluster.apply(config_map(json!({"a": "1", "b": "hunter2"}))).expect("applied");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    assert_eq!(setup.changes().await, [""; 0], "what was there before is no change");
    cluster.patch(Resource::ConfigMaps, &app(), &json!({"data": {"a": "2", "c": "3"}})).expect("patched");
    let answer = setup.state(|v| v.changed_paths == ["data.a", "data.c"]).await;
    let version = answer.version.expect("known");
    assert!(
        !version.state.contains("hunter2") && version.state.contains("\"data\":[\"a\",\"b\",\"c\"]"),
        "{version:?}"
    );
    assert_eq!(version.content.expect("hashed").keys.len(), 3);
    let once = [r#"modified: ["a","c"]"#];
    assert_eq!(setup.changes().await, once);
    setup.stop().await;
    setup.start().await;
    setup.watches_are_up().await;
    assert_eq!(setup.changes().await, once, "after a restart");
    cluster.expire_watches();
    cluster.patch(Resource::ConfigMaps, &app(), &json!({"data": {"b": "x"}})).expect("patched");
    setup.state(|v| v.changed_paths == ["data.b"]).await;
    assert_eq!(setup.changes().await, [once[0], r#"modified: ["b"]"#], "after a relist");
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_while_nobody_watched_is_inferred() {
    let cluster = Cluster::new();
    cluster.apply(config_map(json!({"a": "1"}))).expect("applied");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    setup.state(|v| !v.deleted).await;
    setup.stop().await;
    cluster.remove(Resource::ConfigMaps, &app()).expect("removed");
    setup.start().await;
    let answer = setup.state(|v| v.deleted).await;
    assert!(answer.not_found_because.contains("deleted"), "{}", answer.not_found_because);
    assert_eq!(setup.changes().await, ["deleted"]);
    let told = setup.memory().await.timeline(timeline("")).await.expect("answers").into_inner();
    let deleted = told.events.iter().find(|e| e.kind == "object_deleted").expect("told");
    assert!(deleted.attributes.contains("inferred") && deleted.earliest_us < deleted.latest_us);
    assert!(told.gaps.iter().any(|g| g.reason == "aggregator_down"));
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_api_server_is_a_gap_and_is_survived() {
    let cluster = Cluster::new();
    cluster.apply(config_map(json!({"a": "1"}))).expect("applied");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    let from = now();
    setup.api().pause().await.expect("paused");
    let memory = setup.memory().await;
    eventually("the outage is told", || {
        let mut memory = memory.clone();
        async move {
            let status = memory.status(proto::StatusRequest {}).await.expect("answers").into_inner();
            let down = status.watches.get("configmaps").is_some_and(|w| w.starts_with("down since"));
            (down && status.degraded.iter().any(|d| d.contains("reachable"))).then_some(())
        }
    })
    .await;
    cluster.patch(Resource::ConfigMaps, &app(), &json!({"data": {"a": "2"}})).expect("patched");
    setup.api().resume().await.expect("resumed");
    setup.state(|v| v.changed_paths == ["data.a"]).await;
    setup.watches_are_up().await;
    let asked = proto::TimelineRequest { since_us: Some(from.as_micros()), ..timeline("") };
    let told = setup.memory().await.timeline(asked).await.expect("answers").into_inner();
    assert!(
        told.gaps.iter().any(|g| g.reason == "watch_down" && g.component == "aggregator/watch/configmaps")
    );
    setup.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_state_is_kept_without_what_a_person_typed_into_it() {
    let cluster = Cluster::new();
    cluster.create(Resource::Pods, pod("checkout", "node1")).expect("created");
    let mut setup = Setup::watching(cluster.clone()).await;
    setup.watches_are_up().await;
    let before = now();
    let key = ObjectKey::new("shop", "checkout");
    cluster.patch(Resource::Pods, &key, &json!({"status": {"phase": "Failed"}})).expect("patched");
    let asked = |at_us| proto::StateAtRequest {
        kind: "Pod".to_owned(),
        namespace: "shop".to_owned(),
        name: "checkout".to_owned(),
        at_us,
    };
    let memory = setup.memory().await;
    let failed = eventually("the failure is seen", || {
        let mut memory = memory.clone();
        let asked = asked(None);
        async move {
            let version = memory.state_at(asked).await.expect("answers").into_inner().version?;
            (version.changed_paths == ["status.phase"]).then_some(version)
        }
    })
    .await;
    assert!(
        failed.state.contains("\"phase\":\"Failed\"") && !failed.state.contains("hunter2"),
        "{}",
        failed.state
    );
    let earlier =
        memory.clone().state_at(asked(Some(before.as_micros()))).await.expect("answers").into_inner();
    let earlier_state = earlier.version.expect("known").state;
    assert!(earlier_state.contains("\"phase\":\"Running\""), "{earlier_state}");
    assert_eq!(earlier.valid_to_us, Some(failed.valid_from_us));
    let well =
        memory.clone().why(crate::harness::why("checkout")).await.expect("the pod is known").into_inner();
    assert!(well.anchor_id.is_empty() && well.no_cause_because.starts_with("no failure"), "{well:?}");
    cluster.remove(Resource::Pods, &key).expect("removed");
    eventually("the deletion is told", || {
        let mut memory = memory.clone();
        async move {
            let told = memory.timeline(timeline("checkout")).await.expect("answers").into_inner();
            told.events.iter().any(|e| e.kind == "object_deleted").then_some(())
        }
    })
    .await;
    setup.stop().await;
}
