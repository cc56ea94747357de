//! Memory of pods and containers close to their limit: the minute before a kill, and what nearly was one.
//!
//! Once a second the counters of each cgroup with a limit are looked at, two reads while it is quiet. Near a
//! limit a whole sample is taken; the last minute of them is kept in memory and told when the OOM killer
//! strikes (`run_up`). Without a kill a row says that 80 % were crossed (`near_limit`) or that a limit was hit
//! and survived (`limit_hit`). Everything is read from files; what cgroup v1 lacks is said, not made up.
//!
//! - [`cgroupfs`]: which cgroups there are
//! - [`counters`]: their files as numbers
//! - [`samples`]: the last minute
//! - [`watched`]: one cgroup, and when something is worth a row
//! - [`rows`]: the row

mod cgroupfs;
mod counters;
mod rows;
mod samples;
mod watched;

use std::collections::{HashMap, HashSet, VecDeque};

use aftertrace_api::proto;
use aftertrace_model::{Event, EventId, Timestamp};

pub(crate) use self::cgroupfs::Cgroupfs;
use self::cgroupfs::Lack;
pub(crate) use self::rows::Kill;
use self::rows::Rows;
use self::samples::{KEPT_US, Reclaim};
use self::watched::{Due, Watched};
use crate::attribute::cgroup_name::{CgroupRoot, CgroupUid, ContainerId};
use crate::attribute::pods::Pods;
use crate::draft::{self, Origin};
use crate::kernel::MemcgLevel;

/// Looks between two searches for cgroups and readings of their limits. A new container is searched for when
/// its status names it; a limit changes by an in-place resize only, and near the old one it is read again.
const SEARCH_PERIOD: u32 = 30;

/// Most cgroups that are known. A large node has 500 pods of about three cgroups; each one with a limit holds
/// two files open.
const WATCHED_MAX: usize = 4_096;

/// Most run-ups that are remembered as told, so that each container has one per episode. An episode's kills
/// follow each other at once, or after the wait for their pod.
const TOLD_MAX: usize = 256;

/// All cgroups of pods that matter, and what was told of them.
#[derive(Debug)]
pub(crate) struct Pressure {
    cgroupfs: Cgroupfs,
    lacks: Vec<Lack>,
    root: CgroupRoot,
    /// By kernfs id.
    watched: HashMap<u64, Watched>,
    /// Containers that were looked for: one without a cgroup is over, or not there yet.
    sought: HashSet<ContainerId>,
    is_search_asked: bool,
    searched_at: Option<Timestamp>,
    looks: u32,
    told: VecDeque<(EventId, ContainerId)>,
    left_out: usize,
}

impl Pressure {
    /// No cgroup is known yet.
    pub(crate) fn new(cgroupfs: Cgroupfs, root: CgroupRoot) -> Self {
        Self {
            lacks: cgroupfs.lacks(),
            cgroupfs,
            root,
            watched: HashMap::new(),
            sought: HashSet::new(),
            is_search_asked: false,
            searched_at: None,
            looks: 0,
            told: VecDeque::new(),
            left_out: 0,
        }
    }

    /// How pressure is seen here, and what of it is not.
    pub(crate) fn subject(&self) -> proto::Subject {
        let hooks: &[&str] = match self.cgroupfs {
            Cgroupfs::V1(_) => &["poll/memory.usage_in_bytes", "poll/memory.failcnt"],
            Cgroupfs::V2(_) => &["poll/memory.current", "poll/memory.events.local", "poll/memory.pressure"],
        };
        let bound = (self.left_out > 0)
            .then(|| format!("{} cgroups beyond the first {WATCHED_MAX} are not looked at", self.left_out));
        proto::Subject {
            name: "memory_pressure".to_owned(),
            tier: "poll".to_owned(),
            hooks: hooks.iter().map(|hook| (*hook).to_owned()).collect(),
            missing: self.lacks.iter().map(|lack| lack.told().to_owned()).chain(bound).collect(),
        }
    }

    /// A cgroup was made: the next look searches.
    pub(crate) fn search_soon(&mut self) {
        self.is_search_asked = true;
    }

    /// Tasks of that memory cgroup waited so often, and so long together, for reclaim.
    pub(crate) fn note_reclaim(&mut self, cgroup_id: u64, stalls: u64, stall_ns: u64) {
        if let Some(watched) = self.watched.get_mut(&cgroup_id) {
            watched.note(Reclaim { stalls, stall_ns });
        }
    }

