//! Programs that `cargo install` builds from a pinned version with its own lock file.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::pins::CargoPin;
use super::say;
use crate::child;
use crate::workspace::Workspace;

/// Builds the program unless the pinned version is there.
pub(crate) fn bring(workspace: &Workspace, pin: &CargoPin) -> Result<()> {
    let root = workspace.tools.join(pin.name);
    let program = root.join("bin").join(pin.program);
    if has_version(&program, pin.version) {
        return Ok(());
    }
    say(&format!("building {} {} (about {} min on two cores)", pin.name, pin.version, pin.minutes));
    let mut install = workspace.cargo();
    install
        .args(["install", "--quiet", "--locked", "--force", "--version", pin.version, pin.name, "--root"])
        .arg(&root)
        // One build folder, so that the tools share what they have in common.
        .env("CARGO_TARGET_DIR", workspace.tools.join(".scratch/build"))
        // Each tool runs for a moment: an optimised build would take longer than it ever saves.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    child::run(&mut install).with_context(|| format!("install {} {}", pin.name, pin.version))?;
    if !has_version(&program, pin.version) {
        bail!("{} is not version {} after its installation", program.display(), pin.version);
    }
    Ok(())
}

fn has_version(program: &Path, version: &str) -> bool {
    child::output(Command::new(program).arg("--version"))
        .is_ok_and(|text| text.split_whitespace().any(|word| word == version))
}
