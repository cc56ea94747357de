//! The OOM killer's victims until they are gone: what ties an exit to its kill. Pure.

use std::collections::BTreeMap;

use aftertrace_model::{Attributes, Event, EventId, PodRef, Workload, attribute};

use crate::kernel::{Exit, OomKill};

/// Most victims awaited: as many as the kernel's side remembers. The earliest are let go first.
const VICTIMS_MAX: usize = 4_096;

/// How long a victim may take to exit before that is said, in nanoseconds of the boot clock. A guess: a victim
/// exits within milliseconds, unless it is stuck in the kernel (a dead network file system), and the OOM reaper
/// has long taken its memory by then.
pub(crate) const EXIT_WAIT_NS: u64 = 60_000_000_000;

/// Attributes of a kill that its exit shares.
const SHARED: [&str; 2] = [attribute::OOM_ROLE, "aftertrace.container.kind"];

/// What an exit takes over from its kill.
#[derive(Clone, Debug)]
pub(crate) struct Tie {
    episode_id: Option<EventId>,
    cgroup_id: Option<u64>,
    pod: Option<PodRef>,
    container: Option<String>,
    container_id: Option<String>,
    container_init: Option<bool>,
    restart_count: Option<i32>,
    workload: Option<Workload>,
    attributes: Attributes,
}

impl Tie {
    fn of(kill: &Event) -> Self {
        let shared = |name: &str| Some((name.to_owned(), kill.attributes.get(name)?.clone()));
        Self {
            episode_id: kill.episode_id,
            cgroup_id: kill.cgroup_id,
            pod: kill.pod.clone(),
            container: kill.container.clone(),
            container_id: kill.container_id.clone(),
            container_init: kill.container_init,
            restart_count: kill.restart_count,
            workload: kill.workload.clone(),
            attributes: SHARED.into_iter().filter_map(shared).collect(),
        }
    }

    pub(super) fn apply(&self, exit: &mut Event) {
        exit.episode_id = self.episode_id;
        exit.cgroup_id = self.cgroup_id;
        exit.pod.clone_from(&self.pod);
        exit.container.clone_from(&self.container);
        exit.container_id.clone_from(&self.container_id);
        exit.container_init = self.container_init;
        exit.restart_count = self.restart_count;
        exit.workload.clone_from(&self.workload);
        exit.attributes.extend(self.attributes.clone());
    }
}

/// Victims whose kill was told and whose exit was not.
#[derive(Debug, Default)]
pub(crate) struct Victims {
    /// By `boot_ns` of the kill, so that the earliest come first, and tgid.
    awaited: BTreeMap<(u64, u32), (Tie, bool)>,
}

impl Victims {
    /// The kill was told; returns how many victims had to be let go for it.
    pub(crate) fn told(&mut self, kill: &OomKill, event: &Event) -> u64 {
        self.awaited.insert((kill.boot_ns, kill.victim.tgid), (Tie::of(event), false));
        let mut let_go = 0;
        while self.awaited.len() > VICTIMS_MAX {
            self.awaited.pop_first();
            let_go += 1;
        }
        let_go
    }

    /// The victim is gone: what it is tied to, if its kill was told.
    pub(crate) fn take(&mut self, exit: &Exit) -> Option<Tie> {
        self.awaited.remove(&(exit.kill_boot_ns, exit.task.tgid)).map(|(tie, _)| tie)
    }

    /// The victims that should be gone at `now_boot_ns` and are not, each once: tgid, and when it was killed.
    pub(crate) fn overdue(&mut self, now_boot_ns: u64) -> Vec<(u32, u64)> {
        let until = now_boot_ns.saturating_sub(EXIT_WAIT_NS);
        let due = self.awaited.range_mut(..(until, 0)).filter(|(_, (_, is_said))| !is_said);
        due.map(|(&(killed, tgid), (_, is_said))| {
            *is_said = true;
            (tgid, killed)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use aftertrace_model::{Kind, Occurrence, Source, Timestamp};

    use super::*;
    use crate::draft::{self, Origin};
    use crate::episode::tests::kill;
    use crate::kernel::OomRole;

    fn exit(kill: &OomKill) -> Exit {
        Exit {
            boot_ns: kill.boot_ns + 1,
            kill_boot_ns: kill.boot_ns,
            task: kill.victim.clone(),
            signal: Some(9),
            code: None,
        }
    }

    fn told() -> Event {
        let origin = Origin { cluster: "c".into(), node: "n".into() };
        let occurred = Occurrence::within(Timestamp::from_micros(0), 1);
        let event = draft::event(&origin, Kind::OomKill, Source::Kernel, "test", occurred);
        Event { container_id: Some("id".to_owned()), ..event }
    }

    #[test]
    fn an_exit_takes_its_own_kills_tie_once() {
        let mut victims = Victims::default();
        let first = kill(1, 10, OomRole::Marked, None, "/a");
        let mut again = first.clone();
        again.boot_ns += 5;
        victims.told(&first, &told());
        assert!(victims.take(&exit(&again)).is_none(), "another life of that tgid");
        assert_eq!(victims.take(&exit(&first)).and_then(|t| t.container_id).as_deref(), Some("id"));
        assert!(victims.take(&exit(&first)).is_none());
    }

    #[test]
    fn a_victim_that_stays_is_said_once() {
        let mut victims = Victims::default();
        let stuck = kill(1, 10, OomRole::Marked, None, "/a");
        victims.told(&stuck, &told());
        assert!(victims.overdue(stuck.boot_ns + EXIT_WAIT_NS).is_empty());
        assert_eq!(victims.overdue(stuck.boot_ns + EXIT_WAIT_NS + 1), [(10, stuck.boot_ns)]);
        assert!(victims.overdue(stuck.boot_ns + EXIT_WAIT_NS + 2).is_empty());
        assert!(victims.take(&exit(&stuck)).is_some(), "and its exit is still tied");
    }

    #[test]
    fn the_earliest_are_let_go_first() {
        let mut victims = Victims::default();
        let mut first = kill(1, 10, OomRole::Marked, None, "/a");
        let kills = (0..=VICTIMS_MAX as u32).map(|n| {
            let mut kill = kill(1, 10 + n, OomRole::Marked, None, "/a");
            kill.boot_ns += u64::from(n);
            kill
        });
        assert_eq!(kills.map(|k| victims.told(&k, &told())).sum::<u64>(), 1);
        assert!(victims.take(&exit(&first)).is_none());
        first.boot_ns += 1;
        first.victim.tgid += 1;
        assert!(victims.take(&exit(&first)).is_some());
    }
}
