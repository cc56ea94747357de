//! What must survive beside the items: the spool's id, and a small record written in place.
//!
//! The record has two slots written in turn, each with a generation and a checksum, so that a torn write
//! leaves the other. It is made once at full size: writing it needs no space on a full disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use aftertrace_model::Timestamp;
use uuid::Uuid;

use super::{SpoolError, io};

const SLOT_BYTES: usize = 64;
/// The slots lie in different sectors, so that one torn sector cannot take both.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];
const MAGIC: u32 = 0x5053_5441;

/// The record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Every sequence below it may have been used.
    pub(super) reserved: u64,
    /// Every item up to this sequence was acknowledged or given up.
    pub(super) acked: u64,
    /// When the agent was last alive.
    pub(super) alive: Timestamp,
    /// Whether it ended in order.
    pub(super) is_clean: bool,
}

/// The record on disk.
#[derive(Debug)]
pub(super) struct State {
    file: File,
    generation: u64,
    record: Record,
}

impl State {
    /// Opens the record, or makes it. `None` for the record of a file whose slots are both unreadable.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Record>, bool), SpoolError> {
        let path = dir.join("state");
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open", &path))?;
        if is_new {
            let size = SLOT_OFFSETS[1] as usize + SLOT_BYTES;
            file.write_all_at(&vec![0; size], 0).map_err(io("write", &path))?;
            file.sync_all().map_err(io("sync", &path))?;
        }
        let newest = SLOT_OFFSETS.iter().filter_map(|at| read_slot(&file, *at)).max_by_key(|(g, _)| *g);
        let generation = newest.map_or(0, |(generation, _)| generation);
        let record = newest.map(|(_, record)| record);
        Ok((Self { file, generation, record: record.unwrap_or_default() }, record, is_new))
    }

    /// The record as last stored.
    pub(super) const fn record(&self) -> Record {
        self.record
    }

    /// Writes the record; with `sync` it is on disk when this returns.
    pub(super) fn store(&mut self, record: Record, sync: bool) -> io::Result<()> {
        if record == self.record && !sync {
            return Ok(());
        }
        let generation = self.generation + 1;
        let at = SLOT_OFFSETS[usize::from(generation % 2 == 1)];
        self.file.write_all_at(&encode(generation, record), at)?;
        if sync {
            self.file.sync_data()?;
        }
        self.generation = generation;
        self.record = record;
        Ok(())
    }
}

fn encode(generation: u64, record: Record) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..4].copy_from_slice(&MAGIC.to_le_bytes());
    slot[8..16].copy_from_slice(&generation.to_le_bytes());
    slot[16..24].copy_from_slice(&record.reserved.to_le_bytes());
    slot[24..32].copy_from_slice(&record.acked.to_le_bytes());
    slot[32..40].copy_from_slice(&record.alive.as_micros().to_le_bytes());
    slot[40] = u8::from(record.is_clean);
    let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
    slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn read_slot(file: &File, at: u64) -> Option<(u64, Record)> {
    let mut slot = [0; SLOT_BYTES];
    file.read_exact_at(&mut slot, at).ok()?;
    let word = |from: usize| slot[from..].first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
    let crc = u32::from_le_bytes(*slot.last_chunk::<4>()?);
    let is_whole = slot[..4] == MAGIC.to_le_bytes() && crc32c::crc32c(&slot[..SLOT_BYTES - 4]) == crc;
    if !is_whole {
        return None;
    }
    let record = Record {
        reserved: word(16)?,
        acked: word(24)?,
        alive: Timestamp::from_micros(word(32)?.cast_signed()),
        is_clean: slot[40] == 1,
    };
    Some((word(8)?, record))
}

/// Reads the spool's id, or makes one where the spool is new.
pub(super) fn id(dir: &Path, has_segments: bool) -> Result<Uuid, SpoolError> {
    let path = dir.join("id");
    let read = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(id) = read {
        return Ok(id);
    }
    if has_segments {
        return Err(SpoolError::NoId { dir: dir.to_owned() });
    }
    new_id(dir)
}

/// Gives the spool a new id, in place of any that it had.
pub(super) fn new_id(dir: &Path) -> Result<Uuid, SpoolError> {
    let path = dir.join("id");
    let id = Uuid::new_v4();
    let aside = dir.join("id.new");
    let mut file = File::create(&aside).map_err(io("create", &aside))?;
    writeln!(file, "{id}").map_err(io("write", &aside))?;
    file.sync_all().map_err(io("sync", &aside))?;
    std::fs::rename(&aside, &path).map_err(io("rename", &aside))?;
    sync_dir(dir)?;
    Ok(id)
}

/// Makes names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: u64) -> Record {
        Record { reserved: n, acked: n / 2, alive: Timestamp::from_micros(7), is_clean: n.is_multiple_of(2) }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (mut state, none, is_new) = State::open(dir.path()).expect("opens");
        assert!(none.is_none() && is_new);
        for n in 1..=5 {
            state.store(record(n), n == 5).expect("stores");
        }
        let reread = |expected: Option<u64>| {
            let (_, found, is_new) = State::open(dir.path()).expect("opens");
            assert_eq!(found, expected.map(record));
            assert!(!is_new);
        };
        reread(Some(5));
        // Generation 5 is odd and lies in the second slot: damage there leaves generation 4.
        let file = OpenOptions::new().write(true).open(dir.path().join("state")).expect("opens");
        file.write_all_at(&[0xff], SLOT_OFFSETS[1] + 20).expect("writes");
        reread(Some(4));
        file.write_all_at(&[0xff], 20).expect("writes");
        reread(None);
    }

    #[test]
    fn an_id_is_made_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = id(dir.path(), false).expect("makes one");
        assert_eq!(id(dir.path(), true).expect("reads it"), made);
        std::fs::write(dir.path().join("id"), "junk").expect("writes");
        assert!(matches!(id(dir.path(), true), Err(SpoolError::NoId { .. })));
    }
}
