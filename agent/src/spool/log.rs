//! The spool's segment files: appended to, read in order, unlinked when they are of no more use.
//!
//! A frame holds consecutive items. Sequences rise through the log and may jump: what a crash took is not
//! used again. Where the disk takes nothing, items wait in memory, within a bound, and the oldest are given
//! up and counted, as they are where the log is longer than allowed.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aftertrace_api::frame::{self, Next};
use aftertrace_api::proto::{Item, SpoolFrame, item};
use aftertrace_model::{Event, Timestamp};
use prost::Message;

use super::{KEPT_US, SpoolError, TAIL_EVENTS_MAX, io as failed, state};

/// Bytes at which a segment is closed. Small enough that keeping ten minutes costs little more than that.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Most items and bytes of one frame: a frame is read at once, and a damaged one is lost at once.
const FRAME_ITEMS_MAX: usize = 256;
const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Most items that wait in memory while the disk takes none: a minute of a busy node, a few megabytes.
const MEMORY_ITEMS_MAX: usize = 10_000;

/// An item with its place in the spool.
pub(super) type Entry = (u64, Item);

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    /// First and last sequence in it.
    first: u64,
    last: u64,
    bytes: u64,
    newest: Timestamp,
}

/// Where the next read goes on.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    segment_first: u64,
    offset: u64,
    sequence: u64,
}

/// What was given up since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// Items that no longer had room.
    pub(super) items: u64,
    /// Segments whose rest could not be read back.
    pub(super) damaged: u64,
}

/// The log.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    bytes_max: u64,
    segments: VecDeque<Segment>,
    active: Option<File>,
    memory: VecDeque<Entry>,
    cursor: Option<Cursor>,
    acked: u64,
    given_up: GivenUp,
}

/// What opening found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) damaged: u64,
    pub(super) last: u64,
    pub(super) unacked: u64,
    pub(super) tail: Vec<Event>,
}

impl Log {
    /// Opens the segments of a directory: cuts torn tails, skips damage, and starts a new segment with the
    /// first append.
    pub(super) fn open(
        dir: &Path,
        bytes_max: u64,
        acked: u64,
        now: Timestamp,
    ) -> Result<(Self, Found), SpoolError> {
        let mut log = Self {
            dir: dir.to_owned(),
            bytes_max,
            segments: VecDeque::new(),
            active: None,
            memory: VecDeque::new(),
            cursor: None,
            acked,
            given_up: GivenUp::default(),
        };
        let mut found = Found::default();
        let mut tail = VecDeque::new();
        for path in segment_paths(dir)? {
            log.recover(&path, now, &mut found, &mut tail)?;
        }
        found.tail = tail.into();
        Ok((log, found))
    }

    /// Writes items, whose sequences rise, and makes them durable. What the disk does not take stays in
    /// memory and is tried again; the error says why.
    pub(super) fn append(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
        now: Timestamp,
    ) -> io::Result<()> {
        self.memory.extend(entries);
        let result = self.flush(now);
        while self.memory.len() > MEMORY_ITEMS_MAX {
            self.memory.pop_front();
            self.given_up.items += 1;
        }
        result
    }

    /// Tries to write what waits in memory.
    pub(super) fn flush(&mut self, now: Timestamp) -> io::Result<()> {
        while !self.memory.is_empty() {
            let count = frame_len(&self.memory);
            self.write_frame(count, now)?;
            self.memory.drain(..count);
            self.bound();
        }
        Ok(())
    }

