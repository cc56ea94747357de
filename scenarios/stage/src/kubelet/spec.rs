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
    /// `spec.initContainers`, then `spec.containers`, each in the order of the spec.
    pub containers: Vec<ContainerSpec>,
    /// `spec.volumes`
    pub volumes: Vec<VolumeSpec>,
    /// Memory limit of `spec.resources`, which wins over the containers' sum.
    pub own_memory_limit: Option<u64>,
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

/// What a container is within its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRole {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: the next one starts as soon as it runs, and it ends last.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
}

/// One container.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// What it is within the pod.
    pub role: ContainerRole,
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
    /// Whether an OOM kill takes one process and not the container, as with the kubelet's
    /// `singleProcessOOMKill`; here a container whose name the pod's annotation [`SINGLE_PROCESS`] lists.
    pub single_process_oom_kill: bool,
}

/// Annotation with the names of containers, separated by commas, that are not killed as a group.
pub const SINGLE_PROCESS: &str = "stage.aftertrace/single-process-oom-kill";

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
    /// One key of an object.
    Key {
        /// Variable.
        name: String,
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its name.
        object: String,
        /// Key in it.
        key: String,
    },
    /// All keys of an object.
    All {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its name.
        object: String,
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
pub enum VolumeSource {
    /// Keys of an object.
    Object {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// Keys and the paths they get; empty is all keys under their own names.
        items: Vec<(String, String)>,
    },
    /// A token of the pod's service account, which the kubelet renews.
    Token {
        /// Its path.
        path: String,
    },
    /// A field of the pod itself.
    Field {
        /// Its path.
        path: String,
        /// Such as `metadata.labels`.
        field: String,
    },
}

/// The kinds of objects that hold configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
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
            containers: containers(pod),
            volumes: items(&pod["spec"]["volumes"]).filter_map(volume).collect(),
            own_memory_limit: pod["spec"]["resources"]["limits"]["memory"].as_str().and_then(memory_bytes),
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

    /// The pod's memory limit in bytes: its own, else what its containers need together, if each has one.
    pub fn memory_limit(&self) -> Option<u64> {
        if self.own_memory_limit.is_some() {
            return self.own_memory_limit;
        }
        // Init containers run one after the other, beside the sidecars before them.
        let (mut together, mut most) = (0_u64, 0_u64);
        for container in &self.containers {
            let with_this = together.checked_add(container.memory_limit?)?;
            most = most.max(with_this);
            if container.role != ContainerRole::Init {
                together = with_this;
            }
        }
        Some(most).filter(|bytes| *bytes > 0)
    }

    /// Names of the ConfigMaps and Secrets that its volumes show.
    pub fn volume_objects(&self) -> impl Iterator<Item = (ObjectKind, &str)> {
        let sources = self.volumes.iter().flat_map(|volume| &volume.sources);
        sources.filter_map(|source| match source {
            VolumeSource::Object { kind, name, .. } => Some((*kind, name.as_str())),
            VolumeSource::Token { .. } | VolumeSource::Field { .. } => None,
        })
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

fn containers(pod: &Value) -> Vec<ContainerSpec> {
    let alone = pod["metadata"]["annotations"][SINGLE_PROCESS].as_str().unwrap_or_default();
    let read = |value: &Value, role: ContainerRole| {
        let mut spec = container(value, role);
        spec.single_process_oom_kill = alone.split(',').any(|name| name == spec.name);
        spec
    };
    let inits = items(&pod["spec"]["initContainers"]).map(|init| match init["restartPolicy"].as_str() {
        Some("Always") => read(init, ContainerRole::Sidecar),
        _ => read(init, ContainerRole::Init),
    });
    let regular = items(&pod["spec"]["containers"]).map(|regular| read(regular, ContainerRole::Regular));
    inits.chain(regular).collect()
}

fn container(container: &Value, role: ContainerRole) -> ContainerSpec {
    let argv = items(&container["command"]).chain(items(&container["args"]));
    let named = |value: &Value, config_map: &str, secret: &str| {
        let config_map =
            value[config_map]["name"].as_str().map(|name| (ObjectKind::ConfigMap, config_map, name));
        let secret = || value[secret]["name"].as_str().map(|name| (ObjectKind::Secret, secret, name));
        let (kind, field, name) = config_map.or_else(secret)?;
        Some((kind, name.to_owned(), string(&value[field]["key"])))
    };
    let whole = items(&container["envFrom"]).filter_map(|from| {
        let (kind, object, _) = named(from, "configMapRef", "secretRef")?;
        Some(EnvSource::All { kind, object, prefix: string(&from["prefix"]) })
    });
    let single = items(&container["env"]).map(|env| {
        let name = string(&env["name"]);
        match named(&env["valueFrom"], "configMapKeyRef", "secretKeyRef") {
            Some((kind, object, key)) => EnvSource::Key { name, kind, object, key },
            None => EnvSource::Value { name, value: string(&env["value"]) },
        }
    });
    ContainerSpec {
        role,
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
        single_process_oom_kill: false,
    }
}

/// A volume, if it is of a played kind.
fn volume(volume: &Value) -> Option<VolumeSpec> {
    let name = string(&volume["name"]);
    let (plugin, sources) = if volume["configMap"].is_object() {
        let source = object(ObjectKind::ConfigMap, &volume["configMap"], "name");
        ("kubernetes.io~configmap", vec![source])
    } else if volume["secret"].is_object() {
        ("kubernetes.io~secret", vec![object(ObjectKind::Secret, &volume["secret"], "secretName")])
    } else if volume["downwardAPI"].is_object() {
        ("kubernetes.io~downward-api", fields(&volume["downwardAPI"]).collect())
    } else if volume["projected"].is_object() {
        let sources = items(&volume["projected"]["sources"]).flat_map(|projected| {
            let mut sources: Vec<VolumeSource> = fields(&projected["downwardAPI"]).collect();
            if projected["configMap"].is_object() {
                sources.push(object(ObjectKind::ConfigMap, &projected["configMap"], "name"));
            }
            if projected["secret"].is_object() {
                sources.push(object(ObjectKind::Secret, &projected["secret"], "name"));
            }
            if let Some(path) = projected["serviceAccountToken"]["path"].as_str() {
                sources.push(VolumeSource::Token { path: path.to_owned() });
            }
            sources
        });
        ("kubernetes.io~projected", sources.collect())
    } else if volume["emptyDir"].is_object() {
        ("kubernetes.io~empty-dir", Vec::new())
    } else {
        return None;
    };
    Some(VolumeSpec { name, plugin, sources })
}

fn object(kind: ObjectKind, value: &Value, name_field: &str) -> VolumeSource {
    let files = items(&value["items"]).map(|item| (string(&item["key"]), string(&item["path"]))).collect();
    VolumeSource::Object { kind, name: string(&value[name_field]), items: files }
}

fn fields(downward: &Value) -> impl Iterator<Item = VolumeSource> {
    items(&downward["items"]).map(|item| VolumeSource::Field {
        path: string(&item["path"]),
        field: string(&item["fieldRef"]["fieldPath"]),
    })
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
        let own = json!({ "spec": {
            "resources": { "limits": { "memory": "1Gi" } }, "containers": [limited, {}],
        } });
        assert_eq!(PodSpec::read(&own).memory_limit(), Some(1 << 30));
        let of = |mib: u32| json!({ "limits": { "memory": format!("{mib}Mi") } });
        let inits = json!({ "spec": {
            "initContainers": [
                { "name": "first", "resources": of(100) },
                { "name": "side", "restartPolicy": "Always", "resources": of(10) },
                { "name": "second", "resources": of(70) },
            ],
            "containers": [limited],
        } });
        assert_eq!(PodSpec::read(&inits).memory_limit(), Some(100 << 20));
    }

    #[test]
    fn init_containers_come_first_and_know_what_they_are() {
        let spec = PodSpec::read(&json!({
            "metadata": { "annotations": { SINGLE_PROCESS: "app,other" } },
            "spec": {
                "initContainers": [{ "name": "setup" }, { "name": "proxy", "restartPolicy": "Always" }],
                "containers": [{ "name": "app" }],
            },
        }));
        let read: Vec<_> =
            spec.containers.iter().map(|c| (c.name.as_str(), c.role, c.single_process_oom_kill)).collect();
        let expected = [
            ("setup", ContainerRole::Init, false),
            ("proxy", ContainerRole::Sidecar, false),
            ("app", ContainerRole::Regular, true),
        ];
        assert_eq!(read, expected);
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
                    { "serviceAccountToken": { "path": "token" } },
                    { "downwardAPI": { "items": [
                        { "path": "who", "fieldRef": { "fieldPath": "metadata.name" } },
                    ] } },
                ] } },
                { "name": "host", "hostPath": { "path": "/" } },
            ],
        } }));
        assert_eq!(spec.volumes.len(), 2, "a hostPath is not played");
        let expected = [
            VolumeSource::Object {
                kind: ObjectKind::Secret,
                name: "s".into(),
                items: vec![("a".into(), "b".into())],
            },
            VolumeSource::Token { path: "token".into() },
            VolumeSource::Field { path: "who".into(), field: "metadata.name".into() },
        ];
        assert_eq!(spec.volumes[1].sources, expected);
        assert_eq!(spec.containers[0].mounts[1].sub_path.as_deref(), Some("app.conf"));
    }
}
