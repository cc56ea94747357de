//! Looks at objects → rows: the last state of each object of one kind, and what differs from it.
//!
//! The ledger opens with what the store holds, so a restart, a relist or a repeated watch event gives no
//! second row. It does no I/O; [`super::follow`] feeds it and makes its rows durable.

use std::collections::{BTreeMap, BTreeSet};

use aftertrace_model::fact::FactKey;
use aftertrace_model::{
    Content, Event, Kind, ObjectRef, ObjectVersion, Occurrence, PodRef, Source, Timestamp, text, time,
};
use serde_json::{Value, json};

use super::diff::changed_paths;
use super::kind::Sight;
use super::pod::PodFacts;
use crate::writer::Facts;

/// Most changed keys that a summary names; the attributes have them all.
const SUMMARY_KEYS_MAX: usize = 5;

/// Which kind a ledger is for.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Such as `ConfigMap`.
    pub(crate) kind: &'static str,
    /// Such as `watch/configmaps`.
    pub(crate) hook: String,
    /// Whether a change of content is a `config_changed`.
    pub(crate) is_config: bool,
}

/// How an object came to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// In a running watch.
    Live,
    /// In a list. `heard_until` is the last instant up to which an earlier watch had told everything; `None`
    /// if there was none, so that what is found was there before us.
    Listed {
        /// The end of the earlier watch.
        heard_until: Option<Timestamp>,
    },
}

/// The last state of every object of a kind.
#[derive(Debug)]
pub(crate) struct Ledger {
    subject: Subject,
    known: BTreeMap<(String, String), Known>,
}

#[derive(Clone, Debug)]
struct Known {
    uid: String,
    resource_version: String,
    valid_from: Timestamp,
    state: Value,
    content: Option<Content>,
}

impl Ledger {
    /// A ledger that continues from the stored versions.
    pub(crate) fn open(subject: Subject, stored: impl IntoIterator<Item = ObjectVersion>) -> Self {
        let known = stored
            .into_iter()
            .filter(|version| !version.deleted)
            .map(|version| {
                let known = Known {
                    uid: version.uid,
                    resource_version: version.resource_version,
                    valid_from: version.valid_from,
                    state: serde_json::from_str(&version.state).unwrap_or(Value::Null),
                    content: version.content,
                };
                ((version.namespace, version.name), known)
            })
            .collect();
        Self { subject, known }
    }

