//! `build`: the programs of the workspace.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::child;
use crate::setup::{self, Need};
use crate::workspace::{Profile, Workspace};

/// Arguments of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as users run them
    #[arg(long)]
    release: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let profile = if args.release { Profile::Release } else { Profile::Dev };
    let programs = programs(workspace, profile)?;
    println!("build: programs are in {}", programs.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds all programs with what they need; returns their folder.
pub(crate) fn programs(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let tools = setup::ensure(workspace, &[Need::Kernel, Need::Store])?;
    let mut build = workspace.cargo();
    build.args(["build", "--bins"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    tools.configure(&mut build);
    child::run(&mut build)?;
    Ok(workspace.programs(profile))
}
