//! Packages of the system: brought by apt where we may, named where we may not.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{on_path, say};
use crate::child;

/// Installs a package if we are root and this is a Debian; otherwise the error says what to run.
pub(crate) fn install(package: &str, reason: &str) -> Result<()> {
    let command = format!("apt-get install --no-install-recommends {package}");
    if !on_path("apt-get") {
        bail!("{reason}; install {package} with this system's package manager");
    }
    if !rustix::process::geteuid().is_root() {
        bail!("{reason}; run `sudo {command}`");
    }
    say(&format!("{reason}; running `{command}`"));
    apt(&["update"])
        .and_then(|()| apt(&["install", "-y", "--no-install-recommends", package]))
        .with_context(|| format!("{reason}, and {package} could not be installed"))
}

/// Brings apt's lists up to date if we are root; otherwise they stay as they are.
pub(crate) fn update() -> Result<()> {
    if rustix::process::geteuid().is_root() { apt(&["update"]) } else { Ok(()) }
}

fn apt(args: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    apt.arg("-q").args(args).env("DEBIAN_FRONTEND", "noninteractive");
    child::run(&mut apt)
}
