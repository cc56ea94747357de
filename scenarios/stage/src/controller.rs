//! Just enough of scheduler and workload controllers: pods get the only node, a Deployment gets its pods.
//!
//! Not played: rollouts, scaling, StatefulSets, readiness, anything a scenario does not need. An object whose
//! owner is deleted is deleted too.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::api::cluster::now;
use crate::api::store::ObjectKey;
use crate::api::{ApiError, Cluster, Resource};

/// Replicas that are made of one Deployment; a typing error must not start thousands of processes.
const REPLICAS_MAX: u64 = 100;

/// Creates the namespaces that every cluster has.
pub fn create_namespaces(cluster: &Cluster) {
    for name in ["default", "kube-system"] {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name }, "status": { "phase": "Active" },
        });
        cluster.apply(namespace).expect("a Namespace with a name is served");
    }
}

/// Follows the cluster for ever.
pub async fn run(cluster: Cluster, node: String) {
    let mut progress = cluster.progress();
    loop {
        progress.borrow_and_update();
        step(&cluster, &node);
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// Does what is to be done now. An object that another writer has just removed is left alone.
fn step(cluster: &Cluster, node: &str) {
    for deployment in cluster.list(Resource::Deployments) {
        warn_of("ReplicaSet", ensure_replica_set(cluster, &deployment));
    }
    for replica_set in cluster.list(Resource::ReplicaSets) {
        warn_of("Pod", ensure_pods(cluster, &replica_set));
    }
    for pod in cluster.list(Resource::Pods) {
        if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            bind(cluster, &ObjectKey::of(&pod), node);
        }
    }
    collect_orphans(cluster, Resource::Deployments, Resource::ReplicaSets);
    collect_orphans(cluster, Resource::ReplicaSets, Resource::Pods);
}

fn warn_of(kind: &str, result: Result<(), ApiError>) {
    if let Err(error) = result {
        tracing::warn!(%error, kind, "failed to create an owned object");
    }
}

fn ensure_replica_set(cluster: &Cluster, deployment: &Value) -> Result<(), ApiError> {
    if owned(cluster, Resource::ReplicaSets, deployment) > 0 {
        return Ok(());
    }
    let mut template = deployment["spec"]["template"].clone();
    let hash = template_hash(&template);
    let name = format!("{}-{hash}", deployment["metadata"]["name"].as_str().unwrap_or_default());
    template["metadata"]["labels"]["pod-template-hash"] = json!(hash);
    let replica_set = json!({
        "metadata": {
            "namespace": deployment["metadata"]["namespace"],
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": { "deployment.kubernetes.io/revision": "1" },
            "ownerReferences": [owner(deployment)],
        },
        "spec": {
            "replicas": deployment["spec"]["replicas"].as_u64().unwrap_or(1).min(REPLICAS_MAX),
            "selector": { "matchLabels": template["metadata"]["labels"] },
            "template": template,
        },
    });
    cluster.create(Resource::ReplicaSets, replica_set).map(|_| ())
}

fn ensure_pods(cluster: &Cluster, replica_set: &Value) -> Result<(), ApiError> {
    let wanted = replica_set["spec"]["replicas"].as_u64().unwrap_or(1).min(REPLICAS_MAX);
    for _ in owned(cluster, Resource::Pods, replica_set)..wanted {
        let template = &replica_set["spec"]["template"];
        let name = replica_set["metadata"]["name"].as_str().unwrap_or_default();
        let mut metadata = json!({
            "namespace": replica_set["metadata"]["namespace"],
            "generateName": format!("{name}-"),
            "labels": template["metadata"]["labels"],
            "ownerReferences": [owner(replica_set)],
        });
        if template["metadata"]["annotations"].is_object() {
            metadata["annotations"] = template["metadata"]["annotations"].clone();
        }
        let pod = json!({ "metadata": metadata, "spec": template["spec"] });
        cluster.create(Resource::Pods, pod)?;
    }
    Ok(())
}

/// What the scheduler does, in two writes as recorded: arrival without a node, then the binding.
fn bind(cluster: &Cluster, key: &ObjectKey, node: &str) {
    let bound = cluster.update(Resource::Pods, key, |pod| {
        pod["spec"]["nodeName"] = json!(node);
        pod["status"]["phase"] = json!("Pending");
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now(),
        }]);
    });
    if let Err(error) = bound {
        tracing::debug!(%error, "a pod was removed before it was bound");
    }
}

fn collect_orphans(cluster: &Cluster, owners: Resource, owned: Resource) {
    let living: BTreeSet<String> = cluster.list(owners).iter().map(|owner| uid(owner)).collect();
    for object in cluster.list(owned) {
        let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let orphan = references
            .filter(|reference| reference["kind"] == owners.names().kind)
            .any(|reference| !living.contains(reference["uid"].as_str().unwrap_or_default()));
        if orphan && object["metadata"]["deletionTimestamp"].is_null() {
            let _removed_by_another = cluster.delete(owned, &ObjectKey::of(&object), None);
        }
    }
}

fn owned(cluster: &Cluster, resource: Resource, owner: &Value) -> u64 {
    let owner = uid(owner);
    let references = |object: &Value| {
        let references = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        references.filter_map(|reference| reference["uid"].as_str()).any(|uid| uid == owner)
    };
    cluster.list(resource).iter().filter(|object| references(object)).count() as u64
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// Ten hexadecimal digits by FNV-1a of the template's text; only its stability matters.
fn template_hash(template: &Value) -> String {
    let hash = template.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{:010x}", hash >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(replicas: u64) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "namespace": "shop", "name": "checkout" },
            "spec": { "replicas": replicas, "template": {
                "metadata": { "labels": { "app": "checkout" } },
                "spec": { "containers": [{ "name": "app" }] },
            } },
        })
    }

    #[test]
    fn a_deployment_gets_its_pods_once() {
        let cluster = Cluster::new();
        cluster.apply(deployment(2)).unwrap();
        for _ in 0..3 {
            step(&cluster, "node1");
        }
        let pods = cluster.list(Resource::Pods);
        assert_eq!(pods.len(), 2);
        let replica_set = &cluster.list(Resource::ReplicaSets)[0];
        assert_eq!(pods[0]["metadata"]["ownerReferences"][0]["uid"], replica_set["metadata"]["uid"]);
        assert_eq!(pods[0]["spec"]["nodeName"], "node1");
        let prefix = replica_set["metadata"]["name"].as_str().unwrap();
        assert!(pods[0]["metadata"]["name"].as_str().unwrap().starts_with(prefix));
    }

    #[test]
    fn what_is_owned_goes_with_its_owner() {
        let cluster = Cluster::new();
        cluster.apply(deployment(1)).unwrap();
        step(&cluster, "node1");
        cluster.remove(Resource::Deployments, &ObjectKey::new("shop", "checkout")).unwrap();
        step(&cluster, "node1");
        step(&cluster, "node1");
        assert!(cluster.list(Resource::ReplicaSets).is_empty() && cluster.list(Resource::Pods).is_empty());
    }

    #[test]
    fn the_hash_depends_on_the_template_alone() {
        let [one, other] = [json!({ "a": 1 }), json!({ "a": 2 })];
        assert_eq!(template_hash(&one), template_hash(&one.clone()));
        assert_ne!(template_hash(&one), template_hash(&other));
        assert_eq!(template_hash(&one).len(), 10);
    }
}
