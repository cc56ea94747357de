//! Ctrl-C and SIGTERM as a flag, so that a command ends its children and cleans up before it leaves.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns the signals that end a program into a flag.
pub(crate) fn install() -> Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, &INTERRUPTED).context("register a signal handler")?;
    }
    Ok(())
}

/// Whether someone asked this program to end.
pub(crate) fn requested() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
