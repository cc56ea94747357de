//! One cgroup that is looked at: its files, its last minute, and what of it was not told yet.

use std::io;
use std::path::PathBuf;

use aftertrace_model::Timestamp;

use super::cgroupfs::{Cgroupfs, Found};
use super::counters::{self, Counters, Hits, Limits};
use super::samples::{Reclaim, Sample, Samples};
use crate::attribute::cgroup_name::{CgroupUid, ContainerId};

/// At this part of the limit a cgroup is under pressure (design §3), in percent.
const NEAR_PERCENT: u64 = 80;

/// Below this part a further crossing is news again, in percent. A guess: usage breathes by a few percent.
const CALM_PERCENT: u64 = 75;

/// Below this part the usage alone is read at every look, in percent: it says that no limit is being met.
const QUIET_PERCENT: u64 = 50;

/// How old the counts of hits may then be, in microseconds. They only ever grow, so none is missed.
const HITS_AGE_US: i64 = 4_500_000;

/// Least time between two rows of one reason for one cgroup, in microseconds.
const QUIET_US: i64 = 10_000_000;

/// The longest time between two rows about a limit that is hit on and on, in microseconds. A cgroup that
/// lives at its limit with page cache is healthy; its pauses double from [`QUIET_US`] up to this.
const QUIET_US_MAX: i64 = 640_000_000;

/// How long hits wait for a kill before they are a near miss, in microseconds: less than a look, more than
/// the ring buffer takes.
const KILL_WAIT_US: i64 = 500_000;

/// What is known of one cgroup.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) dir: PathBuf,
    pub(super) id: u64,
    pub(super) uid: CgroupUid,
    /// `None` for a pod's own cgroup.
    pub(super) container: Option<ContainerId>,
    pub(super) limits: Limits,
    pub(super) samples: Samples,
    /// The search that did not see it yet: it was made since then. `None` if it may be of any age.
    made_after: Option<Timestamp>,
    /// When it was first found to be gone.
    pub(super) gone_at: Option<Timestamp>,
    /// Open where a limit is set here or on the pod.
    counters: Option<Counters>,
    /// When the hits were read last.
    hits_at: Option<Timestamp>,
    /// Stalls since the last sample.
    reclaim: Reclaim,
    near: Near,
    hit: Hit,
}

/// Crossings of [`NEAR_PERCENT`] that were not told.
#[derive(Debug, Default)]
struct Near {
    /// True from a crossing until usage is below [`CALM_PERCENT`].
    is_over: bool,
    /// Usage at the last of them.
    usage: u64,
    untold: Option<Untold>,
    told_at: Option<Timestamp>,
}

/// Hits of a limit that were not told.
#[derive(Debug, Default)]
struct Hit {
    /// The counts up to which all is told, or known to belong to a kill.
    settled: Hits,
    /// The counts when they were read last.
    seen: Hits,
    kills: Option<u64>,
    untold: Option<Untold>,
    told_at: Option<Timestamp>,
    quiet_us: i64,
}

/// When something happened that is still to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Untold {
    count: u64,
    /// The look before the one that saw the first of it.
    after: Timestamp,
    /// The look that saw the first.
    first_seen: Timestamp,
    /// The look that saw the last.
    last_seen: Timestamp,
}

/// Something worth a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Usage crossed the threshold so many times, the last time up to `usage` bytes.
    Near { count: u64, usage: u64, after: Timestamp, seen: Timestamp },
    /// A limit was hit so often, and nothing was killed.
    Hit { hits: Hits, after: Timestamp, seen: Timestamp },
}

impl Watched {
    /// Knows the cgroup; nothing is open yet. `made_after` is the last search that did not see it.
    pub(super) fn new(found: Found, made_after: Option<Timestamp>) -> Self {
        Self {
            dir: found.dir,
            id: found.id,
            uid: found.uid,
            container: found.container,
            limits: Limits::default(),
            samples: Samples::default(),
            made_after,
            gone_at: None,
            counters: None,
            hits_at: None,
            reclaim: Reclaim::default(),
            near: Near::default(),
            hit: Hit { quiet_us: QUIET_US, ..Hit::default() },
        }
    }

    /// Whether it is looked at.
    pub(super) fn is_open(&self) -> bool {
        self.counters.is_some()
    }

    /// Reads the limits again, and opens or closes the counters as they demand. `pod_has_limit` says whether
    /// a limit above matters.
    pub(super) fn refresh(&mut self, cgroupfs: &Cgroupfs, pod_has_limit: bool) -> io::Result<()> {
        self.limits = Limits::read(&self.dir, cgroupfs)?;
        if self.limits.first().is_none() && !pod_has_limit {
            self.counters = None;
        } else if self.counters.is_none() {
            let counters = Counters::open(&self.dir, cgroupfs)?;
            if self.made_after.is_some() {
                self.hit.kills = Some(0);
            } else {
                // What was hit before we looked is no news.
                self.hit.settled = counters.hits(cgroupfs, self.limits)?;
                self.hit.seen = self.hit.settled;
                self.hit.kills = counters::kills(&self.dir, cgroupfs);
            }
            self.counters = Some(counters);
        }
        Ok(())
    }

    /// Stalls that a kernel record tells.
    pub(super) fn note(&mut self, reclaim: Reclaim) {
        self.reclaim.add(reclaim);
    }

    /// The stalls that no sample has yet.
    pub(super) fn unsampled(&self) -> Reclaim {
        self.reclaim
    }

    /// Hits up to now; `None` where it is gone.
    fn hits(&self, cgroupfs: &Cgroupfs) -> Option<Hits> {
        self.counters.as_ref()?.hits(cgroupfs, self.limits).ok()
    }

