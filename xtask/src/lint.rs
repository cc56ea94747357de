//! `lint`: every check that needs no run of the product, each with its result and time in one table.
//!
//! All checks run even when one fails. A check whose tool or network is missing is reported as not run, with
//! the reason; it is never silently a pass.

use std::env::consts::ARCH;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::Result;

use crate::setup::{self, Need, Tools};
use crate::workspace::Workspace;
use crate::{child, interrupt, table, tidy};

/// Arguments of `lint`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only checks whose name contains this
    filter: Option<String>,
}

/// What one check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    NotRun(String),
}

/// A check: its name in the table and how it runs.
type Check = (&'static str, fn(&Workspace, &Tools) -> Result<Outcome>);

/// Cheap ones first: a person sees the usual mistakes within seconds.
const CHECKS: &[Check] = &[
    ("tidy", |workspace, _| {
        Ok(if tidy::check(workspace, &tidy::Args::default())? { Outcome::Passed } else { Outcome::Failed })
    }),
    ("format", |workspace, _| Ok(passes(workspace.cargo().args(["fmt", "--all", "--check"])))),
    ("spelling", spelling),
    ("unused dependencies", unused_dependencies),
    ("licences, bans, sources", |workspace, tools| deny(workspace, tools, &["bans", "licenses", "sources"])),
    ("advisories", advisories),
    ("clippy", clippy),
    ("clippy of the programs in the kernel", clippy_of_the_kernel_programs),
    ("documentation", documentation),
];

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tools = setup::ensure(workspace, &[Need::Kernel, Need::Store, Need::Lint])?;
    let mut rows = vec![["check", "result", "seconds"].map(str::to_owned).to_vec()];
    let mut failed = false;
    for (name, check) in CHECKS {
        if args.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        println!("lint: {name}");
        let started = Instant::now();
        let outcome = check(workspace, &tools)?;
        if interrupt::requested() {
            anyhow::bail!("interrupted");
        }
        failed |= outcome == Outcome::Failed;
        let seconds = format!("{:.1}", started.elapsed().as_secs_f64());
        rows.push(vec![(*name).to_owned(), outcome.shown(), seconds]);
    }
    print!("\n{}", table::render(&rows));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Outcome {
    fn shown(&self) -> String {
        match self {
            Self::Passed => "passed".to_owned(),
            Self::Failed => "FAILED".to_owned(),
            Self::NotRun(why) => format!("could not run here: {why}"),
        }
    }
}

fn passes(command: &mut Command) -> Outcome {
    match child::run(command) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            eprintln!("{error:#}");
            Outcome::Failed
        }
    }
}

fn spelling(workspace: &Workspace, tools: &Tools) -> Result<Outcome> {
    with_tool(tools, "typos", |typos| {
        Ok(passes(typos.args(["--config", "_typos.toml", "."]).current_dir(&workspace.root)))
    })
}

fn unused_dependencies(workspace: &Workspace, tools: &Tools) -> Result<Outcome> {
    with_tool(tools, "cargo-machete", |machete| {
        Ok(passes(machete.args(["--skip-target-dir", "."]).current_dir(&workspace.root)))
    })
}

fn deny(workspace: &Workspace, tools: &Tools, checks: &[&str]) -> Result<Outcome> {
    with_tool(tools, "cargo-deny", |deny| {
        Ok(passes(deny.args(["--log-level", "warn", "check"]).args(checks).current_dir(&workspace.root)))
    })
}

/// The advisory database is a git repository on the network: without it this check cannot say anything.
fn advisories(workspace: &Workspace, tools: &Tools) -> Result<Outcome> {
    with_tool(tools, "cargo-deny", |deny| {
        deny.args(["--color", "never", "check", "advisories"]).current_dir(&workspace.root);
        let Err(error) = child::output(deny) else { return Ok(Outcome::Passed) };
        let text = error.to_string();
        if text.contains("failed to fetch advisory database") {
            return Ok(Outcome::NotRun("the advisory database cannot be fetched".to_owned()));
        }
        eprintln!("{text}");
        Ok(Outcome::Failed)
    })
}

fn clippy(workspace: &Workspace, tools: &Tools) -> Result<Outcome> {
    let mut clippy = workspace.cargo();
    clippy.args(["clippy", "--all-targets"]);
    tools.configure(&mut clippy);
    Ok(passes(clippy.args(["--", "-D", "warnings"])))
}

/// They are built for the bpf target by the stable toolchain, which needs the same key as the agent's build
/// script. That key makes many build scripts run again, so this check has a folder of its own.
fn clippy_of_the_kernel_programs(workspace: &Workspace, _: &Tools) -> Result<Outcome> {
    let mut clippy = workspace.cargo();
    clippy
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{ARCH}\""))
        .args(["clippy", "--package", "aftertrace-ebpf", "--features", "bpf,log"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--target-dir", "target/kernel"]);
    Ok(passes(clippy.args(["--", "-D", "warnings"])))
}

fn documentation(workspace: &Workspace, tools: &Tools) -> Result<Outcome> {
    let mut doc = workspace.cargo();
    doc.args(["doc", "--no-deps", "--document-private-items"]);
    tools.configure(&mut doc);
    Ok(passes(doc.env("RUSTDOCFLAGS", "-D warnings")))
}

fn with_tool(
    tools: &Tools,
    name: &str,
    run: impl FnOnce(&mut Command) -> Result<Outcome>,
) -> Result<Outcome> {
    if let Some(absent) = tools.absent.iter().find(|absent| absent.what.starts_with(name)) {
        return Ok(Outcome::NotRun(absent.why.clone()));
    }
    run(&mut Command::new(tools.program(name)))
}
