//! Scenario 03: when `shop/pricing` runs, patch the ConfigMap that it mounts.

use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::oom_kill::{NAMESPACE, first_container, word};
use super::{Outcome, Progress, ScenarioError, api_error, within_patience};
use crate::kubelet::clock::Instant;

/// Its pod.
const POD: &str = "pricing";

/// Its ConfigMap.
const CONFIG_MAP: &str = "pricing-settings";

/// Waits until the pod runs, and patches its ConfigMap.
///
/// # Errors
/// [`ScenarioError`].
pub async fn change(
    client: Client,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Outcome, ScenarioError> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={POD}"));
    let mut stream = pin!(watcher(pods, config).default_backoff().applied_objects());
    let running = async {
        loop {
            let Some(Ok(pod)) = stream.next().await else { continue };
            let Some(container) = first_container(&pod) else { continue };
            let (state, restarts) = (word(container), container.restart_count);
            tell(Progress::Container { pod: pod.name_any(), state: state.clone(), restarts });
            if state == "Running" {
                return (pod.uid().unwrap_or_default(), restarts);
            }
        }
    };
    let (pod_uid, restarts) = within_patience("the pod to run", running).await?;

    let config_maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    // A value of its own each time: a patch that changes nothing would never be swapped.
    let patched_at = Instant::now();
    let value = format!("discount=7\nchanged={}\n", patched_at.wall_ns);
    let patch = Patch::Merge(json!({ "data": { "app.conf": value } }));
    let patched = config_maps.patch(CONFIG_MAP, &PatchParams::default(), &patch).await;
    let patched = patched.map_err(api_error("patch the ConfigMap"))?;
    let resource_version = patched.resource_version().unwrap_or_default();
    tell(Progress::Patched { name: CONFIG_MAP.into(), resource_version });
    Ok(Outcome {
        namespace: NAMESPACE.into(),
        pod: POD.into(),
        pod_uid,
        restarts,
        patched_at_ns: Some(patched_at.wall_ns),
    })
}
