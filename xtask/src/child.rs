//! Child programs in a process group of their own: nothing we started outlives us.
//!
//! A group of its own does not receive the terminal's Ctrl-C, so the waiting loop passes it on. Programs that
//! clean up after themselves get [`GRACE`] between SIGINT and SIGKILL.

use std::io::{BufRead, BufReader, PipeReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;

/// How long a program may take to clean up after SIGINT. A guess: the demo removes cgroups and mounts in
/// well under a second, a busy machine may need several.
const GRACE: Duration = Duration::from_secs(20);

/// How often the waiting loop looks at the interrupt flag: soon enough for a person.
const POLL: Duration = Duration::from_millis(100);

/// A running child and its whole process group; dropping it ends the group.
pub(crate) struct Group {
    child: Child,
    name: String,
    ended: bool,
}

impl Group {
    /// Starts a command in a process group of its own, without input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child =
            command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { child, name, ended: false })
    }

    /// The child's process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the child has ended by itself, and how.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().with_context(|| format!("wait for {}", self.name))?;
        self.ended |= status.is_some();
        Ok(status)
    }

    /// Waits for the end; an interrupt or the bound ends the group first.
    pub(crate) fn wait(&mut self, bound: Option<Duration>) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.poll()? {
                return Ok(status);
            }
            if interrupt::requested() {
                self.end()?;
                bail!("interrupted");
            }
            if bound.is_some_and(|bound| started.elapsed() > bound) {
                self.end()?;
                bail!("{} did not end within {} s", self.name, started.elapsed().as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks the group to end, waits, and kills what is left of it.
    pub(crate) fn end(&mut self) -> Result<()> {
        let asked = Instant::now();
        self.signal(Signal::INT);
        while !self.ended && asked.elapsed() < GRACE {
            if self.poll()?.is_none() {
                std::thread::sleep(POLL);
            }
        }
        // Also when the leader has ended: it may have left children behind.
        self.signal(Signal::KILL);
        if !self.ended {
            self.child.wait().with_context(|| format!("wait for {}", self.name))?;
            self.ended = true;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // An error means that nobody of the group is left.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended && self.end().is_err() {
            eprintln!("warning: {} may still be running", self.name);
        }
    }
}

/// Runs a command to its end with its output on ours; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = Group::spawn(command)?.wait(None)?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs a command, gives each line of its joined output and errors to `line`, and returns how it ended.
pub(crate) fn run_lines(
    command: &mut Command,
    bound: Duration,
    line: impl FnMut(&str),
) -> Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdout(writer.try_clone().context("share a pipe")?).stderr(writer);
    let mut group = Group::spawn(command)?;
    // The command holds the pipe's write ends too: drop them, or the reader never sees the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    follow(command, &mut group, reader, Some(bound), line)
}

/// Runs a command with its errors on ours, gives each line of its output to `line`; an error if it fails.
pub(crate) fn run_reading(command: &mut Command, line: impl FnMut(&str)) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdout(writer);
    let mut group = Group::spawn(command)?;
    command.stdout(Stdio::null());
    let status = follow(command, &mut group, reader, None, line)?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Reads a pipe to its end; an interrupt or the bound ends the group first.
fn follow(
    command: &Command,
    group: &mut Group,
    reader: PipeReader,
    bound: Option<Duration>,
    mut line: impl FnMut(&str),
) -> Result<ExitStatus> {
    let lines = lines_of(reader);
    let started = Instant::now();
    loop {
        match lines.recv_timeout(POLL) {
            Ok(text) => line(&text),
            Err(RecvTimeoutError::Disconnected) => return group.wait(Some(GRACE)),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if interrupt::requested() {
            group.end()?;
            bail!("interrupted");
        }
        if bound.is_some_and(|bound| started.elapsed() > bound) {
            group.end()?;
            bail!("{} did not end within {} s", shown(command), started.elapsed().as_secs());
        }
    }
}

/// The lines of a pipe, read on a thread that ends with the pipe. At most 1,024 lines wait: more would only
/// hide that the reader is slow.
fn lines_of(reader: PipeReader) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if sender.send(text).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    receiver
}

/// Runs a command silently and returns its output; the error carries what it wrote to stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed: {}", shown(command), errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or(&program).to_owned();
    std::iter::once(program)
        .chain(command.get_args().map(|arg| arg.to_string_lossy().into_owned()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn joins_output_and_errors_in_order() {
        let mut lines = Vec::new();
        let status = run_lines(&mut shell("echo one; echo two >&2; echo three"), GRACE, |line| {
            lines.push(line.to_owned());
        });
        assert!(status.expect("sh runs").success());
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_is_an_error_with_its_reason() {
        let error = output(&mut shell("echo broken >&2; exit 3")).expect_err("exit 3 is a failure");
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn a_bound_ends_the_whole_group() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        run_lines(&mut shell(&script), Duration::from_millis(500), |_| {}).expect_err("the bound is hit");
        let pid = std::fs::read_to_string(&file).expect("the grandchild's pid").trim().to_owned();
        let deadline = Instant::now() + GRACE;
        while is_running(&pid) {
            assert!(Instant::now() < deadline, "the grandchild {pid} outlived its group");
            std::thread::sleep(POLL);
        }
    }

    /// A zombie has ended, even if nobody has reaped it yet.
    fn is_running(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }
}
