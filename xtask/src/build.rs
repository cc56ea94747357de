//! `build`: the programs of the workspace.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::child;
use crate::setup::{self, Need, Tools};
use crate::workspace::{Profile, Workspace};

/// Arguments of `build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimised, as users run them
    #[arg(long)]
    release: bool,
    /// The agent alone, small and linked statically, as nodes run it
    #[arg(long, conflicts_with = "release")]
    agent: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    if args.agent {
        let tools = setup::ensure(workspace, &[Need::Kernel])?;
        let agent = static_agent(workspace, &tools)?;
        let bytes = std::fs::metadata(&agent).with_context(|| format!("read {}", agent.display()))?.len();
        println!("build: the agent is {} ({:.1} MiB)", agent.display(), bytes as f64 / f64::from(1 << 20));
        return Ok(ExitCode::SUCCESS);
    }
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

/// Builds the agent by the profile `dist` for musl, which it is linked with statically; returns the program.
pub(crate) fn static_agent(workspace: &Workspace, tools: &Tools) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut build = workspace.cargo();
    build.args(["build", "--profile", "dist", "--target", &target, "--package", "aftertrace-agent"]);
    tools.configure(&mut build);
    child::run(&mut build).with_context(|| format!("try `rustup target add {target}`"))?;
    Ok(workspace.target().join(target).join("dist/aftertrace-agent"))
}
