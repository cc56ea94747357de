//! `test`: builds what tests run, runs all tests, and says which could not run here and why.
//!
//! `cargo test` is the runner: it is there wherever Rust is, and `--show-output` prints what a passing test
//! wrote under the test's own name, so a line `SKIPPED: <why>` is never lost and never counted as a pass. Then
//! the kernel's tests run again in virtual machines with other kernels, see [`vm_test`]. The last line is always `N passed, N failed, N skipped`.

mod report;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;

pub(crate) use self::report::Report;
use crate::setup::{self, Need, Tools};
use crate::workspace::{Profile, Workspace};
use crate::{child, vm_test};

/// How long all tests may run. A guess: several times what they take, and below the patience of a CI job; a
/// test that hangs must fail, not stop everything.
const TESTS_BOUND: Duration = Duration::from_secs(20 * 60);

/// Tells tests where the programs are that they run (agent, aggregator, `aft`, stage).
pub(crate) const BIN_DIR_ENV: &str = "AFTERTRACE_BIN_DIR";

/// Arguments of `test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these packages; default all
    #[arg(short, long = "package")]
    packages: Vec<String>,
    /// Only on this machine's kernel, not in virtual machines with others
    #[arg(long)]
    host_only: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    // A part of the tests is meant for this machine.
    let everywhere = args.packages.is_empty() && args.filter.is_none() && !args.host_only;
    let mut needs = vec![Need::Kernel, Need::Store, Need::DuckdbCli];
    needs.extend(everywhere.then_some(Need::Machine));
    let tools = setup::ensure(workspace, &needs)?;
    let mut report = Report::default();
    let ran = build(workspace, &tools).and_then(|()| execute(workspace, &tools, args, &mut report)).and_then(
        |()| match everywhere {
            true => vm_test::run_all(workspace, &tools, build_command(workspace, &tools), &mut report),
            false => Ok(()),
        },
    );
    if let Err(error) = ran {
        report.broke(format!("{error:#}"));
    }
    for absent in tools.absent.iter().filter(|absent| absent.what != setup::MACHINE) {
        report.note(format!("{} is absent: {}", absent.what, absent.why));
    }
    print!("{}", report.render());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds programs and tests together: with the same targets cargo unifies the same features, and nothing is
/// compiled twice.
fn build(workspace: &Workspace, tools: &Tools) -> Result<()> {
    let started = Instant::now();
    println!("test: building programs and tests");
    child::run(&mut build_command(workspace, tools))?;
    println!("test: built in {} s", started.elapsed().as_secs());
    Ok(())
}

fn build_command(workspace: &Workspace, tools: &Tools) -> Command {
    let mut build = workspace.cargo();
    build.args(["build", "--lib", "--bins", "--tests", "--examples"]);
    tools.configure(&mut build);
    build
}

fn execute(workspace: &Workspace, tools: &Tools, args: &Args, report: &mut Report) -> Result<()> {
    let mut test = workspace.cargo();
    test.args(["test", "--no-fail-fast", "--color", "never"]);
    tools.configure(&mut test);
    for package in &args.packages {
        test.args(["--package", package]);
    }
    test.env(BIN_DIR_ENV, workspace.programs(Profile::Dev));
    test.args(["--", "--show-output"]);
    test.args(&args.filter);
    let status = child::run_lines(&mut test, TESTS_BOUND, |line| {
        if report.feed(line) {
            println!("{line}");
        }
    })?;
    report.end(status.success());
    Ok(())
}
