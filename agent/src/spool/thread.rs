//! The thread that owns the log, and the two handles to it: one writer, one reader.
//!
//! A group is whatever has come while the last one was synced: nothing waits for a timer, and one
//! `fdatasync` serves many. Items are shown to the reader once their group is on disk, or, while the disk
//! takes nothing, from memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aftertrace_api::proto::Item;
use aftertrace_model::{GapReason, Timestamp};
use prost::Message;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::log::{Entry, Log, segment_paths};
use super::state::{self, Record, State};
use super::{BYTES_MIN, Options, Recovered, SpoolError, io as failed};
use crate::clock;
use crate::losses::Ledger;

/// Items on their way to the thread. The pipeline waits when it is full, and the kernel's ring counts what
/// is lost meanwhile.
const COMMANDS_MAX: usize = 4_096;

/// Most items of one group: bounds how long the first of them waits.
const GROUP_ITEMS_MAX: usize = 1_024;

/// Sequences reserved at once. A restart skips at most as many, of 2^64.
const RESERVED_BLOCK: u64 = 65_536;

/// How often a reservation is tried again that the disk did not take.
const RESERVE_RETRY: Duration = Duration::from_secs(1);

/// Largest item. What we make is bounded far below; a larger one is counted, not written.
const ITEM_BYTES_MAX: usize = 256 * 1024;

/// Bytes after which no further frame is added to a batch.
const BATCH_BYTES: usize = 512 * 1024;

/// How long an agent that ends may hold the spool: the kernel takes its programs down before it lets go of
/// its files, which takes some ten milliseconds. And how often to look.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// The component named in gaps.
const COMPONENT: &str = "agent/spool";

enum Command {
    /// Boxed: the others are small, and the queue is long.
    Append(Box<Entry>),
    Read {
        from: u64,
        items_max: usize,
        reply: oneshot::Sender<Option<Batch>>,
    },
    Ack {
        through: u64,
        items: u64,
    },
    Tick,
    Close {
        clean: bool,
    },
}

/// Consecutive items.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Sequence of the first.
    pub(crate) first: u64,
    /// The items.
    pub(crate) items: Vec<Item>,
}

/// How the spool stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Items up to here can be read.
    pub(crate) available: u64,
    /// Items up to here are acknowledged.
    pub(crate) acked: u64,
    /// Sequences below it may be used.
    reserved: u64,
    /// Items that are not acknowledged.
    pub(crate) unacked_items: u64,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Why the disk takes nothing, with the remedy.
    pub(crate) trouble: Option<String>,
}

/// Puts items into the spool, in order. There is one.
#[derive(Debug)]
pub(crate) struct Writer {
    spool_id: Uuid,
    next: u64,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    ended: oneshot::Receiver<()>,
}

/// Takes items out of the spool.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    spool_id: Uuid,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
}

/// Opens a spool and starts its thread.
///
/// # Errors
/// [`SpoolError`] where the directory cannot be used.
pub(crate) fn start(
    options: &Options,
    ledger: Arc<Ledger>,
) -> Result<(Writer, Reader, Recovered), SpoolError> {
    let now = clock::now();
    let dir = &options.dir;
    std::fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let lock_path = dir.join("lock");
    let lock = std::fs::File::create(&lock_path).map_err(failed("create", &lock_path))?;
    wait_for_lock(&lock).map_err(|error| match error {
        Errno::WOULDBLOCK => SpoolError::Locked { dir: dir.clone() },
        error => failed("lock", &lock_path)(error.into()),
    })?;
    let has_segments = !segment_paths(dir)?.is_empty();
    let (state, record, is_new) = State::open(dir)?;
    // With neither record nor segment nothing says which sequences an earlier id has used: it is let go.
    let is_unused = record.is_none() && !has_segments;
    let spool_id = if is_unused { state::new_id(dir)? } else { state::id(dir, has_segments)? };
    let acked = record.map_or(0, |r| r.acked);
    let (log, found) = Log::open(dir, options.bytes_max.max(BYTES_MIN), acked, now)?;
    // Where the record is gone, the segments say what was used at least; a lost block may lie above.
    let reserved = record.map_or(found.last + 2 * RESERVED_BLOCK, |r| r.reserved).max(found.last + 1);
    let next = if is_unused { 1 } else { reserved };
    let recovered = Recovered {
        spool_id,
        last_alive: record.map(|r| r.alive),
        ended_clean: record.is_some_and(|r| r.is_clean),
        damaged: found.damaged + u64::from(record.is_none() && (has_segments || !is_new)),
        tail: found.tail,
    };
    let mut owner = Owner {
        log,
        state,
        ledger,
        reserved: next,
        last: next - 1,
        unacked_items: found.unacked,
        trouble: None,
        progress: watch::Sender::new(Progress::default()),
        _lock: lock,
    };
    owner.reserve(next, now).map_err(failed("write", &dir.join("state")))?;
    owner.publish();
    let (commands, queue) = mpsc::channel(COMMANDS_MAX);
    let progress = owner.progress.subscribe();
    let (end, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || {
            owner.serve(queue);
            drop(owner);
            // The receiver is gone if nobody waits for the end.
            let _ = end.send(());
        })
        .map_err(failed("start a thread for", dir))?;
    let reader = Reader { spool_id, commands: commands.clone(), progress: progress.clone() };
    Ok((Writer { spool_id, next, commands, progress, ended }, reader, recovered))
}

