//! OOM decision and kill records → episodes, and the events they make.
//!
//! An episode is one decision of the OOM killer. It is keyed by the allocating thread, on whose stack the
//! kernel decides and kills, and never by a window of time alone. What delimits the decisions of one thread:
//!
//! - where the kernel's functions can be hooked, the decision's own record, which comes before its kills;
//! - else the count of the thread's reclaims: it cannot decide again before it has reclaimed again, for the
//!   kernel retries the allocation first. Two decisions without a reclaim in between have two causes only: a
//!   limit written below what is used, and SysRq; there the group's count, below, tells them apart.
//!
//! Within a decision the first marked victim is chosen. A further marked one belongs to its group, if a cgroup
//! with `oom_group` is common to both and that cgroup's count of group kills stands exactly one above what it
//! was at the chosen victim's kill: the kernel counts between the two, and decides for one limit at a time. One
//! killed for sharing a victim's memory follows that victim.
//!
//! Pure but for its own memory of recent episodes. Which limit fired is the affair of
//! [`crate::kernel::fired`]; [`facts`] makes the events, [`cgroups`] reads paths, [`victims`] ties exits to kills.

mod cgroups;
mod facts;
pub(crate) mod victims;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aftertrace_model::EventId;

use crate::kernel::fired::{Fired, fired};
use crate::kernel::{MemcgLevel, OomDecision, OomKill, OomRole, Task};

pub(crate) use cgroups::{allocator_cgroup, cgroup_path, classify};
pub(crate) use facts::{episode_event, exit_event, kill_event, kill_summary, mib};

/// Episodes remembered for what follows in them. A decision takes microseconds to milliseconds and the
/// kernel takes one at a time; the rest is slack for records that wait for their pod.
const EPISODES_MAX: usize = 4_096;

/// How long after its decision a group kill is believed to belong to it, where neither the thread's reclaims
/// nor the cgroup's group kills (before Linux 5.17) are counted. A guess: the kills of a group follow each other
/// in microseconds, and a thread must reclaim in vain, for milliseconds at least, before it decides again.
const UNCOUNTED_GROUP_NS: u64 = 1_000_000_000;

/// What a victim was to the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The kernel chose it.
    Chosen,
    /// It was in the chosen victim's `oom_group`.
    Group,
    /// It shared the victim's memory.
    SharedMm,
}

impl Role {
    /// The name in snake_case.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Group => "group",
            Self::SharedMm => "shared_mm",
        }
    }
}

/// The place of a kill in its episode.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) episode: u64,
    pub(crate) role: Role,
    pub(crate) decided: Arc<Decided>,
}

/// What is known of a decision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    /// The limit that fired.
    pub(crate) fired: Fired,
    /// The kernel's own word, where it could be had.
    pub(crate) decision: Option<Box<OomDecision>>,
}

/// A thread of this boot.
type Allocator = (u32, Option<u64>);

#[derive(Debug)]
struct Episode {
    number: u64,
    /// The allocating thread's count of reclaims.
    reclaims: Option<u64>,
    /// When it was opened.
    boot_ns: u64,
    /// Who was killed, the chosen first if it was killed.
    killed: Vec<u32>,
    /// The chosen victim's cgroups that kill as a group: kernfs id, and how often each had done so.
    groups: Vec<(u64, Option<u64>)>,
    decided: Arc<Decided>,
}

/// Recent episodes.
#[derive(Debug, Default)]
pub(crate) struct Episodes {
    latest: HashMap<Allocator, Episode>,
    /// Decisions that have killed nobody yet; opened when they do.
    announced: HashMap<Allocator, Box<OomDecision>>,
    order: VecDeque<(Allocator, u64)>,
    /// Events of the episodes that were emitted.
    ids: HashMap<u64, EventId>,
    count: u64,
}

impl Episodes {
    /// A decision was told; kills follow, unless the chosen was exiting already.
    pub(crate) fn announce(&mut self, decision: Box<OomDecision>) {
        // Those that never killed are few, and their threads end; at the bound all are let go together.
        if self.announced.len() >= EPISODES_MAX {
            self.announced.clear();
        }
        self.announced.insert(thread(&decision.allocator), decision);
    }

