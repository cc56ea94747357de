//! Swaps and added watches → looks at the processes that follow a volume, and what they have told.

use std::collections::VecDeque;
use std::path::PathBuf;

use aftertrace_model::{GapReason, Timestamp};

use super::Pipeline;
use crate::attribute::cgroup_name::{Cgroup, ContainerId};
use crate::clock;
use crate::kernel::{Notice, VolumeId, WatchAdded};
use crate::reload;
use crate::volumes::mounts::Part;
use crate::volumes::roots::Swap;
use crate::watchers::proc::{self, Look, Seen};
use crate::watchers::{Current, Watchers};

/// How long after a swap its writer has surely removed the former generation, in microseconds: it does so at
/// once, and applications that renew their watches do so on the event.
const REMOVED_US: i64 = 2_000_000;

/// How long after an added watch a process is looked at, in microseconds: a little longer than the period
/// within which further watches of it are not told.
const ADDED_US: i64 = 1_500_000;

/// Descriptors looked at for one volume. A look at one takes some two microseconds, so this bounds the pause
/// to a few dozen milliseconds.
const DESCRIPTORS_MAX: usize = 16_384;

/// Looks that wait: one for each volume of a node that is swapped at once.
const LOOKS_MAX: usize = 4_096;

/// Notices that wait for their swap's record, which is written when the rename returns.
const NOTICES_MAX: usize = 1_024;

/// How long a notice waits, in microseconds.
const NOTICE_US: i64 = 10_000_000;

/// What waits to be looked at, and what is known of watches.
#[derive(Debug, Default)]
pub(super) struct Watches {
    pub(super) watchers: Watchers,
    looks: VecDeque<(Timestamp, Due)>,
    notices: VecDeque<(Timestamp, Box<Notice>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// A swap's former generation has been removed.
    Removed { id: VolumeId, generation: String },
    /// A container began to watch something.
    Added { container: ContainerId },
}

impl Pipeline {
    /// Looks at who watches the former generation of a volume, and again when it has been removed.
    pub(super) fn watch_swap(&mut self, swap: &Swap) {
        let now = clock::now();
        self.watches.watchers.swapped(swap.id, &swap.previous, swap.previous_listing.clone());
        for (_, seen) in self.look(swap.id, Look::Marks, now) {
            self.note(swap.id, &seen, true);
        }
        let due = Due::Removed { id: swap.id, generation: swap.generation.clone() };
        self.watches.push(now.plus_micros(REMOVED_US), due);
    }

    /// A container began to watch something.
    pub(super) fn watch_added(&mut self, added: &WatchAdded) {
        let cgroup = added.cgroup_id.and_then(|id| self.containers.get(id));
        if let Some(Cgroup::Container { id, .. }) = cgroup {
            let due = Due::Added { container: id.clone() };
            self.watches.push(clock::now().plus_micros(ADDED_US), due);
        }
    }

    /// Looks at what is due.
    pub(super) async fn look_at_watches(&mut self, now: Timestamp) {
        while let Some((_, due)) = self.watches.looks.pop_front_if(|(at, _)| *at <= now) {
            match due {
                Due::Removed { id, generation } => self.compare_watches(id, &generation, now).await,
                Due::Added { container } => self.note_container(&container),
            }
        }
        while self.watches.notices.pop_front_if(|(since, _)| now.micros_since(*since) >= NOTICE_US).is_some()
        {
        }
    }

    /// Tells who follows a swapped volume in vain; a newer swap has its own look.
    async fn compare_watches(&mut self, id: VolumeId, generation: &str, now: Timestamp) {
        let Some(swap) = self.reload.last_swap(id).filter(|swap| swap.generation == generation) else {
            return;
        };
        for (container, seen) in self.look(id, Look::Everything, now) {
            let Some(root) = self.parts.roots.get(id) else { return };
            let current =
                Current { id, shown_device: root.identity.shown_device, listing: root.listing.as_deref() };
            let looked = self.watches.watchers.compare(current, &container, &seen);
            if looked.is_deaf || looked.is_listening {
                self.reload.watches(id, &container, looked.is_deaf);
            }
            let mut events = Vec::new();
            if let Some(pod) = self.pods.get(&swap.volume.uid)
                && let Some((_, life)) = pod.containers().find(|(id, _)| **id == container)
            {
                let event =
                    |finding| reload::watched_event(&self.parts.origin, finding, &swap, (pod, life), now);
                events.extend(looked.findings.iter().map(event));
            }
            for event in events {
                self.put_record(event).await;
            }
        }
    }

