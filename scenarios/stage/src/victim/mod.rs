//! Programs that die, kill, read and cheat in each way that evidence must tell apart.
//!
//! A test starts them in containers. Each waits for its gate, a file that the test makes, so that the test knows
//! every process before anything happens. [`memory`] has those that the OOM killer finds, [`reader`] those that
//! follow a mounted file, [`hostile`] those that pretend to be another pod; [`raw`] is the system calls that no
//! safe wrapper has.

pub mod hostile;
pub mod memory;
pub mod raw;
pub mod reader;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use memory::Hog;
use reader::How;

/// How often a gate is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// What a victim does.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Victim {
    /// Allocate memory at the gate, alone.
    Hog {
        /// The gate.
        gate: PathBuf,
        /// How much, in MiB.
        mib: usize,
    },
    /// Allocate memory at the gate, in one process of several; the others sleep.
    Family {
        /// Which process allocates.
        hog: Hog,
        /// The gate.
        gate: PathBuf,
        /// How much, in MiB.
        mib: usize,
        /// Children that sleep.
        #[arg(default_value_t = 0)]
        sleepers: usize,
        /// End well after the child that allocated, instead of living on.
        #[arg(long)]
        end: bool,
    },
    /// Do nothing for ever.
    Sleep,
    /// Let a child that shares this process's memory allocate at the gate.
    SharedMm {
        /// The gate.
        gate: PathBuf,
    },
    /// Allocate in a second thread at the gate, after the first thread has ended.
    Leaderless {
        /// The gate.
        gate: PathBuf,
    },
    /// Hold a child that is being killed before its memory is freed, and allocate beside it at the gate.
    Exiting {
        /// The gate.
        gate: PathBuf,
        /// How much the child holds, in MiB.
        held_mib: usize,
        /// How much is allocated then, in MiB.
        mib: usize,
    },
    /// Follow a file of a mounted volume.
    Read {
        /// In which way.
        how: How,
        /// The file.
        path: PathBuf,
    },
    /// Write a volume under another pod's path, in a root of this container's own.
    ForgeVolume {
        /// The gate.
        gate: PathBuf,
        /// Where a file system of its own is mounted over the kubelet's.
        kubelet_root: PathBuf,
        /// The volume's folder, below.
        volume: PathBuf,
    },
    /// Make cgroups below this container's own, and allocate in the innermost at the gate.
    ForgeCgroup {
        /// The gate.
        gate: PathBuf,
        /// Where the hierarchy with the memory controller is mounted.
        mount: PathBuf,
        /// Path below this container's cgroup.
        path: PathBuf,
        /// Limit of the innermost, in bytes.
        limit: Option<u64>,
    },
    /// Take a name full of control characters, and allocate at the gate.
    ForgeName {
        /// The gate.
        gate: PathBuf,
    },
}

/// Does what the victim does.
///
/// # Errors
/// What the system refuses.
pub fn run(victim: &Victim) -> anyhow::Result<()> {
    match victim {
        Victim::Hog { gate, mib } => memory::hog(gate, *mib),
        Victim::Family { hog, gate, mib, sleepers, end } => memory::family(*hog, gate, *mib, *sleepers, *end),
        Victim::Sleep => memory::sleep(),
        Victim::SharedMm { gate } => memory::shared_mm(gate),
        Victim::Leaderless { gate } => memory::leaderless(gate),
        Victim::Exiting { gate, held_mib, mib } => memory::exiting(gate, *held_mib, *mib),
        Victim::Read { how, path } => reader::read(*how, path),
        Victim::ForgeVolume { gate, kubelet_root, volume } => hostile::volume(gate, kubelet_root, volume),
        Victim::ForgeCgroup { gate, mount, path, limit } => hostile::cgroup(gate, mount, path, *limit),
        Victim::ForgeName { gate } => hostile::name(gate),
    }
}

/// Says that all processes are there, and waits for the gate.
fn wait_at(gate: &Path) -> anyhow::Result<()> {
    say("ready")?;
    while !gate.exists() {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
