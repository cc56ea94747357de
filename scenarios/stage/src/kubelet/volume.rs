//! A pod's volumes: folders under the kubelet's root, and what is to be in them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use rustix::fs::{AtFlags, CWD, Mode};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use super::atomic_writer::Payload;
use super::spec::{ObjectKind, VolumeSource, VolumeSpec};
use crate::api::store::ObjectKey;
use crate::api::{Cluster, Resource};

/// Why a volume cannot be shown yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The object is not there.
    #[error("{} \"{name}\" not found", .kind.noun())]
    NoObject {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// A key that is asked for is not there; this blocks the whole volume, as on a real node.
    #[error("{} \"{name}\" has no key \"{key}\"", .kind.noun())]
    NoKey {
        /// ConfigMap or Secret.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
}

impl ObjectKind {
    /// As kubelets write it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    /// The kind in the API.
    pub fn resource(self) -> Resource {
        match self {
            Self::ConfigMap => Resource::ConfigMaps,
            Self::Secret => Resource::Secrets,
        }
    }
}

/// The pod's folder.
pub fn pod_folder(kubelet_root: &Path, pod_uid: &str) -> PathBuf {
    kubelet_root.join("pods").join(pod_uid)
}

/// The volume's folder: `<root>/pods/<uid>/volumes/<plugin>/<volume>`.
pub fn volume_folder(kubelet_root: &Path, pod_uid: &str, volume: &VolumeSpec) -> PathBuf {
    pod_folder(kubelet_root, pod_uid).join("volumes").join(volume.plugin).join(&volume.name)
}

/// Makes a volume's folder with the recorded modes.
///
/// # Errors
/// What the system refuses.
pub fn create_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    rustix::fs::chmodat(CWD, folder, Mode::from_raw_mode(0o777), AtFlags::empty())?;
    Ok(())
}

/// Whether kubelets keep such a volume in memory: all that an AtomicWriter writes but ConfigMaps.
pub fn is_in_memory(volume: &VolumeSpec) -> bool {
    matches!(volume.plugin, "kubernetes.io~secret" | "kubernetes.io~projected" | "kubernetes.io~downward-api")
}

/// Mounts a tmpfs at a volume's folder, unless that was done before.
///
/// # Errors
/// What the system refuses.
pub fn mount_in_memory(folder: &Path) -> std::io::Result<()> {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev());
    let parent = folder.parent().unwrap_or(folder);
    if device(folder)? != device(parent)? {
        return Ok(());
    }
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount("tmpfs", folder, "tmpfs", flags, c"size=1m,mode=1777")?;
    Ok(())
}

/// Removes a folder with all that is mounted in it.
///
/// # Errors
/// What the system refuses; a folder that is not there is fine.
pub fn remove_folder(folder: &Path) -> std::io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    // The innermost come last, and paths of ours have no characters that the file escapes.
    for mounted in inside.filter(|mounted| mounted.starts_with(folder)).collect::<Vec<_>>().into_iter().rev()
    {
        rustix::mount::unmount(mounted, UnmountFlags::DETACH)?;
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The files that a volume of the pod `pod` is to show now; `token` counts how often tokens were renewed.
///
/// # Errors
/// [`VolumeError`].
pub fn payload(
    cluster: &Cluster,
    pod: &ObjectKey,
    volume: &VolumeSpec,
    token: u64,
) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for source in &volume.sources {
        match source {
            VolumeSource::Object { kind, name, items } => {
                let key = ObjectKey::new(&pod.namespace, name);
                let object = cluster.get(kind.resource(), &key);
                let object =
                    object.ok_or_else(|| VolumeError::NoObject { kind: *kind, name: name.clone() })?;
                payload.extend(files(*kind, name, items, &object)?);
            }
            VolumeSource::Token { path } => {
                payload.insert(path.clone(), format!("played token {token} of {}", pod.name).into_bytes());
            }
            VolumeSource::Field { path, field } => {
                let pod = cluster.get(Resource::Pods, pod).unwrap_or_default();
                payload.insert(path.clone(), field_text(&pod, field).into_bytes());
            }
        }
    }
    Ok(payload)
}

