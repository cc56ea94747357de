//! `demo`: a real OOM kill and a real mount swap, answered as causal trees.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::Workspace;

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Runs the command.
pub(crate) fn run(_workspace: &Workspace, _args: &Args) -> Result<ExitCode> {
    anyhow::bail!("the stage is not there yet")
}
