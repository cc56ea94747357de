//! Objects and the log of their changes: what etcd and the watch cache are to a real API server.
//!
//! Pure: no clock, no tasks, no identity is made here. One revision counts all writes, as in etcd. Each kind
//! has its own log, so that a recording can be played per kind with the revisions it was recorded with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::error::ApiError;
use super::resource::Resource;

/// Changes that are kept per kind; older ones are compacted away, as etcd does after five minutes.
/// A guess that holds every scenario and keeps a long soak test below some tens of megabytes.
pub const LOG_ROWS_MAX: usize = 10_000;

/// Namespace and name. The namespace is empty for kinds without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, or "".
    pub namespace: String,
    /// Name inside the namespace.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object in a namespace; pass "" for kinds without one.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key that an object's metadata spells.
    pub fn of(object: &Value) -> Self {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self { namespace: text("namespace"), name: text("name") }
    }
}

/// One line of a kind's log.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// Revision of the write.
    pub revision: u64,
    /// What it did.
    pub change: Change,
}

/// What a write did to an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// Created (`previous` is `None`) or replaced.
    Put {
        /// The state after the write.
        object: Arc<Value>,
        /// The state before it.
        previous: Option<Arc<Value>>,
    },
    /// Removed.
    Delete {
        /// The last state, stamped with the revision of the deletion.
        object: Arc<Value>,
        /// The state before the deletion.
        previous: Arc<Value>,
    },
    /// A recorded bookmark: no write, only progress.
    Bookmark,
}

/// Everything the played API server knows.
#[derive(Debug)]
pub struct Store {
    revision: u64,
    log_rows_max: usize,
    collections: BTreeMap<Resource, Collection>,
}

#[derive(Debug, Default)]
struct Collection {
    objects: BTreeMap<ObjectKey, Arc<Value>>,
    log: VecDeque<LogEntry>,
    /// Changes up to here are no longer in the log.
    compacted: u64,
    /// Set once the kind is played from a recording: its own newest revision.
    recorded_head: Option<u64>,
}

impl Store {
    /// An empty store that keeps `log_rows_max` changes per kind.
    ///
    /// The first write gets revision 2: 0 and 1 have meanings of their own in the protocol.
    pub fn new(log_rows_max: usize) -> Self {
        Self { revision: 1, log_rows_max, collections: BTreeMap::new() }
    }

    /// The revision up to which a reader of `resource` has seen everything.
    pub fn head(&self, resource: Resource) -> u64 {
        self.collections.get(&resource).and_then(|c| c.recorded_head).unwrap_or(self.revision)
    }

    /// The revision of the newest write of any kind.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The object as it is now.
    pub fn get(&self, resource: Resource, key: &ObjectKey) -> Option<Arc<Value>> {
        self.collections.get(&resource)?.objects.get(key).cloned()
    }

    /// All objects of a kind as they are now, ordered by namespace and name.
    pub fn list(&self, resource: Resource) -> Vec<Arc<Value>> {
        self.collections.get(&resource).map(|c| c.objects.values().cloned().collect()).unwrap_or_default()
    }

    /// All objects of a kind as they were at `revision`, ordered by namespace and name.
    ///
    /// # Errors
    /// [`ApiError::Gone`] where the log does not reach back that far.
    pub fn list_at(&self, resource: Resource, revision: u64) -> Result<Vec<Arc<Value>>, ApiError> {
        let Some(collection) = self.collections.get(&resource) else { return Ok(Vec::new()) };
        collection.check_reaches(revision)?;
        let mut objects = collection.objects.clone();
        for entry in collection.log.iter().rev().take_while(|entry| entry.revision > revision) {
            match &entry.change {
                Change::Put { object, previous: None } => {
                    objects.remove(&ObjectKey::of(object));
                }
                Change::Put { previous: Some(previous), .. } | Change::Delete { previous, .. } => {
                    objects.insert(ObjectKey::of(previous), Arc::clone(previous));
                }
                Change::Bookmark => {}
            }
        }
        Ok(objects.into_values().collect())
    }

    /// The changes of a kind after `revision`, oldest first.
    ///
    /// # Errors
    /// [`ApiError::Gone`] where some of them are no longer in the log.
    pub fn changes_after(&self, resource: Resource, revision: u64) -> Result<Vec<LogEntry>, ApiError> {
        let Some(collection) = self.collections.get(&resource) else { return Ok(Vec::new()) };
        collection.check_reaches(revision)?;
        let first = collection.log.partition_point(|entry| entry.revision <= revision);
        Ok(collection.log.range(first..).cloned().collect())
    }

    /// Stores a new object under the next revision.
    ///
    /// # Errors
    /// [`ApiError::AlreadyExists`].
    pub fn create(&mut self, resource: Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::of(&object);
        if self.get(resource, &key).is_some() {
            return Err(ApiError::AlreadyExists { resource, name: key.name });
        }
        Ok(self.write(resource, key, object))
    }