    /// Finds the episode of a kill, or opens one; `None` if that process was already killed in it.
    pub(crate) fn assign(&mut self, kill: &OomKill) -> Option<Member> {
        let allocator = thread(&kill.allocator);
        let announced = self.announced.remove(&allocator).filter(|decision| opens(decision, kill));
        if announced.is_none()
            && let Some(open) = self.latest.get_mut(&allocator)
            && let Some(role) = open.role_of(kill)
        {
            if open.killed.contains(&kill.victim.tgid) {
                return None;
            }
            open.killed.push(kill.victim.tgid);
            return Some(Member { episode: open.number, role, decided: Arc::clone(&open.decided) });
        }
        let role = match (&announced, kill.role) {
            (_, OomRole::SharedMm { .. }) => Role::SharedMm,
            // The chosen one had no memory left to kill it for, and its group was killed all the same.
            (Some(decision), OomRole::Marked) if decision.chosen.tgid != kill.victim.tgid => Role::Group,
            _ => Role::Chosen,
        };
        let decided = Arc::new(Decided { fired: fired(kill, announced.as_deref()), decision: announced });
        let number = self.open(allocator, kill, role, Arc::clone(&decided));
        Some(Member { episode: number, role, decided })
    }

    fn open(&mut self, allocator: Allocator, kill: &OomKill, role: Role, decided: Arc<Decided>) -> u64 {
        self.count += 1;
        let number = self.count;
        let episode = Episode {
            number,
            reclaims: kill.charge.reclaims,
            boot_ns: kill.boot_ns,
            killed: vec![kill.victim.tgid],
            groups: groups(&kill.levels)
                // A member's record comes after the count has risen.
                .map(|(id, count)| (id, count.filter(|_| role == Role::Chosen)))
                .collect(),
            decided,
        };
        self.latest.insert(allocator, episode);
        self.order.push_back((allocator, number));
        while self.order.len() > EPISODES_MAX {
            let Some((allocator, number)) = self.order.pop_front() else { break };
            self.ids.remove(&number);
            if self.latest.get(&allocator).is_some_and(|e| e.number == number) {
                self.latest.remove(&allocator);
            }
        }
        number
    }

    /// The episode's event, once it was emitted.
    pub(crate) fn id(&self, number: u64) -> Option<EventId> {
        self.ids.get(&number).copied()
    }

    /// The episode's event was emitted.
    pub(crate) fn emitted(&mut self, number: u64, id: EventId) {
        // One that is remembered no more would stay for ever.
        if self.order.front().is_some_and(|(_, oldest)| *oldest <= number) {
            self.ids.insert(number, id);
        }
    }
}

impl Episode {
    /// What a kill on the same thread was to this decision; `None` if it was another decision's.
    fn role_of(&self, kill: &OomKill) -> Option<Role> {
        let is_counted = self.reclaims.is_some() && kill.charge.reclaims.is_some();
        if is_counted && self.reclaims != kill.charge.reclaims {
            return None;
        }
        match kill.role {
            OomRole::SharedMm { marked_tgid } => self.killed.contains(&marked_tgid).then_some(Role::SharedMm),
            OomRole::Marked => {
                let is_near = kill.boot_ns.saturating_sub(self.boot_ns) <= UNCOUNTED_GROUP_NS;
                let is_member = groups(&kill.levels).any(|(id, count)| {
                    self.groups.iter().filter(|(group, _)| *group == id).any(|(_, before)| {
                        match (before, count) {
                            (Some(before), Some(count)) => count.checked_sub(*before) == Some(1),
                            _ => is_counted || is_near,
                        }
                    })
                });
                // The chosen one is marked again if another of its threads is found; its count may not have
                // risen yet.
                (is_member || self.killed.contains(&kill.victim.tgid) && is_counted).then_some(Role::Group)
            }
        }
    }
}

/// Whether a kill is the first of a decision that was told. One lost from the ring would leave an older
/// decision of the thread in its place.
fn opens(decision: &OomDecision, kill: &OomKill) -> bool {
    let is_same_time = match (decision.reclaims, kill.charge.reclaims) {
        (Some(decided), Some(killed)) => decided == killed,
        _ => true,
    };
    let is_first = match kill.role {
        OomRole::Marked => decision.chosen.tgid == kill.victim.tgid || groups(&kill.levels).next().is_some(),
        OomRole::SharedMm { marked_tgid } => marked_tgid == decision.chosen.tgid,
    };
    is_same_time && is_first && decision.boot_ns <= kill.boot_ns
}

fn thread(task: &Task) -> Allocator {
    (task.tid, task.start_boot_ns)
}

/// The cgroups that kill as a group: kernfs id, and how often each has done so.
fn groups(levels: &[MemcgLevel]) -> impl Iterator<Item = (u64, Option<u64>)> {
    let is_group = |l: &&MemcgLevel| l.oom_group == Some(true);
    levels.iter().filter(is_group).filter_map(|l| Some((l.kernfs_id?, l.oom_group_kill_events)))
}

#[cfg(test)]
pub(crate) mod tests;
