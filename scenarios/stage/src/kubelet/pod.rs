//! One pod from its arrival to its removal: cgroup, sandbox, volumes, containers, status.
//!
//! The worker alone owns the pod's state: container tasks send what changed, and each change is one status
//! in the API, in the order in which a real kubelet was recorded to write them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant as Deadline;

use super::atomic_writer;
use super::cgroup::Cgroup;
use super::clock::Instant;
use super::container::Container;
use super::lifecycle::{Lifecycle, Stop};
use super::names::{QosClass, container_id};
use super::node;
use super::shim::Plan;
use super::spec::{ContainerRole, ObjectKind, PodSpec, RestartPolicy};
use super::status::{ContainerState, PodFacts, pod_status};
use super::truth::{Fact, Swapped};
use super::volume;
use super::{Shared, cgroup::CgroupError};
use crate::api::store::ObjectKey;
use crate::api::{Cluster, Resource};

/// How soon something that could not be done (a missing ConfigMap, say) is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// State changes that wait for the worker; each container sends one at a time.
const UPDATES_MAX: usize = 16;

/// How long a sidecar has to end once the other containers have ended by themselves.
const SIDECAR_GRACE: Duration = Duration::from_millis(500);

/// The sandbox's rank for the OOM killer, as kubelets set it: last but for the node's own daemons.
const SANDBOX_OOM_SCORE_ADJ: i32 = -998;

static PODS: AtomicU16 = AtomicU16::new(2);

/// What the API wants of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodOrder {
    /// It runs; its labels and annotations are such, and a change of them makes the kubelet sync its volumes.
    Run(Value),
    /// It is to end within the grace period.
    Terminate(Duration),
    /// It is not in the API any more.
    Gone,
}

impl PodOrder {
    /// Reads the order out of a pod's metadata.
    pub fn of(pod: &Value) -> Self {
        let metadata = &pod["metadata"];
        if metadata["deletionTimestamp"].is_null() {
            return Self::Run(serde_json::json!([metadata["labels"], metadata["annotations"]]));
        }
        Self::Terminate(Duration::from_secs(metadata["deletionGracePeriodSeconds"].as_u64().unwrap_or(30)))
    }
}

/// The worker of one pod.
#[derive(Debug)]
pub struct PodWorker {
    shared: Arc<Shared>,
    key: ObjectKey,
    spec: Arc<PodSpec>,
    states: Vec<ContainerState>,
    sandbox_ready: bool,
    ended: bool,
    pod_ip: String,
}

impl PodWorker {
    /// A worker for a pod that has just been bound to the node.
    pub fn new(shared: Arc<Shared>, key: ObjectKey, pod: &Value) -> Self {
        let spec = PodSpec::read(pod);
        let states = spec.containers.iter().map(|_| ContainerState::creating()).collect();
        let pod_ip = node::pod_ip(PODS.fetch_add(1, Ordering::Relaxed)).to_string();
        Self { shared, key, spec: Arc::new(spec), states, sandbox_ready: false, ended: false, pod_ip }
    }

    /// Whether a pod has come to its end already, under an earlier kubelet.
    pub fn is_finished(pod: &Value) -> bool {
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    }

