//! Reads the log after a start: cuts off a torn tail, steps over damage and says what it cost.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use aftertrace_api::frame::{self, Next};
use aftertrace_api::proto::WalFrame;
use aftertrace_model::Timestamp;
use prost::Message;

use super::files;
use crate::store::{StoreError, disk};

/// Frames that were acknowledged and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The file in which it shows.
    pub(crate) path: PathBuf,
    /// First position that is missing.
    pub(crate) first: u64,
    /// How many frames are missing; `None` at the end of the log, where that cannot be known.
    pub(crate) frames: Option<u64>,
    /// When the frame before was recorded.
    pub(crate) after: Option<Timestamp>,
    /// When the frame that follows was recorded.
    pub(crate) before: Option<Timestamp>,
}

/// What a pass over the log found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The position after the last frame.
    pub(crate) next: u64,
    /// What was lost above the position that segments reach.
    pub(crate) damage: Vec<Damage>,
}

/// Passes every frame above `position` to `take`, in order, each position once.
///
/// A torn tail of the last file, which nobody was told of, is cut off. `recorded_at` is that of `position`.
///
/// # Errors
/// [`StoreError::Io`], or what `take` returns.
pub(crate) fn replay(
    data: &Path,
    position: u64,
    recorded_at: Option<Timestamp>,
    mut take: impl FnMut(u64, WalFrame) -> Result<(), StoreError>,
) -> Result<Recovered, StoreError> {
    let dir = data.join("wal");
    disk::make_dir(&dir)?;
    let files = files(&dir)?;
    let mut damage = Vec::new();
    let (mut last, mut last_at) = (position, recorded_at);
    // Where bytes that are no frame were met since the last frame.
    let mut damaged: Option<PathBuf> = None;
    let count = files.len();
    for (index, (_, path)) in files.into_iter().enumerate() {
        let bytes = fs::read(&path).map_err(StoreError::io("read", &path))?;
        let mut at = 0;
        loop {
            match frame::next(&bytes[at..]) {
                Next::Frame { payload, size } => {
                    at += size;
                    let Some(frame) = WalFrame::decode(payload).ok().filter(|f| f.position > 0) else {
                        damaged = Some(path.clone());
                        continue;
                    };
                    // At or below: in segments already, or written twice because its first sync failed.
                    if frame.position > last {
                        let recorded_at = Timestamp::from_micros(frame.recorded_at_us);
                        if frame.position > last + 1 {
                            damage.push(Damage {
                                path: path.clone(),
                                first: last + 1,
                                frames: Some(frame.position - last - 1),
                                after: last_at,
                                before: Some(recorded_at),
                            });
                        }
                        (last, last_at) = (frame.position, Some(recorded_at));
                        take(frame.position, frame)?;
                    }
                    damaged = None;
                }
                Next::End => break,
                Next::Torn => {
                    if index + 1 == count {
                        cut(&path, at)?;
                    }
                    break;
                }
                Next::Corrupt { skip } => {
                    damaged = Some(path.clone());
                    match skip {
                        Some(skip) => at += skip,
                        None => break,
                    }
                }
            }
        }
    }
    let mut next = last + 1;
    if let Some(path) = damaged {
        damage.push(Damage { path, first: next, frames: None, after: last_at, before: None });
        // At least one frame was there; its number is not given out again.
        next += 1;
    }
    Ok(Recovered { next, damage })
}

/// Cuts a file after its last whole frame, so that no later start reads the rest again.
fn cut(path: &Path, length: usize) -> Result<(), StoreError> {
    if length == 0 {
        return disk::remove(path);
    }
    let file = OpenOptions::new().write(true).open(path).map_err(StoreError::io("open", path))?;
    file.set_len(length as u64).and_then(|()| file.sync_all()).map_err(StoreError::io("cut", path))
}

#[cfg(test)]
mod tests;
