//! Opens of a generation that is not known: the open may be read from the ring before the rename's record,
//! which is written when the call returns, while others already see the new link.

use std::collections::VecDeque;

use aftertrace_model::Timestamp;

use crate::attribute::cgroup_name::{CgroupUid, ContainerId};
use crate::kernel::{FileOpen, VolumeId};

/// How long an open waits for its swap, in microseconds. The two records are microseconds apart unless the
/// writer is preempted in between; ten seconds are beyond any delay seen.
const HELD_US: i64 = 10_000_000;

/// Most opens that wait: a few hundred containers that all open a few files at once.
const HELD_MAX: usize = 4_096;

/// Opens in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Held {
    opens: VecDeque<(Timestamp, FileOpen, CgroupUid, ContainerId)>,
}

impl Held {
    /// Keeps an open; returns the volume of one that had to be given up for it.
    pub(super) fn push(
        &mut self,
        now: Timestamp,
        open: FileOpen,
        uid: CgroupUid,
        container: ContainerId,
    ) -> Option<VolumeId> {
        self.expire(now);
        let dropped = if self.opens.len() >= HELD_MAX {
            self.opens.pop_front().map(|(_, open, ..)| open.volume)
        } else {
            None
        };
        self.opens.push_back((now, open, uid, container));
        dropped
    }

    /// Takes the opens of one generation.
    pub(super) fn take(
        &mut self,
        volume: VolumeId,
        generation: &str,
    ) -> Vec<(FileOpen, CgroupUid, ContainerId)> {
        let (taken, kept) = std::mem::take(&mut self.opens)
            .into_iter()
            .partition(|(_, open, ..)| open.volume == volume && open.generation == generation);
        self.opens = kept;
        taken.into_iter().map(|(_, open, uid, container)| (open, uid, container)).collect()
    }

    /// Lets go what has waited long enough: its swap was rejected, and counted there.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while self.opens.front().is_some_and(|(since, ..)| now.micros_since(*since) >= HELD_US) {
            self.opens.pop_front();
        }
    }
}
