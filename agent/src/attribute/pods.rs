//! This node's pods, as their status tells: container id → container, pod, workload, mounted objects.
//!
//! Fed by the watch; asked by kernel facts. A pod is kept for a while after its deletion, because a kill may
//! be read from the ring after the API has forgotten its victim.

use std::collections::{BTreeSet, HashMap};

use aftertrace_model::{PodRef, Timestamp, Workload};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::attribute::cgroup_name::{CgroupUid, ContainerId};
use crate::environment::{self, spec::ContainerEnv};
use crate::volumes::mounts::{self, Mount};
use crate::volumes::sources::{VolumeSources, of_pod};

/// How long a deleted pod is kept, in microseconds. The same as the correlation window: nothing that happened
/// in it is younger.
const DELETED_KEPT_US: i64 = 600_000_000;

/// Most pods kept, deleted ones included. A kubelet runs 110 by default, a large node 500; the rest is churn
/// of ten minutes. At the bound the longest deleted go first.
const PODS_MAX: usize = 4_096;

/// Most lives of containers remembered per pod: a status names two per container, older ones are kept for
/// kernel facts that come late.
const LIVES_MAX: usize = 64;

/// The annotation that carries a static pod's config hash, which its cgroups are named by.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// What a container is within its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerKind {
    /// A container of `spec.containers`.
    Regular,
    /// An init container that ends before the others start.
    Init,
    /// An init container with `restartPolicy: Always`, which runs beside the others.
    Sidecar,
    /// A debug container.
    Ephemeral,
}

impl ContainerKind {
    /// The name in snake_case.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// One life of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// The container's name.
    pub(crate) container: String,
    /// What it is within the pod.
    pub(crate) kind: ContainerKind,
    /// `restartCount` during that life.
    pub(crate) restart_count: i32,
}

/// A container that runs, as its status tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) container: String,
    /// When it was started, floored to a second.
    pub(crate) started_at: Timestamp,
}

/// What is kept of a pod.
#[derive(Clone, Debug)]
pub(crate) struct KnownPod {
    /// Name and identity.
    pub(crate) pod: PodRef,
    /// Top owner, as far as the pod itself tells.
    pub(crate) workload: Option<Workload>,
    /// Whether pid 1 of a container's processes says nothing: shared or host pid namespace.
    pub(crate) shares_pids: bool,
    /// Mounted volumes with their sources, by volume name.
    pub(crate) volumes: HashMap<String, VolumeSources>,
    /// Which containers mount which volumes.
    pub(crate) mounts: Vec<Mount>,
    /// Containers that run, with when they were started.
    pub(crate) running: Vec<Running>,
    /// What each container's environment takes from objects, by the container's name.
    pub(crate) env: HashMap<String, ContainerEnv>,
    /// Lives of its containers, by id.
    lives: HashMap<ContainerId, Life>,
    config_hash: Option<String>,
    deleted_at: Option<Timestamp>,
}

impl KnownPod {
    /// The ids of its containers with the container's name, in no order.
    pub(crate) fn containers(&self) -> impl Iterator<Item = (&ContainerId, &Life)> {
        self.lives.iter()
    }

    /// Whether the API has deleted it.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }
}

/// All pods of this node, by uid.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    by_uid: HashMap<String, KnownPod>,
    by_config_hash: HashMap<String, String>,
}

