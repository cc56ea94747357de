//! Ring buffer → [`Record`] → channel, on readiness of the ring buffer's descriptor.
//!
//! The ring itself is the buffer: when the channel is full the drain waits, the ring fills, and what finds
//! no room is counted in the kernel. So nothing is dropped here but what cannot be decoded.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::{error, trace};

use super::{decode::Decoder, record::Record};

/// Records taken from the ring before others on the same thread get their turn. A record is decoded in
/// about a microsecond, so a batch keeps a single-threaded runtime for less than 0.1 ms.
const BATCH_RECORDS: usize = 64;

/// The reading end of the ring buffer.
pub struct Drain {
    ring: RingBuf<MapData>,
    decoder: Decoder,
    malformed: Arc<AtomicU64>,
}

/// Why a drain ended before its channel closed.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The runtime cannot watch the ring buffer's descriptor.
    #[error("the ring buffer cannot be watched for readiness")]
    Register(#[source] io::Error),
    /// Watching it failed later.
    #[error("watching the ring buffer failed")]
    Watch(#[source] io::Error),
}

/// The ring buffer as something that has a descriptor.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Drain {
    pub(super) fn new(ring: RingBuf<MapData>, decoder: Decoder, malformed: Arc<AtomicU64>) -> Self {
        Self { ring, decoder, malformed }
    }

    /// Sends every record, in the order of the ring, until the receiver is dropped.
    ///
    /// Runs on any Tokio runtime with I/O enabled, a single-threaded one included. Dropping the future loses
    /// at most one batch that was taken and not yet sent.
    ///
    /// # Errors
    /// The runtime cannot watch the ring buffer.
    pub async fn run(self, records: mpsc::Sender<Record>) -> Result<(), DrainError> {
        let Self { ring, decoder, malformed } = self;
        let mut ring = watch(Ring(ring)).map_err(DrainError::Register)?;
        let mut batch = Vec::with_capacity(BATCH_RECORDS);
        // What came before the descriptor was watched makes no edge, so the ring is read before the wait.
        loop {
            let is_empty = take_batch(&mut ring.get_mut().0, decoder, &malformed, &mut batch);
            trace!(records = batch.len(), "drained");
            for record in batch.drain(..) {
                if records.send(record).await.is_err() {
                    return Ok(());
                }
            }
            if is_empty {
                let mut ready = tokio::select! {
                    ready = ring.readable_mut() => ready.map_err(DrainError::Watch)?,
                    () = records.closed() => return Ok(()),
                };
                // Cleared before the ring is read again: a record committed from here on makes a new edge.
                ready.clear_ready();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Registers the ring's descriptor with the runtime.
#[expect(unsafe_code, reason = "a descriptor under watch must stay open, which only its owner can promise")]
fn watch(ring: Ring) -> io::Result<AsyncFd<Ring>> {
    // SAFETY: `Ring` owns the map and so its descriptor, always the same one, and neither it nor the drain
    // closes or replaces it before the `AsyncFd` is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?)
}

/// Decodes up to a batch; true if the ring was empty then.
fn take_batch(
    ring: &mut RingBuf<MapData>,
    decoder: Decoder,
    malformed: &AtomicU64,
    batch: &mut Vec<Record>,
) -> bool {
    for _ in 0..BATCH_RECORDS {
        let Some(item) = ring.next() else { return true };
        match decoder.decode(&item) {
            Ok(record) => batch.push(record),
            Err(error) => {
                // All are counted; one line says what is wrong with this build.
                if malformed.fetch_add(1, Ordering::Relaxed) == 0 {
                    error!(%error, bytes = item.len(), "a record of our own programs could not be decoded");
                }
            }
        }
    }
    false
}
