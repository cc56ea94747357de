//! Kernel facts that wait for their pod → events, with a pod or, when the time is over, without.

use aftertrace_model::{Event, EventId, GapReason, Timestamp};

use super::claims::Claim;
use super::{Pipeline, Waiting};
use crate::attribute::cgroup_name::{Cgroup, CgroupUid, ContainerId, components};
use crate::attribute::init::container_init;
use crate::attribute::pending::Patience;
use crate::clock;
use crate::draft;
use crate::episode::{self, Member, Role};
use crate::kernel::{Exit, OomKill, Rename};
use crate::pressure;
use crate::volumes::roots::Swap;
use crate::volumes::swap;

/// To whom a killed process belonged.
enum Owner {
    /// A container whose pod says so.
    Container { uid: CgroupUid, id: ContainerId },
    /// A container that its pod's status does not list, and who claims it instead.
    Claimed { uid: CgroupUid, id: ContainerId, claim: Claim },
    /// A member of a pod that is no container.
    Pod { uid: CgroupUid },
    /// No pod.
    Outside,
    /// A pod that is not known yet; its uid as the cgroup has it, a hint.
    Unknown { uid: CgroupUid },
    /// The record does not hold the whole path.
    Unreadable,
}

/// How the cgroup was read.
#[derive(Clone, Copy)]
enum ReadFrom {
    Kernel,
    Proc,
}

impl Pipeline {
    /// Emits a new fact, or keeps it until its pod is known.
    pub(super) async fn attribute(&mut self, waiting: Waiting) {
        if !self.try_emit(&waiting, Patience::Wait).await {
            self.pending.push(clock::now(), waiting);
        }
    }

    /// Emits what can be attributed now, and what can wait no longer.
    pub(super) async fn settle_pending(&mut self, now: Timestamp) {
        for (since, patience, waiting) in self.pending.take(now) {
            if !self.try_emit(&waiting, patience).await {
                self.pending.put_back(since, waiting);
            }
        }
    }

    async fn try_emit(&mut self, waiting: &Waiting, patience: Patience) -> bool {
        match waiting {
            Waiting::Kill { kill, member } => self.try_kill(kill, member, patience).await,
            Waiting::Exit(exit) => self.try_exit(exit, patience).await,
            Waiting::Lifetime(fact) => self.try_lifetime(fact, patience).await,
            Waiting::Swap { swap, rename } => self.try_swap(swap, rename, patience).await,
            Waiting::Read(read) => self.try_read(read, patience).await,
        }
    }