impl Pods {
    /// Takes a pod's newest state.
    pub(crate) fn apply(&mut self, pod: &Pod, now: Timestamp) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let config_hash = pod.metadata.annotations.as_ref().and_then(|a| a.get(CONFIG_HASH)).cloned();
        if let Some(hash) = &config_hash {
            self.by_config_hash.insert(hash.clone(), uid.clone());
        }
        let mut lives = self.by_uid.remove(&uid).map(|known| known.lives).unwrap_or_default();
        let current = lives_of(pod);
        if lives.len() + current.len() > LIVES_MAX {
            lives.clear();
        }
        lives.extend(current);
        let spec = pod.spec.as_ref();
        let shares_pids =
            spec.is_some_and(|s| s.share_process_namespace == Some(true) || s.host_pid == Some(true));
        let known = KnownPod {
            pod: pod_ref(pod, &uid),
            workload: workload(pod),
            shares_pids,
            volumes: of_pod(pod),
            env: environment::spec::of_pod(pod),
            mounts: mounts::of_pod(pod),
            running: running(pod),
            lives,
            config_hash,
            deleted_at: None,
        };
        self.by_uid.insert(uid, known);
        self.bound(now);
    }

    /// The API deleted the pod; it stays known for a while.
    pub(crate) fn delete(&mut self, uid: &str, now: Timestamp) {
        if let Some(known) = self.by_uid.get_mut(uid) {
            known.deleted_at.get_or_insert(now);
        }
        self.bound(now);
    }

    /// A whole list was given: what is not in it is deleted.
    pub(crate) fn keep_only(&mut self, uids: &BTreeSet<String>, now: Timestamp) {
        for (uid, known) in &mut self.by_uid {
            if !uids.contains(uid) {
                known.deleted_at.get_or_insert(now);
            }
        }
        self.bound(now);
    }

    /// The pod of that uid or, for a static pod, of that config hash.
    pub(crate) fn get(&self, uid: &str) -> Option<&KnownPod> {
        self.by_uid.get(uid).or_else(|| self.by_uid.get(self.by_config_hash.get(uid)?))
    }

    /// The pod and life that a container's cgroup belongs to: only if the pod's own status lists the id.
    pub(crate) fn find(&self, uid: &CgroupUid, id: &ContainerId) -> Option<(&KnownPod, &Life)> {
        let known = self.get(uid.as_str())?;
        Some((known, known.lives.get(id)?))
    }

    /// The pod whose status lists a container.
    pub(crate) fn of_container(&self, id: &ContainerId) -> Option<&KnownPod> {
        self.by_uid.values().find(|known| known.lives.contains_key(id))
    }

    /// Pods that are not deleted, in no order.
    pub(crate) fn live(&self) -> impl Iterator<Item = &KnownPod> {
        self.by_uid.values().filter(|p| !p.is_deleted())
    }

    /// Drops what was deleted long ago, and the longest deleted where there are too many.
    pub(crate) fn bound(&mut self, now: Timestamp) {
        let expired =
            |p: &KnownPod| p.deleted_at.is_some_and(|deleted| now.micros_since(deleted) > DELETED_KEPT_US);
        if self.by_uid.values().any(expired) {
            self.by_uid.retain(|_, p| !expired(p));
        }
        while self.by_uid.len() > PODS_MAX {
            let oldest = self
                .by_uid
                .iter()
                .filter_map(|(uid, p)| Some((p.deleted_at?, uid.clone())))
                .min()
                .or_else(|| self.by_uid.keys().min().map(|uid| (now, uid.clone())));
            let Some((_, uid)) = oldest else { break };
            self.by_uid.remove(&uid);
        }
        let by_uid = &self.by_uid;
        self.by_config_hash
            .retain(|hash, uid| by_uid.get(uid).is_some_and(|p| p.config_hash.as_ref() == Some(hash)));
    }
}

/// Name and identity of a pod whose uid is known.
pub(crate) fn pod_ref(pod: &Pod, uid: &str) -> PodRef {
    PodRef {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: uid.to_owned(),
    }
}

/// The controller of a pod; behind a ReplicaSet that a Deployment made, the Deployment, whose name is the
/// ReplicaSet's without the pod template's hash.
pub(crate) fn workload(pod: &Pod) -> Option<Workload> {
    let owner = pod.metadata.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref().and_then(|l| l.get("pod-template-hash"));
    let deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(match deployment {
        Some(name) => Workload { kind: "Deployment".to_owned(), name: name.to_owned() },
        None => Workload { kind: owner.kind.clone(), name: owner.name.clone() },
    })
}

/// Every container status of a pod, with what the container is.
pub(crate) fn statuses(pod: &Pod) -> impl Iterator<Item = (ContainerKind, &ContainerStatus)> {
    let status = pod.status.as_ref();
    let inits = status.and_then(|s| s.init_container_statuses.as_deref()).unwrap_or_default();
    let regular = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let ephemeral = status.and_then(|s| s.ephemeral_container_statuses.as_deref()).unwrap_or_default();
    let specs = pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let init_kind = |name: &str| {
        let sidecar = specs.iter().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"));
        if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init }
    };
    (inits.iter().map(move |s| (init_kind(&s.name), s)))
        .chain(regular.iter().map(|s| (ContainerKind::Regular, s)))
        .chain(ephemeral.iter().map(|s| (ContainerKind::Ephemeral, s)))
}

/// `restartCount` of the life that a status calls its last: the present count while the container waits to
/// be started again, one less once it has been.
pub(crate) fn last_restart_count(status: &ContainerStatus, last_id: Option<&str>) -> i32 {
    if status.container_id.as_deref() == last_id {
        status.restart_count
    } else {
        status.restart_count.saturating_sub(1)
    }
}

fn running(pod: &Pod) -> Vec<Running> {
    let of = |(_, status): (ContainerKind, &ContainerStatus)| {
        let started = status.state.as_ref()?.running.as_ref()?.started_at.as_ref()?;
        Some(Running {
            id: ContainerId::from_status(status.container_id.as_deref()?)?,
            container: status.name.clone(),
            started_at: Timestamp::from_micros(started.0.as_microsecond()),
        })
    };
    statuses(pod).filter_map(of).collect()
}

