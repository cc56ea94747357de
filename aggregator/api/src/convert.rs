//! Proto ⇄ model: the only place where wire and domain meet.
//!
//! To the wire cannot fail. From the wire every field is checked; an error names the field and the value.

use aftertrace_model::{
    Content, Edge, Event, EventId, Evidence, Gap, Grade, ObjectRef, ObjectVersion, Occurrence, PodRef,
    Retraction, Severity, Source, Timestamp, Workload, text,
};
use uuid::Uuid;

use crate::proto;

/// A message that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// An identity is not 16 bytes.
    #[error("{field} has {bytes} bytes, an id has 16")]
    Id {
        /// The field.
        field: &'static str,
        /// How many bytes it has.
        bytes: usize,
    },
    /// A name is not one that this version knows.
    #[error("{field} is {value:?}, which this version does not know")]
    Name {
        /// The field.
        field: &'static str,
        /// The value, escaped.
        value: String,
    },
    /// The bounds of a time are out of order.
    #[error("earliest {earliest_us} <= occurred_at {at_us} <= latest {latest_us} does not hold")]
    Bounds {
        /// First possible instant, µs.
        earliest_us: i64,
        /// Best estimate, µs.
        at_us: i64,
        /// Last possible instant, µs.
        latest_us: i64,
    },
    /// `attributes` is no JSON object.
    #[error("attributes is no JSON object: {reason}")]
    Attributes {
        /// What the parser says.
        reason: String,
    },
}

fn id(field: &'static str, bytes: &[u8]) -> Result<Uuid, ConvertError> {
    Uuid::from_slice(bytes).map_err(|_| ConvertError::Id { field, bytes: bytes.len() })
}

fn name<T: std::str::FromStr>(field: &'static str, value: &str) -> Result<T, ConvertError> {
    value.parse().map_err(|_| unknown(field, value))
}

fn unknown(field: &'static str, value: &str) -> ConvertError {
    ConvertError::Name { field, value: text::escape(value) }
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_micros)
}

impl From<&Event> for proto::Event {
    fn from(e: &Event) -> Self {
        Self {
            event_id: e.event_id.0.as_bytes().to_vec(),
            kind: e.kind.as_str().to_owned(),
            occurred_at_us: e.occurred.at.as_micros(),
            earliest_us: e.occurred.earliest.as_micros(),
            latest_us: e.occurred.latest.as_micros(),
            recorded_at_us: micros(e.recorded_at),
            boot_ns: e.boot_ns,
            cluster: e.cluster.clone(),
            node: e.node.clone(),
            pod: e.pod.as_ref().map(|p| proto::Pod {
                namespace: p.namespace.clone(),
                name: p.name.clone(),
                uid: p.uid.clone(),
            }),
            container: e.container.clone(),
            container_id: e.container_id.clone(),
            restart_count: e.restart_count,
            workload: e
                .workload
                .as_ref()
                .map(|w| proto::Workload { kind: w.kind.clone(), name: w.name.clone() }),
            object: e.object.as_ref().map(|o| proto::Object {
                kind: o.kind.clone(),
                namespace: o.namespace.clone(),
                name: o.name.clone(),
                uid: o.uid.clone(),
                resource_version: o.resource_version.clone(),
            }),
            content: e.content.as_ref().map(Into::into),
            pid: e.pid,
            container_init: e.container_init,
            cgroup_id: e.cgroup_id,
            episode_id: e.episode_id.map(|id| id.0.as_bytes().to_vec()),
            reason: e.reason.clone(),
            exit_code: e.exit_code,
            source: e.source.as_str().to_owned(),
            hook: e.hook.clone(),
            severity: e.severity.as_str().to_owned(),
            summary: e.summary.clone(),
            attributes: serde_json::to_string(&e.attributes)
                .expect("JSON values under text keys always encode"),
        }
    }
}

impl TryFrom<proto::Event> for Event {
    type Error = ConvertError;

