//! The writer's thread: takes groups from the queue, commits them, and keeps the flusher busy.

use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::commit::{Core, Pending};
use super::flush::{self, Flusher, Order};
use super::state::Work;
use super::{Command, Submission};
use crate::store::{Shared, StoreError};

/// Most submissions committed with one sync. A group of full batches is some 10 MB; beyond that a longer
/// group only adds latency.
const GROUP_SUBMISSIONS: usize = 64;

/// Rows wait at most this long for a flush (design: kernel to DuckDB CLI within 2 s).
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Rows from which a flush does not wait for its time.
const FLUSH_ROWS: usize = 100_000;

/// Rows that wait while the flusher is busy. At this many the writer waits for it, or refuses submissions if
/// the disk does not take them: some 500 MB of memory.
const BACKLOG_ROWS: usize = 400_000;

/// How often an idle writer looks whether evicted facts are to be told: well within their minute.
const LOOK_FOR_EVICTED: Duration = Duration::from_secs(10);

/// Starts the three threads.
pub(super) fn spawn(
    shared: Arc<Shared>,
    core: Core,
    queue: mpsc::Receiver<Command>,
) -> Result<(), StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|source| StoreError::Thread { name: "store-writer", source: Arc::new(source) })?;
    let (orders, order_queue) = std_mpsc::channel();
    let (flushed, flushed_queue) = mpsc::unbounded_channel();
    let (stop, stopped) = std_mpsc::channel();
    let (clock, state) = (core.clock, Arc::clone(&core.state));
    let flusher = start("store-flusher", {
        let (shared, state) = (Arc::clone(&shared), Arc::clone(&state));
        move || flush::run(&shared, &state, clock, &order_queue, &flushed)
    })?;
    let compactor = start("store-compactor", {
        let (shared, state) = (Arc::clone(&shared), Arc::clone(&state));
        move || flush::compact(&shared, &state, clock, &stopped)
    })?;
    let main = Main {
        core,
        queue,
        flushed: flushed_queue,
        flusher: Flusher { orders, busy: false },
        due: Instant::now() + FLUSH_EVERY,
    };
    start("store-writer", move || {
        let (result, waiting) = runtime.block_on(main.run(flusher));
        drop(stop);
        if compactor.join().is_err() {
            tracing::error!("the compactor panicked");
        }
        // The data directory is free before anyone is told so.
        drop(shared);
        for done in waiting {
            let _ = done.send(result.clone());
        }
    })?;
    Ok(())
}

fn start<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<thread::JoinHandle<T>, StoreError> {
    let failed = |source| StoreError::Thread { name, source: Arc::new(source) };
    thread::Builder::new().name(name.to_owned()).spawn(work).map_err(failed)
}

struct Main {
    core: Core,
    queue: mpsc::Receiver<Command>,
    flushed: mpsc::UnboundedReceiver<u64>,
    flusher: Flusher,
    /// When pending rows are to be flushed.
    due: Instant,
}

type Waiting = Vec<oneshot::Sender<Result<(), StoreError>>>;

impl Main {
    /// Runs until shutdown; returns how the last flush went and who waits to hear it.
    async fn run(
        mut self,
        flusher: thread::JoinHandle<Result<(), StoreError>>,
    ) -> (Result<(), StoreError>, Waiting) {
        let mut waiting = Waiting::new();
        let mut commands = Vec::with_capacity(GROUP_SUBMISSIONS);
        loop {
            let idle = self.core.pending.rows.len() == 0;
            tokio::select! {
                biased;
                Some(position) = self.flushed.recv() => self.note_flushed(position),
                count = self.queue.recv_many(&mut commands, GROUP_SUBMISSIONS), if !self.is_full() => {
                    if count == 0 {
                        break;
                    }
                    let group = sort_out(&mut commands, &mut waiting);
                    self.take(group);
                }
                () = tokio::time::sleep_until(self.due.into()), if !idle && !self.flusher.busy => {}
                // A flusher that begins to fail must not keep submitters waiting without an answer.
                () = tokio::time::sleep(FLUSH_EVERY), if self.is_full() => {}
                // Evicted facts are told even if nothing more is submitted.
                () = tokio::time::sleep(LOOK_FOR_EVICTED), if self.core.evictions.is_waiting() => {}
            }
            self.core.tell_evicted(false);
            self.hand_over();
            if !waiting.is_empty() {
                self.drain(&mut waiting);
                break;
            }
        }
        (self.finish(flusher).await, waiting)
    }

