//! `bench`: runs the programs that measure, and prints their rows as one table.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::Workspace;

/// Arguments of `bench`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_workspace: &Workspace, _args: &Args) -> Result<ExitCode> {
    anyhow::bail!("nothing can be measured yet")
}