    /// Looks at every cgroup with a limit; the events have no identity yet.
    pub(crate) fn look(&mut self, origin: &Origin, pods: &Pods, now: Timestamp) -> Vec<Event> {
        let is_new = pods.live().flat_map(|p| p.containers()).any(|(id, _)| !self.sought.contains(id));
        if is_new || self.is_search_asked || self.looks.is_multiple_of(SEARCH_PERIOD) {
            self.search(pods, now);
        }
        self.looks = self.looks.wrapping_add(1);
        let mut near_pods: HashSet<CgroupUid> = HashSet::new();
        for is_pod in [true, false] {
            for watched in self.watched.values_mut().filter(|w| w.container.is_none() == is_pod) {
                if watched.gone_at.is_some() || !watched.is_open() {
                    continue;
                }
                match watched.look(&self.cgroupfs, near_pods.contains(&watched.uid), now) {
                    Ok(true) if is_pod => drop(near_pods.insert(watched.uid.clone())),
                    Ok(_) => {}
                    // The cgroup is gone; its last minute may still be asked for.
                    Err(_) => watched.gone_at = Some(now),
                }
            }
        }
        self.watched.retain(|_, w| w.gone_at.is_none_or(|gone| now.micros_since(gone) <= KEPT_US));
        let mut events = Vec::new();
        let rows = Rows { origin, cgroupfs: &self.cgroupfs, lacks: &self.lacks };
        let over: HashSet<CgroupUid> = (self.watched.values())
            .filter(|w| w.container.is_some() && w.is_over())
            .map(|w| w.uid.clone())
            .collect();
        for watched in self.watched.values_mut().filter(|w| w.gone_at.is_none()) {
            for due in watched.due(&self.cgroupfs, now) {
                // A pod is full of its containers: theirs is the row that says more.
                let is_of_container = watched.container.is_none() && over.contains(&watched.uid);
                if is_of_container && matches!(due, Due::Near { .. }) {
                    watched.told(due, now);
                    continue;
                }
                let Some(mut event) = rows.due(watched, due) else { continue };
                // A container that no status lists yet is told once one does.
                if tie(&mut event, watched, pods) {
                    watched.told(due, now);
                    events.push(event);
                }
            }
        }
        events
    }

    /// The row of the minute before a kill in that container; `None` if it was told for this episode, or
    /// nothing is known of the time before. `levels` are what the kernel told of the victim's cgroups.
    pub(crate) fn run_up(
        &mut self,
        origin: &Origin,
        pods: &Pods,
        (uid, id): (&CgroupUid, &ContainerId),
        kill: Kill,
        levels: &[MemcgLevel],
    ) -> Option<Event> {
        let key = (kill.episode_id, id.clone());
        if self.told.contains(&key) {
            return None;
        }
        let rows = Rows { origin, cgroupfs: &self.cgroupfs, lacks: &self.lacks };
        let mut row = None;
        // The container's own minute says most; where it has none, the pod's is better than nothing.
        for is_pod in [false, true] {
            for watched in self.watched.values_mut() {
                let is_it = match &watched.container {
                    Some(container) => !is_pod && container == id,
                    None => is_pod && watched.uid == *uid,
                };
                if !is_it {
                    continue;
                }
                let untold = watched.killed(&self.cgroupfs);
                let level = levels.iter().find(|level| level.kernfs_id == Some(watched.id));
                let at_kill = level.and_then(|level| level.usage_bytes);
                row = row.or_else(|| rows.run_up(watched, kill, at_kill, untold));
            }
        }
        let mut row = row?;
        let (known, life) = pods.find(uid, id)?;
        draft::of_life(&mut row, known, id.as_str(), life);
        row.summary = told_of(&life.container, &draft::pod_name(&known.pod), &row.summary);
        self.told.push_back(key);
        if self.told.len() > TOLD_MAX {
            self.told.pop_front();
        }
        Some(row)
    }

    /// Takes in what cgroups there are and what their limits are.
    fn search(&mut self, pods: &Pods, now: Timestamp) {
        self.is_search_asked = false;
        let before = self.searched_at.replace(now);
        self.sought = pods.live().flat_map(|p| p.containers().map(|(id, _)| id.clone())).collect();
        // No pod was ever started here, or the mount is not what it was: nothing to look at either way.
        let found = cgroupfs::search(&self.cgroupfs, &self.root).unwrap_or_default();
        self.left_out = 0;
        let mut limited_pods: HashSet<CgroupUid> = HashSet::new();
        let mut there: HashSet<u64> = HashSet::with_capacity(found.len());
        for found in found {
            there.insert(found.id);
            if self.watched.len() >= WATCHED_MAX && !self.watched.contains_key(&found.id) {
                self.left_out += 1;
                continue;
            }
            let watched = self.watched.entry(found.id).or_insert_with(|| Watched::new(found, before));
            let pod_has_limit = watched.container.is_some() && limited_pods.contains(&watched.uid);
            match watched.refresh(&self.cgroupfs, pod_has_limit) {
                Ok(()) if watched.container.is_none() && watched.limits.first().is_some() => {
                    limited_pods.insert(watched.uid.clone());
                }
                Ok(()) => {}
                Err(_) => drop(watched.gone_at.get_or_insert(now)),
            }
        }
        for watched in self.watched.values_mut().filter(|w| !there.contains(&w.id)) {
            watched.gone_at.get_or_insert(now);
        }
    }
}

/// Ties a row to its pod, and to its container's life; false where no status lists it.
fn tie(event: &mut Event, watched: &Watched, pods: &Pods) -> bool {
    match &watched.container {
        Some(id) => {
            let Some((known, life)) = pods.find(&watched.uid, id) else { return false };
            draft::of_life(event, known, id.as_str(), life);
            event.summary = told_of(&life.container, &draft::pod_name(&known.pod), &event.summary);
        }
        None => {
            let Some(known) = pods.get(watched.uid.as_str()) else { return false };
            draft::of_pod(event, known);
            event.summary = format!("pod {} {}", draft::pod_name(&known.pod), event.summary);
        }
    }
    true
}

fn told_of(container: &str, pod: &str, what: &str) -> String {
    format!("container {} of {pod} {what}", aftertrace_model::text::escape(container))
}

#[cfg(test)]
mod tests;
