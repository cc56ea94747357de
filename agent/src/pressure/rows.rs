//! What was seen of a cgroup → `memory_pressure` events. They have no identity and no owner yet.

use aftertrace_model::{Event, Kind, Occurrence, Severity, Source, Timestamp};
use serde_json::Value;

use super::cgroupfs::{Cgroupfs, Lack};
use super::counters::Hits;
use super::samples::{Sample, growth, json};
use super::watched::{Due, Watched};
use crate::draft::{self, Origin};
use crate::episode::mib;

/// The attribute that says which of the three it is.
const REASON: &str = "aftertrace.pressure.reason";

/// A kill that a run-up led to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    /// The decision, as an instant with its bound.
    pub(crate) occurred: Occurrence,
    /// The event of the decision.
    pub(crate) episode_id: aftertrace_model::EventId,
}

/// What all rows of this machine have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub(super) origin: &'a Origin,
    pub(super) cgroupfs: &'a Cgroupfs,
    pub(super) lacks: &'a [Lack],
}

impl Rows<'_> {
    /// A row about a cgroup that is near its limit, or hit it and lived.
    pub(super) fn due(&self, watched: &Watched, due: Due) -> Option<Event> {
        let last = watched.samples.last()?;
        let limit = watched.limits.first()?;
        let (reason, hook, after, seen) = match (due, self.cgroupfs) {
            (Due::Near { after, seen, .. }, Cgroupfs::V1(_)) => {
                ("near_limit", "poll/memory.usage_in_bytes", after, seen)
            }
            (Due::Near { after, seen, .. }, Cgroupfs::V2(_)) => {
                ("near_limit", "poll/memory.current", after, seen)
            }
            (Due::Hit { after, seen, .. }, Cgroupfs::V1(_)) => {
                ("limit_hit", "poll/memory.failcnt", after, seen)
            }
            (Due::Hit { after, seen, .. }, Cgroupfs::V2(_)) => {
                ("limit_hit", "poll/memory.events.local", after, seen)
            }
        };
        let mut event = self.blank(watched, reason, hook, Occurrence::between(after, seen));
        current(&mut event, watched, last);
        match due {
            Due::Near { count, usage, .. } => {
                put(&mut event, "aftertrace.memory.usage_bytes", Some(usage));
                put(&mut event, "aftertrace.pressure.crossings", Some(count));
                let part = usage.saturating_mul(100) / limit;
                event.summary = format!("uses {} of {} MiB ({part} %)", mib(usage), mib(limit));
            }
            Due::Hit { hits, .. } => {
                new_hits(&mut event, hits, last.hits.is_counted());
                event.summary = match hits.high {
                    _ if !last.hits.is_counted() => {
                        let limit = mib(watched.limits.max.unwrap_or(limit));
                        format!(
                            "reached its limit of {limit} MiB without a kill; how often is not counted here"
                        )
                    }
                    Some(high) if hits.max == 0 => {
                        let limit = watched.limits.high.unwrap_or(limit);
                        format!("was slowed down at its memory.high of {} MiB {high} times", mib(limit))
                    }
                    _ => {
                        let limit = watched.limits.max.unwrap_or(limit);
                        format!("hit its limit of {} MiB {} times without a kill", mib(limit), hits.max)
                    }
                };
            }
        }
        Some(event)
    }

    /// The row of the minute before a kill; `None` where no sample was taken before it.
    ///
    /// `at_kill` is the usage that the kernel told with the kill, `untold` the hits that no row has told.
    pub(super) fn run_up(
        &self,
        watched: &Watched,
        kill: Kill,
        at_kill: Option<u64>,
        untold: Hits,
    ) -> Option<Event> {
        let end = kill.occurred.earliest;
        let samples = watched.samples.before(end);
        let (first, last) = (samples.first()?, samples.last()?);
        // It went on from the last sample to the kill; the middle between them is no later than either.
        let at = last.at.plus_micros(end.micros_since(last.at) / 2);
        let occurred = Occurrence { at, earliest: first.at, latest: kill.occurred.at };
        let hook = match self.cgroupfs {
            Cgroupfs::V1(_) => "poll/memory.usage_in_bytes",
            Cgroupfs::V2(_) => "poll/memory.current",
        };
        let mut event = self.blank(watched, "run_up", hook, occurred);
        event.episode_id = Some(kill.episode_id);
        current(&mut event, watched, last);
        new_hits(&mut event, untold, last.hits.is_counted() && untold.is_counted());
        let usage = samples.iter().map(|s| (s.at, s.usage)).chain(at_kill.map(|usage| (end, usage)));
        let usage_growth = growth(usage);
        let resident = samples.iter().filter_map(|s| Some((s.at, resident(s)?)));
        let reclaim = samples.iter().skip(1).map(|s| s.reclaim).chain([watched.unsampled()]);
        let reclaim = reclaim.fold(super::samples::Reclaim::default(), |mut sum, one| {
            sum.add(one);
            sum
        });
        let attributes = &mut event.attributes;
        let mut put_i64 = |name: &str, value: Option<i64>| {
            attributes.extend(value.map(|value| (name.to_owned(), Value::from(value))));
        };
        put_i64("aftertrace.pressure.growth_bytes_per_s", usage_growth);
        put_i64("aftertrace.pressure.rss_growth_bytes_per_s", growth(resident));
        attributes.insert("aftertrace.pressure.samples".to_owned(), json(&samples, end));
        put(&mut event, "aftertrace.pressure.usage_at_kill_bytes", at_kill);
        put(&mut event, "aftertrace.reclaim.stalls", Some(reclaim.stalls).filter(|n| *n > 0));
        put(
            &mut event,
            "aftertrace.reclaim.stall_us",
            Some(reclaim.stall_ns / 1_000).filter(|_| reclaim.stalls > 0),
        );
        event.summary = run_up_summary(watched, first, at_kill.unwrap_or(last.usage), end, usage_growth);
        Some(event)
    }

    fn blank(&self, watched: &Watched, reason: &str, hook: &str, occurred: Occurrence) -> Event {
        let mut event = draft::event(self.origin, Kind::MemoryPressure, Source::Node, hook, occurred);
        event.cgroup_id = Some(watched.id);
        event.severity = Severity::Warning;
        let level = if watched.container.is_some() { "container" } else { "pod" };
        event.attributes.insert(REASON.to_owned(), reason.into());
        event.attributes.insert("aftertrace.pressure.level".to_owned(), level.into());
        if !self.lacks.is_empty() {
            let lacks: Vec<&str> = self.lacks.iter().map(|lack| lack.as_str()).collect();
            event.attributes.insert("aftertrace.pressure.lacks".to_owned(), lacks.into());
        }
        event
    }
}

