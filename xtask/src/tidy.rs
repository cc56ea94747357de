//! `tidy`: this project's own rules, each a function from what it reads to what it finds.
//!
//! Rules over files read a [`Tree`]; rules over packages read what cargo says about them. To add a rule, write
//! it in its own file with a case that it finds and a case that it accepts, and list it here.

mod decisions;
mod generated;
mod headers;
mod kernels;
mod layout;
mod length;
mod links;
mod manifests;
mod places;
mod stubs;
mod tree;

use std::process::ExitCode;

use anyhow::Result;

use self::tree::{Finding, Tree};
use crate::workspace::Workspace;

/// The rules over files.
const RULES: &[fn(&Tree) -> Vec<Finding>] = &[
    decisions::check,
    headers::check,
    length::check,
    links::check,
    manifests::check,
    places::check,
    stubs::check,
];

/// Arguments of `tidy`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Also compare the hooks' prototypes with the kernels of the matrix, booting those not seen before
    #[arg(long)]
    kernels: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    Ok(if check(workspace, args)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what breaks a rule; returns whether nothing does.
pub(crate) fn check(workspace: &Workspace, args: &Args) -> Result<bool> {
    let tree = Tree::read(&workspace.root)?;
    let mut findings: Vec<Finding> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    findings.extend(layout::check(&layout::packages(workspace)?));
    findings.extend(generated::check(workspace)?);
    if args.kernels {
        findings.extend(kernels::check(workspace, &tree)?);
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    println!("tidy: {} files, {} findings", tree.files.len(), findings.len());
    Ok(findings.is_empty())
}
