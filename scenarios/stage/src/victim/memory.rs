//! Victims of the OOM killer: alone, with children, with threads, with shared memory, and on their way out.

use std::path::Path;
use std::process::{Child, Command};

use anyhow::Context;
use rustix::process::{Pid, Signal};

use super::{raw, say, sleep_for_ever, wait_at};

/// More than any container of a test may use, in MiB.
const MUCH_MIB: usize = 1_024;

/// Which process of a family allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Hog {
    /// The first.
    Init,
    /// A child.
    Child,
}

/// See [`super::Victim::Hog`].
///
/// # Errors
/// What the system refuses.
pub fn hog(gate: &Path, mib: usize) -> anyhow::Result<()> {
    wait_at(gate)?;
    allocate(mib)
}

/// Allocates and holds, until the OOM killer comes or for ever.
pub(super) fn allocate(mib: usize) -> anyhow::Result<()> {
    // Bytes that are not zero make the allocator write every page.
    let held: Vec<Vec<u8>> = (0..mib).map(|_| vec![1_u8; 1 << 20]).collect();
    say(&format!("holding {} MiB", std::hint::black_box(&held).len()))?;
    sleep_for_ever()
}

/// See [`super::Victim::Family`].
///
/// # Errors
/// What the system refuses.
pub fn family(hog: Hog, gate: &Path, mib: usize, sleepers: usize, end: bool) -> anyhow::Result<()> {
    let sleep = || start(&["sleep"]);
    let mut children: Vec<Child> = (0..sleepers).map(|_| sleep()).collect::<anyhow::Result<_>>()?;
    if hog == Hog::Init {
        return self::hog(gate, mib);
    }
    let mut allocating = child(gate, mib)?;
    say("ready")?;
    let status = allocating.wait().context("cannot wait for the child")?;
    say(&format!("child: {status}"))?;
    if end {
        return Ok(());
    }
    for sleeper in &mut children {
        sleeper.wait().context("cannot wait for a child")?;
    }
    sleep_for_ever()
}

/// See [`super::Victim::Sleep`]. Without a look at any gate: each look may allocate, and so decide.
///
/// # Errors
/// Standard output is closed.
pub fn sleep() -> anyhow::Result<()> {
    say("ready")?;
    sleep_for_ever()
}

fn child(gate: &Path, mib: usize) -> anyhow::Result<Child> {
    start(&["hog", gate.to_str().context("the gate's path is plain")?, &mib.to_string()])
}

fn start(victim: &[&str]) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Command::new(program).arg("victim").args(victim).spawn().context("cannot start the child")
}

/// See [`super::Victim::SharedMm`].
///
/// # Errors
/// What the system refuses.
pub fn shared_mm(gate: &Path) -> anyhow::Result<()> {
    wait_at(gate)?;
    raw::allocate_in_sharing_child(MUCH_MIB).context("cannot clone this process")?;
    sleep_for_ever()
}

/// See [`super::Victim::Leaderless`].
///
/// # Errors
/// What the system refuses.
pub fn leaderless(gate: &Path) -> anyhow::Result<()> {
    let gate = gate.to_owned();
    std::thread::Builder::new()
        .name("second".into())
        .spawn(move || wait_at(&gate).and_then(|()| allocate(MUCH_MIB)))
        .context("cannot start a thread")?;
    raw::end_this_thread()
}

/// See [`super::Victim::Exiting`].
///
/// # Errors
/// What the system refuses.
pub fn exiting(gate: &Path, held_mib: usize, mib: usize) -> anyhow::Result<()> {
    // Its gate is open already: it allocates at once.
    let mut held = child(Path::new("/"), held_mib)?;
    let pid = Pid::from_child(&held);
    // Until it holds its memory.
    let statm = format!("/proc/{}/statm", held.id());
    while own_mib(&statm)? < held_mib {
        std::thread::sleep(super::LOOK);
    }
    raw::stop_at_exit(pid).context("cannot trace the child")?;
    rustix::process::kill_process(pid, Signal::KILL).context("cannot kill the child")?;
    raw::wait_for_stop(pid).context("the child did not stop on its way out")?;
    wait_at(gate)?;
    let more: Vec<Vec<u8>> = (0..mib).map(|_| vec![1_u8; 1 << 20]).collect();
    say(&format!("beside it, {} MiB", std::hint::black_box(&more).len()))?;
    raw::go_on(pid).context("cannot let the child go")?;
    held.wait().context("cannot wait for the child")?;
    say("gone")?;
    sleep_for_ever()
}

/// Memory that a process shares with no file: resident without shared pages.
fn own_mib(statm: &str) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(statm).with_context(|| format!("cannot read {statm}"))?;
    let mut pages = text.split(' ').map(|pages| pages.parse::<usize>().unwrap_or(0)).skip(1);
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    Ok((resident.saturating_sub(shared) * rustix::param::page_size()) >> 20)
}
