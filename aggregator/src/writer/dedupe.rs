//! The one place of deduplication: which identities are stored already.
//!
//! Recent identities are kept in memory. They begin with the time of the fact, so those that were let go are
//! known by their order: whatever is not above the floor is looked up in segments. What is not in segments yet is
//! always kept.

use std::collections::{BTreeMap, HashMap, HashSet};

use aftertrace_model::{Edge, EventId, Gap, ObjectVersion};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::{EdgeId, Reader, StoreError, VersionId};

/// Identities kept of each sort, some 30 MB each at most. Facts arrive within minutes of their time, so the
/// floor is hours behind even at a thousand facts a second.
const KEPT: usize = 500_000;

/// An identity: 16 bytes that sort by time, where the sort of row has one.
type Key = u128;

/// What was seen, by sort of row.
#[derive(Debug)]
pub(super) struct Dedupe {
    pub(super) events: Seen,
    pub(super) edges: Seen,
    pub(super) versions: Seen,
    pub(super) gaps: Seen,
}

/// Identities of one sort.
#[derive(Debug)]
pub(super) struct Seen {
    /// Recent ones with the WAL position they came with.
    recent: BTreeMap<Key, u64>,
    /// Those at or below the floor that are not in segments yet.
    late: HashMap<Key, u64>,
    /// At or below it an identity may be stored without being in `recent`. `None`: all are in `recent`.
    floor: Option<Key>,
    kept: usize,
}

/// What of a group is stored already, although it is not in memory.
#[derive(Debug, Default)]
pub(super) struct Old(HashSet<Key>);

impl Old {
    pub(super) fn contains(&self, key: Key) -> bool {
        self.0.contains(&key)
    }
}

impl Dedupe {
    /// Reads the newest identities from segments.
    pub(super) fn load(reader: &Reader) -> Result<Self, StoreError> {
        Self::load_at_most(reader, KEPT)
    }

    pub(super) fn load_at_most(reader: &Reader, kept: usize) -> Result<Self, StoreError> {
        let rows = kept as u64;
        let events = reader.newest_events(rows)?;
        let edges = reader.newest_edges(rows)?;
        let versions = reader.newest_versions(rows)?;
        let gaps = reader.newest_gaps(rows)?;
        let time_floor = |since_ms: Option<i64>| since_ms.map(|ms| at_ms(ms).saturating_sub(1));
        // Versions and gaps have no time in their identity: once one is left out, any may be.
        let no_floor = |since_ms: Option<i64>| since_ms.map(|_| Key::MAX);
        Ok(Self {
            events: Seen::new(events.ids.iter().map(|id| event(*id)), time_floor(events.since_ms), kept),
            edges: Seen::new(edges.ids.iter().map(edge_id), time_floor(edges.since_ms), kept),
            versions: Seen::new(versions.ids.iter().map(version_id), no_floor(versions.since_ms), kept),
            gaps: Seen::new(gaps.ids.iter().map(|id| id.as_u128()), no_floor(gaps.since_ms), kept),
        })
    }

    /// Lets go of what is in segments up to `position`, down to the limit.
    pub(super) fn flushed(&mut self, position: u64) {
        self.events.trim(position, true);
        self.edges.trim(position, true);
        self.versions.trim(position, false);
        self.gaps.trim(position, false);
    }

    /// Looks up in segments what memory cannot tell about these rows.
    pub(super) fn look_up(
        &self,
        reader: &Reader,
        events: &[EventId],
        edges: &[&Edge],
        versions: &[&ObjectVersion],
        gaps: &[&Gap],
    ) -> Result<Old, StoreError> {
        let mut old = HashSet::new();
        let ids: Vec<EventId> =
            events.iter().copied().filter(|id| self.events.is_unsure(event(*id))).collect();
        if !ids.is_empty() {
            old.extend(reader.known_events(&ids)?.into_iter().map(event));
        }
        let unsure = edges.iter().filter(|e| self.edges.is_unsure(edge(e)));
        let effects: HashSet<EventId> = unsure.map(|e| e.effect_id).collect();
        if !effects.is_empty() {
            let effects: Vec<EventId> = effects.into_iter().collect();
            old.extend(reader.known_edges(&effects)?.iter().map(edge_id));
        }
        let unsure = versions.iter().filter(|o| self.versions.is_unsure(version(o)));
        let uids: HashSet<String> = unsure.map(|o| o.uid.clone()).collect();
        if !uids.is_empty() {
            let uids: Vec<String> = uids.into_iter().collect();
            old.extend(reader.known_versions(&uids)?.iter().map(version_id));
        }
        let unsure = gaps.iter().filter(|g| self.gaps.is_unsure(g.gap_id.as_u128()));
        let ids: Vec<Uuid> = unsure.map(|g| g.gap_id).collect();
        if !ids.is_empty() {
            old.extend(reader.known_gaps(&ids)?.into_iter().map(|id| id.as_u128()));
        }
        Ok(Old(old))
    }
}

