//! What is missing, counted where it is lost and turned into gaps about once a second.
//!
//! Every stage adds to one [`Ledger`]; the pipeline drains it and spools the [`Gap`]s, so that a loss travels
//! the same way as the evidence. Losses of one component and reason become one gap with the whole interval.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aftertrace_ebpf_common::loss::Loss;
use aftertrace_model::{Gap, GapReason, Timestamp};
use uuid::Uuid;

use crate::draft::Origin;
use crate::kernel::LossReason;

/// Longest list of distinct details in one gap; more would not be read.
const DETAILS_MAX: usize = 4;

/// How long rejected swaps are gathered into one gap, in microseconds: a broken writer may try often, and
/// each rejection is a decision, not a loss on the way.
const REJECTED_PERIOD_US: i64 = 60_000_000;

#[derive(Debug)]
struct Entry {
    from: Timestamp,
    to: Timestamp,
    count: u64,
    details: Vec<String>,
}

/// Losses that are not gaps yet.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<BTreeMap<(String, GapReason), Entry>>,
}

impl Ledger {
    /// Counts a loss at one instant; `count` 0 means that it is not known how many.
    pub(crate) fn add(&self, component: &str, reason: GapReason, at: Timestamp, count: u64, detail: &str) {
        self.add_between(component, reason, (at, at), count, detail);
    }

    /// Counts a loss within an interval.
    pub(crate) fn add_between(
        &self,
        component: &str,
        reason: GapReason,
        (from, to): (Timestamp, Timestamp),
        count: u64,
        detail: &str,
    ) {
        // A poisoned lock holds whole entries: nothing here can stop half way.
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry((component.to_owned(), reason)).or_insert(Entry {
            from,
            to,
            count: 0,
            details: Vec::new(),
        });
        entry.from = entry.from.min(from);
        entry.to = entry.to.max(to);
        entry.count = entry.count.saturating_add(count);
        if entry.details.len() < DETAILS_MAX && !entry.details.iter().any(|d| d == detail) {
            entry.details.push(detail.to_owned());
        }
    }

    /// The gaps that are due at `now`; all of them with `is_last`.
    pub(crate) fn drain(&self, origin: &Origin, now: Timestamp, is_last: bool) -> Vec<Gap> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let due: Vec<_> = entries
            .iter()
            .filter(|((_, reason), entry)| {
                is_last
                    || *reason != GapReason::SwapRejected
                    || now.micros_since(entry.from) >= REJECTED_PERIOD_US
            })
            .map(|(key, _)| key.clone())
            .collect();
        due.into_iter()
            .filter_map(|key| {
                let entry = entries.remove(&key)?;
                Some(Gap {
                    gap_id: Uuid::new_v4(),
                    cluster: origin.cluster.clone(),
                    node: Some(origin.node.clone()),
                    component: key.0,
                    reason: key.1,
                    from: entry.from,
                    to: entry.to,
                    count: entry.count,
                    detail: aftertrace_model::text::escape(&entry.details.join("; ")),
                    recorded_at: None,
                })
            })
            .collect()
    }
}

/// Whether an open of a volume's file may be missing because of it.
pub(crate) fn loses_opens(loss: LossReason) -> bool {
    match loss {
        LossReason::Program(loss) => matches!(loss, Loss::RingFullRead | Loss::CgroupTableFull),
        LossReason::Recursion { hook } => hook.contains("open"),
        LossReason::Malformed => true,
    }
}