    /// Notes what a container watches of its pod's volumes.
    fn note_container(&mut self, container: &ContainerId) {
        let mut budget = DESCRIPTORS_MAX;
        let seen = self.look_in(container, Look::Marks, &mut budget);
        let Some(pod) = self.pods.of_container(container) else { return };
        for id in self.parts.roots.of_pod(&pod.pod.uid) {
            self.note(id, &seen, false);
        }
    }

    fn note(&mut self, id: VolumeId, seen: &[Seen], with_previous: bool) {
        let Some(root) = self.parts.roots.get(id) else { return };
        let current =
            Current { id, shown_device: root.identity.shown_device, listing: root.listing.as_deref() };
        self.watches.watchers.note(current, seen, with_previous);
    }

    /// The processes of each container that mounts the whole of a volume.
    fn look(&self, id: VolumeId, how: Look, now: Timestamp) -> Vec<(ContainerId, Vec<Seen>)> {
        let Some(root) = self.parts.roots.get(id) else { return Vec::new() };
        let Some(pod) = self.pods.get(&root.volume.uid).filter(|pod| !pod.is_deleted()) else {
            return Vec::new();
        };
        let mut budget = DESCRIPTORS_MAX;
        let mounts = |container: &str| {
            let of = pod.mounts.iter().filter(|mount| mount.container == container);
            of.into_iter().any(|mount| mount.volume == root.volume.volume && mount.part == Part::Whole)
        };
        let looked = pod
            .running
            .iter()
            .filter(|running| mounts(&running.container))
            .map(|running| (running.id.clone(), self.look_in(&running.id, how, &mut budget)))
            .collect();
        if budget == 0 {
            let detail = "a pod has too many descriptors to look at all watches on its volume";
            self.parts.ledger.add("agent/watchers", GapReason::WindowFull, now, 1, detail);
        }
        looked
    }

    fn look_in(&self, container: &ContainerId, how: Look, budget: &mut usize) -> Vec<Seen> {
        let (Some(mount), Some(path)) =
            (&self.parts.cgroup_mount, self.containers.path_of(container.as_str()))
        else {
            return Vec::new();
        };
        let cgroup: PathBuf = mount.iter().chain(path.iter().map(AsRef::as_ref)).collect();
        let pids = proc::processes(&cgroup);
        pids.into_iter().filter_map(|pid| proc::look(&self.parts.proc, pid, how, budget)).collect()
    }

    /// A container was told of a volume; the swap's own record may be behind.
    pub(super) async fn notice(&mut self, notice: Box<Notice>) {
        let is_before = self.reload.last_swap(notice.volume).is_none_or(|swap| notice.boot_ns > swap.boot_ns);
        if is_before {
            if self.watches.notices.len() >= NOTICES_MAX {
                self.watches.notices.pop_front();
            }
            self.watches.notices.push_back((clock::now(), notice));
        } else {
            self.tell_notice(&notice).await;
        }
    }

    /// Tells the notices that have waited for a volume's swap.
    pub(super) async fn settle_notices(&mut self, id: VolumeId) {
        let Some(swap) = self.reload.last_swap(id) else { return };
        let (ready, waiting): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.watches.notices)
            .into_iter()
            .partition(|(_, notice)| notice.volume == id && notice.boot_ns <= swap.boot_ns);
        self.watches.notices = waiting;
        for (_, notice) in ready {
            self.tell_notice(&notice).await;
        }
    }

    async fn tell_notice(&mut self, notice: &Notice) {
        let cgroup = notice.cgroup_id.and_then(|id| self.containers.get(id)).cloned();
        let Some(Cgroup::Container { uid, id, .. }) = cgroup else { return };
        let Some(swap) = self.reload.notified(notice, &id) else { return };
        let occurred = self.at(notice.boot_ns);
        let Some((pod, life)) = self.pods.find(&uid, &id) else {
            let detail = "an inotify event for a container that no pod's status lists";
            self.parts.ledger.add("agent/attribute", GapReason::Unattributed, occurred.at, 1, detail);
            return;
        };
        let configures = |path: &String| {
            pod.volumes.get(&swap.volume.volume).is_some_and(|sources| sources.is_configuration(path))
        };
        // A rotated token is no configuration.
        if swap.changed.as_ref().is_some_and(|changed| !changed.iter().any(configures)) {
            return;
        }
        let event = reload::notified_event(&self.parts.origin, notice, &swap, occurred, (pod, &id, life));
        self.put_record(event).await;
    }
}

impl Watches {
    fn push(&mut self, at: Timestamp, due: Due) {
        if self.looks.iter().any(|(_, held)| *held == due) || self.looks.len() >= LOOKS_MAX {
            return;
        }
        let place = self.looks.partition_point(|(held, _)| *held <= at);
        self.looks.insert(place, (at, due));
    }
}
