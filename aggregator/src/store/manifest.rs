//! The manifest: which segment files are live, and up to which WAL position they hold everything.
//!
//! It is the only commit point. A commit writes the whole list aside and renames it over `MANIFEST`: a crash
//! leaves the old list or the new one. Files that no list names are garbage. The list stays small (a few
//! hundred files, some 100 bytes each), which is why it is rewritten and not appended to.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aftertrace_api::frame::{self, Next};
use aftertrace_model::Timestamp;
use prost::Message;

use super::{StoreError, Table, disk};

/// The format this program writes and the newest it reads.
const FORMAT: u32 = 1;

/// A live segment file. Immutable, as the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its table.
    pub(crate) table: Table,
    /// Path below `segments`.
    pub(crate) path: String,
    /// Days since the Unix epoch of its partition.
    pub(crate) day: i64,
    /// How often its rows were merged; 0 is a flush.
    pub(crate) level: u32,
    /// Rows.
    pub(crate) rows: u64,
    /// Earliest time of a row, by the table's time column.
    pub(crate) min: Timestamp,
    /// Latest time of a row.
    pub(crate) max: Timestamp,
}

/// A file that was replaced and waits for its readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Retired {
    /// Path below `segments`.
    pub(crate) path: String,
    /// When it was replaced.
    pub(crate) at: Timestamp,
}

/// One state of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Counts commits.
    pub(crate) generation: u64,
    /// Every frame up to this WAL position is in `segments`, with all that was derived from it.
    pub(crate) position: u64,
    /// When the frame at `position` was recorded.
    pub(crate) recorded_at: Option<Timestamp>,
    /// Live files, oldest first.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// Replaced files that are still there.
    pub(crate) retired: Vec<Retired>,
}

impl Manifest {
    /// Live files of a table.
    pub(crate) fn of(&self, table: Table) -> impl Iterator<Item = &Arc<Segment>> {
        self.segments.iter().filter(move |s| s.table == table)
    }

    /// Rows of a table.
    pub(crate) fn rows(&self, table: Table) -> u64 {
        self.of(table).map(|s| s.rows).sum()
    }
}

/// The current manifest and the right to replace it.
#[derive(Debug)]
pub(crate) struct Manifests {
    path: PathBuf,
    current: Mutex<Arc<Manifest>>,
    /// The number for the next file's name. Above every number in any file name found at start.
    next_file: AtomicU64,
}

impl Manifests {
    /// Reads `MANIFEST` in `dir`; without one the store is empty.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("MANIFEST");
        disk::remove(&disk::aside(&path))?;
        let manifest = match std::fs::read(&path) {
            Ok(bytes) => read(&path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Manifest::default(),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        Ok(Self { path, next_file: AtomicU64::new(1), current: Mutex::new(Arc::new(manifest)) })
    }

    /// The current state.
    pub(crate) fn current(&self) -> Arc<Manifest> {
        Arc::clone(&self.hold())
    }

    /// Replaces the current state by what `edit` makes of it, durably.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the state in memory is unchanged; the one on disk is the old or the new one, so
    /// files of the new one must stay until a later commit succeeded.
    pub(crate) fn commit(&self, edit: impl FnOnce(&mut Manifest)) -> Result<Arc<Manifest>, StoreError> {
        let mut current = self.hold();
        let mut next = Manifest::clone(&current);
        edit(&mut next);
        next.generation += 1;
        let mut bytes = Vec::new();
        frame::append(&ManifestRecord::from(&next), &mut bytes);
        disk::replace(&self.path, &bytes)?;
        *current = Arc::new(next);
        Ok(Arc::clone(&current))
    }

    /// A number that no file name has or had.
    pub(crate) fn next_file(&self) -> u64 {
        self.next_file.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes [`Manifests::next_file`] go on above `number`.
    pub(super) fn skip_file(&self, number: u64) {
        self.next_file.fetch_max(number.saturating_add(1), Ordering::Relaxed);
    }

    fn hold(&self) -> MutexGuard<'_, Arc<Manifest>> {
        // The value is replaced whole, so a panic elsewhere cannot have left it half done.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, bytes: &[u8]) -> Result<Manifest, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let Next::Frame { payload, size } = frame::next(bytes) else {
        return Err(damaged("its checksum is wrong"));
    };
    if size != bytes.len() {
        return Err(damaged("bytes follow the list"));
    }
    let record = ManifestRecord::decode(payload).map_err(|error| damaged(&error.to_string()))?;
    if record.format > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found: record.format, known: FORMAT });
    }
    let mut segments = Vec::with_capacity(record.segments.len());
    for s in record.segments {
        let table = Table::by_name(&s.table).ok_or_else(|| damaged("it names an unknown table"))?;
        segments.push(Arc::new(Segment {
            table,
            path: s.path,
            day: s.day,
            level: s.level,
            rows: s.rows,
            min: Timestamp::from_micros(s.min_us),
            max: Timestamp::from_micros(s.max_us),
        }));
    }
    Ok(Manifest {
        generation: record.generation,
        position: record.position,
        recorded_at: record.recorded_at_us.map(Timestamp::from_micros),
        segments,
        retired: record
            .retired
            .into_iter()
            .map(|r| Retired { path: r.path, at: Timestamp::from_micros(r.at_us) })
            .collect(),
    })
}

impl From<&Manifest> for ManifestRecord {
    fn from(m: &Manifest) -> Self {
        Self {
            format: FORMAT,
            generation: m.generation,
            position: m.position,
            recorded_at_us: m.recorded_at.map(Timestamp::as_micros),
            segments: m
                .segments
                .iter()
                .map(|s| SegmentRecord {
                    table: s.table.name().to_owned(),
                    path: s.path.clone(),
                    day: s.day,
                    level: s.level,
                    rows: s.rows,
                    min_us: s.min.as_micros(),
                    max_us: s.max.as_micros(),
                })
                .collect(),
            retired: m
                .retired
                .iter()
                .map(|r| RetiredRecord { path: r.path.clone(), at_us: r.at.as_micros() })
                .collect(),
        }
    }
}

/// What lies in `MANIFEST`: one frame of this message. It is no part of the wire contract.
#[derive(Clone, PartialEq, Message)]
struct ManifestRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(uint64, tag = "3")]
    position: u64,
    #[prost(int64, optional, tag = "4")]
    recorded_at_us: Option<i64>,
    #[prost(message, repeated, tag = "5")]
    segments: Vec<SegmentRecord>,
    #[prost(message, repeated, tag = "6")]
    retired: Vec<RetiredRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct SegmentRecord {
    #[prost(string, tag = "1")]
    table: String,
    #[prost(string, tag = "2")]
    path: String,
    #[prost(int64, tag = "3")]
    day: i64,
    #[prost(uint32, tag = "4")]
    level: u32,
    #[prost(uint64, tag = "5")]
    rows: u64,
    #[prost(int64, tag = "6")]
    min_us: i64,
    #[prost(int64, tag = "7")]
    max_us: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RetiredRecord {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(int64, tag = "2")]
    at_us: i64,
}
