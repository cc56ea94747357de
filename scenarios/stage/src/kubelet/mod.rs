//! The played kubelet: real cgroups, real processes, real volume swaps, and the statuses that tell of them.
//!
//! In reading order: [`Kubelet`] follows the pods of its node, [`pod`] runs one of them and [`lifecycle`] each of
//! its containers, [`container`] holds one process, [`shim`] and [`rootfs`] are inside of it; [`cgroup`] and [`names`] make its cgroups, [`volume`]
//! and [`atomic_writer`] its files, [`status`] what the API shows of it, and [`truth`] what really happened.

pub mod atomic_writer;
pub mod cgroup;
pub mod clock;
pub mod container;
pub mod lifecycle;
pub mod names;
pub mod node;
pub mod pod;
pub mod rootfs;
pub mod shim;
pub mod spec;
pub mod status;
pub mod truth;
pub mod volume;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::api::store::ObjectKey;
use crate::api::{Cluster, Resource};
use cgroup::{Cgroup, Hierarchy};
use names::{CgroupDriver, QosClass};
use pod::{PodOrder, PodWorker};
use truth::Truth;

/// How long a dropped kubelet waits for its workers; each ends at its next await.
const WORKERS_WAIT: Duration = Duration::from_secs(2);

/// How a kubelet works.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Name of its node.
    pub node: String,
    /// Cgroup below which everything is made, relative and without leading slash.
    pub cgroup_root: String,
    /// Who names the cgroups. Default: cgroupfs.
    pub driver: CgroupDriver,
    /// Folder of pods and their volumes; `/var/lib/kubelet` on a real node.
    pub root: PathBuf,
    /// Folder of plans and container roots.
    pub state: PathBuf,
    /// Folder with `pods` and `containers`, which exist; `/var/log` on a real node.
    pub logs: PathBuf,
    /// The `aftertrace-stage` program, which is also shim and init of containers.
    pub program: PathBuf,
    /// Put before the containers' `PATH`: where the programs that images would bring are found.
    pub bin: PathBuf,
    /// Delays.
    pub pace: Pace,
}

/// How long things take; the defaults are the recorded ones, except that back-off is short.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a pod's arrival to its sandbox. Recorded: about 0.5 s.
    pub sandbox: Duration,
    /// From the start of a container to `running` in the API. A container that ends before is never reported as
    /// running, and one whose pod is deleted before is never reported at all.
    pub start_shows: Duration,
    /// From the end of a container to `terminated` in the API. Recorded: about 1 s, the kubelet's relist.
    pub relist: Duration,
    /// How long `CrashLoopBackOff` shows before the next start. Recorded: about 0.1 s.
    pub waiting_shows: Duration,
    /// First wait before a restart; the first restart of all has none. A real kubelet begins with 10 s.
    pub backoff_first: Duration,
    /// Longest wait before a restart; each is twice the one before. A real kubelet stops at 300 s.
    pub backoff_max: Duration,
    /// From the change of a ConfigMap to the swap. A real kubelet: 60 to 90 s.
    pub volume_sync: Duration,
    /// From a change of the pod itself to the swap. Recorded: 0.2 s.
    pub pod_sync: Duration,
    /// How often the kernel's kill counters of running containers are read.
    pub counter_poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            sandbox: Duration::from_millis(500),
            start_shows: Duration::ZERO,
            relist: Duration::from_secs(1),
            waiting_shows: Duration::from_millis(100),
            backoff_first: Duration::from_secs(2),
            backoff_max: Duration::from_secs(300),
            volume_sync: Duration::from_secs(1),
            pod_sync: Duration::from_millis(200),
            counter_poll: Duration::from_millis(100),
        }
    }
}

impl Pace {
    /// As fast as the machine allows, for tests that make many kills.
    pub fn fast() -> Self {
        Self {
            sandbox: Duration::ZERO,
            start_shows: Duration::ZERO,
            relist: Duration::from_millis(20),
            waiting_shows: Duration::from_millis(5),
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_millis(20),
            volume_sync: Duration::from_millis(20),
            pod_sync: Duration::from_millis(20),
            counter_poll: Duration::from_millis(20),
        }
    }
}

/// A running kubelet. Dropping it kills its containers; [`crate::run::Run`] removes what they leave.
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

/// What all pods of a kubelet share.
#[derive(Debug)]
pub struct Shared {
    /// Where pods come from and statuses go.
    pub cluster: Cluster,
    /// How to work.
    pub config: KubeletConfig,
    /// Where cgroups are made.
    pub hierarchy: Hierarchy,
    /// What really happened.
    pub truth: Truth,
    /// How often the tokens of service accounts were renewed.
    pub tokens: watch::Sender<u64>,
}

impl Kubelet {
    /// Registers the node and begins to run the pods that are bound to it.
    ///
    /// # Errors
    /// [`cgroup::CgroupError`] where this machine has no memory hierarchy or does not let us write it.
    pub fn start(cluster: Cluster, config: KubeletConfig) -> Result<Self, cgroup::CgroupError> {
        let hierarchy = Hierarchy::detect()?;
        hierarchy.create(&config.cgroup_root)?;
        cluster.attend_node(&config.node);
        node::register(&cluster, &config.node);
        let tokens = watch::Sender::default();
        let shared = Arc::new(Shared { cluster, config, hierarchy, truth: Truth::default(), tokens });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(follow(Arc::clone(&shared), stopped));
        Ok(Self { shared, stop, task: Some(task) })
    }

