//! What a pod's volumes are made of: ConfigMaps, Secrets, and what is no configuration.
//!
//! Pure: pod spec in, sources by volume name out, and from a file in a volume back to the key it shows.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{KeyToPath, Pod, Volume, VolumeProjection};

/// A ConfigMap or Secret that a volume shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MountedObject {
    /// `ConfigMap` or `Secret`.
    pub(crate) kind: &'static str,
    /// `metadata.namespace`, the pod's own.
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
}

/// One source of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The object it shows.
    pub(crate) object: MountedObject,
    /// Path in the volume to key, if only some items are shown; empty means all keys under their own names.
    pub(crate) items: HashMap<String, String>,
}

/// The sources of one volume that an AtomicWriter writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumeSources {
    /// ConfigMaps and Secrets.
    pub(crate) objects: Vec<Source>,
    /// Paths that other sources write: tokens, downward API fields.
    pub(crate) other_paths: BTreeSet<String>,
}

impl VolumeSources {
    /// Which source shows the file at `path`, and which of its keys: `None` where it is no configuration, or
    /// where several sources show all their keys and the spec cannot tell them apart.
    pub(crate) fn owner_of<'s, 'p: 'k, 'k>(&'s self, path: &'p str) -> Option<(&'s Source, &'k str)>
    where
        's: 'k,
    {
        if self.other_paths.contains(path) {
            return None;
        }
        if let Some(found) = self.objects.iter().find_map(|s| Some((s, s.items.get(path)?.as_str()))) {
            return Some(found);
        }
        let mut whole = self.objects.iter().filter(|s| s.items.is_empty());
        match (whole.next(), whole.next()) {
            (Some(only), None) if !path.contains('/') => Some((only, path)),
            _ => None,
        }
    }

    /// Whether a file at `path` may come from a ConfigMap or Secret.
    pub(crate) fn is_configuration(&self, path: &str) -> bool {
        !self.objects.is_empty() && !self.other_paths.contains(path)
    }
}

/// The volumes of a pod that show objects or are projected, by name.
pub(crate) fn of_pod(pod: &Pod) -> HashMap<String, VolumeSources> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    volumes.iter().filter_map(|v| Some((v.name.clone(), of_volume(namespace, v)?))).collect()
}

fn of_volume(namespace: &str, volume: &Volume) -> Option<VolumeSources> {
    if let Some(config_map) = &volume.config_map {
        let object = object("ConfigMap", namespace, &config_map.name);
        let source = Source { object, items: items(config_map.items.as_deref()) };
        return Some(VolumeSources { objects: vec![source], ..VolumeSources::default() });
    }
    if let Some(secret) = &volume.secret {
        let object = object("Secret", namespace, secret.secret_name.as_deref().unwrap_or_default());
        let source = Source { object, items: items(secret.items.as_deref()) };
        return Some(VolumeSources { objects: vec![source], ..VolumeSources::default() });
    }
    if let Some(downward) = &volume.downward_api {
        let files = downward.items.as_deref().unwrap_or_default();
        let other_paths = files.iter().map(|f| f.path.clone()).collect();
        return Some(VolumeSources { other_paths, ..VolumeSources::default() });
    }
    let mut sources = VolumeSources::default();
    for projection in volume.projected.as_ref()?.sources.as_deref().unwrap_or_default() {
        add_projection(&mut sources, namespace, projection);
    }
    Some(sources)
}

fn add_projection(sources: &mut VolumeSources, namespace: &str, projection: &VolumeProjection) {
    if let Some(config_map) = &projection.config_map {
        let object = object("ConfigMap", namespace, &config_map.name);
        sources.objects.push(Source { object, items: items(config_map.items.as_deref()) });
    }
    if let Some(secret) = &projection.secret {
        let object = object("Secret", namespace, &secret.name);
        sources.objects.push(Source { object, items: items(secret.items.as_deref()) });
    }
    let mut other = |path: &str| {
        sources.other_paths.insert(path.to_owned());
    };
    if let Some(token) = &projection.service_account_token {
        other(&token.path);
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        other(&bundle.path);
    }
    for file in projection.downward_api.iter().flat_map(|d| d.items.as_deref().unwrap_or_default()) {
        other(&file.path);
    }
}

fn object(kind: &'static str, namespace: &str, name: &str) -> MountedObject {
    MountedObject { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

fn items(items: Option<&[KeyToPath]>) -> HashMap<String, String> {
    items.unwrap_or_default().iter().map(|i| (i.path.clone(), i.key.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(volumes: serde_json::Value) -> HashMap<String, VolumeSources> {
        let pod = serde_json::json!({"metadata": {"namespace": "s"}, "spec": {"containers": [],
            "volumes": volumes}});
        of_pod(&serde_json::from_value(pod).expect("a pod"))
    }

    fn owner(sources: &VolumeSources, path: &str) -> String {
        match sources.owner_of(path) {
            Some((source, key)) => format!("{}/{}:{key}", source.object.kind, source.object.name),
            None => "nobody".to_owned(),
        }
    }

    #[test]
    fn files_lead_back_to_keys() {
        let v = volumes(serde_json::json!([
            {"name": "all", "configMap": {"name": "cm"}},
            {"name": "some", "secret": {"secretName": "sec", "items": [{"key": "k", "path": "a/b.txt"}]}},
            {"name": "none", "emptyDir": {}},
        ]));
        assert_eq!(owner(&v["all"], "app.conf"), "ConfigMap/cm:app.conf");
        assert_eq!(owner(&v["some"], "a/b.txt"), "Secret/sec:k");
        assert_eq!(owner(&v["some"], "k"), "nobody");
        assert!(!v.contains_key("none"), "an emptyDir is not written atomically");
    }

    #[test]
    fn a_token_volume_has_a_config_map_and_yet_its_token_is_no_configuration() {
        let v = volumes(serde_json::json!([{"name": "kube-api-access-x", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        ]}}]));
        let access = &v["kube-api-access-x"];
        assert_eq!(owner(access, "ca.crt"), "ConfigMap/kube-root-ca.crt:ca.crt");
        assert_eq!(owner(access, "token"), "nobody");
        assert!(access.is_configuration("ca.crt") && !access.is_configuration("token"));
    }

    #[test]
    fn two_whole_sources_cannot_be_told_apart() {
        let v = volumes(serde_json::json!([{"name": "p", "projected": {"sources": [
            {"configMap": {"name": "a"}}, {"secret": {"name": "b"}}]}}]));
        assert_eq!(owner(&v["p"], "file"), "nobody");
        assert!(v["p"].is_configuration("file"));
    }
}
