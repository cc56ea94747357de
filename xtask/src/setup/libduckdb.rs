//! The prebuilt DuckDB library, through npm; without it the aggregator compiles DuckDB from source.

use std::env::consts::ARCH;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Sha256, Sha512};

use super::pins::{LIBDUCKDB, LIBDUCKDB_PACKAGE};
use super::{Duckdb, on_path, say, scratch, system, verify};
use crate::child;

/// Brings `libduckdb.so`, or decides for the `bundled` build and says what that costs.
pub(crate) fn bring(tools: &Path) -> Result<Duckdb> {
    let dir = tools.join("libduckdb");
    if ARCH == LIBDUCKDB.arch && verify::is_pinned(&dir.join("libduckdb.so"), LIBDUCKDB.file_sha256)? {
        return Ok(Duckdb::Prebuilt(dir));
    }
    match download(tools, &dir) {
        Ok(()) => Ok(Duckdb::Prebuilt(dir)),
        Err(error) => {
            say(&format!("no prebuilt libduckdb: {error:#}"));
            say("DuckDB will be compiled from source: about 56 CPU-minutes, once");
            if !on_path("c++") {
                system::install("g++", "DuckDB from source needs a C++ compiler")?;
            }
            Ok(Duckdb::Bundled)
        }
    }
}

fn download(tools: &Path, dir: &Path) -> Result<()> {
    if ARCH != LIBDUCKDB.arch {
        bail!("{LIBDUCKDB_PACKAGE} has no counterpart for {ARCH}");
    }
    if !on_path("npm") {
        bail!("npm is not installed (on Debian and Ubuntu: apt-get install npm)");
    }
    say(&format!("bringing {LIBDUCKDB_PACKAGE} with npm"));
    let work = scratch(tools, "libduckdb")?;
    let names = child::output(
        Command::new("npm")
            .args(["pack", "--silent", "--pack-destination"])
            .arg(&work)
            .arg(LIBDUCKDB_PACKAGE)
            .current_dir(&work),
    )?;
    let name = names.lines().last().context("npm named no file")?.trim();
    let package = work.join(name);
    verify::require::<Sha512>(&package, LIBDUCKDB.package_hash)?;
    child::output(
        Command::new("tar").arg("-xzf").arg(&package).arg("-C").arg(&work).arg("package/libduckdb.so"),
    )?;
    let unpacked = work.join("package/libduckdb.so");
    verify::require::<Sha256>(&unpacked, LIBDUCKDB.file_sha256)?;

    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    let library = dir.join("libduckdb.so");
    fs::rename(&unpacked, &library).with_context(|| format!("move {} into place", library.display()))?;
    if !verify::is_pinned(&library, LIBDUCKDB.file_sha256)? {
        bail!("{} changed while it was moved into place", library.display());
    }
    Ok(())
}
