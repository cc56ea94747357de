//! The catalog `memory.duckdb`: views and macros over the files of one manifest, for the DuckDB CLI.
//!
//! It holds no rows, so it never grows and never locks out the writer. Each publication is a new file, written
//! aside and renamed into place: a reader has the old one or the new one, and both list files that exist.

mod macros;
pub(super) mod views;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use duckdb::Connection;

use super::manifest::Manifest;
use super::segments::Segments;
use super::{StoreError, disk, duck};

/// Read-only for everyone: DuckDB then never leaves a log beside it, and nobody changes a view by accident.
const MODE: u32 = 0o444;

/// Writes the catalog of a manifest and renames it into place.
///
/// # Errors
/// [`StoreError::Query`] or [`StoreError::Io`]: the catalog before stays as it was.
pub(super) fn publish(path: &Path, manifest: &Manifest, segments: &Segments) -> Result<(), StoreError> {
    let aside = disk::aside(path);
    disk::remove(&aside)?;
    disk::remove(&log(&aside))?;
    write(&aside, manifest, segments)?;
    fs::File::open(&aside)
        .and_then(|file| {
            file.set_permissions(fs::Permissions::from_mode(MODE))?;
            file.sync_all()
        })
        .map_err(StoreError::io("sync", &aside))?;
    // A log beside it would be of an older file, and DuckDB would try to replay it into this one.
    disk::remove(&log(path))?;
    disk::publish(&aside, path)
}

fn write(aside: &Path, manifest: &Manifest, segments: &Segments) -> Result<(), StoreError> {
    let config = duck::config(1).map_err(StoreError::query("configure DuckDB"))?;
    let connection =
        Connection::open_with_flags(aside, config).map_err(StoreError::query("make the catalog"))?;
    let mut sql = String::from("BEGIN;\n");
    views::write(&mut sql, manifest, segments);
    macros::write(&mut sql);
    sql.push_str("COMMIT;\nCHECKPOINT;\n");
    connection.execute_batch(&sql).map_err(StoreError::query("write the catalog"))?;
    connection.close().map_err(|(_, error)| StoreError::query("close the catalog")(error))
}

/// DuckDB's own log of a database file.
fn log(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".wal");
    PathBuf::from(name)
}
