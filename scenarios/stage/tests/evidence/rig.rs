//! One stage with an agent on it and a collector behind that, and what cases need of the three.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use aftertrace_model::{Event, Kind};
use aftertrace_stage::api::Resource;
use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::kubelet::cgroup::{Cgroup, Hierarchy};
use aftertrace_stage::kubelet::names::{CgroupDriver, QosClass};
use aftertrace_stage::kubelet::spec::PodSpec;
use aftertrace_stage::kubelet::truth::Started;
use aftertrace_stage::{Stage, StageConfig, StageError};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

use crate::collector::Collector;
use crate::common::{self, Program, config_map, mounting_pod};

/// How long anything may take on an ordinary machine; a guess, far above what it takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A factor for all deadlines, for machines that are emulated.
const SLOWNESS: &str = "AFTERTRACE_TEST_SLOWNESS";

/// How long a generation may stay unread before the agent calls it stale, in seconds.
const STALE_AFTER_S: u32 = 2;

/// How often something awaited is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// The pod, and the ConfigMap in it, whose swaps say that everything before them has arrived.
const MARKER: &str = "marker";

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// See the module.
pub(crate) struct Rig {
    agent: Option<Program>,
    collector: Collector,
    stage: Option<Stage>,
    folder: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

/// A pod whose containers run.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) class: QosClass,
    /// Those that were started, in the order of their starts.
    pub(crate) started: Vec<Started>,
}

impl Running {
    /// The newest life of a container.
    pub(crate) fn container(&self, name: &str) -> &Started {
        let found = self.started.iter().rev().find(|started| started.container.container == name);
        found.unwrap_or_else(|| panic!("container {name} of {} has not started", self.name))
    }
}

/// A file that victims wait for.
#[derive(Clone, Debug)]
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// Its path, for a command line.
    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("the run's folder has a plain name")
    }

    /// Lets the victims go.
    pub(crate) fn open(&self) {
        std::fs::write(&self.0, "").expect("the run's folder is writable");
    }

    /// Holds the victims that come from now on.
    pub(crate) fn close(&self) {
        std::fs::remove_file(&self.0).expect("it was open");
    }
}

