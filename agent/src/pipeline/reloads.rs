//! Opens and swaps of volumes → what became of each swap.

use aftertrace_model::{GapReason, Occurrence, Timestamp};

use super::Pipeline;
use crate::attribute::cgroup_name::Cgroup;
use crate::attribute::pending::Patience;
use crate::clock;
use crate::kernel::{FileOpen, Rename};
use crate::reload::{self, Read};
use crate::volumes::roots::Swap;

use super::Waiting;

impl Pipeline {
    /// A container opened a file of a registered volume.
    pub(super) async fn opened(&mut self, open: FileOpen) {
        let now = clock::now();
        let cgroup = open.cgroup_id.and_then(|id| self.containers.get(id)).cloned();
        let cgroup = cgroup.or_else(|| self.cgroup_by_proc(open.task.tgid));
        match cgroup {
            Some(Cgroup::Container { uid, id, .. }) => {
                let read = self.reload.opened(open, uid, id, &self.parts.roots, now);
                if let Some(read) = read {
                    self.attribute(Waiting::Read(Box::new(read))).await;
                }
            }
            // A process of the pod that is in no container, such as a conmon.
            Some(_) => {}
            None => {
                self.reload.missed_in(open.volume, now);
                let detail = "an open of a volume's file by a container that is not known";
                self.parts.ledger.add("agent/attribute", GapReason::Unattributed, now, 1, detail);
            }
        }
    }

    /// A swap was confirmed: opens that were read before it follow it.
    pub(super) async fn swapped(&mut self, swap: Box<Swap>, rename: Box<Rename>) {
        let occurred = self.within(&rename);
        let held = self.reload.swapped(&swap, &rename, occurred);
        let id = swap.id;
        self.watch_swap(&swap);
        self.attribute(Waiting::Swap { swap, rename }).await;
        let now = clock::now();
        for (open, uid, container) in held {
            if let Some(read) = self.reload.opened(open, uid, container, &self.parts.roots, now) {
                self.attribute(Waiting::Read(Box::new(read))).await;
            }
        }
        self.settle_notices(id).await;
    }

    /// When a rename took effect: somewhere within the call.
    pub(super) fn within(&mut self, rename: &Rename) -> Occurrence {
        let (entered, returned) = (self.at(rename.enter_boot_ns), self.at(rename.boot_ns));
        Occurrence { earliest: entered.earliest.min(returned.earliest), ..returned }
    }

    /// Whether the claim was emitted, or found to be none of configuration.
    pub(super) async fn try_read(&mut self, read: &Read, patience: Patience) -> bool {
        let occurred = self.at(read.open.boot_ns);
        let Some((pod, life)) = self.pods.find(&read.uid, &read.container) else {
            if patience == Patience::Wait {
                return false;
            }
            let detail = "an open of a volume's file in a container that no pod's status lists";
            self.parts.ledger.add("agent/attribute", GapReason::Unattributed, occurred.at, 1, detail);
            return true;
        };
        let content = |object: &_| self.reload.content(read, object);
        let event = reload::read_event(&self.parts.origin, read, occurred, (pod, life), content);
        if let Some(event) = event {
            self.put_record(event).await;
        }
        true
    }

    /// Says what is stale. Where records wait to be taken in, one of them may be the open in question.
    pub(super) async fn judge_stale(&mut self, now: Timestamp) {
        if self.records_wait || !self.reload.is_due(self.parts.stale_after_us, now) {
            return;
        }
        // Runs that the kernel skipped are else read now and then only, and one of them may be that open.
        self.count_kernel_losses(now, true);
        let (told, unknown) =
            self.reload.judge(&self.parts.origin, &self.pods, self.parts.stale_after_us, now);
        for event in told {
            self.put_record(event).await;
        }
        for unknown in unknown {
            let span = (unknown.since, now);
            self.parts.ledger.add_between("agent/reload", GapReason::RingFull, span, 1, &unknown.detail);
        }
    }
}
