//! `cargo xtask <command>`: the project's own commands, one file each.
//!
//! `setup` is called by every command that needs a tool, so a fresh clone needs no other step. This package
//! links no other package of the workspace: it runs their programs, so it compiles in seconds and cannot
//! break with them.

mod bench;
mod build;
mod demo;
mod lint;
mod setup;
mod test;
mod tidy;
mod vm_test;

mod child;
mod interrupt;
mod table;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The parsed command line.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "Aftertrace's own commands", version)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

/// One command; each variant's file has its name.
#[derive(Subcommand)]
enum Task {
    /// Bring the tools that are missing (every other command does this by itself)
    Setup(setup::Args),
    /// Build the programs
    Build(build::Args),
    /// Run all tests, and say which could not run here and why
    Test(test::Args),
    /// Run the tests of the kernel's part in virtual machines with other kernels
    VmTest(vm_test::Args),
    /// Check format, lints, documents, licences, spelling and the rules of `tidy`
    Lint(lint::Args),
    /// Check this project's own rules: layout, imports, headers, links, decision records
    Tidy(tidy::Args),
    /// Show a real OOM kill and a real mount swap of this machine's kernel as causal trees
    Demo(demo::Args),
    /// Measure, and print the table
    Bench(bench::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    interrupt::install()?;
    let workspace = Workspace::locate()?;
    match task {
        Task::Setup(args) => setup::run(&workspace, &args),
        Task::Build(args) => build::run(&workspace, &args),
        Task::Test(args) => test::run(&workspace, &args),
        Task::VmTest(args) => vm_test::run(&workspace, &args),
        Task::Lint(args) => lint::run(&workspace, &args),
        Task::Tidy(args) => tidy::run(&workspace, &args),
        Task::Demo(args) => demo::run(&workspace, &args),
        Task::Bench(args) => bench::run(&workspace, &args),
    }
}