    /// Whether the kill was emitted.
    async fn try_kill(&mut self, kill: &OomKill, member: &Member, patience: Patience) -> bool {
        let (owner, read_from) = self.owner(kill, patience);
        let must_wait = match owner {
            Owner::Unknown { .. } => true,
            // The episode is told before its members.
            _ => member.role != Role::Chosen && self.episodes.id(member.episode).is_none(),
        };
        if must_wait && patience == Patience::Wait {
            return false;
        }
        let episode_id = match self.episodes.id(member.episode) {
            Some(id) => id,
            None => {
                let decision = member.decided.decision.as_ref();
                let occurred = self.at(decision.map_or(kill.signal_boot_ns, |d| d.boot_ns));
                let (origin, root) = (&self.parts.origin, &self.parts.cgroup_root);
                let mut event = episode::episode_event(origin, kill, &member.decided, occurred, root);
                self.tie(&mut event, &owner, kill);
                self.tie_allocator(&mut event, kill);
                let id = self.put_record(event).await;
                self.episodes.emitted(member.episode, id);
                id
            }
        };
        let occurred = self.at(kill.boot_ns);
        let root = &self.parts.cgroup_root;
        let mut event = episode::kill_event(&self.parts.origin, kill, member, episode_id, occurred, root);
        let place = self.tie(&mut event, &owner, kill);
        self.tie_allocator(&mut event, kill);
        event.summary = episode::kill_summary(kill, member, &place, &self.parts.cgroup_root);
        let read_from = match read_from {
            ReadFrom::Kernel => "kernel",
            ReadFrom::Proc => "proc",
        };
        event.attributes.insert("aftertrace.cgroup.read_from".to_owned(), read_from.into());
        let lacks = match owner {
            Owner::Unknown { .. } | Owner::Unreadable => Some("pod"),
            Owner::Claimed { claim: Claim::Pod(_), .. } => Some("container"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            let detail = format!("{place}; the kill was kept without a {lacks}");
            self.parts.ledger.add("agent/attribute", GapReason::Unattributed, occurred.at, 1, &detail);
        }
        let let_go = self.victims.told(kill, &event);
        self.put_record(event).await;
        if let_go > 0 {
            let detail = "the exits of the earliest victims are awaited no more";
            self.parts.ledger.add("agent/episode", GapReason::ExitNotSeen, occurred.at, let_go, detail);
        }
        self.tell_run_up(kill, &owner, episode_id).await;
        true
    }

    /// Whether the end of a victim was emitted. It waits for its kill, which waits for its pod.
    async fn try_exit(&mut self, exit: &Exit, patience: Patience) -> bool {
        let tie = self.victims.take(exit);
        if tie.is_none() && patience == Patience::Wait {
            return false;
        }
        let after_us = exit.boot_ns.checked_sub(exit.kill_boot_ns).map(|ns| ns / 1_000);
        let occurred = self.at(exit.boot_ns);
        let event = episode::exit_event(&self.parts.origin, exit, tie.as_ref(), after_us, occurred);
        self.put_record(event).await;
        true
    }

    /// Emits the minute before a kill, once for each container in an episode.
    async fn tell_run_up(&mut self, kill: &OomKill, owner: &Owner, episode_id: EventId) {
        let Owner::Container { uid, id } = owner else { return };
        let run_up = pressure::Kill { occurred: self.at(kill.signal_boot_ns), episode_id };
        let Some(pressure) = &mut self.parts.pressure else { return };
        let event = pressure.run_up(&self.parts.origin, &self.pods, (uid, id), run_up, &kill.levels);
        if let Some(event) = event {
            self.put_record(event).await;
        }
    }

    /// Says which victims should be gone and are not.
    pub(super) fn count_overdue_exits(&mut self, now: Timestamp) {
        for (tgid, kill_boot_ns) in self.victims.overdue(crate::kernel::clock::boot_now_ns()) {
            let from = self.at(kill_boot_ns).at.min(now);
            let detail = format!("the OOM victim {tgid} has not exited for a minute");
            self.parts.ledger.add_between("kernel/oom", GapReason::ExitNotSeen, (from, now), 1, &detail);
        }
    }

    /// Names the container whose process allocated, as far as its pod is known.
    fn tie_allocator(&self, event: &mut Event, kill: &OomKill) {
        let Some(cgroup) = episode::allocator_cgroup(kill, &self.parts.cgroup_root) else { return };
        let mut put = |name: &str, value: &str| {
            event.attributes.insert(format!("aftertrace.oom.allocator.{name}"), value.into());
        };
        match cgroup {
            Cgroup::Container { uid, id, .. } => {
                if let Some((known, _)) = self.pods.find(&uid, &id) {
                    put("pod.uid", &known.pod.uid);
                    put("container.id", id.as_str());
                }
            }
            Cgroup::Pod { uid } => {
                if let Some(known) = self.pods.get(uid.as_str()) {
                    put("pod.uid", &known.pod.uid);
                }
            }
            Cgroup::Outside => {}
        }
    }

    /// Whose cgroup it was: by the kernel's record, else by `/proc`, which may already be another's.
    fn owner(&mut self, kill: &OomKill, patience: Patience) -> (Owner, ReadFrom) {
        let root = &self.parts.cgroup_root;
        let (cgroup, read_from) = match episode::classify(kill, root) {
            Some(cgroup) => (Some(cgroup), ReadFrom::Kernel),
            None if kill.levels.is_empty() => (self.cgroup_by_proc(kill.victim.tgid), ReadFrom::Proc),
            None => (None, ReadFrom::Kernel),
        };
        let owner = match cgroup {
            None => Owner::Unreadable,
            Some(Cgroup::Outside) => Owner::Outside,
            Some(Cgroup::Container { uid, id, .. }) => match self.claim(&uid, &id, patience) {
                Some(Claim::Status) => Owner::Container { uid, id },
                Some(Claim::Nobody) | None => Owner::Unknown { uid },
                Some(claim) => Owner::Claimed { uid, id, claim },
            },
            Some(Cgroup::Pod { uid }) => match self.pods.get(uid.as_str()) {
                Some(_) => Owner::Pod { uid },
                None => Owner::Unknown { uid },
            },
        };
        (owner, read_from)
    }

    pub(super) fn cgroup_by_proc(&self, tgid: u32) -> Option<Cgroup> {
        let text = std::fs::read_to_string(self.parts.proc.join(tgid.to_string()).join("cgroup")).ok()?;
        let path = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            (controllers.split(',').any(|c| c == "memory")).then_some(path)
        });
        let unified = || text.lines().find_map(|line| line.strip_prefix("0::"));
        let names: Vec<&str> = components(path.or_else(unified)?).collect();
        Some(self.parts.cgroup_root.classify(&names))
    }

    /// Ties an event to its owner; returns where it happened, for people.
    fn tie(&self, event: &mut Event, owner: &Owner, kill: &OomKill) -> String {
        match owner {
            Owner::Container { uid, id } => {
                let Some((known, life)) = self.pods.find(uid, id) else { return String::new() };
                draft::of_life(event, known, id.as_str(), life);
                // Where pids are shared, a container has no pid namespace whose init could be its own.
                event.container_init = if known.shares_pids { None } else { container_init(kill, id) };
                let container = aftertrace_model::text::escape(&life.container);
                format!("in container {container} of {}", draft::pod_name(&known.pod))
            }
            Owner::Claimed { uid, id, claim } => {
                let place = self.tie_claim(event, uid, id, claim);
                // Where nothing says whether pids are shared, another id than 1 tells nothing.
                let known = self.pods.get(uid.as_str());
                event.container_init = match (container_init(kill, id), known) {
                    _ if matches!(claim, Claim::Pod(_)) => None,
                    (_, Some(known)) if known.shares_pids => None,
                    (Some(false), None) => None,
                    (is_init, _) => is_init,
                };
                format!("in {place}")
            }
            Owner::Pod { uid } => {
                let Some(known) = self.pods.get(uid.as_str()) else { return String::new() };
                draft::of_pod(event, known);
                format!("in {}, outside its containers", draft::pod_name(&known.pod))
            }
            Owner::Outside => format!("outside any pod, in {}", episode::cgroup_path(kill)),
            Owner::Unknown { uid } => {
                let hint = "aftertrace.hint.pod.uid".to_owned();
                event.attributes.insert(hint, uid.as_str().into());
                format!("in a container that no pod's status lists, in {}", episode::cgroup_path(kill))
            }
            Owner::Unreadable => "in a cgroup that could not be read whole".to_owned(),
        }
    }

    /// Whether the swap was emitted, or found to be none of configuration.
    async fn try_swap(&mut self, swap: &Swap, rename: &Rename, patience: Patience) -> bool {
        let occurred = self.within(rename);
        let origin = &self.parts.origin;
        if let Some(pod) = self.pods.get(&swap.volume.uid) {
            let events = swap::events(origin, swap, rename, occurred, pod, &self.keys);
            if events.is_empty() {
                self.other_swaps += 1;
                tracing::debug!(
                    volume = swap.volume.volume,
                    count = self.other_swaps,
                    "a swap that changed no configuration"
                );
            }
            self.reload.told(swap, &events);
            let frozen = self.reload.frozen(origin, swap, pod, clock::now());
            for event in events.into_iter().chain(frozen) {
                self.put_record(event).await;
            }
            return true;
        }
        if patience == Patience::Wait {
            return false;
        }
        let event = swap::unattributed(origin, swap, rename, occurred);
        let detail = "a swap in a pod that did not become known";
        self.parts.ledger.add("agent/attribute", GapReason::Unattributed, occurred.at, 1, detail);
        self.put_record(event).await;
        true
    }
}
