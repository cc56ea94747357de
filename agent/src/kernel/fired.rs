//! One kill, and the decision's own record where there is one → the limit that fired. Pure.
//!
//! The tracing tier tells: `oom_control` names the memory cgroup, or none. Everywhere else it follows from
//! counts that stand in the kill's record, and the rule must never be wrong, however many tasks decide at once:
//! an OOM decision waits for a mutex (`oom_lock`), and others may be counted, taken and carried out meanwhile.
//!
//! **Memory cgroup.** Let A be the allocating task, and L the cgroup whose limit it could not stay below, its
//! own or an ancestor. A reclaims for L, the hook then takes the counts of all of A's cgroups; after that, and
//! before it waits for the mutex, A itself counts its decision at L, and at L alone. A's kill carries the counts
//! once more. So L is among the cgroups whose count rose, whatever others have added: where one alone rose, it
//! is L. An older snapshot, or one that somebody missed, only makes more of them rise. Where two rose, each may
//! be L, and the level is unknown. Neither usage nor time takes part: the usage may be below the limit again by
//! then, and the mutex may be waited for as long as it takes.
//!
//! **Machine.** A decision for the whole machine follows a direct reclaim of A. A decision for a cgroup has its
//! own reclaim last, but for one case: the report that precedes the kill allocates memory on kernels before
//! 6.4, which may reclaim directly. That comes after A has counted its decision. So when the counts at the
//! direct reclaim are those of A's last reclaim for a cgroup, no cgroup's limit fired.
//!
//! **What A did not charge itself.** The proof needs L among A's cgroups. A task may charge another's: one set
//! for it by the kernel (`active_memcg`), or that of the owner of memory it shares; the hook compares these, and
//! the answer is unknown. It is unknown, too, for one who writes a limit below what is used, because nothing
//! among the writer's cgroups rises. What remains is a task that writes into the memory of another container's
//! process (`ptrace`, `process_vm_writev`), makes that one's limit fire, and meets, in these very
//! microseconds, one foreign decision that is counted at one cgroup above both. Where the kernel has `oom_lock`
//! flags, they catch most of that: the topmost cgroup of the victim with a flag must be L. Another decision may
//! hold them, so alone they decide nothing.

use super::record::{ChargedLevel, LastReclaim, OomDecision, OomKill, OomLimit};

/// The limit that an OOM decision was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// That of the memory cgroup with this kernfs id.
    Memcg {
        /// Which.
        kernfs_id: u64,
        /// What that rests on.
        by: DecidedBy,
    },
    /// None: the machine, or the part of it that the task may use, was out of memory.
    Machine {
        /// What that rests on.
        by: DecidedBy,
    },
    /// It cannot be told.
    Unknown(Unknown),
}

/// What the answer rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The kernel's word.
    OomControl,
    /// The one count that rose.
    OomEvents,
    /// The allocating task's direct reclaim.
    LastReclaim,
}

impl DecidedBy {
    /// The name in snake_case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OomControl => "oom_control",
            Self::OomEvents => "oom_events",
            Self::LastReclaim => "last_reclaim",
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing is remembered of the task.
    NoReclaim,
    /// The allocation need not be the task's own cgroup's.
    ChargedToAnother,
    /// The counts before are not known.
    Moved,
    /// Not all of the task's cgroups are in the record.
    TooDeep,
    /// Several counts rose.
    SeveralRose,
    /// No count rose.
    NoneRose,
    /// The count that rose is that of a cgroup that the victim is not in.
    NotTheVictims,
    /// The topmost lock is another cgroup's.
    LockDisagrees,
    /// A decision was counted before the direct reclaim.
    DirectAfterOom,
}

impl Unknown {
    /// The reason, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoReclaim => "no reclaim of the allocating task is remembered",
            Self::ChargedToAnother => "the allocation may have been charged to another cgroup",
            Self::Moved => "the counts before the decision are not known for the allocating task's cgroup",
            Self::TooDeep => "the allocating task's cgroup lies too deep for a record",
            Self::SeveralRose => {
                "decisions were counted at several of the allocating task's cgroups meanwhile"
            }
            Self::NoneRose => "no decision was counted at any of the allocating task's cgroups",
            Self::NotTheVictims => "the decision was counted at a cgroup that the victim is not in",
            Self::LockDisagrees => "another cgroup was locked for an OOM decision",
            Self::DirectAfterOom => {
                "the task reclaimed for the machine after a decision had been counted at its cgroups"
            }
        }
    }
}

/// Which limit fired.
#[must_use]
pub fn fired(kill: &OomKill, decision: Option<&OomDecision>) -> Fired {
    let by = DecidedBy::OomControl;
    match decision.map(|decision| decision.limit) {
        Some(OomLimit::Memcg(kernfs_id)) => return Fired::Memcg { kernfs_id, by },
        Some(OomLimit::Machine) => return Fired::Machine { by },
        Some(OomLimit::Unknown) | None => {}
    }
    derived(kill).unwrap_or_else(Fired::Unknown)
}

fn derived(kill: &OomKill) -> Result<Fired, Unknown> {
    let charge = &kill.charge;
    let last = charge.last_reclaim.ok_or(Unknown::NoReclaim)?;
    if charge.levels_truncated {
        return Err(Unknown::TooDeep);
    }
    let fired = match last {
        LastReclaim::MemcgOfAnother => return Err(Unknown::ChargedToAnother),
        LastReclaim::DirectAfterOom => return Err(Unknown::DirectAfterOom),
        LastReclaim::Direct => {
            let is_counted = charge.levels.iter().all(|l| l.oom_events.is_some());
            if charge.levels.is_empty() || !is_counted {
                return Err(Unknown::Moved);
            }
            None
        }
        LastReclaim::Memcg => Some(the_one_that_rose(&charge.levels)?),
    };
    if fired.is_some_and(|id| kill.levels.iter().all(|l| l.kernfs_id != Some(id))) {
        return Err(Unknown::NotTheVictims);
    }
    let locked = kill.levels.iter().rfind(|l| l.under_oom == Some(true));
    if locked.is_some_and(|l| l.kernfs_id != fired) {
        return Err(Unknown::LockDisagrees);
    }
    Ok(match fired {
        Some(kernfs_id) => Fired::Memcg { kernfs_id, by: DecidedBy::OomEvents },
        None => Fired::Machine { by: DecidedBy::LastReclaim },
    })
}

fn the_one_that_rose(levels: &[ChargedLevel]) -> Result<u64, Unknown> {
    let mut one = None;
    for level in levels {
        let (Some(id), Some(before), Some(now)) =
            (level.kernfs_id, level.oom_events_before, level.oom_events)
        else {
            return Err(Unknown::Moved);
        };
        if before == now {
            continue;
        }
        if one.replace(id).is_some() {
            return Err(Unknown::SeveralRose);
        }
    }
    one.ok_or(Unknown::NoneRose)
}

#[cfg(test)]
mod tests;
