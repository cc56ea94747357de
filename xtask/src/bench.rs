//! `bench`: runs the programs that measure, in release, and prints their rows as one table.
//!
//! A bench is a `[[bench]]` without a harness; it prints lines `row <tab> what <tab> value <tab> unit <tab>
//! target`, the target empty where the design sets none, and `SKIPPED: <why>` where it cannot run. Figures are
//! of this machine at this moment: they are shown, not judged.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::static_agent;
use crate::setup::{self, Need, Tools};
use crate::workspace::{Profile, Workspace};
use crate::{child, table, test};

/// The benches, in the order of the pipeline.
const BENCHES: &[&str] = &["kernel", "weight", "acknowledged", "ingest"];

/// The benches that measure the agent as nodes run it.
const OF_STATIC_AGENT: &[&str] = &["weight"];

/// Tells a bench where that agent is.
const AGENT_ENV: &str = "AFTERTRACE_AGENT";

/// How long one bench may take. A guess: each takes seconds to a minute; a hanging one must not hang us.
const BENCH_BOUND: Duration = Duration::from_secs(10 * 60);

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which; default all
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(BENCHES))]
    benches: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tools = setup::ensure(workspace, &[Need::Kernel, Need::Store, Need::DuckdbCli])?;
    let chosen: Vec<&str> = BENCHES
        .iter()
        .copied()
        .filter(|bench| args.benches.is_empty() || args.benches.iter().any(|chosen| chosen == bench))
        .collect();
    println!("bench: building the release programs (minutes the first time)");
    build(workspace, &tools, &chosen)?;
    let has_agent = chosen.iter().any(|bench| OF_STATIC_AGENT.contains(bench));
    let agent = if has_agent { Some(static_agent(workspace, &tools)?) } else { None };
    let mut rows = vec![["measured", "value", "unit", "target"].map(str::to_owned).to_vec()];
    let mut skipped = Vec::new();
    for bench in chosen {
        println!("bench: {bench}");
        let agent = agent.as_deref().filter(|_| OF_STATIC_AGENT.contains(&bench));
        measure(workspace, &tools, bench, agent, |line| match reading(line) {
            Reading::Row(row) => rows.push(row),
            Reading::Skipped(why) => skipped.push(format!("{bench}: {why}")),
            Reading::Other => println!("{line}"),
        })?;
    }
    println!("\n{}\n", machine()?);
    print!("{}", table::render(&rows));
    if !skipped.is_empty() {
        println!("\nCould not run here:\n  {}", skipped.join("\n  "));
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds programs and benches together, so that cargo unifies the same features and compiles nothing twice.
fn build(workspace: &Workspace, tools: &Tools, benches: &[&str]) -> Result<()> {
    let mut build = workspace.cargo();
    build.args(["build", "--release", "--bins"]);
    build.args(benches.iter().flat_map(|bench| ["--bench", bench]));
    tools.configure(&mut build);
    child::run(&mut build)
}

fn measure(
    workspace: &Workspace,
    tools: &Tools,
    bench: &str,
    agent: Option<&Path>,
    line: impl FnMut(&str),
) -> Result<()> {
    let mut run = workspace.cargo();
    run.args(["bench", "--quiet", "--bench", bench]);
    tools.configure(&mut run);
    run.env(test::BIN_DIR_ENV, workspace.programs(Profile::Release));
    run.envs(agent.map(|agent| (AGENT_ENV, agent)));
    let status = child::run_lines(&mut run, BENCH_BOUND, line)?;
    if !status.success() {
        bail!("the bench {bench} failed: {status}");
    }
    Ok(())
}

/// What a line of a bench means.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    Row(Vec<String>),
    Skipped(String),
    Other,
}

fn reading(line: &str) -> Reading {
    if let Some(why) = line.strip_prefix("SKIPPED:") {
        return Reading::Skipped(why.trim().to_owned());
    }
    match line.split('\t').collect::<Vec<_>>().as_slice() {
        ["row", cells @ ..] if cells.len() == 4 => {
            Reading::Row(cells.iter().map(|c| (*c).to_owned()).collect())
        }
        _ => Reading::Other,
    }
}

/// What the figures are of.
fn machine() -> Result<String> {
    let cpus = std::thread::available_parallelism().context("count the processors")?;
    let system = rustix::system::uname();
    Ok(format!(
        "{cpus} processors, Linux {} {}",
        system.release().to_string_lossy(),
        system.machine().to_string_lossy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_four_cells_and_an_empty_target_is_one() {
        let cells = |line| match reading(line) {
            Reading::Row(cells) => cells,
            other => panic!("{line:?} is {other:?}"),
        };
        assert_eq!(
            cells("row\tingest\t210000\tevents/s\t200000"),
            ["ingest", "210000", "events/s", "200000"]
        );
        assert_eq!(cells("row\tRSS\t7.1\tMiB\t"), ["RSS", "7.1", "MiB", ""]);
    }

    #[test]
    fn other_lines_are_no_rows() {
        assert_eq!(reading("row\tshort\t1"), Reading::Other);
        assert_eq!(reading("rows: a\tb\tc\td"), Reading::Other);
        assert_eq!(reading("SKIPPED: no root"), Reading::Skipped("no root".to_owned()));
    }
}
