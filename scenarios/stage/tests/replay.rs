//! The recordings through the API server, as an unmodified client sees them.

#![expect(
    clippy::unwrap_used,
    reason = "in the functions that tests share, too, a surprise is a failed test"
)]

use std::pin::pin;
use std::time::Duration;

use aftertrace_stage::api::{ApiServer, Cluster, Resource, ServerConfig};
use aftertrace_stage::replay::recording::{LineKind, recordings_folder};
use aftertrace_stage::replay::{Player, Recording};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};

/// Far longer than anything here takes; reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

fn recording(name: &str) -> Option<Recording> {
    let folder = recordings_folder().join(name);
    if !folder.exists() {
        println!("SKIPPED: no recording at {}; set AFTERTRACE_SHARED", folder.display());
        return None;
    }
    Some(Recording::read(&folder).unwrap())
}

#[tokio::test]
async fn a_client_sees_the_recorded_watch_line_by_line() {
    for name in ["s01-oom-crashloop", "s03-volume-swap", "s06-shortlived"] {
        let Some(recording) = recording(name) else { return };
        let recorded: Vec<_> =
            recording.lines.iter().filter(|line| line.resource == Resource::Pods).cloned().collect();
        let cluster = Cluster::new();
        let mut player = Player::new(cluster.clone(), recording);
        let config =
            ServerConfig { bookmark_interval: Duration::from_secs(3_600), ..ServerConfig::default() };
        let server = ApiServer::start(cluster, config).await.unwrap();
        let api: Api<Pod> = Api::all(server.client().unwrap());
        let list = api.list(&ListParams::default()).await.unwrap();
        let from = list.metadata.resource_version.unwrap();
        let mut stream = pin!(api.watch(&WatchParams::default(), &from).await.unwrap());
        player.finish();
        for line in recorded {
            let event = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap().unwrap();
            let (kind, version) = match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    (LineKind::Put, pod.metadata.resource_version.unwrap())
                }
                WatchEvent::Deleted(pod) => (LineKind::Delete, pod.metadata.resource_version.unwrap()),
                WatchEvent::Bookmark(bookmark) => (LineKind::Bookmark, bookmark.metadata.resource_version),
                WatchEvent::Error(status) => panic!("{status:?}"),
            };
            assert_eq!((kind, version), (line.kind, line.revision().to_string()), "{name}");
        }
    }
}

#[tokio::test]
async fn the_last_state_is_the_recorded_one() {
    let Some(recording) = recording("s01-oom-crashloop") else { return };
    let cluster = Cluster::new();
    Player::new(cluster.clone(), recording).finish();
    let pods = cluster.list(Resource::Pods);
    let status = &pods[0]["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["restartCount"], &status["lastState"]["terminated"]["reason"]),
        (&4.into(), &"OOMKilled".into())
    );
    assert_eq!(
        cluster.list(Resource::ConfigMaps).iter().filter(|c| c["data"]["ALLOC_MIB"] == "32").count(),
        1
    );
}
