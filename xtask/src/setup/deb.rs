//! Files out of Debian packages that are not installed: this machine's own kernel and tools stay as they are.
//!
//! apt checks each package against its signed lists, so no hash of ours is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{only_file, say, scratch};
use crate::child;

/// Downloads a package and unpacks it into a folder that lives as long as `setup` runs.
pub(crate) fn unpack(tools: &Path, package: &str) -> Result<PathBuf> {
    say(&format!("bringing {package} with apt"));
    let dir = scratch(tools, package)?;
    child::output(Command::new("apt-get").args(["download", package]).current_dir(&dir))?;
    let file = only_file(&dir)?;
    let root = dir.join("root");
    child::output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
    Ok(root)
}