    fn try_from(e: proto::Event) -> Result<Self, ConvertError> {
        if !(e.earliest_us <= e.occurred_at_us && e.occurred_at_us <= e.latest_us) {
            return Err(ConvertError::Bounds {
                earliest_us: e.earliest_us,
                at_us: e.occurred_at_us,
                latest_us: e.latest_us,
            });
        }
        Ok(Self {
            event_id: EventId(id("event_id", &e.event_id)?),
            kind: name("kind", &e.kind)?,
            occurred: Occurrence {
                at: Timestamp::from_micros(e.occurred_at_us),
                earliest: Timestamp::from_micros(e.earliest_us),
                latest: Timestamp::from_micros(e.latest_us),
            },
            recorded_at: e.recorded_at_us.map(Timestamp::from_micros),
            boot_ns: e.boot_ns,
            cluster: e.cluster,
            node: e.node,
            pod: e.pod.map(|p| PodRef { namespace: p.namespace, name: p.name, uid: p.uid }),
            container: e.container,
            container_id: e.container_id,
            restart_count: e.restart_count,
            workload: e.workload.map(|w| Workload { kind: w.kind, name: w.name }),
            object: e.object.map(|o| ObjectRef {
                kind: o.kind,
                namespace: o.namespace,
                name: o.name,
                uid: o.uid,
                resource_version: o.resource_version,
            }),
            content: e.content.map(Into::into),
            pid: e.pid,
            container_init: e.container_init,
            cgroup_id: e.cgroup_id,
            episode_id: e.episode_id.map(|bytes| id("episode_id", &bytes).map(EventId)).transpose()?,
            reason: e.reason,
            exit_code: e.exit_code,
            source: source(&e.source)?,
            hook: e.hook,
            severity: severity(&e.severity)?,
            summary: e.summary,
            attributes: if e.attributes.is_empty() {
                Default::default()
            } else {
                serde_json::from_str(&e.attributes)
                    .map_err(|error| ConvertError::Attributes { reason: error.to_string() })?
            },
        })
    }
}

/// Reads the name of a source.
///
/// # Errors
/// [`ConvertError::Name`] for a name this version does not know.
pub fn source(value: &str) -> Result<Source, ConvertError> {
    [Source::Kernel, Source::Node, Source::Kube, Source::Engine]
        .into_iter()
        .find(|s| s.as_str() == value)
        .ok_or_else(|| unknown("source", value))
}

/// Reads the name of a severity.
///
/// # Errors
/// [`ConvertError::Name`] for a name this version does not know.
pub fn severity(value: &str) -> Result<Severity, ConvertError> {
    [Severity::Info, Severity::Warning, Severity::Error]
        .into_iter()
        .find(|s| s.as_str() == value)
        .ok_or_else(|| unknown("severity", value))
}

/// Reads the name of a grade.
///
/// # Errors
/// [`ConvertError::Name`] for a name this version does not know.
pub fn grade(value: &str) -> Result<Grade, ConvertError> {
    [Grade::Inferred, Grade::Identified, Grade::Proven]
        .into_iter()
        .find(|g| g.as_str() == value)
        .ok_or_else(|| unknown("grade", value))
}

impl From<&Content> for proto::Content {
    fn from(c: &Content) -> Self {
        Self { key_id: c.key_id.clone(), keys: c.keys.clone() }
    }
}

impl From<proto::Content> for Content {
    fn from(c: proto::Content) -> Self {
        Self { key_id: c.key_id, keys: c.keys }
    }
}

impl From<&Edge> for proto::Edge {
    fn from(e: &Edge) -> Self {
        Self {
            cause_id: e.cause_id.0.as_bytes().to_vec(),
            effect_id: e.effect_id.0.as_bytes().to_vec(),
            pattern: e.pattern.clone(),
            rule_id: e.rule_id.clone(),
            grade: e.grade.as_str().to_owned(),
            confidence: e.confidence,
            lag_us: e.lag_us,
            evidence: e.evidence.clone(),
            cause_kind: e.cause_kind.as_str().to_owned(),
            cause_occurred_at_us: e.cause_occurred_at.as_micros(),
            cause_summary: e.cause_summary.clone(),
            effect_kind: e.effect_kind.as_str().to_owned(),
            effect_occurred_at_us: e.effect_occurred_at.as_micros(),
            recorded_at_us: micros(e.recorded_at),
        }
    }
}

impl TryFrom<proto::Edge> for Edge {
    type Error = ConvertError;