    /// Runs the pod until it is gone.
    pub async fn run(mut self, mut orders: watch::Receiver<PodOrder>) {
        self.write_status();
        let mut order = orders.borrow().clone();
        let made = tokio::select! {
            made = self.set_up() => Some(made),
            changed = leaving(&mut orders) => { order = changed; None }
        };
        match made {
            Some(Ok((pod_cgroup, sandbox))) => {
                order = self.run_containers(&mut orders, &pod_cgroup).await;
                drop(sandbox);
            }
            Some(Err(error)) => {
                let error = crate::error_chain(&error);
                tracing::error!(error, pod = self.key.name, "cannot set up a pod");
                order = leaving(&mut orders).await;
            }
            None => {}
        }
        self.sandbox_ready = false;
        self.remove_cgroup().await;
        if matches!(order, PodOrder::Run(_)) {
            // It ended by itself; a real kubelet writes that as a status of its own, about a second later.
            tokio::time::sleep(self.shared.config.pace.relist).await;
            self.ended = true;
            self.write_status();
            order = leaving(&mut orders).await;
        }
        if order != PodOrder::Gone {
            self.write_status();
            let _removed_by_another = self.shared.cluster.remove(Resource::Pods, &self.key);
        }
        let folder = volume::pod_folder(&self.shared.config.root, &self.spec.uid);
        let removed = tokio::task::spawn_blocking(move || volume::remove_folder(&folder)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, pod = self.key.name, "failed to remove a pod's volumes");
        }
    }

    async fn set_up(&mut self) -> Result<(Cgroup, Container), SetUpError> {
        let pace = self.shared.config.pace;
        tokio::time::sleep(pace.sandbox).await;
        let path = self.cgroup_path();
        let pod_cgroup = self.shared.hierarchy.create(&path)?;
        if let Some(bytes) = self.spec.memory_limit() {
            pod_cgroup.limit_memory(bytes)?;
        }
        let id = container_id();
        let sandbox_cgroup = self
            .shared
            .hierarchy
            .create(&format!("{path}/{}", self.shared.config.driver.container_cgroup(&id)))?;
        let program = self.shared.config.program.display().to_string();
        let plan = Plan {
            entrances: sandbox_cgroup.entrances(),
            oom_score_adj: SANDBOX_OOM_SCORE_ADJ,
            argv: vec![program, "pause".into()],
            env: BTreeMap::new(),
            log: "/dev/null".into(),
            root: self.shared.config.state.clone(),
            binds: Vec::new(),
        };
        let plan_path = self.shared.config.state.join(format!("{id}.json"));
        let sandbox = Container::start(&self.shared.config.program, &plan, plan_path).await?;
        self.sandbox_ready = true;
        while !self.sync_volumes().await {
            tokio::time::sleep(RETRY).await;
        }
        self.write_status();
        Ok((pod_cgroup, sandbox))
    }

    /// Runs the containers until all have ended for good or the order changes; returns the order.
    async fn run_containers(
        &mut self,
        orders: &mut watch::Receiver<PodOrder>,
        pod_cgroup: &Cgroup,
    ) -> PodOrder {
        let (updates, mut changed) = mpsc::channel(UPDATES_MAX);
        let (stop, stopping) = watch::channel(Stop::No);
        let (stop_sidecars, sidecars_stopping) = watch::channel(Stop::No);
        let (mut containers, mut sidecars) = (JoinSet::new(), JoinSet::new());
        let (_first, mut after) = watch::channel(true);
        for (index, container) in self.spec.containers.iter().enumerate() {
            let (before, next) = watch::channel(false);
            let lifecycle = Lifecycle {
                shared: Arc::clone(&self.shared),
                spec: Arc::clone(&self.spec),
                index,
                pod_cgroup: pod_cgroup.path(),
                updates: updates.clone(),
                after: after.clone(),
                before,
            };
            if container.role == ContainerRole::Sidecar {
                sidecars.spawn(lifecycle.run(sidecars_stopping.clone()));
            } else {
                containers.spawn(lifecycle.run(stopping.clone()));
            }
            if container.role != ContainerRole::Regular {
                after = next;
            }
        }
        drop(updates);
        let mut tokens = self.shared.tokens.subscribe();
        let mut progress = self.shared.cluster.progress();
        let mut shown = self.object_versions();
        let mut sync_at: Option<Deadline> = None;
        let mut order = orders.borrow_and_update().clone();
        loop {
            tokio::select! {
                update = changed.recv() => match update {
                    Some((index, state)) => {
                        if let Some(place) = self.states.get_mut(index) {
                            *place = state;
                        }
                        self.write_status();
                    }
                    None => return order,
                },
                // The sidecars end when nothing is left that they could serve.
                Some(_) = containers.join_next() => if containers.is_empty() {
                    stop_sidecars.send_if_modified(|stop| {
                        let runs = *stop == Stop::No;
                        if runs {
                            *stop = Stop::Within(SIDECAR_GRACE);
                        }
                        runs
                    });
                },
                Ok(()) = tokens.changed() => sync_at = Some(Deadline::now()),
                Ok(()) = orders.changed() => {
                    let now = orders.borrow_and_update().clone();
                    match &now {
                        PodOrder::Run(_) => {
                            let soon = Deadline::now() + self.shared.config.pace.pod_sync;
                            sync_at = Some(sync_at.map_or(soon, |at| at.min(soon)));
                        }
                        PodOrder::Terminate(_) | PodOrder::Gone => {
                            let grace = if let PodOrder::Terminate(grace) = now { grace } else { Duration::ZERO };
                            stop.send_replace(Stop::Within(grace));
                            stop_sidecars.send_replace(Stop::Within(grace));
                        }
                    }
                    order = now;
                }
                Ok(()) = progress.changed() => {
                    let versions = self.object_versions();
                    if versions != shown {
                        shown = versions;
                        sync_at = sync_at.or(Some(Deadline::now() + self.shared.config.pace.volume_sync));
                    }
                }
                () = until(sync_at) => {
                    sync_at = if self.sync_volumes().await { None } else { Some(Deadline::now() + RETRY) };
                }
            }
        }
    }

    /// Brings all volumes to what the API holds; `false` where something is missing.
    async fn sync_volumes(&self) -> bool {
        let mut complete = true;
        for spec in &self.spec.volumes {
            let folder = volume::volume_folder(&self.shared.config.root, &self.spec.uid, spec);
            let token = *self.shared.tokens.borrow();
            let payload = match volume::payload(&self.shared.cluster, &self.key, spec, token) {
                Ok(payload) => payload,
                Err(error) => {
                    tracing::debug!(%error, volume = spec.name, "a volume cannot be shown yet");
                    complete = false;
                    continue;
                }
            };
            let has_files = !spec.sources.is_empty();
            let in_memory = volume::is_in_memory(spec);
            let path = folder.clone();
            // Held until the write is over: whoever removes the folder waits for that.
            let shared = Arc::clone(&self.shared);
            let written = tokio::task::spawn_blocking(move || -> Result<_, VolumeWriteError> {
                let _held = shared;
                volume::create_folder(&path)?;
                if in_memory {
                    volume::mount_in_memory(&path)?;
                }
                Ok(if has_files { atomic_writer::write(&path, &payload)? } else { None })
            });
            match written.await.expect("the writer does not panic and is not aborted") {
                Ok(Some(swap)) => self.shared.truth.record(Fact::Swapped(Swapped {
                    namespace: self.key.namespace.clone(),
                    pod: self.key.name.clone(),
                    pod_uid: self.spec.uid.clone(),
                    volume: spec.name.clone(),
                    path: folder.display().to_string(),
                    old: swap.old,
                    new: swap.new,
                    before: swap.before,
                    after: swap.after,
                    writer_tid: swap.tid,
                    writer_pid: rustix::process::getpid().as_raw_nonzero().get(),
                })),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, volume = spec.name, "failed to write a volume");
                    complete = false;
                }
            }
        }
        complete
    }

    /// Versions of the objects that the volumes show.
    fn object_versions(&self) -> Vec<Option<Value>> {
        let objects = self.spec.volume_objects();
        let version = |cluster: &Cluster, kind: ObjectKind, name: &str| {
            let object = cluster.get(kind.resource(), &ObjectKey::new(&self.key.namespace, name))?;
            Some(object["metadata"]["resourceVersion"].clone())
        };
        objects.map(|(kind, name)| version(&self.shared.cluster, kind, name)).collect()
    }

    fn write_status(&self) {
        let facts = PodFacts {
            sandbox_ready: self.sandbox_ready,
            host_ip: node::HOST_IP,
            pod_ip: &self.pod_ip,
            at: Instant::now(),
            ended: self.ended,
        };
        let written = self.shared.cluster.update(Resource::Pods, &self.key, |pod| {
            if pod["metadata"]["uid"].as_str() == Some(&self.spec.uid) {
                pod["status"] = pod_status(&pod["status"], &self.spec, &self.states, facts);
            }
        });
        if let Err(error) = written {
            tracing::debug!(%error, "a status came too late");
        }
    }

    fn cgroup_path(&self) -> String {
        let config = &self.shared.config;
        format!("{}/{}", config.cgroup_root, config.driver.pod_cgroup(self.spec.qos(), &self.spec.uid))
    }

    async fn remove_cgroup(&self) {
        let (hierarchy, path) = (self.shared.hierarchy.clone(), self.cgroup_path());
        let removed = tokio::task::spawn_blocking(move || hierarchy.remove_tree(&path)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "failed to remove a pod's cgroup");
        }
    }
}

