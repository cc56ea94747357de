//! Committed generated code is what its generator writes today.

use anyhow::Result;

use super::tree::Finding;
use crate::child;
use crate::workspace::Workspace;

/// The generator of the wire code; with `--check` it compares instead of writing.
const GENERATOR: &str = "aggregator/api/examples/generate.rs";

/// Finds generated code that is out of date.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Finding>> {
    if !workspace.root.join(GENERATOR).exists() {
        return Ok(vec![Finding::about(GENERATOR, "the generator of the wire code is missing")]);
    }
    let mut generator = workspace.cargo();
    generator.args([
        "run",
        "--quiet",
        "--package",
        "aftertrace-api",
        "--example",
        "generate",
        "--",
        "--check",
    ]);
    Ok(match child::output(&mut generator) {
        Ok(_) => Vec::new(),
        Err(error) => vec![Finding::about("aggregator/api", format!("{error:#}"))],
    })
}
