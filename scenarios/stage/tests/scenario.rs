//! The demo's scenarios on the stage, through an ordinary client: from the manifest to what really happened.

use std::time::Duration;

use aftertrace_stage::api::Resource;
use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::scenario::{self, Progress, Scenario};
use aftertrace_stage::{Stage, StageConfig, StageError};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

async fn stage() -> Option<Stage> {
    let program = env!("CARGO_BIN_EXE_aftertrace-stage").into();
    match Stage::start(StageConfig { program: Some(program), pace: Pace::fast(), ..StageConfig::default() })
        .await
    {
        Ok(stage) => Some(stage),
        Err(error @ (StageError::NotRoot | StageError::Cgroup(_))) => {
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn scenario_01_is_killed_and_restarted_twice() {
    let Some(stage) = stage().await else { return };
    let mut progress = Vec::new();
    let (outcome, kills) = scenario::scenario01(&stage, &mut |step| progress.push(step)).await.unwrap();
    assert!(outcome.pod.starts_with("checkout-") && outcome.restarts >= 2, "{outcome:?}");
    assert!(kills.len() >= 2 && kills.iter().all(|kill| kill.first_process_gone), "{kills:?}");
    assert_eq!(progress[0], Progress::Applied { kind: "Namespace".into(), name: "shop".into() });
    let killed = |step: &Progress| matches!(step, Progress::Container { state, .. } if state == "OOMKilled");
    assert!(progress.iter().any(killed), "{progress:?}");
    let pod = &stage.cluster().list(Resource::Pods)[0];
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    let client = stage.server().client().unwrap();
    scenario::manifest::remove(&client, Scenario::OomKill.manifest()).await.unwrap();
    stage.stop().await;
}

#[tokio::test]
async fn scenario_03_is_patched_and_swapped() {
    let Some(stage) = stage().await else { return };
    let mut progress = Vec::new();
    let (outcome, swap) = scenario::scenario03(&stage, &mut |step| progress.push(step)).await.unwrap();
    assert_eq!((outcome.pod.as_str(), swap.volume.as_str()), ("pricing", "settings"));
    assert!(swap.before.wall_ns >= outcome.patched_at_ns.unwrap(), "a swap comes after its patch");
    assert!(swap.path.ends_with("volumes/kubernetes.io~configmap/settings"), "{}", swap.path);
    assert!(matches!(progress.last(), Some(Progress::Swapped { .. })), "{progress:?}");
    assert_eq!(stage.truth().kills(), []);
    stage.stop().await;
}

#[tokio::test]
async fn a_cluster_is_played_on_by_its_kubeconfig_and_left_as_it_was() {
    let Some(stage) = stage().await else { return };
    let kubeconfig = Kubeconfig::read_from(stage.write_kubeconfig().unwrap()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    for played in [Scenario::OomKill, Scenario::MountSwap] {
        let outcome = scenario::on_cluster(client.clone(), played, &mut |_| {}).await.unwrap();
        assert_eq!((outcome.namespace.as_str(), outcome.pod_uid.len()), ("shop", 36));
        scenario::manifest::remove(&client, played.manifest()).await.unwrap();
    }
    let pods: Api<Pod> = Api::namespaced(client, "shop");
    let gone = async {
        while !pods.list(&ListParams::default()).await.unwrap().items.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("pods are removed with their owners");
    stage.stop().await;
}
