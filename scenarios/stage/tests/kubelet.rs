//! The played kubelet on this machine's kernel: an OOM kill, a child's kill, a swap, and nothing left behind.

#![expect(
    clippy::unwrap_used,
    reason = "in the functions that tests share, too, a surprise is a failed test"
)]

use std::sync::Arc;
use std::time::Duration;

use aftertrace_stage::api::store::{Change, ObjectKey};
use aftertrace_stage::api::{Cluster, Resource};
use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::kubelet::names::CgroupDriver;
use aftertrace_stage::kubelet::truth::Fact;
use aftertrace_stage::{Stage, StageConfig, StageError};
use serde_json::{Value, json};

/// Far longer than anything here takes; reached only when something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

/// A stage at full speed, or a loud word on why there is none.
async fn stage(driver: CgroupDriver) -> Option<Stage> {
    let program = env!("CARGO_BIN_EXE_aftertrace-stage").into();
    let config = StageConfig { program: Some(program), pace: Pace::fast(), driver, ..StageConfig::default() };
    match Stage::start(config).await {
        Ok(stage) => Some(stage),
        Err(error @ (StageError::NotRoot | StageError::Cgroup(_))) => {
            eprintln!("SKIPPED: {error}");
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

fn pod(name: &str, command: &[&str], extra: Value) -> Value {
    let mut container = json!({
        "name": "app", "image": "x", "command": command,
        "resources": { "limits": { "memory": "64Mi" }, "requests": { "memory": "64Mi" } },
    });
    container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "restartPolicy": "Always", "containers": [container] },
    })
}

async fn until<T>(cluster: &Cluster, what: &str, look: impl Fn() -> Option<T>) -> T {
    let mut progress = cluster.progress();
    let found = async {
        loop {
            progress.borrow_and_update();
            if let Some(found) = look() {
                return found;
            }
            // Facts come without a write to the API, so do not wait for one alone.
            let _soon = tokio::time::timeout(Duration::from_millis(20), progress.changed()).await;
        }
    };
    tokio::time::timeout(DEADLINE, found).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// What watchers of the pod saw of its container, as short words, without repetitions.
fn history(cluster: &Cluster, name: &str) -> Vec<String> {
    let (_, changes) = cluster.changes_after(Resource::Pods, 0).unwrap();
    let mut words: Vec<String> = Vec::new();
    for entry in changes {
        let Change::Put { object, .. } = entry.change else { continue };
        if object["metadata"]["name"] != name {
            continue;
        }
        let container = &object["status"]["containerStatuses"][0];
        let state = match container["state"].as_object().and_then(|state| state.iter().next()) {
            Some((kind, detail)) => {
                let reason = detail["reason"].as_str().unwrap_or_default();
                format!(
                    "{kind} {reason} {}",
                    detail["exitCode"].as_i64().map_or(String::new(), |c| c.to_string())
                )
            }
            None => "none".into(),
        };
        let last = container["lastState"]["terminated"]["reason"].as_str().unwrap_or("-");
        let phase = object["status"]["phase"].as_str().unwrap_or("-");
        let state = state.split_whitespace().collect::<Vec<_>>().join(" ");
        let word = format!("{phase}: {state}, last {last}, restarts {}", container["restartCount"]);
        if words.last() != Some(&word) {
            words.push(word);
        }
    }
    words
}

fn container(pod: &Arc<Value>) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

#[tokio::test]
async fn an_oom_kill_gives_the_recorded_statuses() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let cluster = stage.cluster().clone();
    stage
        .cluster()
        .create(Resource::Pods, pod("hog", &["memhog", "128", "1", "16", "0"], json!({})))
        .unwrap();
    let key = ObjectKey::new("shop", "hog");
    until(&cluster, "two restarts", || {
        cluster.get(Resource::Pods, &key).filter(|pod| container(pod)["restartCount"].as_u64() >= Some(2))
    })
    .await;
    let seen = history(&cluster, "hog");
    let expected = [
        "Pending: none, last -, restarts null",
        "Pending: waiting ContainerCreating, last -, restarts 0",
        "Running: running, last -, restarts 0",
        "Running: terminated OOMKilled 137, last -, restarts 0",
        "Running: running, last OOMKilled, restarts 1",
        "Running: terminated OOMKilled 137, last OOMKilled, restarts 1",
        "Running: waiting CrashLoopBackOff, last OOMKilled, restarts 1",
        "Running: running, last OOMKilled, restarts 2",
    ];
    assert_eq!(&seen[..expected.len()], &expected, "{seen:#?}");
    let kills = stage.truth().kills();
    assert!(
        kills.len() >= 2 && kills.iter().all(|kill| kill.kills == 1 && kill.first_process_gone),
        "{kills:?}"
    );
    let uid = cluster.get(Resource::Pods, &key).unwrap()["metadata"]["uid"].clone();
    assert!(
        kills.iter().all(|kill| kill.container.pod_uid == uid && kill.container.container_id.len() == 64)
    );
    assert_ne!(kills[0].container.container_id, kills[1].container.container_id);
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn the_first_process_stands_in_the_kubelets_cgroup_as_pid_1() {
    for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
        let Some(stage) = stage(driver).await else { return };
        let command = ["sh", "-c", "echo $$ $MODE $(id -u) > /proc/self/fd/1; exec sleep 600"];
        let extra = json!({ "env": [{ "name": "MODE", "value": "x$(HOSTNAME)" }] });
        stage.kubelet().run_pod(pod("sleeper", &command, extra)).unwrap();
        let started = until(stage.cluster(), "start", || stage.truth().starts().first().cloned()).await;
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", started.pid)).unwrap();
        let uid = &started.container.pod_uid;
        let id = &started.container.container_id;
        let root = stage.cgroup_root();
        let expected = match driver {
            CgroupDriver::Cgroupfs => format!("{root}/kubepods/burstable/pod{uid}/{id}"),
            CgroupDriver::Systemd => {
                let uid = uid.replace('-', "_");
                format!(
                    "{root}/kubepods.slice/kubepods-burstable.slice/\
                     kubepods-burstable-pod{uid}.slice/cri-containerd-{id}.scope"
                )
            }
        };
        assert!(cgroup.lines().any(|line| line.ends_with(&expected)), "{expected} not in\n{cgroup}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", started.pid)).unwrap();
        let pids = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert!(pids.ends_with("\t1"), "{pids}");
        let log = stage.folder().join(format!("log/pods/shop_sleeper_{uid}/app/0.log"));
        let line = until(stage.cluster(), "output", || {
            std::fs::read_to_string(&log).ok().filter(|text| text.ends_with('\n'))
        })
        .await;
        assert_eq!(line, "1 xsleeper 0\n");
        leaves_nothing(stage).await;
    }
}