    fn try_from(e: proto::Edge) -> Result<Self, ConvertError> {
        Ok(Self {
            cause_id: EventId(id("cause_id", &e.cause_id)?),
            effect_id: EventId(id("effect_id", &e.effect_id)?),
            pattern: e.pattern,
            rule_id: e.rule_id,
            grade: grade(&e.grade)?,
            confidence: e.confidence,
            lag_us: e.lag_us,
            evidence: Evidence::from_iter(e.evidence),
            cause_kind: name("cause_kind", &e.cause_kind)?,
            cause_occurred_at: Timestamp::from_micros(e.cause_occurred_at_us),
            cause_summary: e.cause_summary,
            effect_kind: name("effect_kind", &e.effect_kind)?,
            effect_occurred_at: Timestamp::from_micros(e.effect_occurred_at_us),
            recorded_at: e.recorded_at_us.map(Timestamp::from_micros),
        })
    }
}

impl From<&Retraction> for proto::Retraction {
    fn from(r: &Retraction) -> Self {
        Self {
            cause_id: r.cause_id.0.as_bytes().to_vec(),
            effect_id: r.effect_id.0.as_bytes().to_vec(),
            rule_id: r.rule_id.clone(),
            reason: r.reason.clone(),
            effect_occurred_at_us: r.effect_occurred_at.as_micros(),
            recorded_at_us: micros(r.recorded_at),
        }
    }
}

impl TryFrom<proto::Retraction> for Retraction {
    type Error = ConvertError;

    fn try_from(r: proto::Retraction) -> Result<Self, ConvertError> {
        Ok(Self {
            cause_id: EventId(id("cause_id", &r.cause_id)?),
            effect_id: EventId(id("effect_id", &r.effect_id)?),
            rule_id: r.rule_id,
            reason: r.reason,
            effect_occurred_at: Timestamp::from_micros(r.effect_occurred_at_us),
            recorded_at: r.recorded_at_us.map(Timestamp::from_micros),
        })
    }
}

impl From<&ObjectVersion> for proto::ObjectVersion {
    fn from(o: &ObjectVersion) -> Self {
        Self {
            cluster: o.cluster.clone(),
            kind: o.kind.clone(),
            namespace: o.namespace.clone(),
            name: o.name.clone(),
            uid: o.uid.clone(),
            resource_version: o.resource_version.clone(),
            valid_from_us: o.valid_from.as_micros(),
            deleted: o.deleted,
            state: o.state.clone(),
            content: o.content.as_ref().map(Into::into),
            changed_paths: o.changed_paths.clone(),
            recorded_at_us: micros(o.recorded_at),
        }
    }
}

impl From<proto::ObjectVersion> for ObjectVersion {
    fn from(o: proto::ObjectVersion) -> Self {
        Self {
            cluster: o.cluster,
            kind: o.kind,
            namespace: o.namespace,
            name: o.name,
            uid: o.uid,
            resource_version: o.resource_version,
            valid_from: Timestamp::from_micros(o.valid_from_us),
            deleted: o.deleted,
            state: o.state,
            content: o.content.map(Into::into),
            changed_paths: o.changed_paths,
            recorded_at: o.recorded_at_us.map(Timestamp::from_micros),
        }
    }
}

impl From<&Gap> for proto::Gap {
    fn from(g: &Gap) -> Self {
        Self {
            gap_id: g.gap_id.as_bytes().to_vec(),
            cluster: g.cluster.clone(),
            node: g.node.clone(),
            component: g.component.clone(),
            reason: g.reason.as_str().to_owned(),
            from_us: g.from.as_micros(),
            to_us: g.to.as_micros(),
            count: g.count,
            detail: g.detail.clone(),
            recorded_at_us: micros(g.recorded_at),
        }
    }
}

impl TryFrom<proto::Gap> for Gap {
    type Error = ConvertError;

    fn try_from(g: proto::Gap) -> Result<Self, ConvertError> {
        Ok(Self {
            gap_id: id("gap_id", &g.gap_id)?,
            cluster: g.cluster,
            node: g.node,
            component: g.component,
            reason: name("reason", &g.reason)?,
            from: Timestamp::from_micros(g.from_us),
            to: Timestamp::from_micros(g.to_us),
            count: g.count,
            detail: g.detail,
            recorded_at: g.recorded_at_us.map(Timestamp::from_micros),
        })
    }
}

#[cfg(test)]
mod tests;