/// Why a pod cannot be set up.
#[derive(Debug, thiserror::Error)]
enum SetUpError {
    #[error("cannot make the pod's cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("cannot start the pod's sandbox")]
    Sandbox(#[from] super::container::StartError),
}

#[derive(Debug, thiserror::Error)]
enum VolumeWriteError {
    #[error("cannot make the volume's folder")]
    Folder(#[from] std::io::Error),
    #[error(transparent)]
    Files(#[from] atomic_writer::WriteError),
}

/// The rank of a container for the OOM killer, as kubelets compute it.
pub fn oom_score_adj(qos: QosClass, requested_bytes: u64, capacity_bytes: u64) -> i32 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1_000,
        QosClass::Burstable => {
            let share = 1_000 * u128::from(requested_bytes) / u128::from(capacity_bytes.max(1));
            let rank = 1_000_u128.saturating_sub(share).clamp(3, 999);
            i32::try_from(rank).expect("clamped to three digits")
        }
    }
}

/// Whether a container that ended is to be started again.
pub fn restarts(policy: RestartPolicy, exit_code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Waits until the pod is no longer to run.
async fn leaving(orders: &mut watch::Receiver<PodOrder>) -> PodOrder {
    let left = orders.wait_for(|order| !matches!(order, PodOrder::Run(_))).await;
    // The kubelet itself is gone: so is the pod.
    left.map_or(PodOrder::Gone, |order| order.clone())
}

async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn orders_follow_the_metadata() {
        let run = PodOrder::of(&json!({ "metadata": { "labels": { "a": "1" } } }));
        assert_eq!(run, PodOrder::Run(json!([{ "a": "1" }, null])));
        let end = json!({ "metadata": { "deletionTimestamp": "x", "deletionGracePeriodSeconds": 2 } });
        assert_eq!(PodOrder::of(&end), PodOrder::Terminate(Duration::from_secs(2)));
    }

    #[test]
    fn ranks_for_the_oom_killer() {
        assert_eq!(oom_score_adj(QosClass::Guaranteed, 0, 1), -997);
        assert_eq!(oom_score_adj(QosClass::BestEffort, 0, 1), 1_000);
        assert_eq!(oom_score_adj(QosClass::Burstable, 64 << 20, 24 << 30), 998);
        assert_eq!(oom_score_adj(QosClass::Burstable, 24 << 30, 24 << 30), 3);
        assert_eq!(oom_score_adj(QosClass::Burstable, 0, 0), 999);
    }

    #[test]
    fn restart_policies() {
        assert!(restarts(RestartPolicy::Always, 0) && restarts(RestartPolicy::OnFailure, 137));
        assert!(!restarts(RestartPolicy::OnFailure, 0) && !restarts(RestartPolicy::Never, 137));
    }
}
