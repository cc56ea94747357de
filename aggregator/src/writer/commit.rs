//! One group commit: from submissions to durable frames, derived edges and rows for segments.

use std::collections::HashSet;
use std::sync::Arc;

use aftertrace_api::frame;
use aftertrace_api::proto::{self, WalFrame};
use aftertrace_model::{Derived, Engine, Timestamp};
use prost::Message;

use super::dedupe::{self, Dedupe, Old};
use super::evictions::Evictions;
use super::state::{State, Work};
use super::{Accepted, Clock, Committed, Facts, Origin, Submission};
use crate::store::{Reader, Rows, StoreError, Wal};

/// Largest encoded item. Our records take some hundred bytes; a ConfigMap's state holds names and hashes of at
/// most 1 MiB of keys.
const ITEM_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Size from which a submission goes on in a further frame, so that damage on disk costs little.
const FRAME_BYTES: usize = 1024 * 1024;

/// What the writer's thread owns.
pub(super) struct Core {
    pub(super) reader: Reader,
    pub(super) wal: Wal,
    pub(super) dedupe: Dedupe,
    pub(super) engine: Engine,
    pub(super) evictions: Evictions,
    /// The cluster's name, for gaps that the writer itself reports.
    pub(super) cluster: String,
    pub(super) on_commit: Box<dyn FnMut(&Committed) + Send>,
    pub(super) clock: Clock,
    pub(super) state: Arc<State>,
    /// Rows that are durable in the WAL and not handed to the flusher yet.
    pub(super) pending: Pending,
}

/// Rows that wait for the flusher, with the position they reach.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) rows: Rows,
    pub(super) position: u64,
    pub(super) recorded_at: Timestamp,
}

/// A submission of which only new items are left.
struct Fresh {
    frames: Vec<(u64, Facts)>,
    accepted: Accepted,
}

/// Identities that a group takes up, before it is durable.
#[derive(Default)]
struct Taken {
    events: HashSet<u128>,
    edges: HashSet<u128>,
    versions: HashSet<u128>,
    gaps: HashSet<u128>,
}

impl Core {
    /// Makes a group of submissions durable and answers each.
    pub(super) fn commit(&mut self, group: Vec<Submission>) {
        let mut accepted = Vec::with_capacity(group.len());
        for submission in group {
            match oversized(&submission.facts) {
                Some(bytes) => {
                    let error = StoreError::ItemTooLarge { bytes, limit: ITEM_BYTES_MAX };
                    answer(submission.done, Err(error));
                }
                None => accepted.push(submission),
            }
        }
        let (facts, waiting): (Vec<Facts>, Vec<_>) = accepted.into_iter().map(|s| (s.facts, s.done)).unzip();
        let result = self.make_durable(facts);
        match result {
            Ok(answers) => {
                for (done, accepted) in waiting.into_iter().zip(answers) {
                    answer(done, Ok(accepted));
                }
            }
            Err(error) => {
                for done in waiting {
                    answer(done, Err(error.clone()));
                }
            }
        }
    }

    /// Drops duplicates, appends the rest to the WAL, and takes it up; one answer for each of `submitted`.
    pub(super) fn make_durable(&mut self, submitted: Vec<Facts>) -> Result<Vec<Accepted>, StoreError> {
        let old = self.look_up(&submitted)?;
        let recorded_at = (self.clock)().max(self.pending.recorded_at);
        let mut taken = Taken::default();
        let mut position = self.wal.next_position();
        let first = position;
        let mut bytes = Vec::new();
        let mut fresh = Vec::with_capacity(submitted.len());
        for facts in submitted {
            let total = count(&facts);
            let facts = self.only_new(facts, &old, &mut taken);
            let kept = count(&facts);
            let events = facts.events.len() as u64;
            let mut frames = Vec::new();
            for part in split(facts, recorded_at) {
                frame::append(&encode(&part, position, recorded_at), &mut bytes);
                frames.push((position, part));
                position += 1;
            }
            let accepted = Accepted { position: position - 1, events, duplicates: total - kept };
            fresh.push(Fresh { frames, accepted });
        }
        if position > first {
            let appended = self.wal.append(position - first, &bytes);
            self.state.note(Work::Wal, &appended);
            appended?;
        }
        let mut answers = Vec::with_capacity(fresh.len());
        for Fresh { frames, accepted } in fresh {
            for (position, facts) in frames {
                self.apply(Origin::Live, position, recorded_at, facts);
            }
            answers.push(accepted);
        }
        Ok(answers)
    }