    /// Takes a sample; true if it is under pressure by its own limit. A quiet one costs one read, and the hits
    /// now and then.
    pub(super) fn look(
        &mut self,
        cgroupfs: &Cgroupfs,
        pod_is_near: bool,
        now: Timestamp,
    ) -> io::Result<bool> {
        let Some(counters) = &self.counters else { return Ok(false) };
        let usage = counters.usage()?;
        let after = self.samples.last().map(|last| last.at).or(self.made_after);
        let seen = self.hit.seen;
        let is_quiet = !pod_is_near && !self.limits.is_met(usage, QUIET_PERCENT);
        let is_fresh = self.hits_at.is_some_and(|read| now.micros_since(read) < HITS_AGE_US);
        let hits = if is_quiet && is_fresh { seen } else { counters.hits(cgroupfs, self.limits)? };
        let new = hits.since(seen);
        self.hit.seen = hits;
        if self.limits.is_met(usage, NEAR_PERCENT) || !new.is_none() {
            // It may have been raised since the last search.
            self.limits = Limits::read(&self.dir, cgroupfs)?;
        }
        let is_near = self.limits.is_met(usage, NEAR_PERCENT);
        if is_near && !self.near.is_over {
            self.near.is_over = true;
            // One that was found above is no crossing that we saw.
            if let Some(after) = after {
                self.near.usage = usage;
                Untold::add(&mut self.near.untold, after, now);
            }
        } else if !self.limits.is_met(usage, CALM_PERCENT) {
            self.near.is_over = false;
        }
        if !new.is_none() {
            let after = self.hits_at.or(self.made_after);
            Untold::add(&mut self.hit.untold, after.unwrap_or(now), now);
        }
        if !(is_quiet && is_fresh) {
            self.hits_at = Some(now);
        }
        let is_worth_keeping = is_near || pod_is_near || !new.is_none();
        let mut sample = Sample {
            at: now,
            usage,
            hits,
            parts: None,
            stalls: None,
            reclaim: std::mem::take(&mut self.reclaim),
        };
        if is_worth_keeping {
            sample.parts = counters::parts(&self.dir, cgroupfs).ok();
            sample.stalls = counters::stalls(&self.dir, cgroupfs);
        }
        self.samples.push(sample, is_worth_keeping);
        Ok(is_near)
    }

    /// What is worth a row now; [`Self::told`] settles it. Hits that belong to a kill are settled here.
    pub(super) fn due(&mut self, cgroupfs: &Cgroupfs, now: Timestamp) -> Vec<Due> {
        let is_quiet =
            |told_at: Option<Timestamp>, us| told_at.is_some_and(|told| now.micros_since(told) < us);
        let mut due = Vec::new();
        if let Some(untold) = self.near.untold
            && !is_quiet(self.near.told_at, QUIET_US)
        {
            let usage = self.near.usage;
            due.push(Due::Near { count: untold.count, usage, after: untold.after, seen: untold.last_seen });
        }
        if let Some(untold) = self.hit.untold
            && !is_quiet(self.hit.told_at, self.hit.quiet_us)
            && now.micros_since(untold.first_seen) >= KILL_WAIT_US
        {
            let kills = counters::kills(&self.dir, cgroupfs);
            let is_killed = kills.zip(self.hit.kills).is_some_and(|(now, then)| now > then);
            let hits = self.samples.last().map_or(self.hit.settled, |last| last.hits);
            self.hit.kills = kills.max(self.hit.kills);
            if is_killed {
                self.settle(hits);
            } else {
                let hits = hits.since(self.hit.settled);
                due.push(Due::Hit { hits, after: untold.after, seen: untold.last_seen });
            }
        }
        due
    }

    /// Whether it has crossed the threshold and not come back.
    pub(super) fn is_over(&self) -> bool {
        self.near.is_over
    }

    /// A row was made of it, or needs not be.
    pub(super) fn told(&mut self, due: Due, now: Timestamp) {
        match due {
            Due::Near { .. } => {
                self.near.untold = None;
                self.near.told_at = Some(now);
            }
            Due::Hit { .. } => {
                let pause = self.hit.told_at.map(|told| now.micros_since(told));
                // Hits that go on as soon as they may be told again are the cgroup's way of life.
                self.hit.quiet_us = match pause {
                    Some(pause) if pause < 2 * self.hit.quiet_us => (2 * self.hit.quiet_us).min(QUIET_US_MAX),
                    _ => QUIET_US,
                };
                self.hit.told_at = Some(now);
                let hits = self.samples.last().map_or(self.hit.settled, |last| last.hits);
                self.settle(hits);
            }
        }
    }

    /// A kill is told: the hits up to now led to it and are no near miss. Returns those that no row told.
    pub(super) fn killed(&mut self, cgroupfs: &Cgroupfs) -> Hits {
        let now = self.hits(cgroupfs).or(self.samples.last().map(|last| last.hits));
        let untold = now.map_or_else(Hits::default, |now| now.since(self.hit.settled));
        self.hit.kills = counters::kills(&self.dir, cgroupfs).max(self.hit.kills);
        self.settle(now.unwrap_or(self.hit.settled));
        untold
    }

    fn settle(&mut self, hits: Hits) {
        self.hit.settled = hits;
        self.hit.seen = hits;
        self.hit.untold = None;
    }
}

impl Untold {
    fn add(untold: &mut Option<Self>, after: Timestamp, now: Timestamp) {
        let untold = untold.get_or_insert(Self { count: 0, after, first_seen: now, last_seen: now });
        untold.count += 1;
        untold.last_seen = now;
    }
}