#[tokio::test]
async fn a_killed_child_shows_only_when_the_first_process_ends() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let mut spec = pod("parent", &["child-oom", "128", "1"], json!({}));
    spec["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet().run_pod(spec).unwrap();
    let key = ObjectKey::new("shop", "parent");
    let cluster = stage.cluster();
    let done = until(cluster, "the end", || {
        cluster
            .get(Resource::Pods, &key)
            .filter(|pod| pod["status"]["phase"] != "Running" && pod["status"]["phase"] != "Pending")
    })
    .await;
    let terminated = &container(&done)["state"]["terminated"];
    assert_eq!(terminated["reason"], "OOMKilled");
    let kills = stage.truth().kills();
    assert_eq!(kills.len(), 1, "{kills:?}");
    if matches!(stage.kubelet().hierarchy(), aftertrace_stage::kubelet::cgroup::Hierarchy::V1 { .. }) {
        assert_eq!((&terminated["exitCode"], &done["status"]["phase"]), (&json!(0), &json!("Succeeded")));
        assert!(!kills[0].first_process_gone);
    }
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn a_config_map_reaches_the_container_by_one_swap() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let cluster = stage.cluster().clone();
    let config = |value: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": "c" }, "data": { "app.conf": value },
        })
    };
    let mounts = json!({ "volumeMounts": [
        { "name": "cfg", "mountPath": "/etc/aftertrace-stage-test/cfg" },
        { "name": "cfg", "mountPath": "/aftertrace-stage-one", "subPath": "app.conf" },
    ] });
    let mut spec = pod("reader", &["watch-config", "/etc/aftertrace-stage-test/cfg/app.conf"], mounts);
    spec["spec"]["volumes"] = json!([{ "name": "cfg", "configMap": { "name": "c" } }]);
    stage.kubelet().run_pod(spec).unwrap();
    // Without its ConfigMap the pod waits.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(stage.truth().starts().is_empty());
    cluster.apply(config("v1")).unwrap();
    let started = until(&cluster, "start", || stage.truth().starts().first().cloned()).await;
    assert!(stage.truth().swaps().is_empty(), "the first write is no swap");
    cluster.apply(config("v2")).unwrap();
    let swap = until(&cluster, "swap", || stage.truth().swaps().first().cloned()).await;
    assert_eq!((swap.pod_uid.as_str(), swap.volume.as_str()), (started.container.pod_uid.as_str(), "cfg"));
    let inside = |path: &str| std::fs::read_to_string(format!("/proc/{}/root{path}", started.pid)).unwrap();
    assert_eq!(inside("/etc/aftertrace-stage-test/cfg/app.conf"), "v2");
    assert_eq!(inside("/aftertrace-stage-one"), "v1", "a subPath mount never changes");
    let log = stage.folder().join(format!("log/pods/shop_reader_{}/app/0.log", started.container.pod_uid));
    until(&cluster, "the reader's word", || {
        std::fs::read_to_string(&log).ok().filter(|text| text == "v1\nv2\n")
    })
    .await;

    // The same content under a new version: nothing is renamed.
    let mut same = config("v2");
    same["metadata"]["labels"] = json!({ "touched": "yes" });
    cluster.apply(same).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(stage.truth().swaps().len(), 1);
    assert!(
        !std::path::Path::new("/etc/aftertrace-stage-test").exists(),
        "mount points are the container's alone"
    );
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn init_containers_and_sidecars_run_in_their_order() {
    let Some(stage) = stage(CgroupDriver::Systemd).await else { return };
    let cluster = stage.cluster().clone();
    let mut spec = pod("ordered", &["sh", "-c", "sleep 0.2"], json!({}));
    spec["spec"]["restartPolicy"] = json!("Never");
    spec["spec"]["initContainers"] = json!([
        { "name": "setup", "command": ["sh", "-c", "sleep 0.1"] },
        { "name": "proxy", "command": ["sleep", "600"], "restartPolicy": "Always" },
    ]);
    stage.kubelet().run_pod(spec).unwrap();
    let key = ObjectKey::new("shop", "ordered");
    let done = until(&cluster, "the end", || {
        cluster.get(Resource::Pods, &key).filter(|pod| pod["status"]["phase"] == "Succeeded")
    })
    .await;
    assert_eq!(done["status"]["initContainerStatuses"].as_array().unwrap().len(), 2);
    let order: Vec<String> = stage
        .truth()
        .facts()
        .into_iter()
        .filter_map(|fact| match fact {
            Fact::Started(started) => Some(format!("{} starts", started.container.container)),
            Fact::Exited(exited) => Some(format!("{} ends {}", exited.container.container, exited.exit_code)),
            _ => None,
        })
        .collect();
    let expected =
        ["setup starts", "setup ends 0", "proxy starts", "app starts", "app ends 0", "proxy ends 137"];
    assert_eq!(order, expected, "the sidecar ends last, and by force: an init does not hear a plain SIGTERM");
    for started in stage.truth().starts() {
        let (name, id) = (&started.container.container, &started.container.container_id);
        let link = stage.log_root().join(format!("containers/ordered_shop_{name}-{id}.log"));
        assert!(std::fs::read_link(&link).unwrap().is_file(), "{}", link.display());
    }
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn a_projected_volume_shows_all_its_sources_and_environments_take_secrets() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let cluster = stage.cluster().clone();
    let object = |kind: &str, data: Value| {
        let metadata = json!({ "namespace": "shop", "name": "c" });
        json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data })
    };
    cluster.apply(object("ConfigMap", json!({ "app.conf": "v1", "MODE": "fast" }))).unwrap();
    cluster.apply(object("Secret", json!({ "password": "aHVudGVyMg==" }))).unwrap();
    let extra = json!({
        "env": [{ "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "c", "key": "password" } } }],
        "envFrom": [{ "prefix": "CFG_", "configMapRef": { "name": "c" } }],
        "volumeMounts": [{ "name": "all", "mountPath": "/aftertrace-stage-all" }],
    });
    let command = ["sh", "-c", "echo $PASSWORD $CFG_MODE; exec sleep 600"];
    let mut spec = pod("reader", &command, extra);
    spec["spec"]["volumes"] = json!([{ "name": "all", "projected": { "sources": [
        { "serviceAccountToken": { "path": "token" } },
        { "configMap": { "name": "c", "items": [{ "key": "app.conf", "path": "nested/dir/app.conf" }] } },
        { "secret": { "name": "c" } },
        { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
    ] } }]);
    stage.kubelet().run_pod(spec).unwrap();
    let started = until(&cluster, "start", || stage.truth().starts().first().cloned()).await;
    let root = format!("/proc/{}/root/aftertrace-stage-all", started.pid);
    let inside = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    assert_eq!(
        ["nested/dir/app.conf", "password", "name"].map(inside),
        ["v1", "hunter2", "reader"].map(str::to_owned)
    );
    let token = inside("token");
    stage.kubelet().rotate_tokens();
    until(&cluster, "another token", || (inside("token") != token).then_some(())).await;
    let swap = until(&cluster, "swap", || stage.truth().swaps().first().cloned()).await;
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(&format!("tmpfs {} tmpfs", swap.path)), "a projected volume is in memory");
    let uid = &started.container.pod_uid;
    let log = stage.folder().join(format!("log/pods/shop_reader_{uid}/app/0.log"));
    assert_eq!(std::fs::read_to_string(log).unwrap(), "hunter2 fast\n");
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn a_deleted_pod_ends_gracefully() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let cluster = stage.cluster();
    let command = ["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done"];
    stage.kubelet().run_pod(pod("polite", &command, json!({}))).unwrap();
    until(cluster, "start", || stage.truth().starts().first().cloned()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let key = ObjectKey::new("shop", "polite");
    cluster.delete(Resource::Pods, &key, None).unwrap();
    until(cluster, "removal", || cluster.get(Resource::Pods, &key).is_none().then_some(())).await;
    assert_eq!(stage.truth().exits()[0].exit_code, 3);
    leaves_nothing(stage).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_start_error() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    let mut spec = pod("typo", &["aftertrace-no-such-program"], json!({}));
    spec["spec"]["restartPolicy"] = json!("Never");
    stage.kubelet().run_pod(spec).unwrap();
    let cluster = stage.cluster();
    let key = ObjectKey::new("shop", "typo");
    let failed = until(cluster, "failure", || {
        cluster.get(Resource::Pods, &key).filter(|pod| pod["status"]["phase"] == "Failed")
    })
    .await;
    let terminated = &container(&failed)["state"]["terminated"];
    assert_eq!((&terminated["reason"], &terminated["exitCode"]), (&json!("StartError"), &json!(128)));
    leaves_nothing(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stage_leaves_nothing_either() {
    let Some(stage) = stage(CgroupDriver::Cgroupfs).await else { return };
    for name in ["one", "two", "three"] {
        stage.kubelet().run_pod(pod(name, &["memhog", "128", "1", "16", "0"], json!({}))).unwrap();
    }
    until(stage.cluster(), "some kills", || (stage.truth().kills().len() >= 6).then_some(())).await;
    let (folder, root) = (stage.folder().to_owned(), stage.cgroup_root());
    let hierarchy = stage.kubelet().hierarchy().clone();
    drop(stage);
    assert!(!folder.exists());
    for mount in hierarchy.mounts() {
        assert!(!mount.join(root.trim_start_matches('/')).exists(), "{root} is still there");
    }
}

/// Stops the stage and looks for what it may have left.
async fn leaves_nothing(stage: Stage) {
    let folder = stage.folder().to_owned();
    let root = stage.cgroup_root();
    let hierarchy = stage.kubelet().hierarchy().clone();
    let pids: Vec<i32> = stage.truth().starts().iter().map(|started| started.pid).collect();
    stage.stop().await;
    assert!(!folder.exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&*folder.to_string_lossy()), "volumes are still mounted");
    for mount in hierarchy.mounts() {
        assert!(!mount.join(root.trim_start_matches('/')).exists(), "{root} is still there");
    }
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
}
