//! What a watched kind tells about itself, and what is read from any object's metadata.

use std::fmt::Debug;

use aftertrace_model::{Content, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::secret::ClusterSecret;

/// A kind of object whose versions are kept. Its file lists the fields that may be.
pub(crate) trait Watched:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Such as `Pod`.
    const KIND: &'static str;
    /// Such as `pods`; names the watch.
    const PLURAL: &'static str;
    /// Whether a change of content is a fact of its own (`config_changed`).
    const IS_CONFIG: bool;

    /// The allow-listed state, without metadata.
    fn state(&self) -> Map<String, Value>;

    /// Keyed hashes of values that are not kept; `None` for kinds without such.
    fn content(&self, secret: &ClusterSecret) -> Option<Content>;
}

/// One look at one version of an object.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    /// `metadata.creationTimestamp`, floored to a second by the API server.
    pub(crate) created: Option<Timestamp>,
    /// The newest time in `metadata.managedFields`, floored to a second.
    pub(crate) written: Option<Timestamp>,
    /// The allow-listed state with its metadata.
    pub(crate) state: Value,
    pub(crate) content: Option<Content>,
}

impl Sight {
    /// Reads an object; `None` if it lacks the metadata that makes it one.
    pub(crate) fn of<K: Watched>(object: &K, secret: &ClusterSecret) -> Option<Self> {
        let meta = object.meta();
        let mut state = object.state();
        state.insert("metadata".to_owned(), metadata(meta));
        Some(Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            resource_version: meta.resource_version.clone()?,
            created: meta.creation_timestamp.as_ref().map(instant),
            written: meta
                .managed_fields
                .iter()
                .flatten()
                .filter_map(|entry| entry.time.as_ref().map(instant))
                .max(),
            state: Value::Object(state),
            content: object.content(secret),
        })
    }
}

/// A time of the API.
pub(crate) fn instant(time: &Time) -> Timestamp {
    Timestamp::from_micros(time.0.as_microsecond())
}

/// Labels, owners and deletion; never annotations, which hold `last-applied-configuration`.
fn metadata(meta: &ObjectMeta) -> Value {
    let mut kept = Map::new();
    if let Some(labels) = meta.labels.as_ref().filter(|l| !l.is_empty()) {
        kept.insert("labels".to_owned(), json!(labels));
    }
    if let Some(owners) = meta.owner_references.as_ref().filter(|o| !o.is_empty()) {
        let owners: Vec<_> = owners
            .iter()
            .map(|o| json!({"kind": o.kind, "name": o.name, "uid": o.uid, "controller": o.controller}))
            .collect();
        kept.insert("ownerReferences".to_owned(), Value::Array(owners));
    }
    if let Some(time) = &meta.deletion_timestamp {
        kept.insert("deletionTimestamp".to_owned(), json!(instant(time).to_string()));
    }
    if let Some(time) = &meta.creation_timestamp {
        kept.insert("creationTimestamp".to_owned(), json!(instant(time).to_string()));
    }
    Value::Object(kept)
}
