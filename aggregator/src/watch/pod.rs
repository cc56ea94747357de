//! Pods: where they run, of what they are made, how they are. Never environment values, arguments, commands.

use std::collections::BTreeSet;

use aftertrace_model::{Content, Workload};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStatus, EnvFromSource, EnvVar, Pod, Volume,
};
use serde_json::{Map, Value, json};

use super::kind::{Watched, instant};
use crate::secret::ClusterSecret;

impl Watched for Pod {
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
    const IS_CONFIG: bool = false;

    fn state(&self) -> Map<String, Value> {
        let mut state = Map::new();
        if let Some(spec) = &self.spec {
            let containers = |list: &[Container]| Value::Array(list.iter().map(container).collect());
            let volumes: Vec<_> = spec.volumes.iter().flatten().filter_map(volume).collect();
            state.insert(
                "spec".to_owned(),
                pruned([
                    ("nodeName", json!(spec.node_name)),
                    ("restartPolicy", json!(spec.restart_policy)),
                    ("containers", containers(&spec.containers)),
                    ("initContainers", containers(spec.init_containers.as_deref().unwrap_or_default())),
                    ("volumes", Value::Array(volumes)),
                ]),
            );
        }
        if let Some(status) = &self.status {
            let conditions: Vec<_> = status
                .conditions
                .iter()
                .flatten()
                .map(|c| {
                    pruned([
                        ("type", json!(c.type_)),
                        ("status", json!(c.status)),
                        ("reason", json!(c.reason)),
                    ])
                })
                .collect();
            let statuses = |list: &Option<Vec<ContainerStatus>>| {
                Value::Array(list.iter().flatten().map(container_status).collect())
            };
            state.insert(
                "status".to_owned(),
                pruned([
                    ("phase", json!(status.phase)),
                    ("reason", json!(status.reason)),
                    ("qosClass", json!(status.qos_class)),
                    ("conditions", Value::Array(conditions)),
                    ("containerStatuses", statuses(&status.container_statuses)),
                    ("initContainerStatuses", statuses(&status.init_container_statuses)),
                    ("ephemeralContainerStatuses", statuses(&status.ephemeral_container_statuses)),
                ]),
            );
        }
        state
    }

    fn content(&self, _secret: &ClusterSecret) -> Option<Content> {
        None
    }
}

/// What is read back from a pod's kept state.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFacts {
    /// `spec.nodeName`; `None` until it is scheduled.
    pub(crate) node: Option<String>,
    /// The top of its owner chain.
    pub(crate) workload: Option<Workload>,
    /// Kind and name of each object in its volumes and in its containers' environments.
    pub(crate) mounts: BTreeSet<(&'static str, String)>,
}

