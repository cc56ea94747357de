//! The demo's scenarios, played through an ordinary Kubernetes client: on the stage and on a real cluster alike.
//!
//! [`manifest`] applies a scenario's `workload.yaml`, [`oom_kill`] and [`mount_swap`] tell what happens then.
//! Only [`scenario01`] and [`scenario03`] know the stage: they wait for what really happened, not for what
//! the API says.

pub mod manifest;
pub mod mount_swap;
pub mod oom_kill;

use std::time::Duration;

use kube::Client;

use crate::kubelet::truth::{Killed, Swapped};
use crate::stage::Stage;
pub use manifest::ManifestError;

/// How long a scenario waits for one thing to happen; images may have to be pulled on a real cluster.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How often facts of the stage are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// 01: a container is OOM-killed again and again.
    OomKill,
    /// 03: a mounted ConfigMap changes under a running pod.
    MountSwap,
}

/// What a scenario tells while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// An object of its manifest was applied.
    Applied {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A container of its pod is in another state.
    Container {
        /// Pod.
        pod: String,
        /// The state in the words of `kubectl get pods`: `Running`, `OOMKilled`, `CrashLoopBackOff`, …
        state: String,
        /// Restarts so far.
        restarts: i32,
    },
    /// The ConfigMap was patched.
    Patched {
        /// Its name.
        name: String,
        /// Its new version.
        resource_version: String,
    },
    /// The stage's kubelet swapped the volume.
    Swapped {
        /// From the patch to the rename.
        latency: Duration,
    },
}

/// How a scenario ended: what to ask the product about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub pod_uid: String,
    /// Restarts at the end.
    pub restarts: i32,
    /// Scenario 03: wall time just before the patch, nanoseconds since the epoch.
    pub patched_at_ns: Option<i64>,
}

/// Why a scenario did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Its manifest cannot be applied.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The API refuses or cannot be reached.
    #[error("cannot {verb}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
    /// What was to happen did not.
    #[error("waited {} s in vain for {what}", PATIENCE.as_secs())]
    Timeout {
        /// What was awaited.
        what: &'static str,
    },
}

impl Scenario {
    /// By its number in `scenarios/`.
    pub fn from_number(number: &str) -> Option<Self> {
        match number {
            "01" | "1" => Some(Self::OomKill),
            "03" | "3" => Some(Self::MountSwap),
            _ => None,
        }
    }

    /// The text of its `workload.yaml`.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::OomKill => include_str!("../../../01-oom-kill/workload.yaml"),
            Self::MountSwap => include_str!("../../../03-mount-swap/workload.yaml"),
        }
    }
}

/// Plays a scenario on whatever cluster `client` speaks to.
///
/// # Errors
/// [`ScenarioError`]. What was applied stays; [`manifest::remove`] removes it.
pub async fn on_cluster(
    client: Client,
    scenario: Scenario,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Outcome, ScenarioError> {
    manifest::apply(&client, scenario.manifest(), tell).await?;
    match scenario {
        Scenario::OomKill => oom_kill::follow(client, tell).await,
        Scenario::MountSwap => mount_swap::change(client, tell).await,
    }
}

/// Plays scenario 01 on the stage; also returns the kills that really happened to its pod.
///
/// # Errors
/// [`ScenarioError`].
pub async fn scenario01(
    stage: &Stage,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(Outcome, Vec<Killed>), ScenarioError> {
    let outcome = on_cluster(client(stage), Scenario::OomKill, tell).await?;
    let of_pod = |killed: &Killed| killed.container.pod_uid == outcome.pod_uid;
    let kills = stage.truth().kills().into_iter().filter(of_pod).collect();
    Ok((outcome, kills))
}

/// Plays scenario 03 on the stage; also returns the swap that really happened.
///
/// # Errors
/// [`ScenarioError`].
pub async fn scenario03(
    stage: &Stage,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<(Outcome, Swapped), ScenarioError> {
    let outcome = on_cluster(client(stage), Scenario::MountSwap, tell).await?;
    let swap = async {
        loop {
            let swaps = stage.truth().swaps();
            if let Some(swap) = swaps.into_iter().find(|swap| swap.pod_uid == outcome.pod_uid) {
                return swap;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let swap = within_patience("the swap of the volume", swap).await?;
    let latency_ns = swap.after.wall_ns.saturating_sub(outcome.patched_at_ns.unwrap_or(swap.after.wall_ns));
    tell(Progress::Swapped { latency: Duration::from_nanos(latency_ns.max(0).unsigned_abs()) });
    Ok((outcome, swap))
}

fn client(stage: &Stage) -> Client {
    stage.server().client().expect("a plain client of a loopback address needs nothing that can fail")
}

async fn within_patience<T>(
    what: &'static str,
    happening: impl Future<Output = T>,
) -> Result<T, ScenarioError> {
    tokio::time::timeout(PATIENCE, happening).await.map_err(|_| ScenarioError::Timeout { what })
}

fn api_error(verb: &'static str) -> impl Fn(kube::Error) -> ScenarioError {
    move |source| ScenarioError::Api { verb, source: Box::new(source) }
}
