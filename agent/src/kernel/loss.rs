//! What the kernel side could not say, and why, since it was last asked.
//!
//! Three sources: the programs' own per-CPU counters, the kernel's count of runs it skipped because the
//! program was already running on that CPU (`recursion_misses`), and what could not be decoded.

use std::{
    fmt, fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aftertrace_ebpf_common::loss::Loss;
use aya::{
    maps::{MapData, MapError, PerCpuArray},
    programs::ProgramFd,
};
use tracing::warn;

/// A reason, and how often it came up since the last [`Losses::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLoss {
    /// Why.
    pub reason: LossReason,
    /// How often; never 0.
    pub count: u64,
}

/// Why something was not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossReason {
    /// A program counted it.
    Program(Loss),
    /// The kernel skipped a run of the program on this hook, for it was already running on that CPU.
    Recursion {
        /// The hook, e.g. `raw_tp:mark_victim`.
        hook: &'static str,
    },
    /// A record could not be decoded.
    Malformed,
}

impl LossReason {
    /// The reason's name in gaps and in `aft status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Program(Loss::RingFullOomKill) => "ring_full_oom_kill",
            Self::Program(Loss::RingFullRename) => "ring_full_rename",
            Self::Program(Loss::RingFullExit) => "ring_full_exit",
            Self::Program(Loss::ReadFailed) => "kernel_read_failed",
            Self::Program(Loss::PathUnreadable) => "path_unreadable",
            Self::Program(Loss::PathTruncated) => "path_truncated",
            Self::Program(Loss::PathChanged) => "path_changed",
            Self::Program(Loss::MarkWithoutSignal) => "mark_without_signal",
            Self::Program(Loss::SignalTableFull) => "signal_table_full",
            Self::Program(Loss::VictimTableFull) => "victim_table_full",
            Self::Program(Loss::RenameTableFull) => "rename_table_full",
            Self::Program(Loss::LevelsTruncated) => "levels_truncated",
            Self::Program(Loss::VictimUnreadable) => "victim_unreadable",
            Self::Program(Loss::RingFullCgroup) => "ring_full_cgroup",
            Self::Program(Loss::CgroupTableFull) => "cgroup_table_full",
            Self::Program(Loss::RingFullNotice) => "ring_full_config_notify",
            Self::Program(Loss::RingFullRead) => "ring_full_config_read",
            Self::Program(Loss::RingFullOomDecision) => "ring_full_oom_decision",
            Self::Program(Loss::ReclaimTableFull) => "reclaim_table_full",
            Self::Program(Loss::RingFullExec) => "ring_full_exec",
            Self::Program(Loss::RingFullSignal) => "ring_full_signal",
            Self::Program(Loss::SignalFlood) => "signal_flood",
            Self::Recursion { .. } => "recursion_miss",
            Self::Malformed => "malformed_record",
        }
    }

    /// True if an event may be missing because of it. False where the record went out without one fact,
    /// and where nothing happened that would have been an event.
    #[must_use]
    pub fn loses_event(self) -> bool {
        !matches!(
            self,
            Self::Program(
                Loss::ReadFailed
                    | Loss::LevelsTruncated
                    | Loss::MarkWithoutSignal
                    | Loss::RingFullOomDecision
                    | Loss::ReclaimTableFull
            )
        )
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Calls of [`Losses::take`] between two readings of the skipped runs. They take a file for each program, most
/// of what an idle agent does, and are 0 as long as no program interrupts itself.
pub const SKIPPED_PERIOD: u32 = 10;

/// Most of a program's `fdinfo` that is read; it has about 300 bytes.
const FDINFO_BYTES: usize = 1_024;

/// Reads the counters.
pub struct Losses {
    counters: PerCpuArray<MapData, u64>,
    programs: Vec<WatchedProgram>,
    malformed: Arc<AtomicU64>,
    /// What was read last, by slot; the last for `malformed`.
    seen: [u64; Loss::ALL.len()],
    seen_malformed: u64,
    takes: u32,
}

/// A program whose skipped runs are read.
pub(super) struct WatchedProgram {
    pub(super) hook: &'static str,
    pub(super) fd: ProgramFd,
    pub(super) seen: u64,
}

impl Losses {
    pub(super) fn new(
        counters: PerCpuArray<MapData, u64>,
        programs: Vec<WatchedProgram>,
        malformed: Arc<AtomicU64>,
    ) -> Self {
        Self { counters, programs, malformed, seen: [0; Loss::ALL.len()], seen_malformed: 0, takes: 0 }
    }

    /// What was lost since the last call, without the reasons that did not come up. Runs that the kernel
    /// skipped are read at every [`SKIPPED_PERIOD`]th call only.
    ///
    /// A counter that cannot be read now is logged and keeps its increase for the next call.
    pub fn take(&mut self) -> Vec<KernelLoss> {
        self.takes = self.takes.wrapping_add(1);
        self.read(self.takes.is_multiple_of(SKIPPED_PERIOD))
    }

    /// As [`Losses::take`], with the runs that the kernel skipped: for an end.
    pub fn take_all(&mut self) -> Vec<KernelLoss> {
        self.read(true)
    }

    fn read(&mut self, with_skipped: bool) -> Vec<KernelLoss> {
        let mut losses = Vec::new();
        for (loss, seen) in Loss::ALL.into_iter().zip(&mut self.seen) {
            match total(&self.counters, loss) {
                Ok(total) => push(&mut losses, LossReason::Program(loss), total, seen),
                Err(error) => warn!(%error, ?loss, "failed to read a loss counter"),
            }
        }
        for program in self.programs.iter_mut().filter(|_| with_skipped) {
            match recursion_misses(&program.fd) {
                Ok(total) => {
                    push(&mut losses, LossReason::Recursion { hook: program.hook }, total, &mut program.seen);
                }
                Err(error) => warn!(%error, hook = program.hook, "failed to read a program's skipped runs"),
            }
        }
        let malformed = self.malformed.load(Ordering::Relaxed);
        push(&mut losses, LossReason::Malformed, malformed, &mut self.seen_malformed);
        losses
    }
}

/// Adds the increase, if there is one, and remembers the total.
fn push(losses: &mut Vec<KernelLoss>, reason: LossReason, total: u64, seen: &mut u64) {
    let count = total.wrapping_sub(*seen);
    *seen = total;
    if count != 0 {
        losses.push(KernelLoss { reason, count });
    }
}

/// One reason's count over all CPUs.
fn total(counters: &PerCpuArray<MapData, u64>, loss: Loss) -> Result<u64, MapError> {
    Ok(counters.get(&loss.index(), 0)?.iter().fold(0, |sum, count| sum.wrapping_add(*count)))
}

/// The kernel's count of skipped runs, from the program's `fdinfo`; 0 on kernels before 5.12, which do not
/// count them.
fn recursion_misses(program: &ProgramFd) -> io::Result<u64> {
    let fdinfo = fs::File::open(format!("/proc/self/fdinfo/{}", program.as_fd().as_raw_fd()))?;
    let mut bytes = [0; FDINFO_BYTES];
    let length = fdinfo.read_at(&mut bytes, 0)?;
    Ok(parse_recursion_misses(&String::from_utf8_lossy(&bytes[..length])))
}

/// Finds the line `recursion_misses: <count>`.
fn parse_recursion_misses(fdinfo: &str) -> u64 {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_increase_is_told_once() {
        let (mut losses, mut seen) = (Vec::new(), 0);
        push(&mut losses, LossReason::Malformed, 3, &mut seen);
        push(&mut losses, LossReason::Malformed, 3, &mut seen);
        push(&mut losses, LossReason::Malformed, 5, &mut seen);
        let counts: Vec<u64> = losses.iter().map(|loss| loss.count).collect();
        assert_eq!(counts, [3, 2]);
    }

    #[test]
    fn skipped_runs_are_read_from_fdinfo() {
        let fdinfo = "pos:\t0\nprog_type:\t17\nrun_cnt:\t12\nrecursion_misses:\t42\nverified_insns:\t9\n";
        assert_eq!(parse_recursion_misses(fdinfo), 42);
        assert_eq!(parse_recursion_misses("pos:\t0\n"), 0);
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names: Vec<&str> =
            Loss::ALL.into_iter().map(|loss| LossReason::Program(loss).as_str()).collect();
        names.extend([LossReason::Recursion { hook: "" }.as_str(), LossReason::Malformed.as_str()]);
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
