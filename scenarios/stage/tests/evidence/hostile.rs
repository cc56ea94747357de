//! A container that pretends to be another pod, by everything that a container can choose.

use aftertrace_model::{Event, GapReason, Kind};
use aftertrace_stage::kubelet::volume::pod_folder;
use serde_json::Value;

use crate::common::{config_map, mounting_pod};
use crate::kills::{KINDS, LIMIT, victim};
use crate::rig::{Rig, Running};
use crate::rows::{Case, Process};

/// The pod that is imitated: it mounts ConfigMap `target`.
async fn target(rig: &Rig, name: &str) -> Running {
    rig.apply(config_map("target", "0"));
    let pod = rig.run(mounting_pod(name, "target")).await;
    rig.settle().await;
    pod
}

pub(crate) async fn another_pods_volume_is_forged(rig: &Rig) {
    let target = target(rig, "imitated").await;
    let gate = rig.gate("forge-volume");
    let root = rig.stage().kubelet_root();
    let volume = pod_folder(root, &target.uid).join("volumes/kubernetes.io~configmap/cfg");
    let [root, volume] = [root, &volume].map(|path| path.to_str().expect("the run's folder is plain"));
    let forger = rig.run(victim("forger", &["forge-volume", gate.path(), root, volume], "64Mi")).await;
    rig.ready(&forger, "app", 1).await;
    gate.open();
    rig.until("the forgery", || rig.log_of(&forger, "app").contains("forged").then_some(())).await;
    rig.settle().await;
    let swaps = || {
        let kept = rig.collector().kept();
        let of_target =
            |event: &&Event| event.kind == Kind::ConfigSwapped && event.pod_uid() == Some(&target.uid);
        kept.events.iter().filter(of_target).count()
    };
    assert_eq!(swaps(), 0, "the target's own volume has not changed");
    // Nothing that it did confuses the real one.
    rig.apply(config_map("target", "1"));
    rig.until("the target's swap", || (swaps() == 1).then_some(())).await;
    rig.settle().await;
    assert_eq!(swaps(), 1);
}

/// Swaps that the agent has told as rejected. It tells losses once a minute, and when it ends.
pub(crate) fn rejected_swaps(rig: &Rig) -> u64 {
    let kept = rig.collector().kept();
    let gaps = kept.gaps.iter().filter(|gap| gap.reason == GapReason::SwapRejected);
    gaps.map(|gap| gap.count).sum::<u64>()
}

pub(crate) async fn another_pods_cgroup_is_nested(rig: &Rig) {
    let target = target(rig, "imitated").await;
    let path = imitated_path(&target);
    nested(rig, "nester", &path, None, "pod").await;
}

pub(crate) async fn a_limit_below_the_container_fires(rig: &Rig) {
    nested(rig, "limiter", "inner", Some(8 << 20), "cgroup").await;
}

fn imitated_path(target: &Running) -> String {
    let life = &target.container("app").container;
    format!("kubepods/burstable/pod{}/{}", life.pod_uid, life.container_id)
}

async fn nested(rig: &Rig, name: &str, path: &str, limit: Option<u64>, level: &str) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate(name));
    let mount = rig.stage().kubelet().hierarchy().mounts()[0].to_str().expect("mounts are plain").to_owned();
    let mut arguments = vec!["forge-cgroup", gate.path(), &mount, path];
    let limit = limit.map(|bytes| bytes.to_string());
    arguments.extend(limit.as_deref());
    let pod = rig.run(victim(name, &arguments, LIMIT)).await;
    rig.ready(&pod, "app", 1).await;
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    let app = pod.container("app");
    // It has left its container's own cgroup: what it is there, the kernel's structures do not tell.
    case.lives_told(&pod.uid, Process::Unsaid).episode(app, level);
    case.kill(app, "chosen", level, (Process::Unsaid, app.pid)).check().await;
}

pub(crate) async fn a_name_is_full_of_control_characters(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("forge-name"));
    let pod = rig.run(victim("misnamed", &["forge-name", gate.path()], LIMIT)).await;
    rig.ready(&pod, "app", 1).await;
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    case.lives(&pod).killed(pod.container("app"), "pod").check().await;
    let mut named = 0;
    for event in case.events() {
        assert_plain(&event.summary);
        for (name, value) in &event.attributes {
            assert_plain(name);
            assert_texts_plain(value);
        }
        // What can be read of the name is there.
        let command = event.attributes.get("process.command").and_then(Value::as_str).unwrap_or_default();
        named += usize::from(event.kind == Kind::OomKill && command.contains("[31mA"));
    }
    assert_eq!(named, 1);
}

fn assert_texts_plain(value: &Value) {
    match value {
        Value::String(text) => assert_plain(text),
        Value::Array(values) => values.iter().for_each(assert_texts_plain),
        Value::Object(values) => values.values().for_each(assert_texts_plain),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn assert_plain(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
