//! `bench`: runs the programs that measure, one after the other, and prints their rows as one table.
//!
//! A row is a line `row<TAB>what<TAB>value<TAB>unit<TAB>target` of such a program. Times depend on the machine and
//! on what else it does; compare rows of one run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::setup::{self, Need};
use crate::workspace::{Profile, Workspace};
use crate::{build, child, table};

/// How long one program may measure. A guess, many times what each takes, its compilation included.
const BENCH_BOUND: Duration = Duration::from_secs(30 * 60);

/// The programs that measure.
const BENCHES: [Bench; 3] = [
    Bench { name: "kernel", package: "aftertrace-agent" },
    Bench { name: "ingest", package: "aftertrace-aggregator" },
    Bench { name: "acknowledged", package: "aftertrace-stage" },
];

struct Bench {
    name: &'static str,
    package: &'static str,
}

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these: kernel, ingest, acknowledged; default all
    names: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    for name in &args.names {
        if BENCHES.iter().all(|bench| bench.name != name) {
            let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
            bail!("no benchmark is called {name:?}; there are {}", known.join(", "));
        }
    }
    let tools = setup::ensure(workspace, &[Need::Kernel, Need::Store, Need::DuckdbCli])?;
    let programs = build::programs(workspace, Profile::Release)?;
    let mut rows = vec![["measured", "value", "unit", "target"].map(str::to_owned).to_vec()];
    for bench in BENCHES.iter().filter(|b| args.names.is_empty() || args.names.iter().any(|n| n == b.name)) {
        println!("bench: {}", bench.name);
        let mut command = workspace.cargo();
        command.args(["bench", "--package", bench.package, "--bench", bench.name]);
        tools.configure(&mut command);
        command.env("AFTERTRACE_BIN_DIR", &programs);
        let mut measured = 0;
        let status = child::run_lines(&mut command, BENCH_BOUND, |line| match row(line) {
            Some(row) => {
                measured += 1;
                rows.push(row);
            }
            None => println!("{line}"),
        })?;
        if !status.success() {
            bail!("benchmark {} failed: {status}", bench.name);
        }
        if measured == 0 {
            rows.push(vec![
                bench.name.to_owned(),
                "could not run here".to_owned(),
                String::new(),
                String::new(),
            ]);
        }
    }
    print!("{}", table::render(&rows));
    Ok(ExitCode::SUCCESS)
}

fn row(line: &str) -> Option<Vec<String>> {
    let cells: Vec<String> = line.strip_prefix("row\t")?.split('\t').map(str::to_owned).collect();
    (cells.len() == 4).then_some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_four_cells() {
        assert_eq!(row("row\ta\t1\tms\t"), Some(["a", "1", "ms", ""].map(str::to_owned).to_vec()));
        assert_eq!(row("row\ta\t1"), None);
        assert_eq!(row("something else"), None);
    }
}
