//! What a pod's spec asks of its kubelet, read from the JSON of the API.

use std::collections::BTreeMap;

use serde_json::Value;

use super::names::QosClass;

/// A pod as its kubelet sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PodSpec {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `spec.restartPolicy`
    pub restart_policy: RestartPolicy,
    /// `spec.containers`
    pub containers: Vec<ContainerSpec>,
    /// `spec.volumes`
    pub volumes: Vec<VolumeSpec>,
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After an end that is not exit code 0.
    OnFailure,
    /// Never.
    Never,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// Name in the pod.
    pub name: String,
    /// Image; reported, not pulled.
    pub image: String,
    /// `command` followed by `args`.
    pub argv: Vec<String>,
    /// Environment in the order of precedence: later entries win.
    pub env: Vec<EnvSource>,
    /// `resources` as it was written.
    pub resources: Value,
    /// Memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// `volumeMounts`
    pub mounts: Vec<MountSpec>,
}

/// Where environment variables come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvSource {
    /// A literal.
    Value {
        /// Variable.
        name: String,
        /// Value.
        value: String,
    },
    /// One key of a ConfigMap.
    Key {
        /// Variable.
        name: String,
        /// ConfigMap.
        config_map: String,
        /// Key in it.
        key: String,
    },
    /// All keys of a ConfigMap.
    All {
        /// ConfigMap.
        config_map: String,
        /// Put before each key.
        prefix: String,
    },
}

/// One mount of a volume into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Which volume.
    pub volume: String,
    /// Where.
    pub path: String,
    /// A file or folder inside the volume; fixed at the start of the container.
    pub sub_path: Option<String>,
}

/// One volume of a played kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name in the pod.
    pub name: String,
    /// The kubelet's plugin, as its folder is called.
    pub plugin: &'static str,
    /// What it shows, in order.
    pub sources: Vec<VolumeSource>,
}

/// What a volume shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSource {
    /// ConfigMap or Secret.
    pub kind: VolumeSourceKind,
    /// Name of the object.
    pub name: String,
    /// Keys and the file names they get; empty is all keys under their own names.
    pub items: Vec<(String, String)>,
}

/// The kinds of objects that volumes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSourceKind {
    /// `v1/ConfigMap`
    ConfigMap,
    /// `v1/Secret`
    Secret,
}

impl PodSpec {
    /// Reads a pod. What is absent or malformed is empty: the API server of the stage validates nothing.
    pub fn read(pod: &Value) -> Self {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            restart_policy: match pod["spec"]["restartPolicy"].as_str() {
                Some("Never") => RestartPolicy::Never,
                Some("OnFailure") => RestartPolicy::OnFailure,
                _ => RestartPolicy::Always,
            },
            containers: items(&pod["spec"]["containers"]).map(container).collect(),
            volumes: items(&pod["spec"]["volumes"]).filter_map(volume).collect(),
        }
    }

    /// The class that decides the pod's cgroup.
    pub fn qos(&self) -> QosClass {
        let figure = |container: &ContainerSpec, side: &str, resource: &str| {
            container.resources[side][resource].as_str().map(str::to_owned)
        };
        let mut any = false;
        let mut all_equal = true;
        for container in &self.containers {
            for resource in ["cpu", "memory"] {
                let limit = figure(container, "limits", resource);
                let request = figure(container, "requests", resource).or_else(|| limit.clone());
                any |= request.is_some() || limit.is_some();
                all_equal &= limit.is_some() && limit == request;
            }
        }
        match (any, all_equal) {
            (false, _) => QosClass::BestEffort,
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
        }
    }

    /// The pod's own memory limit in bytes: the sum, if every container has one.
    pub fn memory_limit(&self) -> Option<u64> {
        let sum = self.containers.iter().try_fold(0_u64, |sum, c| sum.checked_add(c.memory_limit?));
        sum.filter(|bytes| *bytes > 0)
    }

    /// Names of the ConfigMaps and Secrets that its volumes show.
    pub fn volume_objects(&self) -> impl Iterator<Item = (VolumeSourceKind, &str)> {
        let sources = self.volumes.iter().flat_map(|volume| &volume.sources);
        sources.map(|source| (source.kind, source.name.as_str()))
    }
}

/// Replaces `$(NAME)` by the variable, as Kubernetes does in commands; what is not set stays as it is.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("$(") {
        let (before, from) = rest.split_at(start);
        expanded.push_str(before);
        let Some(end) = from.find(')') else {
            rest = from;
            break;
        };
        match env.get(&from[2..end]) {
            Some(value) => expanded.push_str(value),
            None => expanded.push_str(&from[..=end]),
        }
        rest = &from[end + 1..];
    }
    expanded + rest
}