fn lives_of(pod: &Pod) -> Vec<(ContainerId, Life)> {
    let mut lives = Vec::new();
    for (kind, status) in statuses(pod) {
        let mut add = |id: Option<&str>, restart_count: i32| {
            if let Some(id) = id.and_then(ContainerId::from_status) {
                lives.push((id, Life { container: status.name.clone(), kind, restart_count }));
            }
        };
        let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        let last_id = last.and_then(|t| t.container_id.as_deref());
        add(last_id, last_restart_count(status, last_id));
        add(status.container_id.as_deref(), status.restart_count);
    }
    lives
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recordings;

    fn pod(json: serde_json::Value) -> Pod {
        serde_json::from_value(json).expect("a pod")
    }

    fn owned(kind: &str, name: &str, hash: Option<&str>) -> Option<String> {
        let labels = hash.map(|h| serde_json::json!({"pod-template-hash": h})).unwrap_or_default();
        let pod = pod(serde_json::json!({"metadata": {"uid": "u", "labels": labels, "ownerReferences": [
            {"apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": true}]}}));
        workload(&pod).map(|w| format!("{}/{}", w.kind, w.name))
    }

    #[test]
    fn workload_is_the_top_of_what_the_pod_tells() {
        let check = |kind, name, hash, expected: &str| {
            assert_eq!(owned(kind, name, hash).as_deref(), Some(expected));
        };
        check("ReplicaSet", "shop-586c49d66d", Some("586c49d66d"), "Deployment/shop");
        check("ReplicaSet", "shop-586c49d66d", None, "ReplicaSet/shop-586c49d66d");
        check("ReplicaSet", "shop", Some("586c49d66d"), "ReplicaSet/shop");
        check("StatefulSet", "db", Some("x"), "StatefulSet/db");
    }

    #[test]
    fn a_recorded_crash_loop_gives_each_life_its_restart_count() {
        let Some(root) = recordings::root() else { return };
        let mut pods = Pods::default();
        let lines = recordings::pod_watch(&root.join("s01-oom-crashloop"));
        for line in &lines {
            pods.apply(&line.pod, line.arrived);
        }
        let uid = CgroupUid::parse("7c925680-6d5c-463d-b7a3-c322719af62a").expect("a uid");
        let ids = [
            "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596",
            "6e347eb16b23a4c61779e1cbe09026722469966a3be409d3c0da1c5a99386fc1",
            "58c02e0ece840e115cc16c46cb0b5652d9fab4ac7a5b46a4a22283e511b28d5a",
            "223afe3d8e7a9aa5dd3a155170373b69429dcb031d5956d9cbd77683a5cfde84",
            "f03fd2703a4e8f93a1b88ffde9e45e5105bca1983222827ac71125106ad7cf90",
        ];
        for (restart_count, id) in (0..).zip(ids) {
            let id = ContainerId::parse(id).expect("an id");
            let (known, life) = pods.find(&uid, &id).expect("the status lists it");
            assert_eq!((life.container.as_str(), life.restart_count), ("app", restart_count));
            assert_eq!(known.workload.as_ref().map(|w| w.name.as_str()), Some("oom-app"));
        }
        let sandbox = "e277d8ec68e01e0bd82b88efabcfb1d3542ca0b8ef28734728ecb4bcda2d2314";
        let sandbox = ContainerId::parse(sandbox).expect("an id");
        assert!(pods.find(&uid, &sandbox).is_none(), "no status lists the sandbox");
    }

    #[test]
    fn a_static_pod_is_found_by_its_config_hash() {
        let hash = "0123456789abcdef0123456789abcdef";
        let id = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";
        let mut pods = Pods::default();
        let mirror = pod(serde_json::json!({
            "metadata": {"uid": "mirror", "name": "etcd-n1", "annotations": {CONFIG_HASH: hash}},
            "status": {"containerStatuses": [{"name": "etcd", "restartCount": 2, "ready": true, "image": "",
                "imageID": "", "containerID": format!("containerd://{id}")}]}}));
        pods.apply(&mirror, Timestamp::from_micros(0));
        let uid = CgroupUid::parse(hash).expect("a hash");
        let (known, life) = pods.find(&uid, &ContainerId::parse(id).expect("an id")).expect("found");
        assert_eq!((known.pod.uid.as_str(), life.restart_count), ("mirror", 2));
    }

    #[test]
    fn a_deleted_pod_is_known_for_ten_minutes() {
        let mut pods = Pods::default();
        pods.apply(
            &pod(serde_json::json!({"metadata": {"uid": "u", "name": "p"}})),
            Timestamp::from_micros(0),
        );
        pods.delete("u", Timestamp::from_micros(1));
        pods.bound(Timestamp::from_micros(DELETED_KEPT_US));
        assert!(pods.get("u").is_some_and(KnownPod::is_deleted));
        pods.bound(Timestamp::from_micros(DELETED_KEPT_US + 2));
        assert!(pods.get("u").is_none());
    }
}