    /// Replaces an object under the next revision. Nothing is written where nothing changes.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or [`ApiError::Conflict`] where the object carries another `resourceVersion`
    /// than the stored one.
    pub fn replace(&mut self, resource: Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        let key = ObjectKey::of(&object);
        let Some(stored) = self.get(resource, &key) else {
            return Err(ApiError::NotFound { resource, name: key.name });
        };
        let sent = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let stored_revision = revision_of(&stored);
        if !sent.is_empty() && sent != stored_revision.to_string() {
            let sent = sent.to_owned();
            return Err(ApiError::Conflict { resource, name: key.name, sent, stored: stored_revision });
        }
        let mut unchanged = object.clone();
        stamp(&mut unchanged, stored_revision);
        if unchanged == *stored {
            return Ok(stored);
        }
        Ok(self.write(resource, key, object))
    }

    /// Removes an object; the returned last state carries the revision of the deletion.
    ///
    /// # Errors
    /// [`ApiError::NotFound`].
    pub fn delete(&mut self, resource: Resource, key: &ObjectKey) -> Result<Arc<Value>, ApiError> {
        if self.get(resource, key).is_none() {
            return Err(ApiError::NotFound { resource, name: key.name.clone() });
        }
        self.revision += 1;
        let revision = self.revision;
        let object = self.remove_at(resource, key, revision);
        Ok(object.expect("the object was found above, under the same lock"))
    }

    /// Forgets the changes so far: whoever has not read them yet must list again.
    pub fn compact(&mut self) {
        for resource in Resource::ALL {
            let revision = self.head(resource);
            let collection = self.collections.entry(resource).or_default();
            collection.log.clear();
            collection.compacted = revision;
        }
    }

    /// Starts a kind from a recorded LIST.
    pub fn load_recorded(&mut self, resource: Resource, revision: u64, objects: Vec<Value>) {
        self.revision = self.revision.max(revision);
        let objects = objects.into_iter().map(|object| (ObjectKey::of(&object), Arc::new(object))).collect();
        let collection =
            Collection { objects, log: VecDeque::new(), compacted: revision, recorded_head: Some(revision) };
        self.collections.insert(resource, collection);
    }

    /// Plays a recorded ADDED or MODIFIED with the revision it carries. A revision at or before the kind's
    /// newest is ignored: it has been played.
    pub fn put_recorded(&mut self, resource: Resource, object: Value) {
        let revision = revision_of(&object);
        if !self.advance_recorded(resource, revision) {
            return;
        }
        let key = ObjectKey::of(&object);
        self.put_at(resource, key, Arc::new(object), revision);
    }

    /// Plays a recorded DELETED with the revision it carries.
    pub fn delete_recorded(&mut self, resource: Resource, object: Value) {
        let revision = revision_of(&object);
        if self.advance_recorded(resource, revision) {
            self.remove_at(resource, &ObjectKey::of(&object), revision);
        }
    }

    /// Plays a recorded BOOKMARK.
    pub fn bookmark_recorded(&mut self, resource: Resource, revision: u64) {
        if self.advance_recorded(resource, revision) {
            self.append(resource, LogEntry { revision, change: Change::Bookmark });
        }
    }

    fn write(&mut self, resource: Resource, key: ObjectKey, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        let revision = self.revision;
        stamp(&mut object, revision);
        let object = Arc::new(object);
        self.put_at(resource, key, Arc::clone(&object), revision);
        object
    }

    fn put_at(&mut self, resource: Resource, key: ObjectKey, object: Arc<Value>, revision: u64) {
        let collection = self.collections.entry(resource).or_default();
        let previous = collection.objects.insert(key, Arc::clone(&object));
        self.append(resource, LogEntry { revision, change: Change::Put { object, previous } });
    }

    fn remove_at(&mut self, resource: Resource, key: &ObjectKey, revision: u64) -> Option<Arc<Value>> {
        let previous = self.collections.entry(resource).or_default().objects.remove(key)?;
        let mut object = Value::clone(&previous);
        stamp(&mut object, revision);
        let object = Arc::new(object);
        let change = Change::Delete { object: Arc::clone(&object), previous };
        self.append(resource, LogEntry { revision, change });
        Some(object)
    }

    fn advance_recorded(&mut self, resource: Resource, revision: u64) -> bool {
        let collection = self.collections.entry(resource).or_default();
        if collection.recorded_head.is_some_and(|head| revision <= head) {
            return false;
        }
        collection.recorded_head = Some(revision);
        self.revision = self.revision.max(revision);
        true
    }

    fn append(&mut self, resource: Resource, entry: LogEntry) {
        let log_rows_max = self.log_rows_max;
        let collection = self.collections.entry(resource).or_default();
        collection.log.push_back(entry);
        while collection.log.len() > log_rows_max {
            if let Some(oldest) = collection.log.pop_front() {
                collection.compacted = oldest.revision;
            }
        }
    }
}

impl Collection {
    fn check_reaches(&self, revision: u64) -> Result<(), ApiError> {
        if revision < self.compacted {
            return Err(ApiError::Gone { asked: revision, oldest: self.compacted });
        }
        Ok(())
    }
}

/// The revision in an object's `metadata.resourceVersion`; 0 where there is none.
pub fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn stamp(object: &mut Value, revision: u64) {
    object["metadata"]["resourceVersion"] = Value::String(revision.to_string());
}

#[cfg(test)]
mod tests;
