//! Aggregator and agent of one demo: their data, their start and end, and questions to them.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::place::Place;
use crate::child::{self, Group};
use crate::interrupt;

/// Name of the cluster in the answers.
const CLUSTER: &str = "demo";

/// How long a program may take to be up: it makes keys and parses BTF, well under a second each.
const START_BOUND: Duration = Duration::from_secs(30);

/// How often we look whether it is up.
const LOOK: Duration = Duration::from_millis(100);

/// How much of a log is shown when something failed.
const LAST_LINES: usize = 20;

/// `aft` found nothing: its own exit code for it.
const NOTHING_FOUND: i32 = 3;

/// A folder for store, spool and logs, removed with the value.
pub(super) struct DataDir(PathBuf);

impl DataDir {
    /// Makes it; only its owner may look inside.
    pub(super) fn make() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("aftertrace-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let dir = Self(dir);
        fs::set_permissions(&dir.0, Permissions::from_mode(0o700)).context("close the demo's folder")?;
        Ok(dir)
    }

    /// A log file for a program's errors.
    pub(super) fn log(&self, program: &str) -> Result<File> {
        let path = self.log_path(program);
        File::create(&path).with_context(|| format!("make {}", path.display()))
    }

    /// The end of a program's log.
    pub(super) fn last_words(&self, program: &str) -> String {
        let text = fs::read_to_string(self.log_path(program)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }

    fn log_path(&self, program: &str) -> PathBuf {
        self.0.join(format!("{program}.log"))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("warning: {} is still there: {error}", self.0.display());
        }
    }
}

/// The running programs; the agent ends before the aggregator, so that it can hand over what it has.
pub(super) struct Programs<'a> {
    agent: Group,
    aggregator: Group,
    aft: PathBuf,
    server: String,
    data: &'a DataDir,
}

impl<'a> Programs<'a> {
    /// Starts the aggregator, waits for it, and starts the agent.
    pub(super) fn start(folder: &Path, place: &Place, data: &'a DataDir) -> Result<Self> {
        let listen = free_address()?;
        let server = format!("https://{listen}");
        let store = data.0.join("store");
        let node = &place.node;

        let mut aggregator = Command::new(folder.join("aftertrace-aggregator"));
        aggregator.args(["--cluster", CLUSTER, "--listen", &listen]).arg("--data").arg(&store);
        aggregator.arg("--kubeconfig").arg(&node.kubeconfig).stderr(data.log("aggregator")?);
        let mut aggregator = Group::spawn(&mut aggregator)?;
        await_files(&store, &mut aggregator, data)?;

        let mut agent = Command::new(folder.join("aftertrace-agent"));
        agent
            .args(["--cluster", CLUSTER, "--node", &node.name, "--aggregator", &server])
            .args(["--kubelet-root", &node.kubelet_root, "--kubelet-pid", &node.kubelet_pid.to_string()])
            .args(["--cgroup-root", &node.cgroup_root, "--require-kernel"])
            .arg("--kubeconfig")
            .arg(&node.kubeconfig)
            .arg("--ca")
            .arg(store.join("tls/ca.crt"))
            .arg("--token-file")
            .arg(store.join("tokens/agent.token"))
            .arg("--spool")
            .arg(data.0.join("spool"))
            .stderr(data.log("agent")?);
        let agent = Group::spawn(&mut agent)?;
        let mut programs = Self { agent, aggregator, aft: folder.join("aft"), server, data };
        programs.await_agent()?;
        Ok(programs)
    }

    /// Fails if one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for (name, program) in [("agent", &mut self.agent), ("aggregator", &mut self.aggregator)] {
            if let Some(status) = program.poll()? {
                bail!("the {name} ended ({status}):\n{}", self.data.last_words(name));
            }
        }
        Ok(())
    }

    /// Asks `aft` for JSON; `None` where it found nothing.
    pub(super) fn aft(&self, args: &[&str]) -> Result<Option<serde_json::Value>> {
        let output = self.command(args).args(["-o", "json"]).output().context("start aft")?;
        match output.status.code() {
            Some(0) => Ok(Some(serde_json::from_slice(&output.stdout).context("read aft's answer")?)),
            Some(NOTHING_FOUND) => Ok(None),
            _ => bail!("aft {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()),
        }
    }

    /// Asks `aft` and shows its answer as a person gets it.
    pub(super) fn aft_shown(&self, args: &[&str]) -> Result<()> {
        child::run(&mut self.command(args))
    }

    /// The catalog of the store.
    pub(super) fn catalog(&self) -> PathBuf {
        self.data.0.join("store/memory.duckdb")
    }

    /// What a person sets to ask the running demo.
    pub(super) fn environment(&self) -> String {
        let [ca, token] = self.credentials();
        format!(
            "  export AFT_SERVER={} AFT_CA={} AFT_TOKEN_FILE={}\n  {} status\n  duckdb -readonly {}",
            self.server,
            ca.display(),
            token.display(),
            self.aft.display(),
            self.catalog().display()
        )
    }

    /// The ends of their logs, for an error.
    pub(super) fn last_words(&self) -> String {
        let words = |name| format!("-- {name}\n{}", self.data.last_words(name));
        [words("agent"), words("aggregator"), words("stage")].join("\n")
    }

    /// The agent is up when `status` lists it.
    fn await_agent(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            self.check()?;
            let status = self.aft(&["status"])?.unwrap_or_default();
            if status["agents"].as_array().is_some_and(|agents| !agents.is_empty()) {
                return Ok(());
            }
            still_waiting(started, "the agent did not reach the aggregator", || self.last_words())?;
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let [ca, token] = self.credentials();
        let mut aft = Command::new(&self.aft);
        aft.args(args)
            .env("AFT_SERVER", &self.server)
            .env("AFT_CA", ca)
            .env("AFT_TOKEN_FILE", token)
            .env("AFT_CATALOG", self.catalog());
        aft
    }

    fn credentials(&self) -> [PathBuf; 2] {
        ["tls/ca.crt", "tokens/reader.token"].map(|file| self.data.0.join("store").join(file))
    }
}

/// An address that is free now. Somebody else may take it before the aggregator does; then the aggregator says so.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("read the port")?.to_string())
}

/// The aggregator's first start makes certificate and tokens; the agent reads them at its own.
fn await_files(store: &Path, aggregator: &mut Group, data: &DataDir) -> Result<()> {
    let started = Instant::now();
    let files = ["tls/ca.crt", "tokens/agent.token", "tokens/reader.token", "memory.duckdb"];
    while !files.iter().all(|file| store.join(file).exists()) {
        if let Some(status) = aggregator.poll()? {
            bail!("the aggregator ended ({status}):\n{}", data.last_words("aggregator"));
        }
        still_waiting(started, "the aggregator made no tokens", || data.last_words("aggregator"))?;
    }
    Ok(())
}

fn still_waiting(started: Instant, problem: &str, words: impl Fn() -> String) -> Result<()> {
    if interrupt::requested() {
        bail!("interrupted");
    }
    if started.elapsed() > START_BOUND {
        bail!("{problem} within {} s\n{}", START_BOUND.as_secs(), words());
    }
    std::thread::sleep(LOOK);
    Ok(())
}
