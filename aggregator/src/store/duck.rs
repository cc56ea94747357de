//! How this process uses DuckDB: bounded memory and threads, no network, no surprises.

use std::path::Path;

use duckdb::{Config, Connection};

use super::StoreError;

/// Memory of one instance. Sorting beyond it goes to disk; above it a question fails, not the process.
const MEMORY: &str = "256MB";

/// An in-memory instance that reads and writes Parquet files.
///
/// # Errors
/// [`StoreError::Query`] if DuckDB does not start.
pub(super) fn open(spill: &Path, threads: i64) -> Result<Connection, StoreError> {
    let config = config(threads).map_err(StoreError::query("configure DuckDB"))?;
    let connection =
        Connection::open_in_memory_with_flags(config).map_err(StoreError::query("start DuckDB"))?;
    let settings = format!(
        "SET temp_directory = {}; SET max_temp_directory_size = '4GB'; SET parquet_metadata_cache = true;",
        quote(&spill.to_string_lossy())
    );
    connection.execute_batch(&settings).map_err(StoreError::query("configure DuckDB"))?;
    Ok(connection)
}

/// Settings of every instance: extensions are never fetched from the network.
pub(super) fn config(threads: i64) -> duckdb::Result<Config> {
    Config::default()
        .threads(threads)?
        .max_memory(MEMORY)?
        .enable_autoload_extension(false)?
        .with("autoinstall_known_extensions", "false")
}

/// A text as an SQL literal.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