    /// What really happened so far.
    pub fn truth(&self) -> &Truth {
        &self.shared.truth
    }

    /// How it works.
    pub fn config(&self) -> &KubeletConfig {
        &self.shared.config
    }

    /// Where cgroups are made.
    pub fn hierarchy(&self) -> &Hierarchy {
        &self.shared.hierarchy
    }

    /// Creates a pod on this node, as if the scheduler had bound it here at once.
    ///
    /// # Errors
    /// [`crate::api::ApiError`], as for any created object.
    pub fn run_pod(&self, mut pod: Value) -> Result<Arc<Value>, crate::api::ApiError> {
        pod["spec"]["nodeName"] = Value::String(self.shared.config.node.clone());
        self.shared.cluster.create(Resource::Pods, pod)
    }

    /// Renews the tokens in all volumes that show one; a real kubelet does so when 80 % of their time is over.
    pub fn rotate_tokens(&self) {
        self.shared.tokens.send_modify(|renewals| *renewals += 1);
    }

    /// The cgroup of all pods of a class; that of [`QosClass::Guaranteed`] is the one above all pods.
    ///
    /// # Errors
    /// [`cgroup::CgroupError`].
    pub fn class_cgroup(&self, class: QosClass) -> Result<Cgroup, cgroup::CgroupError> {
        let config = self.config();
        let path = format!("{}/{}", config.cgroup_root, config.driver.class_cgroup(class));
        self.hierarchy().create(&path)
    }

    /// The cgroup of a pod, or of one of its containers by its id.
    ///
    /// # Errors
    /// [`cgroup::CgroupError`].
    pub fn cgroup_of(
        &self,
        class: QosClass,
        uid: &str,
        container_id: Option<&str>,
    ) -> Result<Cgroup, cgroup::CgroupError> {
        let config = self.config();
        let mut path = format!("{}/{}", config.cgroup_root, config.driver.pod_cgroup(class, uid));
        if let Some(id) = container_id {
            path = format!("{path}/{}", config.driver.container_cgroup(id));
        }
        self.hierarchy().create(&path)
    }

    /// Kills all containers and waits until their cgroups are removed. The pods stay in the API as they
    /// were, as when a node goes away.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            let _ended = task.await;
        }
        self.shared.cluster.leave_node(&self.shared.config.node);
    }
}

impl Kubelet {
    /// Waits until no worker is left that could still make something. Workers share this thread on a runtime
    /// of one thread: there they do nothing more while we are here.
    fn wait_for_workers(&self) {
        use tokio::runtime::{Handle, RuntimeFlavor};
        let here = Handle::try_current().map(|handle| handle.runtime_flavor());
        if !matches!(here, Ok(RuntimeFlavor::MultiThread)) {
            return;
        }
        let deadline = std::time::Instant::now() + WORKERS_WAIT;
        while Arc::strong_count(&self.shared) > 1 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            // Workers are dropped with the task, and with them the containers' life lines.
            task.abort();
            self.wait_for_workers();
        }
    }
}

/// Follows the pods of the node: one worker each, told what the API wants of it.
async fn follow(shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut progress = shared.cluster.progress();
    let mut orders: BTreeMap<String, watch::Sender<PodOrder>> = BTreeMap::new();
    let mut workers = JoinSet::new();
    loop {
        progress.borrow_and_update();
        let pods = shared.cluster.list(Resource::Pods);
        let here = |pod: &Value| pod["spec"]["nodeName"] == shared.config.node.as_str();
        let mut present = BTreeMap::new();
        for pod in pods.iter().filter(|pod| here(pod)) {
            if let Some(uid) = pod["metadata"]["uid"].as_str() {
                present.insert(uid.to_owned(), pod);
            }
        }
        for (_, order) in orders.iter().filter(|(uid, _)| !present.contains_key(*uid)) {
            order.send_replace(PodOrder::Gone);
        }
        orders.retain(|uid, order| present.contains_key(uid) && !order.is_closed());
        for (uid, pod) in &present {
            let order = PodOrder::of(pod);
            if let Some(known) = orders.get(uid) {
                known.send_if_modified(|seen| {
                    let changed = *seen != order;
                    *seen = order;
                    changed
                });
            } else if !PodWorker::is_finished(pod) {
                let (sender, receiver) = watch::channel(order);
                let key = ObjectKey::of(pod);
                workers.spawn(PodWorker::new(Arc::clone(&shared), key, pod).run(receiver));
                orders.insert(uid.clone(), sender);
            }
        }
        tokio::select! {
            _ = progress.changed() => {}
            Some(_) = workers.join_next() => {}
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    for order in orders.values() {
        order.send_replace(PodOrder::Gone);
    }
    while workers.join_next().await.is_some() {}
}
