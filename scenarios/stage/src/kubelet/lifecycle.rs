//! One container of a pod over its restarts: started, watched, ended, backed off, started again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::cgroup::{Cgroup, CgroupError};
use super::clock::Instant;
use super::container::{Container, StartError};
use super::names::container_id;
use super::pod::{oom_score_adj, restarts};
use super::rootfs::Bind;
use super::shim::{Plan, START_ERROR};
use super::spec::{
    ContainerRole, ContainerSpec, EnvSource, ObjectKind, PodSpec, RestartPolicy, expand, memory_bytes,
};
use super::status::{ContainerState, Now, Termination, termination_reason};
use super::truth::{ContainerName, Exited, Fact, Killed, Started};
use super::volume;
use crate::api::Resource;
use crate::api::store::ObjectKey;

/// Where programs are looked for after the stage's own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How soon a container that lacks a ConfigMap is tried again.
const CONFIG_RETRY: Duration = Duration::from_millis(200);

/// Longest time between the kernel's kill and the parent's wait. A guess: freeing the memory of a victim takes
/// milliseconds, on a busy machine some hundred.
const DEATH_TAKES_MAX: Duration = Duration::from_secs(1);

/// A changed state of the container with this index.
pub type Update = (usize, ContainerState);

/// Whether a pod's containers are to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// They run on.
    No,
    /// They are asked to end, and killed after this time.
    Within(Duration),
}

/// One container of one pod.
#[derive(Debug)]
pub struct Lifecycle {
    /// The kubelet's.
    pub shared: Arc<Shared>,
    /// The pod's.
    pub spec: Arc<PodSpec>,
    /// Which of its containers.
    pub index: usize,
    /// The pod's cgroup, with leading slash.
    pub pod_cgroup: String,
    /// Where state changes go.
    pub updates: mpsc::Sender<Update>,
    /// Whether the containers before it have come as far as it waits for.
    pub after: Turn,
    /// Told when those after it may start.
    pub before: watch::Sender<bool>,
}

/// Whether it is a container's turn; a closed channel without a "yes" means that it never is.
pub type Turn = watch::Receiver<bool>;

