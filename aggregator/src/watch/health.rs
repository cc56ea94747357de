//! Whether each watch is up, for `aft status`, and the gaps that outages leave.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aftertrace_model::{Gap, GapReason, Timestamp, text};
use uuid::Uuid;

/// The state of every watch.
#[derive(Debug)]
pub struct WatchHealth {
    cluster: String,
    watches: Mutex<BTreeMap<&'static str, State>>,
}

#[derive(Clone, Debug)]
enum State {
    Up,
    Down(Outage),
}

/// An outage that is not over.
#[derive(Clone, Debug)]
struct Outage {
    gap_id: Uuid,
    since: Timestamp,
    because: String,
}

impl WatchHealth {
    /// Health of no watch yet.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), watches: Mutex::default() }
    }

    /// The watch of `plural` tells nothing since `since`. An outage that goes on keeps its beginning.
    pub(crate) fn down(&self, plural: &'static str, since: Timestamp, because: &str) {
        let because = text::escape(because);
        let mut watches = self.lock();
        match watches.get_mut(plural) {
            Some(State::Down(outage)) => outage.because = because,
            _ => {
                watches.insert(plural, State::Down(Outage { gap_id: Uuid::new_v4(), since, because }));
            }
        }
    }

    /// The watch tells everything again; returns the gap of the outage that ended.
    pub(crate) fn up(&self, plural: &'static str, now: Timestamp) -> Option<Gap> {
        match self.lock().insert(plural, State::Up) {
            Some(State::Down(outage)) => Some(self.gap(plural, &outage, now)),
            _ => None,
        }
    }

    /// `ok`, or why not, by plural of the kind.
    #[must_use]
    pub fn status(&self) -> BTreeMap<String, String> {
        let told = |state: &State| match state {
            State::Up => "ok".to_owned(),
            State::Down(outage) => format!("down since {}: {}", outage.since, outage.because),
        };
        self.lock().iter().map(|(plural, state)| ((*plural).to_owned(), told(state))).collect()
    }

    /// The outages that are not over, as gaps up to `now`. They get the same ids when they are stored.
    #[must_use]
    pub fn open_gaps(&self, now: Timestamp) -> Vec<Gap> {
        let open = |(plural, state): (&&'static str, &State)| match state {
            State::Up => None,
            State::Down(outage) => Some(self.gap(plural, outage, now)),
        };
        self.lock().iter().filter_map(open).collect()
    }

    fn gap(&self, plural: &str, outage: &Outage, until: Timestamp) -> Gap {
        Gap {
            gap_id: outage.gap_id,
            cluster: self.cluster.clone(),
            node: None,
            component: format!("aggregator/watch/{plural}"),
            reason: GapReason::WatchDown,
            from: outage.since,
            to: until.max(outage.since),
            count: 0,
            detail: format!("the watch of {plural} was down: {}", outage.because),
            recorded_at: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        // Each change is one insert: a panic elsewhere leaves nothing half done.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(s: i64) -> Timestamp {
        Timestamp::from_micros(s * 1_000_000)
    }

    #[test]
    fn an_outage_is_one_gap_from_its_beginning() {
        let health = WatchHealth::new("c");
        health.down("pods", at(10), "connection refused");
        health.down("pods", at(12), "still refused");
        let open = health.open_gaps(at(13));
        assert!(health.status()["pods"].contains("still refused"));
        let gap = health.up("pods", at(15)).expect("an outage ended");
        assert_eq!((gap.from, gap.to, gap.reason), (at(10), at(15), GapReason::WatchDown));
        assert_eq!(open[0].gap_id, gap.gap_id, "the open gap is the same one");
        assert!(health.up("pods", at(16)).is_none() && health.open_gaps(at(17)).is_empty());
    }
}
