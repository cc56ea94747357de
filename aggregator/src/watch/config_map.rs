//! ConfigMaps: the names of their keys, and keyed hashes of the values. No value is kept.

use aftertrace_model::Content;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use super::kind::Watched;
use crate::secret::ClusterSecret;

impl Watched for ConfigMap {
    const KIND: &'static str = "ConfigMap";
    const PLURAL: &'static str = "configmaps";
    const IS_CONFIG: bool = true;

    fn state(&self) -> Map<String, Value> {
        let mut state = Map::new();
        let names = |keys: Vec<&String>| json!(keys);
        if let Some(data) = self.data.as_ref().filter(|d| !d.is_empty()) {
            state.insert("data".to_owned(), names(data.keys().collect()));
        }
        if let Some(data) = self.binary_data.as_ref().filter(|d| !d.is_empty()) {
            state.insert("binaryData".to_owned(), names(data.keys().collect()));
        }
        if let Some(immutable) = self.immutable {
            state.insert("immutable".to_owned(), json!(immutable));
        }
        state
    }

    fn content(&self, secret: &ClusterSecret) -> Option<Content> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let key = secret.object_key(Self::KIND, namespace, self.metadata.name.as_deref()?);
        let text = self.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
        let binary = self.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
        Some(key.content(text.chain(binary)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::kind::Sight;

    #[test]
    fn no_value_and_no_annotation_is_kept() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let secret = ClusterSecret::open(dir.path()).expect("made");
        let object: ConfigMap = serde_json::from_value(json!({
            "metadata": {
                "namespace": "shop", "name": "app", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "shop"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"},
            },
            "data": {"password": "hunter2"}, "binaryData": {"blob": "aHVudGVyMg=="},
        }))
        .expect("a ConfigMap");
        let sight = Sight::of(&object, &secret).expect("whole");
        assert_eq!(
            sight.state,
            json!({"data": ["password"], "binaryData": ["blob"], "metadata": {"labels": {"app": "shop"}}})
        );
        let content = sight.content.expect("hashed");
        assert_eq!(content.keys["password"], content.keys["blob"], "equal values of one object hash alike");
        assert!(!format!("{:?}{content:?}", sight.state).contains("hunter2"));
    }
}
