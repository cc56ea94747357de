//! Segments: immutable Parquet files, `<table>/date=YYYY-MM-DD/<first>-<last>-<number>.l<level>.parquet`.
//!
//! A flush writes one file per table and partition and syncs files and folders before the manifest may name
//! them. Names carry the WAL positions they cover, for people, and a number that is never used again, so that a reader
//! with an old catalog finds the old file or none. Nothing here decides what is live.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::manifest::{Manifest, Manifests, Segment};
use super::rows::Rows;
use super::{StoreError, Table, disk, table};

/// The folder of all segments.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    dir: PathBuf,
}

impl Segments {
    /// Makes the folders and the zero-row file of each table, so that a view always has a file to read.
    pub(super) fn open(data: &Path) -> Result<Self, StoreError> {
        let segments = Self { dir: data.join("segments") };
        for table in Table::ALL {
            let seed = segments.path(&seed(table));
            if !seed.exists() {
                disk::make_dir(&segments.dir.join(table.name()))?;
                let aside = disk::aside(&seed);
                write(&aside, &RecordBatch::new_empty(table.schema()))?;
                disk::publish(&aside, &seed)?;
            }
        }
        disk::sync_dir(&segments.dir)?;
        Ok(segments)
    }

    /// The whole path of a file.
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    /// The path and folder for a new file of a partition; makes the folder.
    pub(super) fn place(&self, table: Table, day: i64, name: &str) -> Result<(String, PathBuf), StoreError> {
        let relative = format!("{}/date={}/{name}", table.name(), table::date(day));
        let path = self.path(&relative);
        let folder = path.parent().unwrap_or(&self.dir);
        if !folder.is_dir() {
            disk::make_dir(folder)?;
            disk::sync_dir(&self.dir.join(table.name()))?;
        }
        Ok((relative, path))
    }

    /// Writes rows to new files, durably. `positions` are the first and last WAL position they come from.
    ///
    /// # Errors
    /// [`StoreError`]: what was written is removed again, as far as the disk lets us.
    pub(super) fn write(
        &self,
        manifests: &Manifests,
        rows: &Rows,
        positions: (u64, u64),
    ) -> Result<Vec<Arc<Segment>>, StoreError> {
        let mut written: Vec<Arc<Segment>> = Vec::new();
        let mut folders = Vec::new();
        let result = rows.parts().into_iter().try_for_each(|part| {
            let name = format!("{}-{}-{}.l0.parquet", positions.0, positions.1, manifests.next_file());
            let (relative, path) = self.place(part.table, part.day, &name)?;
            written.push(Arc::new(Segment {
                table: part.table,
                path: relative,
                day: part.day,
                level: 0,
                rows: part.batch.num_rows() as u64,
                min: part.min,
                max: part.max,
            }));
            folders.extend(path.parent().map(Path::to_owned));
            write(&path, &part.batch)
        });
        let result = result.and_then(|()| folders.iter().try_for_each(|folder| disk::sync_dir(folder)));
        match result {
            Ok(()) => Ok(written),
            Err(error) => {
                for segment in &written {
                    // The space may be what is missing; a file that stays is garbage at the next start.
                    let _ = fs::remove_file(self.path(&segment.path));
                }
                Err(error)
            }
        }
    }

    /// Removes every file that the manifest does not name, and tells the manifest the numbers in use.
    pub(super) fn remove_garbage(&self, manifests: &Manifests) -> Result<usize, StoreError> {
        let manifest = manifests.current();
        let named = named(&manifest);
        let mut removed = 0;
        for table in Table::ALL {
            let folder = self.dir.join(table.name());
            let mut files = disk::files(&folder)?;
            for partition in disk::folders(&folder)? {
                files.extend(disk::files(&partition)?);
            }
            for file in files {
                manifests.skip_file(number_of(&file));
                let relative = file.strip_prefix(&self.dir).ok().and_then(Path::to_str);
                let keep = relative.is_some_and(|r| r == seed(table) || named.contains(r));
                if !keep {
                    disk::remove(&file)?;
                    removed += 1;
                }
            }
        }
        for segment in &manifest.segments {
            let path = self.path(&segment.path);
            if !path.is_file() {
                let reason = "the manifest names it and it is not there".to_owned();
                return Err(StoreError::Damaged { path, reason });
            }
        }
        Ok(removed)
    }
}

fn named(manifest: &Manifest) -> std::collections::HashSet<&str> {
    let live = manifest.segments.iter().map(|s| s.path.as_str());
    live.chain(manifest.retired.iter().map(|r| r.path.as_str())).collect()
}

/// The zero-row file of a table, below `segments`.
pub(super) fn seed(table: Table) -> String {
    format!("{}/seed.parquet", table.name())
}

/// The number in a file's name: the digits before the level. 0 where there is none.
fn number_of(path: &Path) -> u64 {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    name.split('.').next().and_then(|stem| stem.rsplit('-').next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Writes one Parquet file and syncs it.
fn write(path: &Path, batch: &RecordBatch) -> Result<(), StoreError> {
    let file = File::create(path).map_err(StoreError::io("create", path))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("aftertrace".to_owned())
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut writer = ArrowWriter::try_new_with_options(file, batch.schema(), options)
        .map_err(StoreError::segment("start", path))?;
    writer.write(batch).map_err(StoreError::segment("write", path))?;
    let file = writer.into_inner().map_err(StoreError::segment("finish", path))?;
    file.sync_all().map_err(StoreError::io("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_read_from_the_name() {
        assert_eq!(number_of(Path::new("/d/events/date=2026-11-20/12-90-345.l0.parquet")), 345);
        assert_eq!(number_of(Path::new("/d/events/seed.parquet")), 0);
        assert_eq!(number_of(Path::new("/d/events/x-99999999999999999999.l0.parquet")), 0);
    }
}
