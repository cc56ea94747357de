//! Kernel facts whose pod the API has not told us yet: kept, tried again, and in the end let go without a pod.
//!
//! Bounded in time and number. What is let go is emitted all the same, without a pod, and counted.

use std::collections::VecDeque;

use aftertrace_model::Timestamp;

/// How long a fact waits for its pod, in microseconds. A status names a container about a second after its
/// start; thirty seconds outlast a slow API server.
pub(crate) const WAIT_US: i64 = 30_000_000;

/// Most facts that wait. A storm of kills during an API outage; a record takes about 2 KiB.
const WAITING_MAX: usize = 10_000;

/// Facts in the order of their arrival.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    waiting: VecDeque<(Timestamp, T)>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new() }
    }
}

/// What is to be done with a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It may wait on.
    Wait,
    /// Its time is over, or there are too many.
    Over,
}

impl<T> Pending<T> {
    /// Adds a fact that cannot be attributed now.
    pub(crate) fn push(&mut self, now: Timestamp, fact: T) {
        self.waiting.push_back((now, fact));
    }

    /// Takes everything out, oldest first, with how patient to be; what is to wait on is given back by
    /// [`Pending::put_back`] in the same order.
    pub(crate) fn take(&mut self, now: Timestamp) -> Vec<(Timestamp, Patience, T)> {
        let surplus = self.waiting.len().saturating_sub(WAITING_MAX);
        let patience = |index: usize, since: Timestamp| {
            let is_over = index < surplus || now.micros_since(since) >= WAIT_US;
            if is_over { Patience::Over } else { Patience::Wait }
        };
        self.waiting
            .drain(..)
            .enumerate()
            .map(|(i, (since, fact))| (since, patience(i, since), fact))
            .collect()
    }

    /// Gives back what waits on.
    pub(crate) fn put_back(&mut self, since: Timestamp, fact: T) {
        self.waiting.push_back((since, fact));
    }

    /// Whether anything is due at `now` even if no pod has come.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.waiting.len() > WAITING_MAX
            || self.waiting.front().is_some_and(|(since, _)| now.micros_since(*since) >= WAIT_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_wait_in_order_and_not_for_ever() {
        let mut pending = Pending::default();
        pending.push(Timestamp::from_micros(0), "first");
        pending.push(Timestamp::from_micros(10), "second");
        assert!(!pending.is_due(Timestamp::from_micros(WAIT_US - 1)));
        let now = Timestamp::from_micros(WAIT_US);
        assert!(pending.is_due(now));
        let taken: Vec<_> = pending.take(now).into_iter().map(|(_, p, f)| (f, p)).collect();
        assert_eq!(taken, [("first", Patience::Over), ("second", Patience::Wait)]);
        assert!(pending.take(now).is_empty());
    }

    #[test]
    fn beyond_the_bound_the_oldest_go_first() {
        let mut pending = Pending::default();
        for n in 0..=WAITING_MAX {
            pending.push(Timestamp::from_micros(0), n);
        }
        let over: Vec<usize> = pending
            .take(Timestamp::from_micros(1))
            .into_iter()
            .filter(|(_, patience, _)| *patience == Patience::Over)
            .map(|(_, _, n)| n)
            .collect();
        assert_eq!(over, [0]);
    }
}