impl Rig {
    /// Everything running and watched, or `None` where the machine cannot; then it said so.
    pub(crate) async fn start(pace: Pace, driver: CgroupDriver) -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().await;
        let stage = match Stage::start(StageConfig { pace, driver, ..StageConfig::default() }).await {
            Ok(stage) => stage,
            Err(error @ (StageError::NotRoot | StageError::Cgroup(_))) => {
                println!("SKIPPED: {error}");
                return None;
            }
            Err(error) => panic!("the stage does not start: {error}"),
        };
        let kubeconfig = stage.write_kubeconfig().expect("the run's folder is writable");
        let folder = stage.folder().to_owned();
        let collector = Collector::start(&folder).await;
        let mut command = common::program("aftertrace-agent", &folder);
        command.args(["--cluster", "evidence", "--node", stage.node()]);
        command.args(["--cgroup-root", &stage.cgroup_root(), "--aggregator", &collector.url]);
        command.arg("--ca").arg(&collector.ca).arg("--token-file").arg(&collector.token);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--kubelet-root").arg(stage.kubelet_root());
        command.arg("--spool").arg(folder.join("spool"));
        command.arg("--log-root").arg(stage.log_root());
        command.args(["--stale-after", &STALE_AFTER_S.to_string()]);
        command.arg("--kubelet-pid").arg(std::process::id().to_string());
        // The API server is spoken to in the clear, but its client wants some root certificate of the system's.
        command.env("SSL_CERT_FILE", &collector.ca);
        let agent = Some(Program::start(command));
        let mut rig = Self { agent, collector, stage: Some(stage), folder, _alone: alone };
        let subjects = rig.until("the agent's hooks", || rig.subjects()).await;
        if subjects.iter().all(|subject| subject.tier == "none") {
            println!("SKIPPED: the kernel cannot be watched: {:?}", subjects.first().map(|s| &s.missing));
            rig.agent = None;
            rig.stop().await;
            return None;
        }
        rig.apply(config_map(MARKER, "0"));
        rig.run(mounting_pod(MARKER, MARKER)).await;
        rig.settle().await;
        Some(rig)
    }

    /// Asks the agent to end, and waits until it has told everything.
    pub(crate) async fn end_agent(&self) {
        let pid = self.agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok()).expect("it runs");
        kill(pid, Signal::TERM);
        self.within(patience(), || (!is_alive(pid)).then_some(())).await.expect("the agent ends when asked");
    }

    /// Ends everything in order.
    pub(crate) async fn stop(mut self) {
        self.agent = None;
        if let Some(stage) = self.stage.take() {
            stage.stop().await;
        }
    }

    /// The stage.
    pub(crate) fn stage(&self) -> &Stage {
        self.stage.as_ref().expect("only `stop` takes it")
    }

    /// What came from the agent.
    pub(crate) fn collector(&self) -> &Collector {
        &self.collector
    }

    /// Whether memory is on cgroup v2 here.
    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.stage().kubelet().hierarchy(), Hierarchy::V2 { .. })
    }

    fn agent_lives(&self) -> bool {
        let pid = self.agent.as_ref().and_then(|agent| i32::try_from(agent.id()).ok());
        pid.is_some_and(is_alive)
    }

    fn subjects(&self) -> Option<Vec<aftertrace_api::proto::Subject>> {
        Some(self.collector.kept().status.as_ref()?.subjects.clone())
    }

    /// The tier in which the agent sees a subject: `tracing`, `tracepoint` or `none`.
    pub(crate) fn tier(&self, subject: &str) -> String {
        let found = self.subjects().into_iter().flatten().find(|found| found.name == subject);
        found.map_or_else(|| "none".to_owned(), |found| found.tier)
    }

    /// Whether the agent sees a subject.
    pub(crate) fn sees(&self, subject: &str) -> bool {
        self.tier(subject) != "none"
    }

    /// Whether starts and ends of containers' first processes are told.
    pub(crate) fn tells_lives(&self) -> bool {
        self.sees("lifetime")
    }

    /// Whether the agent names a subject, in whatever tier.
    pub(crate) fn knows(&self, subject: &str) -> bool {
        self.subjects().into_iter().flatten().any(|found| found.name == subject)
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        let is_over = || began.elapsed() >= patience() || !self.agent_lives();
        let end = async {
            loop {
                let over = is_over();
                if let Some(found) = look() {
                    return Some(found);
                }
                if over {
                    return None;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        end.await.unwrap_or_else(|| {
            let said = common::tail_of_log("aftertrace-agent", &self.folder);
            let gaps = self.gaps();
            panic!("waited {:?} for {what}; gaps {gaps:#?}; the agent said:\n{said}", began.elapsed())
        })
    }

    /// What the agent has told of its losses, for who looks for a missing row.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let kept = self.collector.kept();
        kept.gaps.iter().map(|gap| format!("{} {} × {}", gap.reason, gap.detail, gap.count)).collect()
    }

    /// Waits until `look` finds something, or the time is over.
    pub(crate) async fn within<T>(&self, time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let end = Instant::now() + time;
        loop {
            let found = look();
            if found.is_some() || Instant::now() >= end {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until everything that was swapped before is read or stale.
    pub(crate) async fn become_stale(&self) {
        // A second for records on their way, and one for the agent's own clock of whole seconds.
        tokio::time::sleep(Duration::from_secs(u64::from(STALE_AFTER_S) + 2)).await;
        self.settle().await;
    }

    /// Waits until the agent has told everything that the kernel had told it before this call, but for what
    /// waits for its pod.
    pub(crate) async fn settle(&self) {
        let is_marker = |event: &&Event| {
            event.kind == Kind::ConfigSwapped && event.pod.as_ref().is_some_and(|pod| pod.name == MARKER)
        };
        let count = || self.collector.kept().events.iter().filter(is_marker).count();
        let before = count();
        let mut next = Instant::now();
        self.until("the marker's swap", || {
            // A swap that found no room in the ring is told as a gap; another one will find some.
            if Instant::now() >= next {
                self.apply(config_map(MARKER, &format!("{next:?}")));
                next += patience() / 10;
            }
            (count() > before).then_some(())
        })
        .await;
    }

    /// Applies an object.
    pub(crate) fn apply(&self, object: Value) {
        self.stage().cluster().apply(object).expect("the object is well formed");
    }

    /// A gate that no victim has passed.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        Gate(self.folder.join(format!("gate-{name}")))
    }

    /// Creates a pod and returns its uid.
    pub(crate) fn create(&self, pod: Value) -> String {
        let created = self.stage().kubelet().run_pod(pod).expect("the pod is well formed");
        created["metadata"]["uid"].as_str().expect("the API gives uids").to_owned()
    }

    /// Runs a pod, and waits until each of its regular containers has started once.
    pub(crate) async fn run(&self, pod: Value) -> Running {
        let spec = PodSpec::read(&pod);
        let (name, class, wanted) = (spec.name.clone(), spec.qos(), spec.containers.len());
        let uid = self.create(pod);
        let started = self
            .until("the containers to start", || {
                let started = self.starts_of(&uid);
                (started.len() >= wanted).then_some(started)
            })
            .await;
        Running { name, uid, class, started }
    }

    /// All starts of a pod's containers so far.
    pub(crate) fn starts_of(&self, uid: &str) -> Vec<Started> {
        let starts = self.stage().truth().starts().into_iter();
        starts.filter(|started| started.container.pod_uid == uid).collect()
    }

    /// Waits until a container has said `ready` as often as it has processes.
    pub(crate) async fn ready(&self, pod: &Running, container: &str, processes: usize) {
        self.until("the victim to be ready", || {
            let log = self.log_of(pod, container);
            (log.lines().filter(|line| *line == "ready").count() >= processes).then_some(())
        })
        .await;
    }

    /// What the newest life of a container wrote.
    pub(crate) fn log_of(&self, pod: &Running, container: &str) -> String {
        let life = &pod.container(container).container;
        let folder = format!("pods/{}_{}_{}/{container}", life.namespace, life.pod, life.pod_uid);
        let file = self.stage().log_root().join(folder).join(format!("{}.log", life.restart_count));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// The cgroup of a container's newest life.
    pub(crate) fn cgroup(&self, pod: &Running, container: &str) -> Cgroup {
        let id = &pod.container(container).container.container_id;
        let cgroup = self.stage().kubelet().cgroup_of(pod.class, &pod.uid, Some(id));
        cgroup.expect("the container runs")
    }

    /// Limits all pods of a class together; for Guaranteed, all pods.
    pub(crate) fn class_cgroup(&self, class: QosClass) -> Cgroup {
        self.stage().kubelet().class_cgroup(class).expect("the kubelet made it")
    }

    /// Waits for the end of a container's newest life; returns its exit code.
    pub(crate) async fn exit_of(&self, pod: &Running, container: &str) -> i32 {
        let id = &pod.container(container).container.container_id;
        let exits = || {
            let exits = self.stage().truth().exits().into_iter();
            exits.filter(|exit| &exit.container.container_id == id).map(|exit| exit.exit_code).next()
        };
        self.until("the container to end", exits).await
    }

    /// Kills that the kernel has counted in a container's life, once that is over.
    pub(crate) fn kills_of(&self, started: &Started) -> u64 {
        let kills = self.stage().truth().kills().into_iter();
        kills.filter(|k| k.container.container_id == started.container.container_id).map(|k| k.kills).sum()
    }

    /// Compares that count with what a case knows. A kernel that kills groups counts the chosen victim again as
    /// one of its group, if it still has its memory then.
    pub(crate) fn assert_counted(&self, started: &Started, kills: u64) {
        let counted = self.kills_of(started);
        let again = u64::from(self.is_v2());
        assert!((kills..=kills + again).contains(&counted), "{kills} kills, {counted} counted by the kernel");
    }

    /// Deletes all pods but the marker, and waits until they are gone; lifts all limits above pods.
    pub(crate) async fn clear(&self) {
        let cluster = self.stage().cluster();
        let others = || {
            let pods = cluster.list(Resource::Pods).into_iter().map(|pod| ObjectKey::of(&pod));
            pods.filter(|key| key.name != MARKER).collect::<Vec<_>>()
        };
        for key in others() {
            // It may be on its way out already.
            let _ = cluster.delete(Resource::Pods, &key, None);
        }
        self.until("the pods to be gone", || others().is_empty().then_some(())).await;
        for class in [QosClass::BestEffort, QosClass::Burstable, QosClass::Guaranteed] {
            self.class_cgroup(class).unlimit_memory().expect("a limit can be lifted");
        }
    }
}

/// How long anything may take here.
pub(crate) fn patience() -> Duration {
    PATIENCE * number(SLOWNESS).unwrap_or(1)
}

/// A number from the environment.
pub(crate) fn number(variable: &str) -> Option<u32> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number")))
}

/// Sends a signal to a process by its id here.
pub(crate) fn kill(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("process ids are not 0");
    rustix::process::kill_process(pid, signal).expect("the process is there and ours");
}

/// Whether a process is there and not a zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}