    /// Takes up a durable frame: identities, engine, callback, rows.
    pub(super) fn apply(&mut self, origin: Origin, position: u64, recorded_at: Timestamp, facts: Facts) {
        for event in &facts.events {
            self.dedupe.events.insert(dedupe::event(event.event_id), position);
        }
        for version in &facts.objects {
            self.dedupe.versions.insert(dedupe::version(version), position);
        }
        for gap in &facts.gaps {
            self.dedupe.gaps.insert(gap.gap_id.as_u128(), position);
        }
        for edge in &facts.edges {
            self.dedupe.edges.insert(dedupe::edge(edge), position);
        }
        let mut committed = Committed {
            origin,
            wal_position: position,
            recorded_at,
            events: facts.events.into_iter().map(Arc::new).collect(),
            edges: facts.edges,
            retractions: Vec::new(),
            objects: facts.objects,
            gaps: facts.gaps,
        };
        for event in &committed.events {
            for derived in self.engine.observe(event) {
                match derived {
                    Derived::Edge(mut edge) => {
                        edge.recorded_at = Some(recorded_at);
                        let key = dedupe::edge(&edge);
                        if !self.dedupe.edges.contains(key) {
                            self.dedupe.edges.insert(key, position);
                            committed.edges.push(edge);
                        }
                    }
                    Derived::Retraction(mut retraction) => {
                        retraction.recorded_at = Some(recorded_at);
                        committed.retractions.push(retraction);
                    }
                }
            }
        }
        let evicted = self.engine.take_evicted();
        if origin == Origin::Live {
            self.evictions.add(evicted);
        }
        (self.on_commit)(&committed);
        self.state.committed(position, Some(recorded_at));
        self.pending.position = position;
        self.pending.recorded_at = recorded_at;
        let rows = &mut self.pending.rows;
        rows.events.extend(committed.events);
        rows.edges.extend(committed.edges);
        rows.retractions.extend(committed.retractions);
        rows.objects.extend(committed.objects);
        rows.gaps.extend(committed.gaps);
    }

    fn look_up(&self, submitted: &[Facts]) -> Result<Old, StoreError> {
        let events: Vec<_> = submitted.iter().flat_map(|f| &f.events).map(|e| e.event_id).collect();
        let edges: Vec<_> = submitted.iter().flat_map(|f| &f.edges).collect();
        let versions: Vec<_> = submitted.iter().flat_map(|f| &f.objects).collect();
        let gaps: Vec<_> = submitted.iter().flat_map(|f| &f.gaps).collect();
        self.dedupe.look_up(&self.reader, &events, &edges, &versions, &gaps)
    }

    /// Drops what is stored, or came earlier in this group.
    fn only_new(&self, mut facts: Facts, old: &Old, taken: &mut Taken) -> Facts {
        let Dedupe { events, edges, versions, gaps } = &self.dedupe;
        facts.events.retain(|e| {
            let key = dedupe::event(e.event_id);
            !events.contains(key) && !old.contains(key) && taken.events.insert(key)
        });
        facts.edges.retain(|e| {
            let key = dedupe::edge(e);
            !edges.contains(key) && !old.contains(key) && taken.edges.insert(key)
        });
        facts.objects.retain(|o| {
            let key = dedupe::version(o);
            !versions.contains(key) && !old.contains(key) && taken.versions.insert(key)
        });
        facts.gaps.retain(|g| {
            let key = g.gap_id.as_u128();
            !gaps.contains(key) && !old.contains(key) && taken.gaps.insert(key)
        });
        facts
    }

    /// Takes up a frame of the WAL after a start. What a frame before it or a segment holds is dropped: a
    /// frame may have been written and not acknowledged, and its facts then come again.
    pub(super) fn replay(&mut self, position: u64, frame: WalFrame) -> Result<(), StoreError> {
        let recorded_at = Timestamp::from_micros(frame.recorded_at_us);
        let mut facts = decode(frame);
        stamp(&mut facts, recorded_at);
        let old = self.look_up(std::slice::from_ref(&facts))?;
        let facts = self.only_new(facts, &old, &mut Taken::default());
        self.apply(Origin::Replay, position, recorded_at, facts);
        Ok(())
    }
}

fn answer<T>(done: tokio::sync::oneshot::Sender<T>, value: T) {
    // A submitter that went away, say because its stream broke, sends again what it has no answer for.
    let _ = done.send(value);
}

fn count(facts: &Facts) -> u64 {
    (facts.events.len() + facts.edges.len() + facts.objects.len() + facts.gaps.len()) as u64
}

fn stamp(facts: &mut Facts, recorded_at: Timestamp) {
    let at = Some(recorded_at);
    facts.events.iter_mut().for_each(|e| e.recorded_at = at);
    facts.edges.iter_mut().for_each(|e| e.recorded_at = at);
    facts.objects.iter_mut().for_each(|o| o.recorded_at = at);
    facts.gaps.iter_mut().for_each(|g| g.recorded_at = at);
}

/// A rough size of what an item takes in a frame, from above but for small fields.
mod size {
    use aftertrace_model::{Edge, Event, Gap, ObjectVersion};

    /// Fixed fields, names and ids of an item.
    const BASE: usize = 512;

