//! Roughly how much memory a row takes, for bounds in bytes.
//!
//! Counted are the struct and its texts, not what an allocator adds. It is the same for equal values, so that a
//! count can be taken back when a row leaves.

use std::mem::size_of;

use serde_json::Value;

use crate::{Content, Edge, Event, Gap, ObjectRef, ObjectVersion};

/// What an entry of a map takes beside key and value: a guess at a B-tree node's share.
const ENTRY_BYTES: usize = 32;

impl Event {
    /// Roughly how many bytes of memory it takes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        let pod = self.pod.as_ref().map_or(0, |p| p.namespace.len() + p.name.len() + p.uid.len());
        let workload = self.workload.as_ref().map_or(0, |w| w.kind.len() + w.name.len());
        let attributes = self.attributes.iter().map(|(name, value)| ENTRY_BYTES + name.len() + json(value));
        size_of::<Self>()
            + self.cluster.len()
            + text(&self.node)
            + pod
            + text(&self.container)
            + text(&self.container_id)
            + workload
            + self.object.as_ref().map_or(0, object)
            + self.content.as_ref().map_or(0, content)
            + text(&self.reason)
            + self.hook.len()
            + self.summary.len()
            + attributes.sum::<usize>()
    }
}

impl Edge {
    /// Roughly how many bytes of memory it takes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        let evidence = self.evidence.iter().map(|(name, value)| ENTRY_BYTES + name.len() + value.len());
        size_of::<Self>()
            + self.pattern.len()
            + self.rule_id.len()
            + self.cause_summary.len()
            + evidence.sum::<usize>()
    }
}

impl ObjectVersion {
    /// Roughly how many bytes of memory it takes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        let names =
            [&self.cluster, &self.kind, &self.namespace, &self.name, &self.uid, &self.resource_version];
        size_of::<Self>()
            + names.iter().map(|name| name.len()).sum::<usize>()
            + self.state.len()
            + self.content.as_ref().map_or(0, content)
            + self.changed_paths.iter().map(|path| size_of::<String>() + path.len()).sum::<usize>()
    }
}

impl Gap {
    /// Roughly how many bytes of memory it takes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        size_of::<Self>() + self.cluster.len() + text(&self.node) + self.component.len() + self.detail.len()
    }
}

fn text(value: &Option<String>) -> usize {
    value.as_ref().map_or(0, String::len)
}

fn object(object: &ObjectRef) -> usize {
    object.kind.len()
        + object.namespace.len()
        + object.name.len()
        + text(&object.uid)
        + text(&object.resource_version)
}

fn content(content: &Content) -> usize {
    let keys = content.keys.iter().map(|(key, hash)| ENTRY_BYTES + key.len() + hash.len());
    content.key_id.len() + keys.sum::<usize>()
}

/// Depth is bounded by whoever parsed the value: `serde_json` stops at 128 levels.
fn json(value: &Value) -> usize {
    let own = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(json).sum(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| ENTRY_BYTES + name.len() + json(value)).sum()
        }
    };
    size_of::<Value>() + own
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use crate::{Event, EventId, Kind, Occurrence, Source, Timestamp};

    #[test]
    fn texts_and_attributes_count() {
        let occurred = Occurrence::within(Timestamp::from_micros(0), 0);
        let mut event = Event::new(EventId(Uuid::nil()), Kind::OomKill, occurred, "c", Source::Kernel, "h");
        let empty = event.approximate_bytes();
        event.summary = "x".repeat(1_000);
        assert_eq!(event.approximate_bytes(), empty + 1_000);
        event.attributes.insert("samples".to_owned(), json!([{"usage": 1}, {"usage": 2}]));
        let few = event.approximate_bytes();
        event.attributes.insert("samples".to_owned(), json!(vec![json!({"usage": 1}); 100]));
        assert!(event.approximate_bytes() > few + 98 * 40, "each sample counts");
    }
}
