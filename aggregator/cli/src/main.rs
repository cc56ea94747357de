//! The command: a question on the command line → a question to the aggregator's `Memory` service → a tree or
//! a table for people, JSON for programs.
//!
//! It holds no state and reads no store; `aft sql` hands over to the DuckDB command. Under the name
//! `kubectl-aft` it is a plugin of kubectl.

#![forbid(unsafe_code)]

mod args;
mod client;
mod clock;
mod commands;
mod detail;
mod dot;
mod error;
#[cfg(test)]
mod fixture;
mod graph;
mod json;
mod listing;
mod size;
mod table;
mod term;
mod time;
mod tree;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::args::{Cli, Command};
use crate::clock::{Clock, Style};
use crate::commands::{Context, at, completion, history, oom, sql, stale, status, timeline, why};
use crate::error::{Error, Outcome};
use crate::term::Screen;

fn main() -> ExitCode {
    let cli = parse();
    let screen = Screen::new(cli.global.color);
    let zone = if cli.global.utc { TimeZone::UTC } else { TimeZone::system() };
    let style = if cli.global.relative { Style::Relative } else { Style::Absolute };
    let clock = Clock { now: Zoned::now().with_time_zone(zone), style };
    let context = Context { global: cli.global, clock, screen };
    match run(&context, cli.command) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            error.exit_code()
        }
    }
}

/// Reads the command line; as a plugin the usage speaks of `kubectl aft`.
fn parse() -> Cli {
    let mut command = Cli::command();
    let program = std::env::args_os().next().unwrap_or_default();
    let is_plugin = std::path::Path::new(&program)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("kubectl-"));
    if is_plugin {
        command = command.bin_name("kubectl aft");
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn run(context: &Context, command: Command) -> Result<Outcome, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    runtime.block_on(async {
        match command {
            Command::Why { subject, depth } => why::run(context, subject, depth).await,
            Command::Timeline { pod, since, until, limit } => {
                timeline::run(context, timeline::Question { pod, since, until, limit }).await
            }
            Command::History { pattern, workload, pod, since, limit } => {
                history::run(context, history::Question { pattern, workload, pod, since, limit }).await
            }
            Command::At { time, object } => at::run(context, &time, object).await,
            Command::Oom { pod, workload, level, role, since, until, limit } => {
                oom::run(context, oom::Question { pod, workload, level, role, since, until, limit }).await
            }
            Command::Stale { pod, workload, limit } => {
                stale::run(context, stale::Question { pod, workload, limit }).await
            }
            Command::Status => status::run(context).await,
            Command::Sql { catalog, query } => sql::run(context, catalog, &query).await,
            Command::Completion { shell } => completion::run(context, shell),
        }
    })
}
