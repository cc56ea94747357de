//! Compaction: merges small files of a partition into sorted larger ones, in the background.
//!
//! Rows never change, only the files they lie in: a merge reads some live files, writes their rows sorted into
//! one file of the next level, and replaces them in one edit of the manifest. Replaced files stay for readers
//! that have an older catalog open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aftertrace_model::Timestamp;
use duckdb::Connection;

use super::manifest::{Manifest, Retired, Segment};
use super::{Shared, StoreError, Table, disk, duck, table};

/// Files of one level and partition from which they are merged. At one flush per second: a minute's files
/// every half minute, a quarter of an hour's every quarter of an hour, and so on by thirties.
const FILES_MAX: usize = 30;

/// Level of files that are merged no further by count: thirty times thirty flushes, thirty times over.
const LEVEL_MAX: u32 = 3;

/// Rows from which a file is large enough and left alone (some 60 MB at 30 bytes per row).
const ROWS_MAX: u64 = 2_000_000;

/// How long a replaced file stays: longer than any question a person waits for (design: at least 15 min).
const GRACE: Duration = Duration::from_secs(15 * 60);

/// After how many days without being today a partition's remaining files become one.
const CLOSED_DAYS: i64 = 2;

/// A merge to be done.
#[derive(Debug, PartialEq, Eq)]
struct Merge {
    inputs: Vec<Arc<Segment>>,
}

/// Does the next merge there is, if any, and removes replaced files whose time has come.
///
/// Returns whether there may be more to do at once.
///
/// # Errors
/// [`StoreError`]: nothing changed but for files that no manifest names.
pub(super) fn step(shared: &Shared, connection: &Connection, now: Timestamp) -> Result<bool, StoreError> {
    remove_retired(shared, now)?;
    let Some(merge) = choose(&shared.manifests.current(), table::day_of(now)) else { return Ok(false) };
    let merged = match run(shared, connection, &merge) {
        Ok(merged) => Arc::new(merged),
        Err(error) => return Err(error),
    };
    shared.manifests.commit(|manifest| {
        let replaced = |s: &Arc<Segment>| merge.inputs.iter().any(|input| input.path == s.path);
        let retired = manifest.segments.iter().filter(|s| replaced(s));
        manifest.retired.extend(retired.map(|s| Retired { path: s.path.clone(), at: now }));
        manifest.segments.retain(|s| !replaced(s));
        manifest.segments.push(Arc::clone(&merged));
    })?;
    shared.note_change();
    tracing::debug!(files = merge.inputs.len(), rows = merged.rows, path = merged.path, "merged segments");
    Ok(true)
}

/// The first merge that is due: the lowest level first, as small files cost readers most.
fn choose(manifest: &Manifest, today: i64) -> Option<Merge> {
    let mut groups: BTreeMap<(u32, Table, i64), Vec<&Arc<Segment>>> = BTreeMap::new();
    for segment in manifest.segments.iter().filter(|s| s.rows < ROWS_MAX) {
        groups.entry((segment.level.min(LEVEL_MAX), segment.table, segment.day)).or_default().push(segment);
    }
    let due = groups.iter().find(|((level, ..), files)| *level < LEVEL_MAX && files.len() > FILES_MAX);
    if let Some((_, files)) = due {
        return Some(Merge { inputs: files.iter().map(|s| Arc::clone(s)).collect() });
    }
    let mut days: BTreeMap<(Table, i64), Vec<&Arc<Segment>>> = BTreeMap::new();
    for segment in manifest.segments.iter().filter(|s| s.rows < ROWS_MAX && s.day <= today - CLOSED_DAYS) {
        days.entry((segment.table, segment.day)).or_default().push(segment);
    }
    // Late rows of an old day trickle in; a few files are no harm, and merging each at once would rewrite the
    // day again and again.
    let closed = days.into_values().find(|files| files.len() > 3)?;
    Some(Merge { inputs: closed.into_iter().map(Arc::clone).collect() })
}

fn run(shared: &Shared, connection: &Connection, merge: &Merge) -> Result<Segment, StoreError> {
    let first = merge.inputs.first().expect("a merge has inputs");
    let level = merge.inputs.iter().map(|s| s.level).max().unwrap_or(0).saturating_add(1);
    let number = shared.manifests.next_file();
    let name = format!("{}-{number}.l{level}.parquet", positions(&merge.inputs));
    let (relative, path) = shared.segments.place(first.table, first.day, &name)?;
    let inputs: Vec<String> =
        merge.inputs.iter().map(|s| duck::quote(&shared.segments.path(&s.path).to_string_lossy())).collect();
    let sql = format!(
        "COPY (SELECT * FROM read_parquet([{}], hive_partitioning = false) ORDER BY {}) TO {} \
         (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)",
        inputs.join(", "),
        first.table.sort_key(),
        duck::quote(&path.to_string_lossy())
    );
    let rows: u64 = merge.inputs.iter().map(|s| s.rows).sum();
    let copied = connection
        .execute(&sql, [])
        .map_err(StoreError::query("merge segments"))
        .and_then(|copied| {
            if copied as u64 == rows {
                std::fs::File::open(&path).and_then(|f| f.sync_all()).map_err(StoreError::io("sync", &path))
            } else {
                let reason = format!("{copied} rows came out of {rows}");
                Err(StoreError::Damaged { path: path.clone(), reason })
            }
        })
        .and_then(|()| disk::sync_dir(path.parent().unwrap_or(&path)));
    if let Err(error) = copied {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    Ok(Segment {
        table: first.table,
        path: relative,
        day: first.day,
        level,
        rows,
        min: merge.inputs.iter().map(|s| s.min).min().unwrap_or_default(),
        max: merge.inputs.iter().map(|s| s.max).max().unwrap_or_default(),
    })
}

/// `<first>-<last>` WAL position of some files, read from their names, which are for people alone.
fn positions(files: &[Arc<Segment>]) -> String {
    let part = |s: &Segment, index: usize| -> Option<u64> {
        s.path.rsplit('/').next()?.split('-').nth(index)?.parse().ok()
    };
    let first = files.iter().filter_map(|s| part(s, 0)).min().unwrap_or(0);
    let last = files.iter().filter_map(|s| part(s, 1)).max().unwrap_or(0);
    format!("{first}-{last}")
}

/// Unlinks replaced files after their grace. First the manifest forgets them: a crash between the two leaves
/// garbage, never a name without a file.
fn remove_retired(shared: &Shared, now: Timestamp) -> Result<(), StoreError> {
    let grace = i64::try_from(GRACE.as_micros()).unwrap_or(i64::MAX);
    let over = |r: &Retired| now.micros_since(r.at) >= grace;
    let due: Vec<Retired> = shared.manifests.current().retired.iter().filter(|r| over(r)).cloned().collect();
    if due.is_empty() {
        return Ok(());
    }
    shared.manifests.commit(|manifest| manifest.retired.retain(|r| !due.contains(r)))?;
    due.iter().try_for_each(|r| disk::remove(&shared.segments.path(&r.path)))
}

#[cfg(test)]
mod tests;
