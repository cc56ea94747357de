//! A pod's volumes: folders under the kubelet's root, and what is to be in them.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode};
use serde_json::Value;

use super::atomic_writer::Payload;
use super::spec::{VolumeSource, VolumeSourceKind, VolumeSpec};
use crate::api::store::ObjectKey;
use crate::api::{Cluster, Resource};

/// Why a volume cannot be shown yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The object is not there.
    #[error("{} \"{name}\" not found", .kind.noun())]
    NoObject {
        /// ConfigMap or Secret.
        kind: VolumeSourceKind,
        /// Its name.
        name: String,
    },
    /// A key that is asked for is not there; this blocks the whole volume, as on a real node.
    #[error("{} \"{name}\" has no key \"{key}\"", .kind.noun())]
    NoKey {
        /// ConfigMap or Secret.
        kind: VolumeSourceKind,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
}

impl VolumeSourceKind {
    fn noun(self) -> &'static str {
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

/// The files that a volume is to show now.
///
/// # Errors
/// [`VolumeError`].
pub fn payload(cluster: &Cluster, namespace: &str, volume: &VolumeSpec) -> Result<Payload, VolumeError> {
    let mut payload = Payload::new();
    for source in &volume.sources {
        let key = ObjectKey::new(namespace, &source.name);
        let object = cluster.get(source.kind.resource(), &key);
        let object =
            object.ok_or_else(|| VolumeError::NoObject { kind: source.kind, name: source.name.clone() })?;
        payload.extend(files(source, &object)?);
    }
    Ok(payload)
}

fn files(source: &VolumeSource, object: &Value) -> Result<Payload, VolumeError> {
    let all = object["data"].as_object();
    let value = |key: &str| {
        let text = all.and_then(|data| data.get(key)).and_then(Value::as_str)?;
        // A Secret's values stay in base64: nothing here needs them decoded, and changes show all the same.
        Some(text.as_bytes().to_vec())
    };
    if source.items.is_empty() {
        let keys = all.into_iter().flat_map(|data| data.keys());
        return Ok(keys.filter_map(|key| Some((key.clone(), value(key)?))).collect());
    }
    let items = source.items.iter().map(|(key, path)| match value(key) {
        Some(content) => Ok((path.clone(), content)),
        None => Err(VolumeError::NoKey { kind: source.kind, name: source.name.clone(), key: key.clone() }),
    });
    items.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(items: &[(&str, &str)]) -> VolumeSpec {
        let items = items.iter().map(|(key, path)| ((*key).to_owned(), (*path).to_owned())).collect();
        let source = VolumeSource { kind: VolumeSourceKind::ConfigMap, name: "c".into(), items };
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
            payload(&cluster(), "shop", &volume).unwrap().into_keys().collect()
        };
        assert_eq!(names(volume(&[])), ["a", "b"]);
        assert_eq!(names(volume(&[("b", "renamed")])), ["renamed"]);
    }

    #[test]
    fn what_is_missing_blocks_the_volume() {
        let error = payload(&cluster(), "shop", &volume(&[("z", "z")])).unwrap_err();
        assert!(matches!(error, VolumeError::NoKey { .. }));
        let error = payload(&cluster(), "other", &volume(&[])).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"c\" not found");
    }

    #[test]
    fn folders_are_named_as_on_a_node() {
        let folder = volume_folder(Path::new("/var/lib/kubelet"), "u", &volume(&[]));
        assert_eq!(folder, Path::new("/var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/cfg"));
    }
}
