//! The played API server before an unmodified client: list, watch, bookmarks, 410, selectors, outage.

#![expect(
    clippy::unwrap_used,
    reason = "in the functions that tests share, too, a surprise is a failed test"
)]

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::api::{ApiServer, Cluster, GoneStyle, Resource, ServerConfig};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

/// Far longer than anything here takes; reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

async fn start(config: ServerConfig) -> (ApiServer, Cluster, Client) {
    let cluster = Cluster::new();
    let server = ApiServer::start(cluster.clone(), config).await.unwrap();
    let client = server.client().unwrap();
    (server, cluster, client)
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [{ "name": "app", "image": "x" }] },
    })
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    let item = tokio::time::timeout(DEADLINE, stream.next()).await;
    item.expect("the stream said nothing for a long time").expect("the stream ended")
}

/// Reads watcher events as short words until `last` comes.
async fn read_until(
    stream: &mut (impl Stream<Item = watcher::Result<Event<Pod>>> + Unpin),
    last: &str,
) -> Vec<String> {
    let mut words = Vec::new();
    while words.last().map(String::as_str) != Some(last) {
        words.push(match next(stream).await {
            Ok(Event::Init) => "init".to_owned(),
            Ok(Event::InitApply(pod)) => format!("init {}", pod.name_any()),
            Ok(Event::InitDone) => "init done".to_owned(),
            Ok(Event::Apply(pod)) => format!("apply {}", pod.name_any()),
            Ok(Event::Delete(pod)) => format!("delete {}", pod.name_any()),
            Err(error) => format!("error {}", error_code(&error)),
        });
    }
    words
}

fn error_code(error: &watcher::Error) -> String {
    match error {
        watcher::Error::WatchError(status) => status.code.to_string(),
        watcher::Error::WatchStartFailed(_) => "start".to_owned(),
        watcher::Error::WatchFailed(_) => "failed".to_owned(),
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_creates_patches_lists_and_deletes() {
    let (_server, _, client) = start(ServerConfig::default()).await;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    let config: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": "c" }, "data": { "a": "1", "b": "2" } }))
            .unwrap();
    let created = api.create(&PostParams::default(), &config).await.unwrap();
    assert!(created.uid().is_some());
    let patch = Patch::Merge(json!({ "data": { "a": "3", "b": null } }));
    let patched = api.patch("c", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.data.unwrap().into_iter().collect::<Vec<_>>(), [("a".into(), "3".into())]);
    assert!(patched.metadata.resource_version > created.metadata.resource_version);
    let all: Api<ConfigMap> = Api::all(client);
    assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 1);
    api.delete("c", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("c").await.unwrap().is_none());
}

#[tokio::test]
async fn a_missing_object_and_an_unserved_kind_are_404() {
    let (_server, _, client) = start(ServerConfig::default()).await;
    let api: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let kube::Error::Api(status) = api.get("none").await.unwrap_err() else { panic!("not an API error") };
    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
    let api: Api<k8s_openapi::api::core::v1::Service> = Api::all(client);
    assert!(
        matches!(api.list(&ListParams::default()).await.unwrap_err(), kube::Error::Api(status) if status.code == 404)
    );
}

#[tokio::test]
async fn discovery_is_understood() {
    let (_server, _, client) = start(ServerConfig::default()).await;
    assert_eq!(client.apiserver_version().await.unwrap().git_version, "v1.36.2");
    let groups: BTreeSet<String> =
        client.list_api_groups().await.unwrap().groups.into_iter().map(|group| group.name).collect();
    assert!(groups.contains("apps"), "{groups:?}");
    let core = client.list_core_api_resources("v1").await.unwrap();
    assert!(core.resources.iter().any(|resource| resource.name == "pods" && resource.namespaced));
}

async fn check_watcher(config: watcher::Config) {
    let (server, cluster, client) = start(ServerConfig::default()).await;
    cluster.apply(pod("first", "node1")).unwrap();
    let mut stream = pin!(watcher(Api::<Pod>::all(client), config));
    assert_eq!(read_until(&mut stream, "init done").await, ["init", "init first", "init done"]);
    cluster.apply(pod("second", "node1")).unwrap();
    cluster.remove(Resource::Pods, &ObjectKey::new("shop", "first")).unwrap();
    assert_eq!(read_until(&mut stream, "delete first").await, ["apply second", "delete first"]);

    // A stream that just ends is resumed where it was.
    cluster.disconnect_watches();
    cluster.apply(pod("third", "node1")).unwrap();
    assert_eq!(read_until(&mut stream, "apply third").await, ["apply third"]);

    // 410 in the stream: the client lists again.
    cluster.expire_watches();
    let words = read_until(&mut stream, "init done").await;
    assert_eq!(words, ["error 410", "init", "init second", "init third", "init done"]);

    // An outage: errors, then everything again or the rest, but nothing is missed.
    server.pause().await.unwrap();
    cluster.apply(pod("fourth", "node1")).unwrap();
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err(), "connections are refused");
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.resume().await.unwrap();
    let words = read_until(&mut stream, "apply fourth").await;
    assert_eq!(words.last().unwrap(), "apply fourth");
}

