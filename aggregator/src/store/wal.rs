//! The write-ahead log: frames in files `wal/<first position>.wal`, durable before anyone is told so.
//!
//! A group of frames is appended and synced at once. After any failure the file is given up: its unacknowledged
//! bytes are cut off, and the group goes into a new file once more, because a page that failed to sync may be
//! lost although a later sync succeeds. Reading is in [`recover`].

pub(super) mod recover;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{StoreError, disk};

/// Size from which a file is left for a new one. Bounds what a start reads in vain and what recovery holds in
/// memory at once.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// The end of the log.
#[derive(Debug)]
pub(crate) struct Wal {
    dir: PathBuf,
    /// The position of the next frame.
    next: u64,
    active: Option<Active>,
}

#[derive(Debug)]
struct Active {
    path: PathBuf,
    file: File,
    /// Bytes that are synced.
    durable: u64,
}

impl Wal {
    /// Goes on at `next`, in a new file.
    pub(super) fn new(data: &Path, next: u64) -> Self {
        Self { dir: data.join("wal"), next, active: None }
    }

    /// The position of the next frame.
    pub(crate) fn next_position(&self) -> u64 {
        self.next
    }

    /// Makes `frames` encoded frames durable, numbered from [`Wal::next_position`].
    ///
    /// # Errors
    /// [`StoreError::Io`]: none of them counts. Their positions are used again if their bytes are surely gone.
    pub(crate) fn append(&mut self, frames: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if self.try_append(bytes).is_err() {
            // One new file at once: where only the old one was bad nobody need notice.
            self.give_up();
            if let Err(error) = self.try_append(bytes) {
                if !self.give_up() {
                    self.next += frames;
                }
                return Err(error);
            }
        }
        self.next += frames;
        Ok(())
    }

    fn try_append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.active.as_ref().is_some_and(|a| a.durable >= FILE_BYTES) {
            self.active = None;
        }
        if self.active.is_none() {
            self.active = Some(self.create()?);
        }
        let active = self.active.as_mut().expect("set above");
        active.file.write_all(bytes).map_err(StoreError::io("append to", &active.path))?;
        active.file.sync_data().map_err(StoreError::io("sync", &active.path))?;
        active.durable += bytes.len() as u64;
        Ok(())
    }

    fn create(&self) -> Result<Active, StoreError> {
        let path = self.dir.join(file_name(self.next));
        // A file of this name holds no acknowledged frame: this position was never acknowledged.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        disk::sync_dir(&self.dir)?;
        Ok(Active { path, file, durable: 0 })
    }

    /// Leaves the active file with its durable bytes only. Returns whether the rest is surely gone.
    fn give_up(&mut self) -> bool {
        let Some(active) = self.active.take() else { return true };
        let cut = active.file.set_len(active.durable).and_then(|()| active.file.sync_all());
        if let Err(error) = &cut {
            tracing::warn!(%error, path = %active.path.display(), "failed to cut off unacknowledged frames");
        }
        let gone = cut.is_ok();
        if gone && active.durable == 0 {
            // An empty file is harmless; it is removed for tidiness, and to give a full disk its entry back.
            let _ = std::fs::remove_file(&active.path);
        }
        gone
    }
}

/// The name of the file whose first frame has this position. Padded, so that names sort as positions do.
fn file_name(first: u64) -> String {
    format!("{first:020}.wal")
}

/// The log's files with their first positions, in order. Files of other names are not ours and are left alone.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut found: Vec<(u64, PathBuf)> = disk::files(dir)?
        .into_iter()
        .filter_map(|path| {
            let first = path.file_name()?.to_str()?.strip_suffix(".wal")?.parse().ok()?;
            Some((first, path))
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Removes files whose frames all lie at or below `position`. The last file stays: the writer may be in it.
pub(super) fn trim(data: &Path, position: u64) -> Result<(), StoreError> {
    let dir = data.join("wal");
    let files = files(&dir)?;
    let mut removed = false;
    for pair in files.windows(2) {
        if pair[1].0 <= position.saturating_add(1) {
            disk::remove(&pair[0].1)?;
            removed = true;
        }
    }
    if removed { disk::sync_dir(&dir) } else { Ok(()) }
}
