//! `setup`: brings the tools that a fresh machine lacks, each pinned by version or hash. Safe to run again.
//!
//! Every command calls [`ensure`] with what it needs. A tool without which nothing can be built is an error; a
//! tool whose absence only means that some check cannot run is an [`Absent`], which the command reports.

mod cargo_tool;
mod deb;
mod kernels;
mod libduckdb;
mod machine;
mod pins;
mod rust;
mod system;
mod verify;
mod wheel;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

pub(crate) use self::kernels::{Kernel, Series};
pub(crate) use self::machine::Machine;
pub(crate) use self::pins::QEMU;
use crate::workspace::{TOOLS_DIR_ENV, Workspace};

/// How an absent [`Need::Machine`] is named.
pub(crate) const MACHINE: &str = "virtual machines";

/// Arguments of `setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also bring the tools that only `lint` needs
    #[arg(long)]
    lint: bool,
}

/// What a command needs from `setup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// `rust-src` and bpf-linker: builds the programs in the kernel.
    Kernel,
    /// libduckdb: links the aggregator.
    Store,
    /// The DuckDB command line: tests read the store with it as a user would.
    DuckdbCli,
    /// qemu, the kernels of the matrix and the guest's base programs: `vm-test` boots them.
    Machine,
    /// rustfmt, clippy, cargo-deny, cargo-machete and typos.
    Lint,
}

/// How the aggregator gets its DuckDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Duckdb {
    /// The prebuilt `libduckdb.so` in this folder.
    Prebuilt(PathBuf),
    /// Compiled from source by the feature `bundled`.
    Bundled,
}

/// A tool that could not be brought, and so a check that cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absent {
    /// The tool.
    pub(crate) what: &'static str,
    /// Why, and what to do about it.
    pub(crate) why: String,
}

/// What `ensure` found or brought.
#[derive(Debug)]
pub(crate) struct Tools {
    dir: PathBuf,
    moved: bool,
    pub(crate) duckdb: Duckdb,
    pub(crate) duckdb_cli: Option<PathBuf>,
    pub(crate) machine: Option<Machine>,
    pub(crate) absent: Vec<Absent>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let mut needs = vec![Need::Kernel, Need::Store, Need::DuckdbCli, Need::Machine];
    if args.lint {
        needs.push(Need::Lint);
    }
    let tools = ensure(workspace, &needs)?;
    for Absent { what, why } in &tools.absent {
        say(&format!("{what}: absent: {why}"));
    }
    for (series, why) in tools.machine.iter().flat_map(|machine| &machine.absent) {
        say(&format!("Linux {}: absent: {why}", series.name()));
    }
    say(&format!("ready in {}", workspace.tools.display()));
    Ok(ExitCode::SUCCESS)
}

/// Brings what is missing of these needs; says what it does and is silent about what is there.
pub(crate) fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<Tools> {
    let dir = &workspace.tools;
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    // Two commands at once would unpack over each other; the lock ends with the file.
    let lock = File::create(dir.join(".lock")).context("open the tools' lock")?;
    lock.lock().context("lock the tools folder")?;

    let mut tools = Tools {
        dir: dir.clone(),
        moved: workspace.tools_moved,
        duckdb: Duckdb::Prebuilt(dir.join("libduckdb")),
        duckdb_cli: None,
        machine: None,
        absent: Vec::new(),
    };
    for need in needs {
        match need {
            Need::Kernel => {
                rust::component(workspace, &rust::RUST_SRC)?;
                cargo_tool::bring(workspace, &pins::BPF_LINKER)?;
            }
            Need::Store => tools.duckdb = libduckdb::bring(dir)?,
            Need::DuckdbCli => match wheel::bring(dir, &pins::DUCKDB_CLI) {
                Ok(path) => tools.duckdb_cli = Some(path),
                Err(error) => tools.lacks("duckdb", &error),
            },
            Need::Machine => match machine::bring(dir) {
                Ok(machine) => tools.machine = Some(machine),
                Err(error) => tools.lacks(MACHINE, &error),
            },
            Need::Lint => lint_tools(workspace, &mut tools)?,
        }
    }
    remove_scratch(dir)?;
    Ok(tools)
}

fn lint_tools(workspace: &Workspace, tools: &mut Tools) -> Result<()> {
    rust::component(workspace, &rust::RUSTFMT)?;
    rust::component(workspace, &rust::CLIPPY)?;
    for pin in [&pins::CARGO_DENY, &pins::CARGO_MACHETE] {
        if let Err(error) = cargo_tool::bring(workspace, pin) {
            tools.lacks(pin.name, &error);
        }
    }
    // The wheel holds the same program and saves minutes of compiling; cargo is the way without pip.
    if wheel::bring(&workspace.tools, &pins::TYPOS_WHEEL).is_err()
        && let Err(error) = cargo_tool::bring(workspace, &pins::TYPOS)
    {
        tools.lacks(pins::TYPOS.name, &error);
    }
    Ok(())
}

impl Tools {
    /// Sets what cargo and the tests need to find these tools.
    pub(crate) fn configure(&self, command: &mut Command) {
        // In the usual place `.cargo/config.toml` and the build scripts find them by themselves.
        if self.moved {
            command.env(TOOLS_DIR_ENV, &self.dir);
            command.env("DUCKDB_LIB_DIR", self.dir.join("libduckdb"));
            let mut path = vec![self.dir.join(pins::BPF_LINKER.name).join("bin")];
            path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
            if let Ok(path) = env::join_paths(path) {
                command.env("PATH", path);
            }
        }
        if self.duckdb == Duckdb::Bundled {
            command.args(["--features", "aftertrace-aggregator/bundled"]);
        }
    }

    /// A tool of `setup`, by its file name.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let installed = self.dir.join(name).join("bin").join(name);
        if installed.exists() { installed } else { self.dir.join(name) }
    }

    fn lacks(&mut self, what: &'static str, why: &anyhow::Error) {
        self.absent.push(Absent { what, why: one_line(why) });
    }
}

/// An error with its causes, as a list of absent tools shows it.
fn one_line(why: &anyhow::Error) -> String {
    let why = format!("{why:#}");
    why.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// A folder for half-finished work inside the tools folder, so that a rename finishes it.
fn scratch(tools: &Path, name: &str) -> Result<PathBuf> {
    let dir = tools.join(".scratch").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("clear {}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

fn remove_scratch(tools: &Path) -> Result<()> {
    let dir = tools.join(".scratch");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))?;
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry.context("read a folder entry")?.path()),
        _ => bail!("expected one downloaded file in {}", dir.display()),
    }
}

/// Whether a program of this name is on the path.
fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn say(text: &str) {
    println!("setup: {text}");
}
