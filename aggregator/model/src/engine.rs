//! The causal engine: facts in, edges and retractions out.
//!
//! It holds a bounded window of facts, indexed by the join keys of its owner's rules, and is otherwise a pure
//! function of the set of facts: any order, and any repetition, gives the same live edges. A late cause
//! finds the effects that wait for it; a late effect finds its causes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::rule::{Choice, JoinKey, RULES, Verdict};
use crate::{Edge, Event, EventId, Grade, Owner, Retraction, Rule, Timestamp};

/// What an engine concludes from a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Derived {
    /// The pair is cause and effect.
    Edge(Edge),
    /// An edge given earlier no longer holds.
    Retraction(Retraction),
}

/// Facts that left the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// How many.
    pub count: u64,
    /// The first instant at which one of them may have happened.
    pub from: Timestamp,
    /// The last instant at which one of them may have happened.
    pub to: Timestamp,
}

impl Evicted {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            from: self.from.min(other.from),
            to: self.to.max(other.to),
        }
    }
}

/// The engine of one owner.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<&'static Rule>,
    capacity: usize,
    bytes_max: usize,
    /// What the facts take by their own count.
    bytes: usize,
    facts: HashMap<EventId, Arc<Event>>,
    /// Oldest first, for eviction.
    by_time: BTreeSet<(Timestamp, EventId)>,
    /// Causes and effects of each rule by join key.
    causes: HashMap<(usize, JoinKey), Vec<EventId>>,
    effects: HashMap<(usize, JoinKey), Vec<EventId>>,
    /// The chosen cause of each effect, for rules that choose.
    chosen: HashMap<(usize, EventId), EventId>,
    evicted: Option<Evicted>,
}

impl Engine {
    /// An engine that applies the rules of `owner` to at most `capacity` facts, the latest by time.
    #[must_use]
    pub fn new(owner: Owner, capacity: usize) -> Self {
        Self {
            rules: RULES.iter().filter(|r| r.owner == owner).collect(),
            capacity: capacity.max(1),
            bytes_max: usize::MAX,
            bytes: 0,
            facts: HashMap::new(),
            by_time: BTreeSet::new(),
            causes: HashMap::new(),
            effects: HashMap::new(),
            chosen: HashMap::new(),
            evicted: None,
        }
    }

    /// The same engine with facts of at most `bytes_max` bytes; the latest one always fits.
    #[must_use]
    pub fn within_bytes(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// Takes one fact. A fact already in the window changes nothing.
    ///
    /// Returns what follows from it, retractions before the edges that replace them.
    pub fn observe(&mut self, event: &Arc<Event>) -> Vec<Derived> {
        let concerned = self.rules.iter().any(|r| r.cause == event.kind || r.effect == event.kind);
        if !concerned || self.facts.contains_key(&event.event_id) {
            return Vec::new();
        }
        self.facts.insert(event.event_id, Arc::clone(event));
        self.bytes = self.bytes.saturating_add(event.approximate_bytes());
        self.by_time.insert((event.occurred.at, event.event_id));
        let mut out = Vec::new();
        for index in 0..self.rules.len() {
            let rule = self.rules[index];
            if rule.effect == event.kind
                && let Some(key) = (rule.effect_key)(event)
            {
                let key = (index, key);
                self.effects.entry(key.clone()).or_default().push(event.event_id);
                let causes = self.causes.get(&key).cloned().unwrap_or_default();
                for cause in causes {
                    self.meet(index, cause, event.event_id, &mut out);
                }
            }
            if rule.cause == event.kind
                && let Some(key) = (rule.cause_key)(event)
            {
                let key = (index, key);
                self.causes.entry(key.clone()).or_default().push(event.event_id);
                let effects = self.effects.get(&key).cloned().unwrap_or_default();
                for effect in effects {
                    self.meet(index, event.event_id, effect, &mut out);
                }
            }
        }
        while self.facts.len() > self.capacity || (self.bytes > self.bytes_max && self.facts.len() > 1) {
            self.evict_oldest();
        }
        settle(out)
    }

    /// What was dropped from the window since the last call and can cause nothing more; `None` if nothing was.
    pub fn take_evicted(&mut self) -> Option<Evicted> {
        self.evicted.take()
    }

    /// Facts in the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.facts.len()
    }

