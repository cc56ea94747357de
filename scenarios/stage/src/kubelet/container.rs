//! One container as its kubelet holds it: a shim process and what it reports.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::shim::{Plan, Report};

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The plan cannot be handed over.
    #[error("cannot write the container's plan {}", .path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The shim cannot be started.
    #[error("cannot start the shim {}", .program.display())]
    Shim {
        /// This program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The container's program cannot be started.
    #[error("{message}")]
    Program {
        /// Why, in the init's words.
        message: String,
    },
}

/// A running container. Dropping it kills it: the shim's standard input closes.
#[derive(Debug)]
pub struct Container {
    /// Process id of its first process in the initial namespace.
    pub pid: i32,
    /// When its program began to run.
    pub started_at: super::clock::Instant,
    reports: Lines<BufReader<ChildStdout>>,
    shim: Child,
    _life_line: ChildStdin,
}

impl Container {
    /// Starts a container and waits until its program runs.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        program: &std::path::Path,
        plan: &Plan,
        plan_path: PathBuf,
    ) -> Result<Self, StartError> {
        let text = serde_json::to_vec(plan).expect("a plan is plain data with text keys");
        if let Err(source) = tokio::fs::write(&plan_path, text).await {
            return Err(StartError::Plan { path: plan_path, source });
        }
        let shim_error = |source| StartError::Shim { program: program.to_owned(), source };
        let mut command = Command::new(program);
        command.arg("container").arg(&plan_path).stdin(Stdio::piped()).stdout(Stdio::piped());
        // In a group of its own: a Ctrl-C at the terminal is for the stage, which then stops its containers.
        command.process_group(0).kill_on_drop(true);
        let mut shim = command.spawn().map_err(shim_error)?;
        let (stdin, stdout) = (shim.stdin.take(), shim.stdout.take());
        let life_line = stdin.expect("the shim was spawned with a piped standard input");
        let stdout = stdout.expect("the shim was spawned with a piped standard output");
        let mut reports = BufReader::new(stdout).lines();
        match next(&mut reports).await {
            Some(Report::Started { pid, at }) => {
                Ok(Self { pid, started_at: at, reports, shim, _life_line: life_line })
            }
            Some(Report::Failed { message }) => Err(StartError::Program { message }),
            Some(Report::Exited { .. }) | None => {
                Err(StartError::Program { message: "the shim ended before the container began".into() })
            }
        }
    }

    /// Waits for the end: exit code and moment.
    pub async fn wait(&mut self) -> (i32, super::clock::Instant) {
        let report = next(&mut self.reports).await;
        let _reaped = self.shim.wait().await;
        match report {
            Some(Report::Exited { exit_code, at }) => (exit_code, at),
            // The shim itself was killed; its death signal took the container with it.
            _ => (128 + 9, super::clock::Instant::now()),
        }
    }

    /// Sends a signal to the container's first process.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            // It may be gone already; its exit is on the way then.
            let _gone = kill_process(pid, signal);
        }
    }
}

async fn next(reports: &mut Lines<BufReader<ChildStdout>>) -> Option<Report> {
    let line = reports.next_line().await.ok().flatten()?;
    serde_json::from_str(&line).ok()
}
