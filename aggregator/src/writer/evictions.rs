//! Facts that left the engine's window while it was live: gathered, and told as one gap at most once a minute.
//!
//! A gap travels in a WAL frame of its own, so a replay gives the same rows. What a start evicts again while it
//! rebuilds the window was counted by the run before and is not gathered. A run that is killed takes with it
//! what it had not told, at most a minute's worth.

use aftertrace_model::{Evicted, Gap, GapReason, Timestamp};
use uuid::Uuid;

use super::Facts;
use super::commit::Core;

/// Least time between two gaps: a window that stays full loses a fact for each that comes.
const TELL_EVERY_US: i64 = 60_000_000;

/// What was evicted and not told yet.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    waiting: Option<Evicted>,
    /// When telling was last tried.
    tried_at: Option<Timestamp>,
}

impl Evictions {
    /// Gathers what the engine evicted.
    pub(super) fn add(&mut self, evicted: Option<Evicted>) {
        self.waiting = match (self.waiting, evicted) {
            (Some(a), Some(b)) => Some(a.and(b)),
            (a, b) => a.or(b),
        };
    }

    /// Whether anything waits to be told.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// What is to be told now. A clock that was set back does not make it wait.
    fn due(&mut self, now: Timestamp) -> Option<Evicted> {
        let since = self.tried_at.map_or(i64::MAX, |tried| now.micros_since(tried));
        if self.waiting.is_none() || (0..TELL_EVERY_US).contains(&since) {
            return None;
        }
        self.tried_at = Some(now);
        self.waiting.take()
    }
}

impl Core {
    /// Makes a gap of what was evicted durable, if it is time to, or if this is the `last` chance.
    pub(super) fn tell_evicted(&mut self, last: bool) {
        let due = if last { self.evictions.waiting.take() } else { self.evictions.due((self.clock)()) };
        let Some(evicted) = due else { return };
        let Evicted { count, from, to } = evicted;
        let gap = Gap {
            gap_id: Uuid::new_v4(),
            cluster: self.cluster.clone(),
            node: None,
            component: "aggregator/engine".to_owned(),
            reason: GapReason::WindowFull,
            from: from.min(to),
            to,
            count,
            detail:
                "the oldest facts left the engine's window: causes and effects of theirs that become known \
                     later are not joined with them"
                    .to_owned(),
            recorded_at: None,
        };
        tracing::warn!(count, %from, %to, "the engine's window is full");
        if let Err(error) = self.make_durable(vec![Facts { gaps: vec![gap], ..Facts::default() }]) {
            // Told with the next ones, if there are any: the disk takes nothing else either.
            tracing::error!(%error, count, "failed to record evicted facts as a gap");
            self.evictions.add(Some(evicted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn is_told_at_once_then_at_most_once_a_minute() {
        let one = |second| Some(Evicted { count: 1, from: at(second), to: at(second) });
        let mut evictions = Evictions::default();
        assert_eq!(evictions.due(at(0)), None, "there is nothing to tell");
        evictions.add(one(7));
        assert_eq!(evictions.due(at(0)), one(7));
        evictions.add(one(9));
        evictions.add(None);
        evictions.add(one(8));
        assert_eq!(evictions.due(at(59)), None);
        assert!(evictions.is_waiting());
        assert_eq!(evictions.due(at(60)), Some(Evicted { count: 2, from: at(8), to: at(9) }));
        assert!(!evictions.is_waiting());
        evictions.add(one(1));
        assert_eq!(evictions.due(at(-5)), one(1), "the clock was set back");
    }
}