    fn take(&mut self, group: Vec<Submission>) {
        if group.is_empty() {
            return;
        }
        if self.core.pending.rows.len() >= BACKLOG_ROWS && self.core.state.is_degraded(Work::Flush) {
            let rows = self.core.pending.rows.len();
            for submission in group {
                let _ = submission.done.send(Err(StoreError::Backlog { rows }));
            }
            return;
        }
        if self.core.pending.rows.len() == 0 {
            self.due = Instant::now() + FLUSH_EVERY;
        }
        self.core.commit(group);
    }

    /// Whether the queue must wait for a flusher that gets on.
    fn is_full(&self) -> bool {
        self.flusher.busy
            && self.core.pending.rows.len() >= BACKLOG_ROWS
            && !self.core.state.is_degraded(Work::Flush)
    }

    fn note_flushed(&mut self, position: u64) {
        self.flusher.busy = false;
        self.core.dedupe.flushed(position);
    }

    /// Gives pending rows to an idle flusher once their time or number has come.
    fn hand_over(&mut self) {
        let rows = self.core.pending.rows.len();
        let due = rows >= FLUSH_ROWS || (rows > 0 && Instant::now() >= self.due);
        if due && !self.flusher.busy {
            self.order();
        }
    }

    fn order(&mut self) {
        let (position, recorded_at) = (self.core.pending.position, self.core.pending.recorded_at);
        let pending = Pending { rows: std::mem::take(&mut self.core.pending.rows), position, recorded_at };
        self.due = Instant::now() + FLUSH_EVERY;
        self.flusher.busy = self.flusher.orders.send(Order::Flush(Box::new(pending))).is_ok();
    }

    /// Commits what was submitted before the shutdown was asked for; later submitters see a closed queue.
    fn drain(&mut self, waiting: &mut Waiting) {
        self.queue.close();
        let mut commands = Vec::new();
        while let Ok(command) = self.queue.try_recv() {
            commands.push(command);
        }
        while !commands.is_empty() {
            let rest = commands.split_off(commands.len().min(GROUP_SUBMISSIONS));
            let group = sort_out(&mut commands, waiting);
            self.take(group);
            commands = rest;
        }
    }

    /// Waits for the flusher, gives it the rest, and lets it stop.
    async fn finish(mut self, flusher: thread::JoinHandle<Result<(), StoreError>>) -> Result<(), StoreError> {
        self.core.tell_evicted(true);
        // A flusher that cannot get on is not waited for: the rows are safe in the WAL.
        if self.flusher.busy && !self.core.state.is_degraded(Work::Flush) {
            match tokio::time::timeout(FINISH_WITHIN, self.flushed.recv()).await {
                Ok(Some(position)) => self.note_flushed(position),
                Ok(None) | Err(_) => tracing::error!("the last flush did not end; the WAL has its rows"),
            }
        }
        if !self.flusher.busy && self.core.pending.rows.len() > 0 {
            self.order();
            // An order to stop would make a flush that fails give up at once, which is what we want here.
        }
        let _ = self.flusher.orders.send(Order::Stop);
        flusher.join().unwrap_or(Err(StoreError::Closed))
    }
}

/// How long the last flush may take at shutdown: a Pod is given 30 s to end.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Takes submissions out of commands and remembers who waits for the end.
fn sort_out(commands: &mut Vec<Command>, waiting: &mut Waiting) -> Vec<Submission> {
    let mut group = Vec::with_capacity(commands.len());
    for command in commands.drain(..) {
        match command {
            Command::Submit(submission) => group.push(submission),
            Command::Shutdown(done) => waiting.push(done),
        }
    }
    group
}