    /// Namespace, name, uid and state of each object, in that order.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&str, &str, &str, &Value)> {
        self.known.iter().map(|((ns, name), k)| (ns.as_str(), name.as_str(), k.uid.as_str(), &k.state))
    }

    /// Takes one look at an object; adds to `out` what is new in it.
    pub(crate) fn see(&mut self, sight: &Sight, how: How, seen: Timestamp, out: &mut Facts) {
        let key = (sight.namespace.clone(), sight.name.clone());
        let before = match self.known.get(&key) {
            Some(known) if known.uid == sight.uid => Some(known.clone()),
            Some(known) => {
                // The name was given to a new object and nobody told us that the old one went.
                let until = sight.created.unwrap_or(seen).min(seen);
                let since = match how {
                    How::Live => until,
                    How::Listed { heard_until } => heard_until.unwrap_or(known.valid_from),
                };
                self.forget(&key, Occurrence::between(since, until), true, None, out);
                None
            }
            None => None,
        };
        let (occurred, id_time) = self.time_of(sight, before.as_ref(), seen);
        let mut paths = match &before {
            Some(known) => changed_paths(&known.state, &sight.state),
            None => BTreeSet::new(),
        };
        let keys = changed_keys(before.as_ref(), sight);
        let rekeyed =
            before.as_ref().is_some_and(|b| key_id(b.content.as_ref()) != key_id(sight.content.as_ref()));
        if before.is_some() && !rekeyed {
            // A key that came or went is in the hashes too; the list of names adds nothing to them.
            paths.remove("data");
            paths.remove("binaryData");
            paths.extend(keys.iter().map(|key| format!("data.{key}")));
        }
        let is_new = before.is_none();
        if !is_new && paths.is_empty() && !rekeyed {
            return;
        }
        // An object found by the first list of all was there before us; one made since the last watch is new.
        let is_created = is_new
            && match how {
                How::Live => true,
                How::Listed { heard_until } => heard_until
                    .zip(sight.created)
                    .is_some_and(|(until, created)| created.plus_micros(time::SECOND_US) > until),
            };
        if self.subject.is_config && (is_created || (!is_new && !keys.is_empty())) {
            out.events.push(self.config_changed(sight, &keys, is_created, occurred, id_time));
        }
        out.objects.push(self.version(sight, occurred.at, paths));
        self.known.insert(
            key,
            Known {
                uid: sight.uid.clone(),
                resource_version: sight.resource_version.clone(),
                valid_from: occurred.at,
                state: sight.state.clone(),
                content: sight.content.clone(),
            },
        );
    }

    /// The watch said that an object is gone.
    pub(crate) fn see_deleted(&mut self, sight: &Sight, seen: Timestamp, out: &mut Facts) {
        let key = (sight.namespace.clone(), sight.name.clone());
        if self.known.get(&key).is_some_and(|known| known.uid == sight.uid) {
            self.forget(&key, Occurrence::within(seen, 0), false, Some(&sight.resource_version), out);
        }
    }

    /// A list is complete: what is known and not in it went away since `heard_until`.
    pub(crate) fn see_absent(
        &mut self,
        listed: &BTreeSet<(String, String)>,
        heard_until: Option<Timestamp>,
        seen: Timestamp,
        out: &mut Facts,
    ) {
        let gone: Vec<_> = self.known.keys().filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            let since = heard_until.unwrap_or_else(|| self.known[&key].valid_from);
            self.forget(&key, Occurrence::between(since, seen), true, None, out);
        }
    }

    /// When the version seen came into force, and the time that its event id is made from, which every look
    /// at that version gives alike.
    ///
    /// A write is floored to the second by the API server's clock; what a watch delivers comes within
    /// milliseconds, so the instant of seeing it is the best estimate while it lies in that second.
    fn time_of(&self, sight: &Sight, before: Option<&Known>, seen: Timestamp) -> (Occurrence, Timestamp) {
        // A write that is older than the version before is the time of some other field.
        let written =
            sight.written.filter(|w| before.is_none_or(|b| w.plus_micros(time::SECOND_US) > b.valid_from));
        let floored = match before {
            Some(_) => written,
            None => written.max(sight.created),
        };
        let Some(floored) = floored else {
            let after = before.map_or(seen, |b| b.valid_from);
            return (Occurrence::between(after, seen), seen);
        };
        let at = seen.max(floored).min(floored.plus_micros(time::SECOND_US - 1));
        (Occurrence { at, earliest: floored, latest: seen.max(at) }, floored)
    }

    fn config_changed(
        &self,
        sight: &Sight,
        keys: &BTreeSet<String>,
        is_created: bool,
        occurred: Occurrence,
        id_time: Timestamp,
    ) -> Event {
        let fact = FactKey::Version { uid: &sight.uid, resource_version: &sight.resource_version };
        let verb = if is_created { "created" } else { "changed" };
        let named: Vec<_> = keys.iter().take(SUMMARY_KEYS_MAX).map(String::as_str).collect();
        let more = match keys.len().saturating_sub(SUMMARY_KEYS_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let kind = self.subject.kind;
        let summary = format!("{kind} {}/{} {verb}: {}{more}", sight.namespace, sight.name, named.join(", "));
        let mut event =
            self.event(fact.event_id(&self.subject.cluster, id_time), Kind::ConfigChanged, occurred, summary);
        event.object = Some(ObjectRef {
            kind: kind.to_owned(),
            namespace: sight.namespace.clone(),
            name: sight.name.clone(),
            uid: Some(sight.uid.clone()),
            resource_version: Some(sight.resource_version.clone()),
        });
        event.content = sight.content.clone();
        event.attributes.insert("change".to_owned(), json!(if is_created { "created" } else { "modified" }));
        event.attributes.insert("changed_keys".to_owned(), json!(keys));
        event
    }

    /// Writes an object off: a last row and an `object_deleted`.
    fn forget(
        &mut self,
        key: &(String, String),
        occurred: Occurrence,
        inferred: bool,
        resource_version: Option<&str>,
        out: &mut Facts,
    ) {
        let Some(known) = self.known.remove(key) else { return };
        let (namespace, name) = key.clone();
        let kind = self.subject.kind;
        let id = FactKey::Deleted { uid: &known.uid }.event_id(&self.subject.cluster, occurred.at);
        let how = if inferred { " (it was missing when the objects were listed again)" } else { "" };
        let summary = format!("{kind} {namespace}/{name} deleted{how}");
        let mut event = self.event(id, Kind::ObjectDeleted, occurred, summary);
        if kind == "Pod" {
            let facts = PodFacts::read(&known.state);
            event.pod =
                Some(PodRef { namespace: namespace.clone(), name: name.clone(), uid: known.uid.clone() });
            event.workload = facts.workload;
        }
        if inferred {
            event.attributes.insert("inferred".to_owned(), json!(true));
        }
        let resource_version = resource_version.unwrap_or(&known.resource_version).to_owned();
        event.object = Some(ObjectRef {
            kind: kind.to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
            uid: Some(known.uid.clone()),
            resource_version: Some(resource_version.clone()),
        });
        out.events.push(event);
        out.objects.push(ObjectVersion {
            cluster: self.subject.cluster.clone(),
            kind: kind.to_owned(),
            namespace,
            name,
            uid: known.uid,
            resource_version,
            valid_from: occurred.at,
            deleted: true,
            state: known.state.to_string(),
            content: known.content,
            changed_paths: Vec::new(),
            recorded_at: None,
        });
    }

    fn version(&self, sight: &Sight, valid_from: Timestamp, paths: BTreeSet<String>) -> ObjectVersion {
        ObjectVersion {
            cluster: self.subject.cluster.clone(),
            kind: self.subject.kind.to_owned(),
            namespace: sight.namespace.clone(),
            name: sight.name.clone(),
            uid: sight.uid.clone(),
            resource_version: sight.resource_version.clone(),
            valid_from,
            deleted: false,
            state: sight.state.to_string(),
            content: sight.content.clone(),
            changed_paths: paths.into_iter().collect(),
            recorded_at: None,
        }
    }

    fn event(
        &self,
        event_id: aftertrace_model::EventId,
        kind: Kind,
        occurred: Occurrence,
        summary: String,
    ) -> Event {
        let (cluster, hook) = (&self.subject.cluster, &self.subject.hook);
        Event {
            summary: text::escape(&summary),
            ..Event::new(event_id, kind, occurred, cluster, Source::Kube, hook)
        }
    }
}

/// The keys whose hash differs; none where hashes cannot be compared.
fn changed_keys(before: Option<&Known>, sight: &Sight) -> BTreeSet<String> {
    let Some(after) = &sight.content else { return BTreeSet::new() };
    let Some(before) = before else { return after.keys.keys().cloned().collect() };
    let Some(content) = before.content.as_ref().filter(|c| c.key_id == after.key_id) else {
        return BTreeSet::new();
    };
    let names = content.keys.keys().chain(after.keys.keys());
    names.filter(|name| content.keys.get(*name) != after.keys.get(*name)).cloned().collect()
}

fn key_id(content: Option<&Content>) -> Option<&str> {
    content.map(|c| c.key_id.as_str())
}

#[cfg(test)]
mod tests;