/// Why a run did not come about.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{} \"{name}\" {what}", .resource.names().plural)]
    Config { resource: Resource, name: String, what: String },
    #[error("cannot make the container's cgroup")]
    Cgroup(#[from] CgroupError),
    #[error("cannot make {}", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Lifecycle {
    /// Runs the container until it has ended for good.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        let pace = self.shared.config.pace;
        tokio::select! {
            turn = self.after.wait_for(|is_turn| *is_turn) => if turn.is_err() { return },
            _ = stop.wait_for(|stop| *stop != Stop::No) => return,
        }
        let role = self.container().role;
        let policy = restart_policy(role, self.spec.restart_policy);
        let mut state = ContainerState::creating();
        loop {
            let Some(termination) = self.run_once(&mut state, &mut stop).await else { return };
            // The kubelet learns of the end by its next look at the runtime.
            tokio::time::sleep(pace.relist).await;
            let exit_code = termination.exit_code;
            state.now = Now::Terminated(termination.clone());
            self.tell(&state).await;
            let stops = *stop.borrow() != Stop::No;
            if role == ContainerRole::Init && exit_code == 0 {
                self.before.send_replace(true);
                return;
            }
            if stops || !restarts(policy, exit_code) {
                return;
            }
            if let Some(wait) = self.backoff(state.restart_count) {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = stop.wait_for(|stop| *stop != Stop::No) => return,
                }
                let message = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({})",
                    wait.as_secs(),
                    self.container().name,
                    self.spec.name,
                    self.spec.namespace,
                    self.spec.uid
                );
                state.now = Now::Waiting { reason: "CrashLoopBackOff", message: Some(message) };
                state.last = Some(termination.clone());
                self.tell(&state).await;
                tokio::time::sleep(pace.waiting_shows).await;
            }
            state.last = Some(termination);
            state.restart_count += 1;
        }
    }

    /// One run of the container; `None` where the pod is to end before it has begun.
    async fn run_once(
        &self,
        state: &mut ContainerState,
        stop: &mut watch::Receiver<Stop>,
    ) -> Option<Termination> {
        let id = container_id();
        let (cgroup, container) = loop {
            if *stop.borrow() != Stop::No {
                return None;
            }
            match self.start(&id, state.restart_count).await {
                Ok(started) => break started,
                Err(RunError::Config { resource, name, what }) => {
                    let message = format!("{} \"{name}\" {what}", resource.names().plural);
                    let now = Now::Waiting { reason: "CreateContainerConfigError", message: Some(message) };
                    if state.now != now {
                        state.now = now;
                        self.tell(state).await;
                    }
                    tokio::time::sleep(CONFIG_RETRY).await;
                }
                Err(error) => return Some(self.never_ran(id, state, &error).await),
            }
        };
        state.container_id = Some(id.clone());
        state.now = Now::Running { started_at: container.started_at };
        let (pid, started_at) = (container.pid, container.started_at);
        let name = self.name(&id, state.restart_count);
        self.shared.truth.record(Fact::Started(Started { container: name.clone(), pid, at: started_at }));
        if self.container().role == ContainerRole::Sidecar {
            self.before.send_replace(true);
        }
        let (exit_code, at, oom_kills) = self.watch(container, &cgroup, &name, state, stop).await;
        self.shared.truth.record(Fact::Exited(Exited { container: name, exit_code, at }));
        remove(cgroup).await;
        Some(Termination {
            exit_code,
            reason: termination_reason(exit_code, oom_kills),
            message: None,
            started_at,
            finished_at: at,
            container_id: id,
        })
    }

    /// Waits for the container's end, tells that it runs, counts its kills, and ends it when the pod is to end.
    async fn watch(
        &self,
        mut container: Container,
        cgroup: &Cgroup,
        name: &ContainerName,
        state: &ContainerState,
        stop: &mut watch::Receiver<Stop>,
    ) -> (i32, Instant, u64) {
        let pace = self.shared.config.pace;
        let mut poll = tokio::time::interval(pace.counter_poll);
        let mut tell_at = Some(tokio::time::Instant::now() + pace.start_shows);
        let mut recorded = 0;
        // A rise is recorded with the exit, or once it is sure that the first process lives on.
        let mut risen: Option<(Instant, tokio::time::Instant)> = None;
        let mut kill_at = None;
        let pid = rustix::process::Pid::from_raw(container.pid);
        let signal = |signal| {
            if let Some(pid) = pid {
                // Gone already: then its exit is on the way.
                let _gone = rustix::process::kill_process(pid, signal);
            }
        };
        let ended = container.wait();
        tokio::pin!(ended);
        let (exit_code, at) = loop {
            tokio::select! {
                end = &mut ended => break end,
                _ = poll.tick() => {
                    let kills = cgroup.oom_kills().unwrap_or(recorded);
                    match risen {
                        Some((at, since)) if since.elapsed() >= DEATH_TAKES_MAX => {
                            self.record_kills(name, kills - recorded, false, at);
                            recorded = kills;
                            risen = None;
                        }
                        None if kills > recorded => {
                            risen = Some((Instant::now(), tokio::time::Instant::now()));
                        }
                        _ => {}
                    }
                }
                () = until(tell_at) => {
                    self.tell(state).await;
                    tell_at = None;
                }
                () = until(kill_at) => {
                    signal(Signal::KILL);
                    kill_at = None;
                }
                Ok(()) = stop.changed() => {
                    if let Stop::Within(grace) = *stop.borrow_and_update() {
                        signal(Signal::TERM);
                        kill_at = Some(tokio::time::Instant::now() + grace);
                    }
                }
            }
        };
        let kills = cgroup.oom_kills().unwrap_or(recorded);
        if kills > recorded {
            let at = risen.map_or_else(Instant::now, |(at, _)| at);
            self.record_kills(name, kills - recorded, exit_code == 128 + 9, at);
        }
        (exit_code, at, kills)
    }

    fn record_kills(&self, name: &ContainerName, kills: u64, first_process_gone: bool, at: Instant) {
        let container = name.clone();
        self.shared.truth.record(Fact::Killed(Killed { container, kills, first_process_gone, at }));
    }

    /// A program that cannot be started is a run that ends at once, as runtimes report it.
    async fn never_ran(&self, id: String, state: &mut ContainerState, error: &RunError) -> Termination {
        let cause = crate::error_chain(error);
        tracing::warn!(
            error = cause,
            container = self.container().name,
            pod = self.spec.name,
            "cannot start a container"
        );
        state.container_id = Some(id.clone());
        if let Ok(cgroup) = self.shared.hierarchy.create(&self.cgroup_path(&id)) {
            remove(cgroup).await;
        }
        let now = Instant::now();
        Termination {
            exit_code: START_ERROR,
            reason: "StartError",
            message: Some(crate::error_chain(error)),
            started_at: now,
            finished_at: now,
            container_id: id,
        }
    }

    async fn start(&self, id: &str, restart_count: u32) -> Result<(Cgroup, Container), RunError> {
        let config = &self.shared.config;
        let container = self.container();
        let env = self.environment()?;
        let cgroup = self.shared.hierarchy.create(&self.cgroup_path(id))?;
        if let Some(bytes) = container.memory_limit {
            cgroup.limit_memory(bytes)?;
        }
        if !container.single_process_oom_kill {
            cgroup.kill_as_group()?;
        }
        let (namespace, pod) = (&self.spec.namespace, &self.spec.name);
        let logs = config.logs.join("pods").join(format!("{namespace}_{pod}_{}", self.spec.uid));
        let logs = logs.join(&container.name);
        let root = config.state.join("rootfs").join(id);
        for folder in [&logs, &root] {
            let made = tokio::fs::create_dir_all(folder).await;
            made.map_err(|source| RunError::Folder { path: folder.clone(), source })?;
        }
        let requested = container.resources["requests"]["memory"].as_str().and_then(memory_bytes);
        let rank = oom_score_adj(
            self.spec.qos(),
            requested.or(container.memory_limit).unwrap_or(0),
            rustix::system::sysinfo().totalram,
        );
        let log = logs.join(format!("{restart_count}.log"));
        let plan = Plan {
            entrances: cgroup.entrances(),
            oom_score_adj: rank,
            argv: container.argv.iter().map(|word| expand(word, &env)).collect(),
            env,
            log: log.clone(),
            root,
            binds: self.binds(),
        };
        let plan_path = config.state.join(format!("{id}.json"));
        let started = Container::start(&config.program, &plan, plan_path).await?;
        let link = config.logs.join("containers");
        let link = link.join(format!("{pod}_{namespace}_{}-{id}.log", container.name));
        let linked = tokio::fs::symlink(&log, &link).await;
        linked.map_err(|source| RunError::Folder { path: link, source })?;
        Ok((cgroup, started))
    }

    fn environment(&self) -> Result<BTreeMap<String, String>, RunError> {
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), format!("{}:{PATH}", self.shared.config.bin.display())),
            ("HOSTNAME".to_owned(), self.spec.name.clone()),
        ]);
        for source in &self.container().env {
            match source {
                EnvSource::Value { name, value } => {
                    let value = expand(value, &env);
                    env.insert(name.clone(), value);
                }
                EnvSource::Key { name, kind, object, key } => {
                    let held = self.object(*kind, object)?;
                    let value = text_value(*kind, &held, key).ok_or_else(|| RunError::Config {
                        resource: kind.resource(),
                        name: object.clone(),
                        what: format!("has no key \"{key}\""),
                    })?;
                    env.insert(name.clone(), value);
                }
                EnvSource::All { kind, object, prefix } => {
                    let object = self.object(*kind, object)?;
                    for key in object["data"].as_object().into_iter().flat_map(|data| data.keys()) {
                        if let Some(value) = text_value(*kind, &object, key) {
                            env.insert(format!("{prefix}{key}"), value);
                        }
                    }
                }
            }
        }
        Ok(env)
    }

    fn object(&self, kind: ObjectKind, name: &str) -> Result<Arc<Value>, RunError> {
        let (resource, key) = (kind.resource(), ObjectKey::new(&self.spec.namespace, name));
        let object = self.shared.cluster.get(resource, &key);
        object.ok_or_else(|| RunError::Config { resource, name: name.to_owned(), what: "not found".into() })
    }

    fn binds(&self) -> Vec<Bind> {
        let mounts = self.container().mounts.iter().filter_map(|mount| {
            let volume = self.spec.volumes.iter().find(|volume| volume.name == mount.volume)?;
            let folder = volume::volume_folder(&self.shared.config.root, &self.spec.uid, volume);
            let source = match &mount.sub_path {
                // The file itself, not the link that will lead elsewhere: this is why such a mount goes stale.
                Some(part) => std::fs::canonicalize(folder.join(part)).ok()?,
                None => folder,
            };
            Some(Bind { source, target: PathBuf::from(&mount.path) })
        });
        mounts.collect()
    }

    /// The wait before the next start; none before the first restart.
    fn backoff(&self, restart_count: u32) -> Option<Duration> {
        let pace = self.shared.config.pace;
        let doublings = restart_count.checked_sub(1)?;
        Some(pace.backoff_first.saturating_mul(1 << doublings.min(16)).min(pace.backoff_max))
    }

    fn cgroup_path(&self, id: &str) -> String {
        let pod = self.pod_cgroup.trim_start_matches('/');
        format!("{pod}/{}", self.shared.config.driver.container_cgroup(id))
    }

    fn container(&self) -> &ContainerSpec {
        &self.spec.containers[self.index]
    }

    fn name(&self, id: &str, restart_count: u32) -> ContainerName {
        ContainerName {
            namespace: self.spec.namespace.clone(),
            pod: self.spec.name.clone(),
            pod_uid: self.spec.uid.clone(),
            container: self.container().name.clone(),
            container_id: id.to_owned(),
            restart_count,
        }
    }

    async fn tell(&self, state: &ContainerState) {
        // A worker that does not listen any more has other things to end.
        let _worker_gone = self.updates.send((self.index, state.clone())).await;
    }
}

/// An init container that fails is tried again unless its pod is never to be; a sidecar always is.
fn restart_policy(role: ContainerRole, of_pod: RestartPolicy) -> RestartPolicy {
    match (role, of_pod) {
        (ContainerRole::Sidecar, _) => RestartPolicy::Always,
        (ContainerRole::Init, RestartPolicy::Always) => RestartPolicy::OnFailure,
        (ContainerRole::Init | ContainerRole::Regular, policy) => policy,
    }
}

/// A value as an environment can hold it.
fn text_value(kind: ObjectKind, object: &Value, key: &str) -> Option<String> {
    volume::value(kind, object, key).and_then(|value| String::from_utf8(value).ok())
}

async fn remove(cgroup: Cgroup) {
    let removed = tokio::task::spawn_blocking(move || cgroup.remove()).await;
    if let Ok(Err(error)) = removed {
        tracing::warn!(%error, "failed to remove a container's cgroup");
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