/// A quantity of memory such as `64Mi` or `1G` in bytes.
pub fn memory_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn items(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map(|array| array.iter()).unwrap_or_default()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn container(container: &Value) -> ContainerSpec {
    let argv = items(&container["command"]).chain(items(&container["args"]));
    let whole = items(&container["envFrom"]).filter_map(|from| {
        let config_map = from["configMapRef"]["name"].as_str()?.to_owned();
        Some(EnvSource::All { config_map, prefix: string(&from["prefix"]) })
    });
    let single = items(&container["env"]).map(|env| {
        let name = string(&env["name"]);
        let key = &env["valueFrom"]["configMapKeyRef"];
        match key["name"].as_str() {
            Some(config_map) => {
                EnvSource::Key { name, config_map: config_map.to_owned(), key: string(&key["key"]) }
            }
            None => EnvSource::Value { name, value: string(&env["value"]) },
        }
    });
    ContainerSpec {
        name: string(&container["name"]),
        image: string(&container["image"]),
        argv: argv.map(string).collect(),
        env: whole.chain(single).collect(),
        resources: container["resources"].clone(),
        memory_limit: container["resources"]["limits"]["memory"].as_str().and_then(memory_bytes),
        mounts: items(&container["volumeMounts"])
            .map(|mount| MountSpec {
                volume: string(&mount["name"]),
                path: string(&mount["mountPath"]),
                sub_path: mount["subPath"].as_str().map(str::to_owned),
            })
            .collect(),
    }
}

/// A volume, if it is of a played kind. Tokens and the downward API are not: nothing here reads them.
fn volume(volume: &Value) -> Option<VolumeSpec> {
    let name = string(&volume["name"]);
    let (plugin, sources) = if volume["configMap"].is_object() {
        let source = source(VolumeSourceKind::ConfigMap, &volume["configMap"], "name");
        ("kubernetes.io~configmap", vec![source])
    } else if volume["secret"].is_object() {
        ("kubernetes.io~secret", vec![source(VolumeSourceKind::Secret, &volume["secret"], "secretName")])
    } else if volume["projected"].is_object() {
        let sources = items(&volume["projected"]["sources"]).filter_map(|projected| {
            if projected["configMap"].is_object() {
                Some(source(VolumeSourceKind::ConfigMap, &projected["configMap"], "name"))
            } else if projected["secret"].is_object() {
                Some(source(VolumeSourceKind::Secret, &projected["secret"], "name"))
            } else {
                None
            }
        });
        ("kubernetes.io~projected", sources.collect())
    } else if volume["emptyDir"].is_object() {
        ("kubernetes.io~empty-dir", Vec::new())
    } else {
        return None;
    };
    Some(VolumeSpec { name, plugin, sources })
}

fn source(kind: VolumeSourceKind, value: &Value, name_field: &str) -> VolumeSource {
    let files = items(&value["items"]).map(|item| (string(&item["key"]), string(&item["path"]))).collect();
    VolumeSource { kind, name: string(&value[name_field]), items: files }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn qos(resources: &[Value]) -> QosClass {
        let containers: Vec<Value> =
            resources.iter().map(|resources| json!({ "resources": resources })).collect();
        PodSpec::read(&json!({ "spec": { "containers": containers } })).qos()
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let full = json!({ "limits": { "cpu": "1", "memory": "64Mi" } });
        assert_eq!(qos(&[json!({})]), QosClass::BestEffort);
        assert_eq!(qos(&[json!({ "limits": { "memory": "64Mi" } })]), QosClass::Burstable);
        assert_eq!(qos(std::slice::from_ref(&full)), QosClass::Guaranteed);
        assert_eq!(qos(&[full, json!({})]), QosClass::Burstable);
    }

    #[test]
    fn quantities() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(memory_bytes(text), expected, "{text}");
        check("64Mi", Some(67_108_864));
        check("1G", Some(1_000_000_000));
        check("512", Some(512));
        check("1.5Gi", None);
        check("99999999999Ti", None);
        check("x", None);
    }

    #[test]
    fn the_pods_limit_needs_every_containers_limit() {
        let limited = json!({ "resources": { "limits": { "memory": "64Mi" } } });
        let limit = |containers: Value| {
            PodSpec::read(&json!({ "spec": { "containers": containers } })).memory_limit()
        };
        assert_eq!(limit(json!([limited, limited])), Some(128 << 20));
        assert_eq!(limit(json!([limited, {}])), None);
    }

    #[test]
    fn variables_are_expanded() {
        let env = BTreeMap::from([("MIB".to_owned(), "128".to_owned())]);
        let check = |text: &str, expected: &str| assert_eq!(expand(text, &env), expected);
        check("memhog $(MIB) $(NONE) $MIB", "memhog 128 $(NONE) $MIB");
        check("open $(MIB", "open $(MIB");
        check("", "");
    }

    #[test]
    fn volumes_and_mounts() {
        let spec = PodSpec::read(&json!({ "spec": {
            "containers": [{ "name": "app", "volumeMounts": [
                { "name": "cfg", "mountPath": "/cfg" },
                { "name": "cfg", "mountPath": "/one", "subPath": "app.conf" },
            ] }],
            "volumes": [
                { "name": "cfg", "configMap": { "name": "c" } },
                { "name": "all", "projected": { "sources": [
                    { "secret": { "name": "s", "items": [{ "key": "a", "path": "b" }] } },
                    { "serviceAccountToken": {} },
                ] } },
                { "name": "host", "hostPath": { "path": "/" } },
            ],
        } }));
        assert_eq!(spec.volumes.len(), 2, "a hostPath is not played");
        assert_eq!(spec.volumes[1].sources[0].items, [("a".to_owned(), "b".to_owned())]);
        assert_eq!(spec.containers[0].mounts[1].sub_path.as_deref(), Some("app.conf"));
    }
}