impl Seen {
    fn new(keys: impl Iterator<Item = Key>, floor: Option<Key>, kept: usize) -> Self {
        Self { recent: keys.map(|key| (key, 0)).collect(), late: HashMap::new(), floor, kept }
    }

    /// Whether it is in memory.
    pub(super) fn contains(&self, key: Key) -> bool {
        self.recent.contains_key(&key) || self.late.contains_key(&key)
    }

    /// Takes a new identity, which came with the frame at `position`.
    pub(super) fn insert(&mut self, key: Key, position: u64) {
        if self.floor.is_some_and(|floor| key <= floor && floor != Key::MAX) {
            self.late.insert(key, position);
        } else {
            self.recent.insert(key, position);
        }
    }

    fn is_unsure(&self, key: Key) -> bool {
        !self.contains(key) && self.floor.is_some_and(|floor| key <= floor)
    }

    fn trim(&mut self, flushed: u64, timed: bool) {
        self.late.retain(|_, position| *position > flushed);
        while self.recent.len() > self.kept
            && let Some((key, position)) = self.recent.pop_first()
        {
            let floor = if timed { key } else { Key::MAX };
            self.floor = self.floor.max(Some(floor));
            if position > flushed {
                self.late.insert(key, position);
            }
        }
    }
}

/// The identity of an event.
pub(super) fn event(id: EventId) -> Key {
    id.0.as_u128()
}

/// The identity of an edge: 48 bits of its effect's time, then a hash.
pub(super) fn edge(e: &Edge) -> Key {
    edge_key(e.cause_id, e.effect_id, &e.rule_id)
}

fn edge_id((cause, effect, rule): &EdgeId) -> Key {
    edge_key(*cause, *effect, rule)
}

fn edge_key(cause: EventId, effect: EventId, rule: &str) -> Key {
    let mut hash = Sha256::new();
    hash.update(cause.0.as_bytes());
    hash.update(effect.0.as_bytes());
    hash.update(rule.as_bytes());
    at_ms(effect.unix_ms()) | (digest(hash) >> 48)
}

/// The identity of a version. A deletion may bear the resourceVersion of the last version before it.
pub(super) fn version(o: &ObjectVersion) -> Key {
    version_key(&o.uid, &o.resource_version, o.deleted)
}

fn version_id((uid, resource_version, deleted): &VersionId) -> Key {
    version_key(uid, resource_version, *deleted)
}

fn version_key(uid: &str, resource_version: &str, deleted: bool) -> Key {
    let mut hash = Sha256::new();
    hash.update((uid.len() as u64).to_be_bytes());
    hash.update(uid.as_bytes());
    hash.update(resource_version.as_bytes());
    hash.update([u8::from(deleted)]);
    digest(hash)
}

/// The identity of a gap for damage in the WAL from a position on.
pub(super) fn damage(cluster: &str, first: u64) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(b"wal damage");
    hash.update(first.to_be_bytes());
    hash.update(cluster.as_bytes());
    digest(hash).to_be_bytes()
}

fn digest(hash: Sha256) -> Key {
    let digest = hash.finalize();
    Key::from_be_bytes(*digest.first_chunk().expect("SHA-256 has 32 bytes"))
}

/// The first identity of a millisecond.
fn at_ms(ms: i64) -> Key {
    let ms = u64::try_from(ms).unwrap_or(0) & 0xffff_ffff_ffff;
    Key::from(ms) << 80
}

#[cfg(test)]
mod tests;
