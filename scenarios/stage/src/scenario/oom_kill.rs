//! Scenario 01: follow the pod of `shop/checkout` until it has been killed and restarted twice.

use std::pin::pin;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};

use super::{Outcome, Progress, ScenarioError, within_patience};

/// Namespace of the scenario.
pub const NAMESPACE: &str = "shop";

/// Label of its pod.
const LABELS: &str = "app=checkout";

/// Restarts after which the scenario has shown everything: at once after the first kill, by back-off after
/// the second.
const RESTARTS: i32 = 2;

/// Waits until a pod of the Deployment has restarted twice after OOM kills.
///
/// # Errors
/// [`ScenarioError::Timeout`]; errors of the watch itself are retried.
pub async fn follow(
    client: Client,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Outcome, ScenarioError> {
    let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let pods = watcher(api, watcher::Config::default().labels(LABELS)).default_backoff().applied_objects();
    let pods = pin!(pods);
    within_patience("two restarts after OOM kills", until_restarted(pods, tell))
        .await?
        .ok_or(ScenarioError::Timeout { what: "two restarts after OOM kills: the watch of pods ended" })
}

async fn until_restarted(
    mut pods: impl Stream<Item = Result<Pod, watcher::Error>> + Unpin,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Option<Outcome> {
    let mut told = None;
    while let Some(pod) = pods.next().await {
        let pod = match pod {
            Ok(pod) => pod,
            Err(error) => {
                tracing::debug!(%error, "the watch of pods is retried");
                continue;
            }
        };
        let Some(container) = first_container(&pod) else { continue };
        let (state, restarts) = (word(container), container.restart_count);
        let progress = Progress::Container { pod: pod.name_any(), state, restarts };
        if told.as_ref() != Some(&progress) {
            tell(progress.clone());
            told = Some(progress);
        }
        let was_killed = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        if restarts >= RESTARTS && was_killed.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled")) {
            return Some(Outcome {
                namespace: NAMESPACE.into(),
                pod: pod.name_any(),
                pod_uid: pod.uid().unwrap_or_default(),
                restarts,
                patched_at_ns: None,
            });
        }
    }
    None
}

/// The status of a pod's first container, once there is one.
pub fn first_container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// The state in the words of `kubectl get pods`.
pub fn word(container: &ContainerStatus) -> String {
    let Some(state) = &container.state else { return "Unknown".into() };
    if let Some(terminated) = &state.terminated {
        return terminated.reason.clone().unwrap_or_else(|| "Terminated".into());
    }
    if let Some(waiting) = &state.waiting {
        return waiting.reason.clone().unwrap_or_else(|| "Waiting".into());
    }
    if state.running.is_some() { "Running".into() } else { "Unknown".into() }
}
