//! `aft completion`: the completion script of a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Context;
use crate::args::Cli;
use crate::error::{Error, Outcome};

/// Prints the script.
pub(crate) fn run(context: &Context, shell: Shell) -> Result<Outcome, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aft", &mut script);
    context.screen.print(&String::from_utf8_lossy(&script)).map_err(Error::Output)?;
    Ok(Outcome::Found)
}