    pub(super) fn event(e: &Event) -> usize {
        let content = e.content.as_ref().map_or(0, content);
        let attributes: usize = e.attributes.iter().map(|(k, v)| k.len() + json(v) + 8).sum();
        BASE + e.summary.len()
            + e.hook.len()
            + e.reason.as_ref().map_or(0, String::len)
            + content
            + attributes
    }

    pub(super) fn edge(e: &Edge) -> usize {
        let evidence: usize = e.evidence.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
        BASE + e.cause_summary.len() + evidence
    }

    pub(super) fn object(o: &ObjectVersion) -> usize {
        let paths: usize = o.changed_paths.iter().map(|p| p.len() + 8).sum();
        BASE + o.state.len() + o.content.as_ref().map_or(0, content) + paths
    }

    pub(super) fn gap(g: &Gap) -> usize {
        BASE + g.detail.len() + g.component.len()
    }

    fn content(c: &aftertrace_model::Content) -> usize {
        c.keys.iter().map(|(k, v)| k.len() + v.len() + 8).sum()
    }

    /// Text is counted double, for escapes.
    fn json(value: &serde_json::Value) -> usize {
        use serde_json::Value;
        match value {
            Value::String(text) => 2 * text.len() + 2,
            Value::Array(items) => items.iter().map(|v| json(v) + 1).sum::<usize>() + 2,
            Value::Object(map) => map.iter().map(|(k, v)| 2 * k.len() + json(v) + 4).sum::<usize>() + 2,
            Value::Null | Value::Bool(_) | Value::Number(_) => 24,
        }
    }
}

/// The encoded size of the first item that is too large, if any.
fn oversized(facts: &Facts) -> Option<usize> {
    // Most items are far below the limit by the rough size; only the others are encoded to be sure.
    let near = |rough: usize| rough > ITEM_BYTES_MAX / 2;
    let events =
        facts.events.iter().filter(|e| near(size::event(e))).map(|e| proto::Event::from(e).encoded_len());
    let edges =
        facts.edges.iter().filter(|e| near(size::edge(e))).map(|e| proto::Edge::from(e).encoded_len());
    let objects = facts
        .objects
        .iter()
        .filter(|o| near(size::object(o)))
        .map(|o| proto::ObjectVersion::from(o).encoded_len());
    let gaps = facts.gaps.iter().filter(|g| near(size::gap(g))).map(|g| proto::Gap::from(g).encoded_len());
    events.chain(edges).chain(objects).chain(gaps).find(|bytes| *bytes > ITEM_BYTES_MAX)
}

/// Cuts a submission into frames of about [`FRAME_BYTES`], stamped; none if nothing is left of it.
fn split(mut facts: Facts, recorded_at: Timestamp) -> Vec<Facts> {
    stamp(&mut facts, recorded_at);
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Facts::default(), 0);
    let mut room = |part: &mut Facts, item: usize| {
        if bytes > 0 && bytes + item > FRAME_BYTES {
            parts.push(std::mem::take(part));
            bytes = 0;
        }
        bytes += item;
    };
    for event in facts.events {
        room(&mut part, size::event(&event));
        part.events.push(event);
    }
    for edge in facts.edges {
        room(&mut part, size::edge(&edge));
        part.edges.push(edge);
    }
    for object in facts.objects {
        room(&mut part, size::object(&object));
        part.objects.push(object);
    }
    for gap in facts.gaps {
        room(&mut part, size::gap(&gap));
        part.gaps.push(gap);
    }
    if count(&part) > 0 {
        parts.push(part);
    }
    parts
}

fn encode(facts: &Facts, position: u64, recorded_at: Timestamp) -> WalFrame {
    WalFrame {
        recorded_at_us: recorded_at.as_micros(),
        events: facts.events.iter().map(Into::into).collect(),
        edges: facts.edges.iter().map(Into::into).collect(),
        objects: facts.objects.iter().map(Into::into).collect(),
        gaps: facts.gaps.iter().map(Into::into).collect(),
        position,
    }
}

/// Reads a frame back. It has a good checksum and was written by us, so an item that cannot be read comes from
/// a later version; it is left out and said.
fn decode(frame: WalFrame) -> Facts {
    fn each<P, M>(items: Vec<P>, what: &'static str) -> Vec<M>
    where
        M: TryFrom<P>,
        M::Error: std::fmt::Display,
    {
        let read = |item: P| match M::try_from(item) {
            Ok(item) => Some(item),
            Err(error) => {
                tracing::error!(%error, what, "an item of the WAL cannot be read by this version");
                None
            }
        };
        items.into_iter().filter_map(read).collect()
    }
    Facts {
        events: each(frame.events, "event"),
        edges: each(frame.edges, "edge"),
        objects: frame.objects.into_iter().map(Into::into).collect(),
        gaps: each(frame.gaps, "gap"),
    }
}
