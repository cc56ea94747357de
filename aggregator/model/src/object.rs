//! Versions of watched API objects.

use serde::{Deserialize, Serialize};

use crate::{Content, Timestamp};

/// An API object, at a version where that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// Such as `ConfigMap`.
    pub kind: String,
    /// `metadata.namespace`; empty for cluster-wide kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, where known.
    pub uid: Option<String>,
    /// `metadata.resourceVersion`, where known.
    pub resource_version: Option<String>,
}

/// One version of a watched object, as far as the allow-list keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectVersion {
    /// The cluster's name.
    pub cluster: String,
    /// Such as `Pod`.
    pub kind: String,
    /// `metadata.namespace`; empty for cluster-wide kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// When this version came into force, as well as the source tells.
    pub valid_from: Timestamp,
    /// Whether this row says that the object is gone from `valid_from` on; `state` is then the last one.
    pub deleted: bool,
    /// Allow-listed state as a JSON object with sorted keys.
    pub state: String,
    /// Keyed hashes of content that is not stored.
    pub content: Option<Content>,
    /// JSON paths that differ from the version before, sorted; empty for the first.
    pub changed_paths: Vec<String>,
    /// When the aggregator made it durable; `None` before that.
    pub recorded_at: Option<Timestamp>,
}