/// The value of a key; a Secret's is decoded.
pub fn value(kind: ObjectKind, object: &Value, key: &str) -> Option<Vec<u8>> {
    let value = object["data"].get(key)?;
    match kind {
        ObjectKind::ConfigMap => value.as_str().map(|text| text.as_bytes().to_vec()),
        ObjectKind::Secret => serde_json::from_value(value.clone()).ok().map(|ByteString(bytes)| bytes),
    }
}

fn files(
    kind: ObjectKind,
    name: &str,
    items: &[(String, String)],
    object: &Value,
) -> Result<Payload, VolumeError> {
    if items.is_empty() {
        let keys = object["data"].as_object().into_iter().flat_map(|data| data.keys());
        return Ok(keys.filter_map(|key| Some((key.clone(), value(kind, object, key)?))).collect());
    }
    let items = items.iter().map(|(key, path)| match value(kind, object, key) {
        Some(content) => Ok((path.clone(), content)),
        None => Err(VolumeError::NoKey { kind, name: name.to_owned(), key: key.clone() }),
    });
    items.collect()
}

/// A field of a pod as the downward API shows it: a map as one line for each entry.
fn field_text(pod: &Value, field: &str) -> String {
    let value = field.split('.').fold(pod, |value, name| &value[name]);
    match value {
        Value::Object(map) => {
            let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value}")).collect();
            lines.join("\n")
        }
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(items: &[(&str, &str)]) -> VolumeSpec {
        let items = items.iter().map(|(key, path)| ((*key).to_owned(), (*path).to_owned())).collect();
        let source = VolumeSource::Object { kind: ObjectKind::ConfigMap, name: "c".into(), items };
        VolumeSpec { name: "cfg".into(), plugin: "kubernetes.io~configmap", sources: vec![source] }
    }

    fn cluster() -> Cluster {
        let cluster = Cluster::new();
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "namespace": "shop", "name": "c" }, "data": { "a": "1", "b": "2" },
        });
        cluster.apply(object).unwrap();
        cluster
    }

    #[test]
    fn all_keys_or_the_named_ones() {
        let names = |volume: VolumeSpec| -> Vec<String> {
            payload(&cluster(), &ObjectKey::new("shop", "p"), &volume, 0).unwrap().into_keys().collect()
        };
        assert_eq!(names(volume(&[])), ["a", "b"]);
        assert_eq!(names(volume(&[("b", "renamed")])), ["renamed"]);
    }

    #[test]
    fn what_is_missing_blocks_the_volume() {
        let check = |namespace: &str, items: &[(&str, &str)]| {
            payload(&cluster(), &ObjectKey::new(namespace, "p"), &volume(items), 0).unwrap_err()
        };
        let error = check("shop", &[("z", "z")]);
        assert!(matches!(error, VolumeError::NoKey { .. }));
        let error = check("other", &[]);
        assert_eq!(error.to_string(), "configmap \"c\" not found");
    }

    #[test]
    fn tokens_fields_and_secrets() {
        let cluster = cluster();
        let pod =
            json!({ "metadata": { "namespace": "shop", "name": "p", "labels": { "a": "1", "b": "2" } } });
        cluster.create(Resource::Pods, pod).unwrap();
        cluster
            .apply(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": { "namespace": "shop", "name": "s" }, "data": { "password": "aHVudGVyMg==" },
            }))
            .unwrap();
        let volume = VolumeSpec {
            name: "all".into(),
            plugin: "kubernetes.io~projected",
            sources: vec![
                VolumeSource::Token { path: "token".into() },
                VolumeSource::Field { path: "labels".into(), field: "metadata.labels".into() },
                VolumeSource::Object { kind: ObjectKind::Secret, name: "s".into(), items: Vec::new() },
            ],
        };
        let at = |token| payload(&cluster, &ObjectKey::new("shop", "p"), &volume, token).unwrap();
        assert_eq!(at(0)["labels"], b"a=\"1\"\nb=\"2\"");
        assert_eq!(at(0)["password"], b"hunter2");
        assert_ne!(at(0)["token"], at(1)["token"]);
    }

    #[test]
    fn folders_are_named_as_on_a_node() {
        let folder = volume_folder(Path::new("/var/lib/kubelet"), "u", &volume(&[]));
        assert_eq!(folder, Path::new("/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/cfg"));
    }
}