/// What a count of the kernel's side means: component, reason and detail; `None` for one that is no loss.
pub(crate) fn of_kernel(loss: LossReason) -> Option<(&'static str, GapReason, &'static str)> {
    use GapReason::{KernelReadFailed, PathTruncated, RecordMalformed, RingFull, SwapRejected};
    const OOM: &str = "kernel/oom";
    const SWAP: &str = "kernel/volume_swap";
    const PROCESS: &str = "kernel/lifetime";
    const READ: &str = "kernel/config_read";
    const SIGNAL: &str = "kernel/signal";
    const NOTIFY: &str = "kernel/config_notify";
    let loss = match loss {
        LossReason::Program(loss) => loss,
        LossReason::Recursion { hook } => {
            let component = match hook {
                hook if hook.contains("rename") => SWAP,
                hook if hook.contains("open") => READ,
                hook if hook.contains("inotify") => NOTIFY,
                hook if hook.contains("cgroup_") || hook.contains("sched_process_") => PROCESS,
                _ => OOM,
            };
            return Some((component, RingFull, "the kernel skipped a run of a program"));
        }
        LossReason::Malformed => return Some(("agent/decode", RecordMalformed, "a record was malformed")),
    };
    Some(match loss {
        Loss::RingFullOomKill => (OOM, RingFull, "no room in the ring for an OOM kill"),
        Loss::RingFullRename => (SWAP, RingFull, "no room in the ring for a rename"),
        Loss::RingFullExit => (PROCESS, RingFull, "no room in the ring for an exit"),
        Loss::ReadFailed => (OOM, KernelReadFailed, "a field could not be read"),
        Loss::PathUnreadable => (SWAP, KernelReadFailed, "a rename's path could not be read"),
        Loss::PathTruncated => (SWAP, PathTruncated, "a rename's path was too long"),
        Loss::PathChanged => (SWAP, SwapRejected, "a rename's path changed during the call"),
        // The victim was exiting already: no kill, and so no loss.
        Loss::MarkWithoutSignal => return None,
        Loss::SignalTableFull => (OOM, RingFull, "the table of signalled allocators was full"),
        Loss::VictimTableFull => (OOM, RingFull, "the table of victims was full"),
        Loss::RenameTableFull => (SWAP, RingFull, "the table of pending renames was full"),
        Loss::LevelsTruncated => (OOM, PathTruncated, "a cgroup lies too deep for a record"),
        Loss::RingFullCgroup => (PROCESS, RingFull, "no room in the ring for a cgroup of a pod"),
        Loss::RingFullExec => (PROCESS, RingFull, "no room in the ring for the start of a container's init"),
        Loss::RingFullSignal => (SIGNAL, RingFull, "no room in the ring for a signal to a container's init"),
        Loss::SignalFlood => {
            (SIGNAL, RingFull, "one sender signalled one init too often to be told each time")
        }
        Loss::CgroupTableFull => (PROCESS, RingFull, "the table of the pods' cgroups was full"),
        Loss::RingFullNotice => (NOTIFY, RingFull, "no room in the ring for an inotify event"),
        Loss::RingFullRead => (READ, RingFull, "no room in the ring for an open of a volume's file"),
        Loss::RingFullOomDecision => (OOM, RingFull, "no room in the ring for an OOM decision"),
        Loss::ReclaimTableFull => (OOM, RingFull, "the table of reclaiming tasks was full"),
        Loss::VictimUnreadable => (OOM, KernelReadFailed, "a victim could not be read"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    #[test]
    fn losses_of_a_reason_become_one_gap() {
        let origin = Origin { cluster: "c".into(), node: "n".into() };
        let ledger = Ledger::default();
        ledger.add("kernel/oom", GapReason::RingFull, at(3), 2, "x");
        ledger.add("kernel/oom", GapReason::RingFull, at(1), 5, "x");
        ledger.add("agent/volumes", GapReason::SwapRejected, at(1), 1, "y\u{1b}");
        let gaps = ledger.drain(&origin, at(4), false);
        assert_eq!(gaps.len(), 1, "a rejected swap waits for its minute");
        assert_eq!((gaps[0].count, gaps[0].from, gaps[0].to), (7, at(1), at(3)));
        assert_eq!(gaps[0].detail, "x");
        let gaps = ledger.drain(&origin, at(61), false);
        assert_eq!((gaps.len(), gaps[0].detail.as_str()), (1, "y\\x1b"));
        assert!(ledger.drain(&origin, at(999), true).is_empty());
    }
}