    /// Whether the window holds no fact.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    fn meet(&mut self, index: usize, cause_id: EventId, effect_id: EventId, out: &mut Vec<Derived>) {
        let (Some(cause), Some(effect)) = (self.facts.get(&cause_id), self.facts.get(&effect_id)) else {
            return;
        };
        let rule = self.rules[index];
        let Some(verdict) = judge(rule, cause, effect) else { return };
        if rule.choice == Choice::Best {
            if let Some(held) = self.chosen.get(&(index, effect_id)).and_then(|id| self.facts.get(id)) {
                let standing = judge(rule, held, effect);
                if !better((&verdict, cause), standing.as_ref().map(|v| (v, held))) {
                    return;
                }
                out.push(Derived::Retraction(Retraction {
                    cause_id: held.event_id,
                    effect_id,
                    rule_id: rule.id.to_owned(),
                    reason: format!("a better cause became known: {}", cause.summary),
                    effect_occurred_at: effect.occurred.at,
                    recorded_at: None,
                }));
            }
            self.chosen.insert((index, effect_id), cause_id);
        }
        out.push(Derived::Edge(edge(rule, cause, effect, verdict)));
    }

    fn evict_oldest(&mut self) {
        let Some((_, id)) = self.by_time.pop_first() else { return };
        let Some(event) = self.facts.remove(&id) else { return };
        self.bytes = self.bytes.saturating_sub(event.approximate_bytes());
        let (from, to) = (event.occurred.earliest, event.occurred.latest);
        let one = Evicted { count: 1, from, to };
        self.evicted = Some(self.evicted.map_or(one, |evicted| evicted.and(one)));
        for (index, rule) in self.rules.iter().enumerate() {
            for (side, key) in [
                (&mut self.causes, (rule.cause == event.kind).then(|| (rule.cause_key)(&event)).flatten()),
                (&mut self.effects, (rule.effect == event.kind).then(|| (rule.effect_key)(&event)).flatten()),
            ] {
                let Some(key) = key else { continue };
                let key = (index, key);
                if let Some(ids) = side.get_mut(&key) {
                    ids.retain(|other| *other != id);
                    if ids.is_empty() {
                        side.remove(&key);
                    }
                }
            }
            self.chosen.remove(&(index, id));
        }
    }
}

/// The rule's verdict on a pair, once time allows it.
fn judge(rule: &Rule, cause: &Event, effect: &Event) -> Option<Verdict> {
    (cause.event_id != effect.event_id && cause.occurred.can_precede(&effect.occurred))
        .then(|| (rule.judge)(cause, effect))
        .flatten()
}

/// Surer first, then later, then the id, so that the choice does not depend on the order of arrival.
fn better(new: (&Verdict, &Arc<Event>), held: Option<(&Verdict, &Arc<Event>)>) -> bool {
    let rank = |(v, e): (&Verdict, &Arc<Event>)| -> (Grade, Timestamp, EventId) {
        (v.grade, e.occurred.at, e.event_id)
    };
    held.is_none_or(|held| rank(new) > rank(held))
}

fn edge(rule: &Rule, cause: &Event, effect: &Event, verdict: Verdict) -> Edge {
    let mut evidence = verdict.evidence;
    let bound = (cause.occurred.latest.micros_since(cause.occurred.earliest))
        .saturating_add(effect.occurred.latest.micros_since(effect.occurred.earliest));
    evidence.insert("time_bound_us".to_owned(), bound.to_string());
    Edge {
        cause_id: cause.event_id,
        effect_id: effect.event_id,
        pattern: rule.pattern.to_owned(),
        rule_id: rule.id.to_owned(),
        grade: verdict.grade,
        confidence: verdict.confidence,
        lag_us: effect.occurred.at.micros_since(cause.occurred.at),
        evidence,
        cause_kind: cause.kind,
        cause_occurred_at: cause.occurred.at,
        cause_summary: cause.summary.clone(),
        effect_kind: effect.kind,
        effect_occurred_at: effect.occurred.at,
        recorded_at: None,
    }
}

/// Drops edges that one observation both made and retracted.
fn settle(out: Vec<Derived>) -> Vec<Derived> {
    type Key = (EventId, EventId, String);
    let mut made: BTreeMap<Key, usize> = BTreeMap::new();
    let mut keep = vec![true; out.len()];
    for (i, derived) in out.iter().enumerate() {
        match derived {
            Derived::Edge(e) => {
                made.insert((e.cause_id, e.effect_id, e.rule_id.clone()), i);
            }
            Derived::Retraction(r) => {
                if let Some(at) = made.remove(&(r.cause_id, r.effect_id, r.rule_id.clone())) {
                    keep[at] = false;
                    keep[i] = false;
                }
            }
        }
    }
    out.into_iter().zip(keep).filter_map(|(derived, keep)| keep.then_some(derived)).collect()
}

#[cfg(test)]
mod tests;
