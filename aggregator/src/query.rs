//! Which facts are asked for: one filter for the recent past and for segments, so that both mean the same.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use aftertrace_model::{Event, Kind, Timestamp};
use serde_json::Value;

use crate::hot::namespace_of;

/// Facts within a closed interval, the latest `limit` of them; what is `None` or empty does not matter.
#[derive(Clone, Debug)]
pub struct FactQuery {
    /// Namespace of the pod, or else of the object.
    pub namespace: Option<String>,
    /// Name of the pod.
    pub pod: Option<String>,
    /// Name of the workload.
    pub workload: Option<String>,
    /// Uids of pods.
    pub pod_uids: Option<BTreeSet<String>>,
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Attributes that a fact must have; a number is compared by its digits.
    pub attributes: BTreeMap<String, String>,
    /// First instant.
    pub since: Timestamp,
    /// Last instant.
    pub until: Timestamp,
    /// Most facts.
    pub limit: usize,
}

impl FactQuery {
    /// Every fact between two instants.
    #[must_use]
    pub const fn between(since: Timestamp, until: Timestamp, limit: usize) -> Self {
        Self {
            namespace: None,
            pod: None,
            workload: None,
            pod_uids: None,
            kinds: Vec::new(),
            attributes: BTreeMap::new(),
            since,
            until,
            limit,
        }
    }

    /// The facts of a pod, or of a whole namespace, between two instants.
    #[must_use]
    pub fn of_pod(
        namespace: &str,
        pod: Option<&str>,
        since: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            pod: pod.map(str::to_owned),
            ..Self::between(since, until, limit)
        }
    }

    /// Whether a fact is asked for.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        let is =
            |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
        let at = event.occurred.at;
        at >= self.since
            && at <= self.until
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && is(&self.namespace, namespace_of(event))
            && is(&self.pod, event.pod.as_ref().map(|p| p.name.as_str()))
            && is(&self.workload, event.workload.as_ref().map(|w| w.name.as_str()))
            && self.pod_uids.as_ref().is_none_or(|uids| event.pod_uid().is_some_and(|uid| uids.contains(uid)))
            && self
                .attributes
                .iter()
                .all(|(name, wanted)| event.attributes.get(name).and_then(text).as_deref() == Some(wanted))
    }
}

/// A value as SQL's `->>` gives it.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}