    fn write_frame(&mut self, count: usize, now: Timestamp) -> io::Result<()> {
        let (first, last) = (self.memory[0].0, self.memory[count - 1].0);
        let items = self.memory.iter().take(count).map(|(_, item)| item.clone()).collect();
        let mut bytes = Vec::new();
        frame::append(&SpoolFrame { first_sequence: first, items }, &mut bytes);
        let is_full = self.segments.back().is_none_or(|s| s.bytes >= self.segment_bytes());
        if self.active.is_none() || is_full {
            self.roll(first, now)?;
        }
        let (Some(file), Some(segment)) = (&self.active, self.segments.back_mut()) else { return Ok(()) };
        let written = file.write_all_at(&bytes, segment.bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What came through in part must not be read; a segment that cannot even be cut is left as it
            // is, and the next frame goes to a new one.
            if file.set_len(segment.bytes).is_err() {
                self.active = None;
            }
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        segment.last = last;
        segment.newest = now;
        Ok(())
    }

    fn roll(&mut self, first: u64, now: Timestamp) -> io::Result<()> {
        self.active = None;
        if let Some(empty) = self.segments.pop_back_if(|s| s.bytes == 0) {
            std::fs::remove_file(empty.path)?;
        }
        let path = self.dir.join(format!("{first:020}.spool"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        File::open(&self.dir)?.sync_all()?;
        let last = first.saturating_sub(1);
        self.segments.push_back(Segment { path, first, last, bytes: 0, newest: now });
        self.active = Some(file);
        Ok(())
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.bytes_max / 4)
    }

    /// The highest sequence that can be read.
    pub(super) fn last(&self) -> u64 {
        let on_disk = self.segments.back().map_or(0, |s| s.last);
        self.memory.back().map_or(on_disk, |(sequence, _)| *sequence)
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Items that the disk has not taken.
    pub(super) fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// Everything up to `through` is acknowledged.
    pub(super) fn ack(&mut self, through: u64) {
        self.acked = self.acked.max(through);
        while self.memory.front().is_some_and(|(sequence, _)| *sequence <= self.acked) {
            self.memory.pop_front();
        }
    }

    /// Every item up to here was acknowledged.
    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }

    /// What was given up since the last call.
    pub(super) fn take_given_up(&mut self) -> GivenUp {
        std::mem::take(&mut self.given_up)
    }

    /// Unlinks acknowledged segments that the engine's window no longer needs.
    pub(super) fn reap(&mut self, now: Timestamp) {
        while let Some(oldest) = self.segments.front() {
            let is_active = self.segments.len() == 1 && self.active.is_some();
            let is_old = now.micros_since(oldest.newest) > KEPT_US;
            if is_active || !is_old || oldest.last > self.acked {
                return;
            }
            self.unlink_oldest();
        }
    }

    /// Gives up the oldest segments while there are more bytes than allowed.
    fn bound(&mut self) {
        while self.bytes() > self.bytes_max && self.segments.len() > 1 {
            let lost = self.segments.front().map_or(0, |s| unacked_in(&s.path, self.acked));
            self.given_up.items += lost;
            self.unlink_oldest();
        }
    }

    fn unlink_oldest(&mut self) {
        if let Some(oldest) = self.segments.pop_front() {
            // A file that cannot be unlinked is found again at the next start.
            let _ = std::fs::remove_file(&oldest.path);
            self.acked = self.acked.max(oldest.last);
        }
    }

    /// Reads consecutive items from the first whose sequence is at least `from`.
    ///
    /// Shape: at most `items_max` items, about `bytes_max` bytes, at least one item; `None` where there is
    /// none yet. The first sequence may be above `from`.
    pub(super) fn read(
        &mut self,
        from: u64,
        items_max: usize,
        bytes_max: usize,
    ) -> io::Result<Option<(u64, Vec<Item>)>> {
        let mut batch: Vec<Item> = Vec::new();
        let mut first = from;
        let mut bytes = 0;
        while batch.len() < items_max && bytes < bytes_max {
            let next = first + batch.len() as u64;
            let Some((start, items)) = self.read_frame(next)? else { break };
            if batch.is_empty() {
                first = start;
            } else if start != next {
                break;
            }
            for item in items.into_iter().take(items_max - batch.len()) {
                bytes += item.encoded_len();
                batch.push(item);
            }
        }
        Ok((!batch.is_empty()).then_some((first, batch)))
    }

    /// The rest of the frame that holds `from`, or the first frame after it.
    fn read_frame(&mut self, from: u64) -> io::Result<Option<(u64, Vec<Item>)>> {
        while let Some(index) = self.segments.iter().position(|s| s.last >= from && s.bytes > 0) {
            let segment = &self.segments[index];
            match find_in(segment, from, self.cursor) {
                Ok((cursor, frame)) => {
                    self.cursor = Some(cursor);
                    let skip = usize::try_from(from.saturating_sub(frame.first_sequence));
                    let items = frame.items.into_iter().skip(skip.unwrap_or(usize::MAX)).collect();
                    return Ok(Some((frame.first_sequence.max(from), items)));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    // The disk changed what was written: what is left of this segment cannot be trusted.
                    self.given_up.damaged += 1;
                    self.segments[index].last = from.saturating_sub(1);
                }
                Err(error) => return Err(error),
            }
        }
        let mut waiting = self.memory.iter().skip_while(|(sequence, _)| *sequence < from);
        let Some((start, item)) = waiting.next() else { return Ok(None) };
        let mut items = vec![item.clone()];
        for (sequence, item) in waiting.take(FRAME_ITEMS_MAX) {
            if *sequence != start + items.len() as u64 {
                break;
            }
            items.push(item.clone());
        }
        Ok(Some((*start, items)))
    }

    /// Takes over a segment of an earlier run; a damaged one is first replaced by its whole frames.
    fn recover(
        &mut self,
        path: &Path,
        now: Timestamp,
        found: &mut Found,
        tail: &mut VecDeque<Event>,
    ) -> Result<(), SpoolError> {
        let bytes = std::fs::read(path).map_err(failed("read", path))?;
        let newest = std::fs::metadata(path)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|d| i64::try_from(d.as_micros()).ok())
            .map_or(now, Timestamp::from_micros);
        let mut whole = Vec::with_capacity(bytes.len());
        let mut range: Option<(u64, u64)> = None;
        let mut rest = bytes.as_slice();
        loop {
            match frame::next(rest) {
                Next::Frame { payload, size } => {
                    match SpoolFrame::decode(payload) {
                        Ok(frame) if !frame.items.is_empty() => {
                            let last = frame.first_sequence + frame.items.len() as u64 - 1;
                            range = Some((range.map_or(frame.first_sequence, |(first, _)| first), last));
                            found.unacked += last.saturating_sub(self.acked).min(frame.items.len() as u64);
                            remember(tail, frame.items, now);
                            whole.extend_from_slice(&rest[..size]);
                        }
                        _ => found.damaged += 1,
                    }
                    rest = &rest[size..];
                }
                Next::End | Next::Torn => break,
                Next::Corrupt { skip } => {
                    found.damaged += 1;
                    let Some(skip) = skip else { break };
                    rest = &rest[skip..];
                }
            }
        }
        let Some((first, last)) = range else {
            std::fs::remove_file(path).map_err(failed("remove", path))?;
            return Ok(());
        };
        if whole.len() != bytes.len() {
            replace(&self.dir, path, &whole)?;
        }
        found.last = found.last.max(last);
        let bytes = whole.len() as u64;
        self.segments.push_back(Segment { path: path.to_owned(), first, last, bytes, newest });
        Ok(())
    }
}

/// The first frame of a segment that reaches to `from`, which the segment does hold.
fn find_in(segment: &Segment, from: u64, cursor: Option<Cursor>) -> io::Result<(Cursor, SpoolFrame)> {
    let file = File::open(&segment.path)?;
    let resumed = cursor.filter(|c| c.segment_first == segment.first && c.sequence <= from);
    let mut offset = resumed.map_or(0, |c| c.offset);
    while offset < segment.bytes {
        let (frame, size) = frame_at(&file, offset, segment.bytes)?;
        if frame.first_sequence + frame.items.len() as u64 > from {
            let sequence = frame.first_sequence;
            return Ok((Cursor { segment_first: segment.first, offset, sequence }, frame));
        }
        offset += size;
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a segment ends before its last item"))
}

/// How many of the waiting items go into the next frame: consecutive, and within the bounds.
fn frame_len(waiting: &VecDeque<Entry>) -> usize {
    let mut bytes = 0;
    let mut count = 0;
    let first = waiting.front().map_or(0, |(sequence, _)| *sequence);
    for (sequence, item) in waiting.iter().take(FRAME_ITEMS_MAX) {
        bytes += item.encoded_len();
        if count > 0 && (bytes > FRAME_BYTES_MAX || *sequence != first + count as u64) {
            break;
        }
        count += 1;
    }
    count
}

fn frame_at(file: &File, offset: u64, end: u64) -> io::Result<(SpoolFrame, u64)> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a frame of the spool changed on disk");
    let mut header = [0; frame::HEADER_BYTES];
    file.read_exact_at(&mut header, offset)?;
    let length = header.first_chunk::<4>().map_or(0, |l| u32::from_le_bytes(*l)) as usize;
    let room = usize::try_from(end - offset).unwrap_or(usize::MAX);
    if length == 0 || frame::HEADER_BYTES + length > room {
        return Err(damaged());
    }
    let mut bytes = vec![0; frame::HEADER_BYTES + length];
    file.read_exact_at(&mut bytes, offset)?;
    let Next::Frame { payload, size } = frame::next(&bytes) else { return Err(damaged()) };
    Ok((SpoolFrame::decode(payload).map_err(|_| damaged())?, size as u64))
}

/// Items of a segment above `acked`; 0 where it cannot be read.
fn unacked_in(path: &Path, acked: u64) -> u64 {
    let Ok(bytes) = std::fs::read(path) else { return 0 };
    let mut rest = bytes.as_slice();
    let mut items = 0;
    while let Next::Frame { payload, size } = frame::next(rest) {
        if let Ok(frame) = SpoolFrame::decode(payload) {
            let last = (frame.first_sequence + frame.items.len() as u64).saturating_sub(1);
            items += last.saturating_sub(acked).min(frame.items.len() as u64);
        }
        rest = &rest[size..];
    }
    items
}

fn remember(tail: &mut VecDeque<Event>, items: Vec<Item>, now: Timestamp) {
    for item in items {
        let Some(item::Item::Event(event)) = item.item else { continue };
        let Ok(event) = Event::try_from(event) else { continue };
        if now.micros_since(event.occurred.at) <= KEPT_US {
            tail.push_back(event);
        }
        if tail.len() > TAIL_EVENTS_MAX {
            tail.pop_front();
        }
    }
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let aside = path.with_extension("new");
    std::fs::write(&aside, bytes).map_err(failed("write", &aside))?;
    File::open(&aside).and_then(|f| f.sync_all()).map_err(failed("sync", &aside))?;
    std::fs::rename(&aside, path).map_err(failed("rename", &aside))?;
    state::sync_dir(dir)
}

/// The segments of a directory, oldest first; leftovers of an interrupted replacement are removed.
pub(super) fn segment_paths(dir: &Path) -> Result<Vec<PathBuf>, SpoolError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("spool") => paths.push(path),
            Some("new") => std::fs::remove_file(&path).map_err(failed("remove", &path))?,
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
