//! The store: WAL, manifest, segments and the catalog over them, in one data directory with one writer.
//!
//! Facts enter through [`crate::writer`] alone. An accepted frame is durable in the `wal`; a flush turns frames
//! into Parquet `segments` and publishes them with one edit of the `manifest`, the only commit point; the
//! `catalog` file is generated from the manifest for the DuckDB CLI, and the [`Reader`] answers typed
//! questions inside the process. Nothing here knows gRPC or Kubernetes.
//!
//! ```text
//! <dir>/LOCK            held by the running aggregator
//! <dir>/MANIFEST        live files and the WAL position they reach
//! <dir>/wal/            accepted frames
//! <dir>/segments/       Parquet: <table>/date=YYYY-MM-DD/…
//! <dir>/memory.duckdb   views and macros, for any DuckDB
//! <dir>/tmp/            what DuckDB spills; emptied at start
//! ```

mod catalog;
mod compact;
mod disk;
mod duck;
mod error;
mod lock;
mod manifest;
mod reader;
mod rows;
mod segments;
mod table;
mod wal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aftertrace_api::proto::WalFrame;
use aftertrace_model::Timestamp;
use duckdb::Connection;

pub use error::StoreError;
pub(crate) use manifest::Manifest;
pub(crate) use reader::known::{EdgeId, VersionId};
pub use reader::{AnchorGroup, AnchorQuery, Anchors, ObjectAt, Reader};
pub(crate) use rows::Rows;
pub(crate) use table::Table;
pub(crate) use wal::Wal;
pub(crate) use wal::recover::{Damage, Recovered};

use manifest::Manifests;
use segments::Segments;

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
    shared: Arc<Shared>,
    reader: Reader,
}

/// What the writer's threads have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    dir: PathBuf,
    cluster: String,
    manifests: Arc<Manifests>,
    segments: Segments,
    /// Whether the manifest changed since the catalog was published.
    changed: AtomicBool,
    /// Freed when the last thread lets go.
    _lock: lock::Lock,
}

/// Threads of the reader's DuckDB: as many as a small node has to spare beside the writer.
const READER_THREADS: i64 = 2;

impl Store {
    /// Locks the data directory, reads the manifest and removes what it does not list.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has the directory, [`StoreError::Damaged`] if the manifest
    /// is not whole or names a file that is gone, [`StoreError::Io`] if the system refuses a file. Damage in
    /// the WAL is no error: it becomes a gap when the writer starts.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        disk::make_dir(&config.dir)?;
        // The catalog names files by absolute paths, so that it can be read from anywhere.
        let dir = config.dir.canonicalize().map_err(StoreError::io("resolve", &config.dir))?;
        let lock = lock::take(&dir)?;
        let spill = dir.join("tmp");
        disk::make_dir(&spill)?;
        for file in disk::files(&spill)? {
            disk::remove(&file)?;
        }
        let manifests = Arc::new(Manifests::open(&dir)?);
        let segments = Segments::open(&dir)?;
        let removed = segments.remove_garbage(&manifests)?;
        let manifest = manifests.current();
        tracing::info!(
            dir = %dir.display(),
            position = manifest.position,
            segments = manifest.segments.len(),
            removed,
            "opened the store"
        );
        let instance = duck::open(&spill, READER_THREADS)?;
        let reader = Reader::new(Arc::clone(&manifests), segments.clone(), instance);
        let shared = Shared {
            dir,
            cluster: config.cluster,
            manifests,
            segments,
            changed: AtomicBool::new(true),
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared), reader })
    }

    /// Path of `memory.duckdb`. The file is there from the writer's start on.
    #[must_use]
    pub fn catalog_path(&self) -> PathBuf {
        self.shared.catalog_path()
    }

    /// A reader of this store. It stays valid after the store went to the writer.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    pub(crate) fn into_parts(self) -> (Arc<Shared>, Reader) {
        (self.shared, self.reader)
    }
}

impl Shared {
    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        self.manifests.current()
    }

    /// Passes every frame that is not in segments to `take`; see [`wal::recover::replay`].
    pub(crate) fn replay(
        &self,
        take: impl FnMut(u64, WalFrame) -> Result<(), StoreError>,
    ) -> Result<Recovered, StoreError> {
        let manifest = self.manifest();
        wal::recover::replay(&self.dir, manifest.position, manifest.recorded_at, take)
    }

    /// The end of the log, to go on at `next`.
    pub(crate) fn wal(&self, next: u64) -> Wal {
        Wal::new(&self.dir, next)
    }

    /// Publishes rows as segments: everything from the WAL up to `position`, and what was derived from it.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is published; the same rows may be given again.
    pub(crate) fn flush(&self, rows: &Rows, position: u64, recorded_at: Timestamp) -> Result<(), StoreError> {
        let before = self.manifest().position;
        let written = self.segments.write(&self.manifests, rows, (before + 1, position))?;
        self.manifests.commit(|manifest| {
            manifest.segments.extend(written);
            manifest.position = position;
            manifest.recorded_at = Some(recorded_at);
        })?;
        self.note_change();
        // The rows are published: frames that stay behind cost space, and nothing else.
        if let Err(error) = wal::trim(&self.dir, position) {
            tracing::warn!(%error, "failed to remove old WAL files");
        }
        Ok(())
    }

    /// Publishes the catalog if the manifest changed since. Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError`]: the catalog before stays; the next call tries again.
    pub(crate) fn publish(&self) -> Result<bool, StoreError> {
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(false);
        }
        let published = catalog::publish(&self.catalog_path(), &self.manifest(), &self.segments);
        if published.is_err() {
            self.note_change();
        }
        published.map(|()| true)
    }

    /// A DuckDB instance for compaction, apart from the reader's, so that neither starves the other.
    pub(crate) fn compactor(&self) -> Result<Connection, StoreError> {
        duck::open(&self.dir.join("tmp"), 1)
    }

    /// Does the next step of compaction; see [`compact::step`].
    pub(crate) fn compact(&self, connection: &Connection, now: Timestamp) -> Result<bool, StoreError> {
        compact::step(self, connection, now)
    }

    fn note_change(&self) {
        self.changed.store(true, Ordering::Release);
    }

    fn catalog_path(&self) -> PathBuf {
        catalog_path(&self.dir)
    }
}

fn catalog_path(dir: &Path) -> PathBuf {
    dir.join("memory.duckdb")
}
