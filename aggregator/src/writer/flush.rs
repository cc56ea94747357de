//! The flusher and the compactor: the threads that turn rows into segments, publish, and merge.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::Clock;
use super::commit::Pending;
use super::state::{State, Work};
use crate::store::{Shared, StoreError};

/// Least time between two catalogs: as fresh as a person notices, and a bound on what publishing costs.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Pause after a failure before the same rows are tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often compaction looks for work.
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// What the flusher is asked to do.
pub(super) enum Order {
    /// Publish these rows; the answer is their position.
    Flush(Box<Pending>),
    /// Publish what there is and stop.
    Stop,
}

/// Runs until [`Order::Stop`] or until the writer is gone. Returns the last error that was not overcome.
pub(super) fn run(
    shared: &Shared,
    state: &Arc<State>,
    clock: Clock,
    orders: &Receiver<Order>,
    flushed: &UnboundedSender<u64>,
) -> Result<(), StoreError> {
    let mut published = Instant::now();
    loop {
        match orders.recv_timeout(PUBLISH_EVERY) {
            Ok(Order::Flush(pending)) => {
                flush(shared, state, &pending, orders)?;
                // The writer may be gone after a panic; there is nobody to tell then.
                let _ = flushed.send(pending.position);
            }
            Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return publish(shared, state, clock),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if published.elapsed() >= PUBLISH_EVERY {
            published = Instant::now();
            // Noted in the state, and tried again in a second.
            let _ = publish(shared, state, clock);
        }
    }
}

/// Tries until it succeeds; gives up only if it is told to stop meanwhile.
fn flush(
    shared: &Shared,
    state: &State,
    pending: &Pending,
    orders: &Receiver<Order>,
) -> Result<(), StoreError> {
    loop {
        let result = shared.flush(&pending.rows, pending.position, pending.recorded_at);
        state.note(Work::Flush, &result);
        let Err(error) = result else { break };
        // No second flush is ordered before the first is answered, so any order is one to stop.
        match orders.recv_timeout(RETRY_AFTER) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(error),
        }
    }
    state.flushed(&shared.manifest());
    Ok(())
}

fn publish(shared: &Shared, state: &State, clock: Clock) -> Result<(), StoreError> {
    let result = shared.publish();
    state.note(Work::Catalog, &result);
    if result? {
        state.published(clock());
    }
    Ok(())
}

/// Merges segments until `stop` is closed.
pub(super) fn compact(shared: &Shared, state: &State, clock: Clock, stop: &Receiver<()>) {
    let connection = shared.compactor();
    state.note(Work::Compaction, &connection);
    let Ok(connection) = connection else { return };
    loop {
        let step = shared.compact(&connection, clock());
        state.note(Work::Compaction, &step);
        let more = step.unwrap_or(false);
        let pause = if more { Duration::ZERO } else { COMPACT_EVERY };
        match stop.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// The way to the flusher, as the writer's thread holds it.
pub(super) struct Flusher {
    pub(super) orders: Sender<Order>,
    /// Whether an order is under way; there is at most one.
    pub(super) busy: bool,
}
