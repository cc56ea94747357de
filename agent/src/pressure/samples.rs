//! The last minute of one cgroup's memory: samples in a ring, and what they say together.

use std::collections::VecDeque;

use aftertrace_model::Timestamp;
use serde_json::{Map, Value};

use super::counters::{Hits, Parts, Stalls};

/// How far back samples are kept, in microseconds: the run-up of a kill (design: 60 s).
pub(super) const KEPT_US: i64 = 60_000_000;

/// Most samples of one cgroup: one a second. In JSON they take about 10 KiB, far below an item's 256 KiB.
pub(super) const SAMPLES_MAX: usize = 60;

/// Waits of allocating tasks for reclaim, as the kernel's programs tell them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reclaim {
    /// How many waits ended.
    pub(super) stalls: u64,
    /// Their sum.
    pub(super) stall_ns: u64,
}

impl Reclaim {
    pub(super) fn add(&mut self, other: Self) {
        self.stalls = self.stalls.saturating_add(other.stalls);
        self.stall_ns = self.stall_ns.saturating_add(other.stall_ns);
    }
}

/// One look at one cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) usage: u64,
    pub(super) hits: Hits,
    /// Read near the limit only.
    pub(super) parts: Option<Parts>,
    /// Read near the limit only, where the kernel has it.
    pub(super) stalls: Option<Stalls>,
    /// Since the sample before.
    pub(super) reclaim: Reclaim,
}

/// Samples of one cgroup, oldest first, at most [`SAMPLES_MAX`] and none older than [`KEPT_US`].
///
/// Near the limit all are kept; further below only the last, which is where a run-up begins.
#[derive(Debug, Default)]
pub(super) struct Samples {
    ring: VecDeque<Sample>,
    /// Whether the newest is to stay when the next comes.
    keeps_last: bool,
}

impl Samples {
    /// Takes a sample; `is_near` says whether it is one of pressure.
    pub(super) fn push(&mut self, sample: Sample, is_near: bool) {
        if !is_near && !self.keeps_last {
            self.ring.pop_back();
        }
        while self.ring.front().is_some_and(|first| sample.at.micros_since(first.at) > KEPT_US)
            || self.ring.len() >= SAMPLES_MAX
        {
            self.ring.pop_front();
        }
        self.ring.push_back(sample);
        self.keeps_last = is_near;
        if self.ring.len() == 1 && self.ring.capacity() > 4 {
            self.ring.shrink_to_fit();
        }
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.ring.back()
    }

    /// The samples of the minute before `end`, oldest first.
    pub(super) fn before(&self, end: Timestamp) -> Vec<Sample> {
        let in_time = |s: &&Sample| s.at < end && end.micros_since(s.at) <= KEPT_US;
        self.ring.iter().filter(in_time).copied().collect()
    }
}

/// Bytes per second from the first to the last point; `None` where no time has passed between them.
pub(super) fn growth(points: impl IntoIterator<Item = (Timestamp, u64)>) -> Option<i64> {
    let mut points = points.into_iter();
    let (from, first) = points.next()?;
    let (to, last) = points.last()?;
    let elapsed_us = to.micros_since(from);
    if elapsed_us <= 0 {
        return None;
    }
    let grown = i128::from(last) - i128::from(first);
    i64::try_from(grown * 1_000_000 / i128::from(elapsed_us)).ok()
}

/// The samples as an attribute: an array of objects, oldest first, times in milliseconds before `end`.
/// Counters are told as what came since the sample before; what is not known is left out.
pub(super) fn json(samples: &[Sample], end: Timestamp) -> Value {
    let mut before: Option<&Sample> = None;
    let mut array = Vec::with_capacity(samples.len());
    for sample in samples {
        let mut object = Map::new();
        let mut put = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value.into());
            }
        };
        put("before_ms", u64::try_from(end.micros_since(sample.at) / 1_000).ok());
        put("usage_bytes", Some(sample.usage));
        if let Some(parts) = sample.parts {
            put("anon_bytes", parts.anon);
            put("file_bytes", parts.file);
            put("shmem_bytes", parts.shmem);
        }
        if let Some(before) = before {
            let hits = sample.hits.since(before.hits);
            put("limit_hits", Some(hits.max).filter(|_| sample.hits.is_counted()));
            put("high_hits", hits.high);
            if let (Some(now), Some(then)) = (sample.stalls, before.stalls) {
                put("psi_some_us", Some(now.some_us.saturating_sub(then.some_us)));
                put("psi_full_us", Some(now.full_us.saturating_sub(then.full_us)));
            }
        }
        if sample.reclaim != Reclaim::default() {
            put("reclaim_stalls", Some(sample.reclaim.stalls));
            put("reclaim_stall_us", Some(sample.reclaim.stall_ns / 1_000));
        }
        array.push(Value::Object(object));
        before = Some(sample);
    }
    Value::Array(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn sample(second: i64, usage: u64) -> Sample {
        Sample {
            at: at(second),
            usage,
            hits: Hits::default(),
            parts: None,
            stalls: None,
            reclaim: Reclaim::default(),
        }
    }

    /// Looks as `<usage>` or `<usage>!` (near the limit), one a second → what is kept, oldest first.
    fn check(looks: &str, expected: &[u64]) {
        let mut samples = Samples::default();
        for (second, look) in looks.split(' ').enumerate() {
            let usage = look.trim_end_matches('!').parse().expect("a number");
            samples.push(sample(second as i64, usage), look.ends_with('!'));
        }
        let kept: Vec<u64> = samples.ring.iter().map(|s| s.usage).collect();
        assert_eq!(kept, expected, "{looks}");
    }

    #[test]
    fn below_the_limit_only_the_last_is_kept() {
        check("1 2 3", &[3]);
        check("1 2 80! 90!", &[2, 80, 90]);
        check("1 2 80! 3 4", &[2, 80, 4]);
    }

    #[test]
    fn a_minute_is_kept_and_no_more() {
        let mut samples = Samples::default();
        for second in 0..200 {
            samples.push(sample(second, second.cast_unsigned()), true);
            assert!(samples.ring.len() <= SAMPLES_MAX);
        }
        let kept = samples.before(at(190));
        assert_eq!((kept[0].usage, kept.last().map(|s| s.usage)), (140, Some(189)));
    }

    #[test]
    fn growth_is_per_second_and_needs_time() {
        assert_eq!(growth([(at(0), 100), (at(4), 500), (at(10), 2_100)]), Some(200));
        assert_eq!(growth([(at(0), 100), (at(2), 0)]), Some(-50));
        assert_eq!(growth([(at(1), 100), (at(1), 200)]), None);
        assert_eq!(growth([(at(1), 100)]), None);
    }

    #[test]
    fn counters_are_told_as_what_came_since() {
        let hits = |max| Hits { max, ..Hits::default() };
        let first = Sample { hits: hits(7), ..sample(1, 10) };
        let reclaim = Reclaim { stalls: 2, stall_ns: 3_000_000 };
        let second = Sample { hits: hits(9), reclaim, ..sample(2, 20) };
        assert_eq!(
            json(&[first, second], at(3)),
            serde_json::json!([
                {"before_ms": 2000, "usage_bytes": 10},
                {"before_ms": 1000, "usage_bytes": 20, "limit_hits": 2, "reclaim_stalls": 2, "reclaim_stall_us": 3000},
            ])
        );
    }
}