/// Takes the lock, with patience for an agent that was killed and is not gone yet.
fn wait_for_lock(lock: &std::fs::File) -> Result<(), Errno> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(LOCK_POLL),
            result => return result,
        }
    }
}

impl Writer {
    /// The spool's id.
    pub(crate) const fn spool_id(&self) -> Uuid {
        self.spool_id
    }

    /// The sequence that the next item will have.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Appends one item and returns its sequence. Waits while the disk is behind.
    pub(crate) async fn append(&mut self, item: Item) -> u64 {
        let sequence = self.next;
        // Both end only with the thread, which ends only after `close`. While the disk takes no reservation
        // nothing else may come to the thread, so it is asked to try again.
        while tokio::time::timeout(RESERVE_RETRY, self.progress.wait_for(|p| p.reserved > sequence))
            .await
            .is_err()
        {
            self.tick();
        }
        let _ = self.commands.send(Command::Append(Box::new((sequence, item)))).await;
        self.next += 1;
        sequence
    }

    /// Says that the agent is alive; called about once a second.
    pub(crate) fn tick(&self) {
        // A full queue is as much a sign of life.
        let _ = self.commands.try_send(Command::Tick);
    }

    /// Writes what is left and ends the thread.
    pub(crate) async fn close(self) {
        let _ = self.commands.send(Command::Close { clean: true }).await;
        let _ = self.ended.await;
    }
}

impl Reader {
    /// The spool's id.
    pub(crate) const fn spool_id(&self) -> Uuid {
        self.spool_id
    }

    /// How the spool stands, with notice of changes.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Consecutive items from `from` on, or from the next that there is; `None` where there is none.
    pub(crate) async fn read(&self, from: u64, items_max: usize) -> Option<Batch> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Read { from, items_max, reply }).await.ok()?;
        answer.await.ok()?
    }

    /// Everything up to `through` is on the aggregator's disk; `items` of them were not before.
    pub(crate) async fn ack(&self, through: u64, items: u64) {
        let _ = self.commands.send(Command::Ack { through, items }).await;
    }
}

/// What the thread owns.
struct Owner {
    log: Log,
    state: State,
    ledger: Arc<Ledger>,
    reserved: u64,
    /// The last sequence that was used, or the one before the first that may be.
    last: u64,
    unacked_items: u64,
    trouble: Option<String>,
    /// Let go before `progress`, whose end tells others that the spool is free.
    _lock: std::fs::File,
    progress: watch::Sender<Progress>,
}