#[tokio::test]
async fn a_watcher_follows_by_list_and_watch() {
    check_watcher(watcher::Config::default()).await;
}

#[tokio::test]
async fn a_watcher_follows_by_streaming_list() {
    check_watcher(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn a_field_selector_sees_pods_come_and_go() {
    let (_server, cluster, client) = start(ServerConfig::default()).await;
    cluster.apply(pod("other", "node2")).unwrap();
    let config = watcher::Config::default().fields("spec.nodeName=node1");
    let mut stream = pin!(watcher(Api::<Pod>::all(client), config));
    assert_eq!(read_until(&mut stream, "init done").await, ["init", "init done"]);
    cluster.apply(pod("web", "")).unwrap();
    cluster.apply(pod("web", "node1")).unwrap();
    cluster.apply(pod("web", "node2")).unwrap();
    assert_eq!(read_until(&mut stream, "delete web").await, ["apply web", "delete web"]);
}

#[tokio::test]
async fn bookmarks_carry_progress_and_can_be_resumed_from() {
    let config = ServerConfig { bookmark_interval: Duration::from_millis(20), ..ServerConfig::default() };
    let (_server, cluster, client) = start(config).await;
    cluster.apply(pod("web", "node2")).unwrap();
    let api: Api<Pod> = Api::all(client);
    let params = WatchParams::default().fields("spec.nodeName=node1").timeout(20);
    let mut stream = pin!(api.watch(&params, "0").await.unwrap());
    let WatchEvent::Bookmark(bookmark) = next(&mut stream).await.unwrap() else { panic!("not a bookmark") };
    assert_eq!(bookmark.metadata.resource_version, cluster.revision().to_string());
    cluster.compact();
    let mut resumed = pin!(api.watch(&params, &bookmark.metadata.resource_version).await.unwrap());
    cluster.apply(pod("web", "node1")).unwrap();
    loop {
        match next(&mut resumed).await.unwrap() {
            WatchEvent::Added(pod) => break assert_eq!(pod.name_any(), "web"),
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_compacted_version_is_gone_in_both_styles() {
    for gone in [GoneStyle::InStream, GoneStyle::HttpStatus] {
        let (_server, cluster, client) = start(ServerConfig { gone, ..ServerConfig::default() }).await;
        let old = cluster.apply(pod("web", "node1")).unwrap();
        cluster.apply(pod("web", "node2")).unwrap();
        cluster.compact();
        let api: Api<Pod> = Api::all(client);
        let code = match api.watch(&WatchParams::default(), &old.to_string()).await {
            Ok(stream) => match next(&mut pin!(stream)).await.unwrap() {
                WatchEvent::Error(status) => ("stream", status.code),
                other => panic!("{other:?}"),
            },
            Err(kube::Error::Api(status)) => ("status", status.code),
            Err(error) => panic!("{error}"),
        };
        let expected = if gone == GoneStyle::InStream { ("stream", 410) } else { ("status", 410) };
        assert_eq!(code, expected);
    }
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout() {
    let (_server, cluster, client) = start(ServerConfig::default()).await;
    let api: Api<Pod> = Api::all(client);
    let params = WatchParams::default().timeout(1).disable_bookmarks();
    let stream = api.watch(&params, &cluster.revision().to_string()).await.unwrap();
    let events: Vec<_> = tokio::time::timeout(DEADLINE, stream.try_collect()).await.unwrap().unwrap();
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test]
async fn pages_of_one_list_show_one_version() {
    let (_server, cluster, client) = start(ServerConfig::default()).await;
    for name in ["a", "b", "c"] {
        cluster.apply(pod(name, "node1")).unwrap();
    }
    let api: Api<Pod> = Api::all(client);
    let first = api.list(&ListParams::default().limit(2)).await.unwrap();
    cluster.remove(Resource::Pods, &ObjectKey::new("shop", "c")).unwrap();
    let token = first.metadata.continue_.clone().unwrap();
    let second = api.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    let names: Vec<String> = first.items.iter().chain(&second.items).map(ResourceExt::name_any).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
    assert_eq!(second.metadata.continue_, None);
}

#[tokio::test]
async fn secrets_can_be_watched_without_their_values() {
    let (_server, cluster, client) = start(ServerConfig::default()).await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "namespace": "shop", "name": "s" }, "data": { "password": "eA==" },
    });
    cluster.apply(secret).unwrap();
    let api: Api<k8s_openapi::api::core::v1::Secret> = Api::all(client);
    let list = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(list.items[0].name_any(), "s");
    assert!(!serde_json::to_string(&list).unwrap().contains("eA=="));
}
