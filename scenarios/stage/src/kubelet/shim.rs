//! The processes between kubelet and container: the shim outside, the container's first process inside.
//!
//! Both are this very program, started again under a hidden subcommand, because a program that enters a
//! cgroup and a pid namespace between fork and exec would need unsafe code. The shim stays in the kubelet's
//! cgroup, as containerd's does; it opens a pid namespace, starts the init in it, tells on its standard output
//! what becomes of it, and kills it when the kubelet's end of its standard input closes, however that came.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::clock::Instant;
use super::rootfs::{self, Bind};

/// Exit code that a runtime reports for a program that cannot be started.
pub const START_ERROR: i32 = 128;

/// All that a container's processes need to know, handed over as a JSON file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `cgroup.procs` files that the init enters before it becomes the program.
    pub entrances: Vec<PathBuf>,
    /// Written to `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// File that gets standard output and error.
    pub log: PathBuf,
    /// An empty folder on which the container's root is put together.
    pub root: PathBuf,
    /// Volumes.
    pub binds: Vec<Bind>,
}

/// What the shim tells the kubelet, one JSON line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// The program runs, in its cgroup.
    Started {
        /// Its process id in the initial namespace.
        pid: i32,
        /// When its exec succeeded.
        at: Instant,
    },
    /// The program could not be started.
    Failed {
        /// Why.
        message: String,
    },
    /// The program is gone.
    Exited {
        /// Exit code, or 128 + signal.
        exit_code: i32,
        /// When wait returned.
        at: Instant,
    },
}

/// `aftertrace-stage container <plan>`: starts the container and waits for its end.
///
/// # Errors
/// An unreadable plan, or a kubelet that does not listen any more.
pub fn run_shim(plan_path: &Path) -> anyhow::Result<()> {
    let plan = read_plan(plan_path)?;
    let init: Arc<Mutex<Option<Pid>>> = Arc::default();
    // Before the namespace is opened: the kernel allows no new threads after that.
    std::thread::spawn({
        let init = Arc::clone(&init);
        move || {
            let _end_of_kubelet = std::io::stdin().read_to_end(&mut Vec::new());
            if let Some(pid) = *init.lock().unwrap_or_else(PoisonError::into_inner) {
                let _gone = kill_process(pid, Signal::KILL);
            }
            std::process::exit(0);
        }
    });
    open_pid_namespace().context("cannot open a pid namespace")?;

    let log = OpenOptions::new().create(true).append(true).open(&plan.log);
    let log = log.with_context(|| format!("cannot open {}", plan.log.display()))?;
    let (failure_reader, failure_writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("container-init").arg(plan_path);
    // Standard input carries the way back; the init closes it on exec.
    command.stdin(OwnedFd::from(failure_writer)).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("cannot start the container's init")?;
    drop(command);
    let pid = i32::try_from(child.id()).context("process id out of range")?;
    *init.lock().unwrap_or_else(PoisonError::into_inner) = Pid::from_raw(pid);

    let mut failure = String::new();
    BufReader::new(failure_reader).read_line(&mut failure).context("cannot hear the container's init")?;
    if failure.is_empty() {
        tell(&Report::Started { pid, at: Instant::now() })?;
    } else {
        tell(&Report::Failed { message: failure.trim_end().to_owned() })?;
    }
    let status = child.wait().context("cannot wait for the container's init")?;
    tell(&Report::Exited { exit_code: exit_code(status), at: Instant::now() })
}

/// `aftertrace-stage container-init <plan>`: becomes the container's program; returns only on failure.
///
/// # Errors
/// Whatever stood in the way; it has been told to the shim already.
pub fn run_init(plan_path: &Path) -> anyhow::Result<()> {
    let way_back =
        rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).context("cannot keep the way back")?;
    let null = std::fs::File::open("/dev/null").context("cannot open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("cannot close standard input")?;
    let Err(error) = become_program(plan_path);
    let mut way_back = std::fs::File::from(way_back);
    let message = format!("{error:#}").replace('\n', " ");
    writeln!(way_back, "{message}").context("cannot tell the shim")?;
    std::process::exit(START_ERROR);
}

fn become_program(plan_path: &Path) -> anyhow::Result<std::convert::Infallible> {
    let plan = read_plan(plan_path)?;
    let (program, arguments) = plan.argv.split_first().context("no command specified")?;
    // If the shim dies in a way that it cannot answer, the container goes with it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .context("cannot bind to the shim")?;
    rootfs::enter(&plan.root, &plan.binds)?;
    match std::fs::write("/proc/self/oom_score_adj", plan.oom_score_adj.to_string()) {
        // A root without CAP_SYS_RESOURCE may not lower it. The sandbox is then ranked by its size, which is
        // small enough to come last all the same.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        written => written.context("cannot write oom_score_adj")?,
    }
    // Last, so that the container pays for nothing but its program.
    for entrance in &plan.entrances {
        rootfs::write_outside(entrance, b"0")
            .with_context(|| format!("cannot enter {}", entrance.display()))?;
    }
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&plan.env);
    Err(command.exec()).with_context(|| format!("cannot start {program}"))
}

/// The shim alone is in a new pid namespace's charge; it stays in the old one itself.
fn open_pid_namespace() -> rustix::io::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of UnshareFlags::FILES, which is not used here"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWPID)
}

fn read_plan(path: &Path) -> anyhow::Result<Plan> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}

fn tell(report: &Report) -> anyhow::Result<()> {
    let line = serde_json::to_string(report).expect("a report is plain data");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot tell the kubelet")
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_reported_as_a_shell_does() {
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
    }
}
