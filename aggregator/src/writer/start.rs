//! The writer's start: identities and the engine's window from segments, then the WAL through the same way as
//! live submissions.
//!
//! The window is rebuilt, not checkpointed: the engine is a function of the set of its facts, so the latest
//! facts of its kinds give the window that was there before, and replayed frames the same edges.

use std::sync::Arc;

use aftertrace_model::rule::RULES;
use aftertrace_model::{Engine, Gap, GapReason, Kind, Owner, Timestamp};
use uuid::Builder;

use super::commit::{Core, Pending};
use super::dedupe::Dedupe;
use super::evictions::Evictions;
use super::state::{State, Work};
use super::{Clock, Committed, ENGINE_BYTES, Facts, Origin};
use crate::store::{Damage, Reader, Shared, StoreError};

/// How far back history is told to the callback, from the newest fact.
const HISTORY_US: i64 = 2 * 3_600 * 1_000_000;

/// Most facts of history told to the callback.
const HISTORY_EVENTS: usize = 50_000;

/// Rows from which a replay is flushed before it goes on, so that it needs no more memory than live work.
const REPLAY_ROWS: usize = 200_000;

pub(super) fn start(
    shared: &Shared,
    reader: Reader,
    state: Arc<State>,
    clock: Clock,
    engine_facts: usize,
    mut on_commit: Box<dyn FnMut(&Committed) + Send>,
) -> Result<Core, StoreError> {
    let manifest = shared.manifest();
    state.committed(manifest.position, manifest.recorded_at);
    state.flushed(&manifest);
    let dedupe = Dedupe::load(&reader)?;
    let engine = window(&reader, engine_facts)?;
    tell_history(&reader, manifest.position, manifest.recorded_at, &mut on_commit)?;
    let pending = Pending {
        position: manifest.position,
        recorded_at: manifest.recorded_at.unwrap_or_default(),
        ..Pending::default()
    };
    // The end of the log is known after the replay; until then nothing is appended.
    let wal = shared.wal(manifest.position + 1);
    let (evictions, cluster) = (Evictions::default(), shared.cluster().to_owned());
    let mut core = Core { reader, wal, dedupe, engine, evictions, cluster, on_commit, clock, state, pending };
    let recovered = shared.replay(|position, frame| {
        core.replay(position, frame)?;
        if core.pending.rows.len() >= REPLAY_ROWS { flush(shared, &mut core) } else { Ok(()) }
    })?;
    core.wal = shared.wal(recovered.next);
    if !recovered.damage.is_empty() {
        report(shared, &mut core, &recovered.damage)?;
    }
    // Degraded, not fatal: what was replayed stays in memory and in the WAL, and is tried again.
    let flushed = flush(shared, &mut core);
    core.state.note(Work::Flush, &flushed);
    let published = shared.publish();
    core.state.note(Work::Catalog, &published);
    if published.is_ok() {
        core.state.published(clock());
    }
    Ok(core)
}

fn window(reader: &Reader, facts: usize) -> Result<Engine, StoreError> {
    let mut engine = Engine::new(Owner::Cluster, facts).within_bytes(ENGINE_BYTES);
    let mut kinds: Vec<Kind> =
        RULES.iter().filter(|r| r.owner == Owner::Cluster).flat_map(|r| [r.cause, r.effect]).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for event in reader.latest(&kinds, Timestamp::from_micros(i64::MIN / 2), facts)? {
        // What follows from these facts is in segments already.
        engine.observe(&Arc::new(event));
    }
    Ok(engine)
}

fn tell_history(
    reader: &Reader,
    position: u64,
    recorded_at: Option<Timestamp>,
    on_commit: &mut Box<dyn FnMut(&Committed) + Send>,
) -> Result<(), StoreError> {
    let Some(newest) = reader.newest_time() else { return Ok(()) };
    let events = reader.latest(&[], newest.plus_micros(-HISTORY_US), HISTORY_EVENTS)?;
    let Some(oldest) = events.first().map(|e| e.occurred.at) else { return Ok(()) };
    let edges = reader.edges_since(oldest)?;
    on_commit(&Committed {
        origin: Origin::History,
        wal_position: position,
        recorded_at: recorded_at.unwrap_or_default(),
        events: events.into_iter().map(Arc::new).collect(),
        edges,
        retractions: Vec::new(),
        objects: Vec::new(),
        gaps: Vec::new(),
    });
    Ok(())
}

fn flush(shared: &Shared, core: &mut Core) -> Result<(), StoreError> {
    if core.pending.position == shared.manifest().position {
        return Ok(());
    }
    let Pending { rows, position, recorded_at } = &core.pending;
    shared.flush(rows, *position, *recorded_at)?;
    core.dedupe.flushed(*position);
    core.pending.rows = Default::default();
    core.state.flushed(&shared.manifest());
    Ok(())
}

/// Turns damage into gaps. Their ids follow from the damage, so a second start before the next flush reports
/// them once.
fn report(shared: &Shared, core: &mut Core, damage: &[Damage]) -> Result<(), StoreError> {
    let mut gaps = Vec::new();
    for d in damage {
        tracing::error!(path = %d.path.display(), first = d.first, frames = d.frames, "the WAL is damaged");
        let to = d.before.unwrap_or_else(core.clock);
        gaps.push(Gap {
            gap_id: Builder::from_custom_bytes(super::dedupe::damage(shared.cluster(), d.first)).into_uuid(),
            cluster: shared.cluster().to_owned(),
            node: None,
            component: "aggregator/wal".to_owned(),
            reason: GapReason::DiskCorrupt,
            from: d.after.unwrap_or(to).min(to),
            to,
            // Frames, not items: how many items a frame held went with it.
            count: 0,
            detail: match d.frames {
                Some(frames) => format!("{frames} frames of the WAL from position {} are damaged", d.first),
                None => format!("the end of the WAL from position {} is damaged", d.first),
            },
            recorded_at: None,
        });
    }
    let result = core.make_durable(vec![Facts { gaps, ..Facts::default() }]);
    match result {
        // Told again at the next start, as the damage is still there.
        Err(error @ StoreError::Io { .. }) => {
            tracing::error!(%error, "failed to record the damage as a gap");
            Ok(())
        }
        other => other.map(|_| ()),
    }
}