impl PodFacts {
    /// Reads the state as [`Watched::state`] and the metadata made it.
    pub(crate) fn read(state: &Value) -> Self {
        let mut mounts = BTreeSet::new();
        let mut note = |source: &Value| {
            for (field, name, kind) in [
                ("configMap", "name", "ConfigMap"),
                ("secret", "secretName", "Secret"),
                ("secret", "name", "Secret"),
            ] {
                if let Some(name) = source[field][name].as_str() {
                    mounts.insert((kind, name.to_owned()));
                }
            }
        };
        for volume in items(&state["spec"]["volumes"]) {
            note(volume);
            items(&volume["projected"]["sources"]).for_each(&mut note);
        }
        for container in ["containers", "initContainers"].iter().flat_map(|list| items(&state["spec"][*list]))
        {
            let single = items(&container["env"]).map(|v| &v["valueFrom"]);
            for source in single.chain(items(&container["envFrom"])) {
                for (field, kind) in [
                    ("configMapKeyRef", "ConfigMap"),
                    ("configMapRef", "ConfigMap"),
                    ("secretKeyRef", "Secret"),
                    ("secretRef", "Secret"),
                ] {
                    mounts.extend(source[field]["name"].as_str().map(|name| (kind, name.to_owned())));
                }
            }
        }
        Self {
            node: state["spec"]["nodeName"].as_str().map(str::to_owned),
            workload: top_owner(&state["metadata"]),
            mounts,
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The object at the top of the owner chain, as far as the pod itself tells. A ReplicaSet's own owner is not
/// in the pod; its name is the Deployment's with the pod's template hash behind it.
fn top_owner(metadata: &Value) -> Option<Workload> {
    let owners = metadata["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    let (kind, name) = (owner["kind"].as_str()?, owner["name"].as_str()?);
    let deployment = metadata["labels"]["pod-template-hash"]
        .as_str()
        .filter(|_| kind == "ReplicaSet")
        .and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    Some(match deployment {
        Some(name) => Workload { kind: "Deployment".to_owned(), name: name.to_owned() },
        None => Workload { kind: kind.to_owned(), name: name.to_owned() },
    })
}

/// An object without the members that say nothing.
fn pruned<const N: usize>(members: [(&str, Value); N]) -> Value {
    let says_nothing = |v: &Value| match v {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    Value::Object(
        members.into_iter().filter(|(_, v)| !says_nothing(v)).map(|(k, v)| (k.to_owned(), v)).collect(),
    )
}

fn container(c: &Container) -> Value {
    let resources = c
        .resources
        .as_ref()
        .map_or(Value::Null, |r| pruned([("limits", json!(r.limits)), ("requests", json!(r.requests))]));
    pruned([
        ("name", json!(c.name)),
        ("image", json!(c.image)),
        ("resources", resources),
        ("env", Value::Array(c.env.iter().flatten().filter_map(variable).collect())),
        ("envFrom", Value::Array(c.env_from.iter().flatten().map(variables).collect())),
    ])
}

/// A variable's reference to a key of a ConfigMap or Secret; never a value that stands in the spec.
fn variable(v: &EnvVar) -> Option<Value> {
    let from = v.value_from.as_ref()?;
    let config_map = from.config_map_key_ref.as_ref().map(|r| ("configMapKeyRef", &r.name, &r.key));
    let secret = from.secret_key_ref.as_ref().map(|r| ("secretKeyRef", &r.name, &r.key));
    let (field, name, key) = config_map.or(secret)?;
    Some(json!({"name": v.name, "valueFrom": {field: {"name": name, "key": key}}}))
}

/// A reference to all keys of a ConfigMap or Secret.
fn variables(v: &EnvFromSource) -> Value {
    let name = |name: &String| json!({"name": name});
    pruned([
        ("prefix", json!(v.prefix.as_ref().filter(|p| !p.is_empty()))),
        ("configMapRef", v.config_map_ref.as_ref().map_or(Value::Null, |r| name(&r.name))),
        ("secretRef", v.secret_ref.as_ref().map_or(Value::Null, |r| name(&r.name))),
    ])
}

/// A volume's reference to a ConfigMap or Secret; volumes of other sources show nothing we follow.
fn volume(v: &Volume) -> Option<Value> {
    let items = |items: &Option<Vec<k8s_openapi::api::core::v1::KeyToPath>>| {
        let items = items.iter().flatten().map(|i| json!({"key": i.key, "path": i.path}));
        Value::Array(items.collect())
    };
    if let Some(source) = &v.config_map {
        let source = pruned([("name", json!(source.name)), ("items", items(&source.items))]);
        return Some(json!({"name": v.name, "configMap": source}));
    }
    if let Some(source) = &v.secret {
        let source = pruned([("secretName", json!(source.secret_name)), ("items", items(&source.items))]);
        return Some(json!({"name": v.name, "secret": source}));
    }
    let projected = v.projected.as_ref()?;
    let sources: Vec<_> = projected
        .sources
        .iter()
        .flatten()
        .filter_map(|s| {
            if let Some(c) = &s.config_map {
                let source = pruned([("name", json!(c.name)), ("items", items(&c.items))]);
                return Some(json!({"configMap": source}));
            }
            let s = s.secret.as_ref()?;
            Some(json!({"secret": pruned([("name", json!(s.name)), ("items", items(&s.items))])}))
        })
        .collect();
    Some(json!({"name": v.name, "projected": {"sources": sources}}))
}

fn container_status(s: &ContainerStatus) -> Value {
    pruned([
        ("name", json!(s.name)),
        ("containerID", json!(s.container_id)),
        ("imageID", json!(s.image_id)),
        ("ready", json!(s.ready)),
        ("restartCount", json!(s.restart_count)),
        ("state", container_state(s.state.as_ref())),
        ("lastState", container_state(s.last_state.as_ref())),
    ])
}

/// Without `message`, which may hold what the program wrote to its termination log.
fn container_state(state: Option<&ContainerState>) -> Value {
    let Some(state) = state else { return Value::Null };
    let running = state
        .running
        .as_ref()
        .map(|r| json!({"startedAt": r.started_at.as_ref().map(|t| instant(t).to_string())}));
    let waiting = state.waiting.as_ref().map(|w| pruned([("reason", json!(w.reason))]));
    let terminated = state.terminated.as_ref().map(|t| {
        pruned([
            ("exitCode", json!(t.exit_code)),
            ("signal", json!(t.signal)),
            ("reason", json!(t.reason)),
            ("startedAt", json!(t.started_at.as_ref().map(|t| instant(t).to_string()))),
            ("finishedAt", json!(t.finished_at.as_ref().map(|t| instant(t).to_string()))),
            ("containerID", json!(t.container_id)),
        ])
    });
    pruned([("running", json!(running)), ("waiting", json!(waiting)), ("terminated", json!(terminated))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::kind::Sight;

    #[test]
    fn nothing_a_person_typed_into_a_container_is_kept() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "checkout-7d9-x", "uid": "u", "resourceVersion": "1",
                "labels": {"pod-template-hash": "7d9"},
                "annotations": {"a": "hunter2"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-7d9",
                    "uid": "r", "controller": true}]},
            "spec": {"nodeName": "node1",
                "containers": [{"name": "app", "image": "i", "command": ["hunter2"], "args": ["hunter2"],
                    "env": [{"name": "P", "value": "hunter2"},
                        {"name": "Q", "valueFrom": {"secretKeyRef": {"name": "t", "key": "q"}}}],
                    "envFrom": [{"prefix": "E_", "configMapRef": {"name": "env"}}],
                    "resources": {"limits": {"memory": "64Mi"}}}],
                "volumes": [
                    {"name": "c", "configMap": {"name": "app", "items": [{"key": "k", "path": "p"}]}},
                    {"name": "e", "emptyDir": {}},
                    {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}},
                        {"serviceAccountToken": {"path": "token"}}]}}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "app", "ready": false, "image": "i",
                "imageID": "", "restartCount": 1,
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "hunter2"}}}]},
        }))
        .expect("a pod");
        let dir = tempfile::tempdir().expect("temporary directory");
        let secret = ClusterSecret::open(dir.path()).expect("made");
        let state = Sight::of(&pod, &secret).expect("whole").state;
        assert!(!state.to_string().contains("hunter2"), "{state}");
        assert_eq!(state["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
        assert_eq!(
            state["spec"]["volumes"],
            json!([
                {"name": "c", "configMap": {"name": "app", "items": [{"key": "k", "path": "p"}]}},
                {"name": "p", "projected": {"sources": [{"secret": {"name": "s"}}]}},
            ])
        );
        let last = &state["status"]["containerStatuses"][0]["lastState"]["terminated"];
        assert_eq!(last["reason"], "OOMKilled");
        let facts = PodFacts::read(&state);
        let workload = facts.workload.expect("owned");
        assert_eq!((workload.kind.as_str(), workload.name.as_str()), ("Deployment", "checkout"));
        assert_eq!(facts.node.as_deref(), Some("node1"));
        let mounts: Vec<_> = facts.mounts.iter().map(|(k, n)| (*k, n.as_str())).collect();
        assert_eq!(mounts, [("ConfigMap", "app"), ("ConfigMap", "env"), ("Secret", "s"), ("Secret", "t")]);
        assert_eq!(
            state["spec"]["containers"][0]["env"],
            json!([{"name": "Q", "valueFrom": {"secretKeyRef": {"name": "t", "key": "q"}}}])
        );
    }
}