/// `went from 41.2 to 64.0 of 64.0 MiB in 12.0 s before the kill (1.9 MiB/s)`.
fn run_up_summary(
    watched: &Watched,
    first: &Sample,
    usage: u64,
    end: Timestamp,
    growth: Option<i64>,
) -> String {
    let limit = watched.limits.first().map(|limit| format!(" of {}", mib(limit))).unwrap_or_default();
    let tenths = end.micros_since(first.at) / 100_000;
    let rate = growth.filter(|g| *g > 0).and_then(|g| u64::try_from(g).ok());
    let rate = rate.map(|g| format!(" ({} MiB/s)", mib(g))).unwrap_or_default();
    format!(
        "went from {} to {}{limit} MiB in the {}.{} s before the kill{rate}",
        mib(first.usage),
        mib(usage),
        tenths / 10,
        tenths % 10
    )
}

/// Anonymous and shared memory: what cannot be given back by dropping page cache.
fn resident(sample: &Sample) -> Option<u64> {
    let parts = sample.parts?;
    Some(parts.anon?.saturating_add(parts.shmem.unwrap_or(0)))
}

/// What the last sample says.
fn current(event: &mut Event, watched: &Watched, last: &Sample) {
    put(event, "aftertrace.memory.usage_bytes", Some(last.usage));
    put(event, "aftertrace.memory.limit_bytes", watched.limits.max);
    put(event, "aftertrace.memory.high_bytes", watched.limits.high);
    put(event, "aftertrace.memory.limit_hits", Some(last.hits.max).filter(|_| last.hits.is_counted()));
    if let Some(parts) = last.parts {
        put(event, "aftertrace.memory.anon_bytes", parts.anon);
        put(event, "aftertrace.memory.file_bytes", parts.file);
        put(event, "aftertrace.memory.shmem_bytes", parts.shmem);
    }
}

/// Hits that no row has told; those of `max` only where the kernel counts them.
fn new_hits(event: &mut Event, hits: Hits, is_counted: bool) {
    put(event, "aftertrace.memory.new_limit_hits", Some(hits.max).filter(|_| is_counted));
    put(event, "aftertrace.memory.new_high_hits", hits.high);
}

fn put(event: &mut Event, name: &str, value: Option<u64>) {
    event.attributes.extend(value.map(|value| (name.to_owned(), Value::from(value))));
}