impl Owner {
    fn serve(&mut self, mut queue: mpsc::Receiver<Command>) {
        let mut others = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next {
                match command {
                    Command::Append(entry) => group.push(*entry),
                    other => others.push(other),
                }
                next = (group.len() < GROUP_ITEMS_MAX).then(|| queue.try_recv().ok()).flatten();
            }
            let now = clock::now();
            if !group.is_empty() {
                self.append(group, now);
            }
            for command in others.drain(..) {
                if let Command::Close { clean } = command {
                    self.end(clean, clock::now());
                    return;
                }
                self.obey(command, now);
            }
            self.publish();
        }
        self.end(false, clock::now());
    }

    fn append(&mut self, group: Vec<Entry>, now: Timestamp) {
        let last = group.last().map_or(0, |(sequence, _)| *sequence);
        let (fitting, large): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|(_, item)| item.encoded_len() <= ITEM_BYTES_MAX);
        if !large.is_empty() {
            let detail = format!("an item was larger than {ITEM_BYTES_MAX} bytes");
            self.ledger.add(COMPONENT, GapReason::RecordMalformed, now, large.len() as u64, &detail);
        }
        self.unacked_items += fitting.len() as u64;
        let result = self.log.append(fitting, now);
        self.settle(result, now);
        self.last = last;
        self.keep_reserved(now);
    }

    /// Reserves the next block while there is still half of this one.
    fn keep_reserved(&mut self, now: Timestamp) {
        if self.reserved.saturating_sub(self.last) < RESERVED_BLOCK / 2 {
            let result = self.reserve(self.last + 1, now);
            self.settle(result, now);
        }
    }

    fn obey(&mut self, command: Command, now: Timestamp) {
        match command {
            Command::Read { from, items_max, reply } => {
                let batch = match self.log.read(from, items_max, BATCH_BYTES) {
                    Ok(batch) => batch.map(|(first, items)| Batch { first, items }),
                    Err(error) => {
                        self.settle(Err(error), now);
                        None
                    }
                };
                // The reader may have given up waiting.
                let _ = reply.send(batch);
            }
            Command::Ack { through, items } => {
                self.log.ack(through);
                self.unacked_items = self.unacked_items.saturating_sub(items);
            }
            Command::Tick => {
                let result = self.log.flush(now);
                self.settle(result, now);
                self.log.reap(now);
                let record = Record { acked: self.log.acked(), alive: now, ..self.state.record() };
                // Without a sync: it survives the agent's death, and after the machine's the last synced
                // record only makes the gap longer.
                let result = self.state.store(record, false);
                self.settle(result, now);
                self.keep_reserved(now);
            }
            Command::Append(_) | Command::Close { .. } => {}
        }
        let given_up = self.log.take_given_up();
        if given_up.items > 0 {
            self.unacked_items = self.unacked_items.saturating_sub(given_up.items);
            let detail = "the oldest items that were not acknowledged had no more room";
            self.ledger.add(COMPONENT, GapReason::SpoolFull, now, given_up.items, detail);
        }
        if given_up.damaged > 0 {
            let detail = "the rest of a segment could not be read back";
            self.ledger.add(COMPONENT, GapReason::DiskCorrupt, now, 0, detail);
        }
    }

    /// Reserves a block from `from` on, durably, before any of it is used.
    fn reserve(&mut self, from: u64, now: Timestamp) -> std::io::Result<()> {
        let reserved = from + RESERVED_BLOCK;
        let record = Record { reserved, acked: self.log.acked(), alive: now, is_clean: false };
        self.state.store(record, true)?;
        self.reserved = reserved;
        Ok(())
    }

    fn settle(&mut self, result: std::io::Result<()>, _now: Timestamp) {
        match result {
            Ok(()) if self.log.in_memory() == 0 => {
                if self.trouble.take().is_some() {
                    tracing::info!("the spool's disk takes writes again");
                }
            }
            Ok(()) => {}
            Err(error) => {
                let trouble = format!("cannot write the spool: {error}; free space or move --spool");
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(%error, "cannot write the spool; items wait in memory");
                }
                self.trouble = Some(trouble);
            }
        }
    }

    fn end(&mut self, clean: bool, now: Timestamp) {
        let result = self.log.flush(now);
        let record = Record {
            reserved: self.reserved,
            acked: self.log.acked(),
            alive: now,
            is_clean: clean && result.is_ok(),
        };
        if let Err(error) = result.and_then(|()| self.state.store(record, true)) {
            tracing::warn!(%error, "cannot close the spool in order");
        }
        self.publish();
    }

    fn publish(&self) {
        let progress = Progress {
            available: self.log.last(),
            acked: self.log.acked(),
            reserved: self.reserved,
            unacked_items: self.unacked_items,
            bytes: self.log.bytes(),
            trouble: self.trouble.clone(),
        };
        self.progress.send_if_modified(|held| {
            let changed = *held != progress;
            *held = progress;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
