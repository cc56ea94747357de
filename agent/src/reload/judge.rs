//! Who has not opened what changed, once the time allowed is over.
//!
//! A claim needs all of these: the container runs, and did so well before the change; it mounts the volume
//! whole; opens were seen all the time since the change, and none was lost. What the container opened of the
//! volume before the change says whether it holds the old content at all: `was_read_before`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aftertrace_model::{Event, Timestamp};

use super::{Changed, Reload, SwapFact, Volume, events};
use crate::attribute::pods::{KnownPod, Pods, Running};
use crate::draft::Origin;
use crate::volumes::mounts::Part;
use crate::volumes::sources::{MountedObject, VolumeSources};

/// A status' start is floored to a second and read from the runtime's clock: a container that was started this
/// long before a swap, in microseconds, surely saw the generation before.
pub(super) const START_SLACK_US: i64 = 1_000_000;

/// How long an open's record may be on its way when the time is over, in microseconds: far longer than any
/// delay of the ring that was measured.
const GRACE_US: i64 = 1_000_000;

/// A container of which it is not known whether it opened what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// When the file changed.
    pub(crate) since: Timestamp,
    /// Where, for people.
    pub(crate) detail: String,
}

/// Files of one object in one container that were not opened since one swap.
#[derive(Clone, Debug)]
pub(super) struct Stale<'a> {
    pub(super) swap: Arc<SwapFact>,
    pub(super) object: Option<&'a MountedObject>,
    pub(super) files: Vec<String>,
    /// Whether one of them was opened in an older generation; nothing where that is not known.
    pub(super) was_read_before: Option<bool>,
    pub(super) superseded: u32,
    pub(super) reason: &'static str,
}

/// Whether the time of a change is over.
fn is_over(changed: &Changed, stale_after_us: i64, now: Timestamp) -> bool {
    !changed.is_judged
        && now.micros_since(changed.swap.occurred.latest) >= stale_after_us.saturating_add(GRACE_US)
}

impl Reload {
    /// Whether there is a change to judge.
    pub(crate) fn is_due(&self, stale_after_us: i64, now: Timestamp) -> bool {
        let mut changes = self.volumes.values().flat_map(|volume| volume.changed.values());
        changes.any(|changed| is_over(changed, stale_after_us, now))
    }

    /// Judges every change whose time is over. To be called when no record waits to be taken in.
    pub(crate) fn judge(
        &mut self,
        origin: &Origin,
        pods: &Pods,
        stale_after_us: i64,
        now: Timestamp,
    ) -> (Vec<Event>, Vec<Unknown>) {
        let (mut told, mut unknown) = (Vec::new(), Vec::new());
        self.held.expire(now);
        for volume in self.volumes.values_mut() {
            let due: Vec<String> = volume
                .changed
                .iter()
                .filter(|(_, changed)| is_over(changed, stale_after_us, now))
                .map(|(path, _)| path.clone())
                .collect();
            if due.is_empty() {
                continue;
            }
            let missed_at = volume.missed_at.max(self.missed_at);
            let uid = volume.swap.as_ref().map(|swap| swap.volume.uid.clone()).unwrap_or_default();
            if let Some(pod) = pods.get(&uid).filter(|pod| !pod.is_deleted()) {
                for container in whole_mounts(pod, volume) {
                    for stale in volume.stale(pod, container, &due, self.watching_since) {
                        let since = stale.swap.occurred.earliest;
                        let is_seen = self.watching_since.is_some_and(|watching| watching <= since)
                            && missed_at.is_none_or(|missed| missed < since);
                        if is_seen {
                            told.push(events::stale_event(
                                origin,
                                pod,
                                container,
                                &stale,
                                stale_after_us,
                                now,
                            ));
                        } else {
                            unknown.push(events::unknown(pod, container, &stale));
                        }
                    }
                }
            }
            for path in due {
                if let Some(changed) = volume.changed.get_mut(&path) {
                    changed.is_judged = true;
                }
            }
        }
        (told, unknown)
    }
}

/// Containers that run and mount the whole volume.
fn whole_mounts<'p>(pod: &'p KnownPod, volume: &Volume) -> Vec<&'p Running> {
    let name = volume.swap.as_ref().map_or("", |swap| swap.volume.volume.as_str());
    let mounts = |container: &Running| {
        pod.mounts
            .iter()
            .any(|m| m.volume == name && m.container == container.container && m.part == Part::Whole)
    };
    pod.running.iter().filter(|container| mounts(container)).collect()
}

impl Volume {
    /// What of the files due the container has not opened since they changed, by object and swap.
    fn stale<'p>(
        &self,
        pod: &'p KnownPod,
        container: &Running,
        due: &[String],
        watching_since: Option<Timestamp>,
    ) -> Vec<Stale<'p>> {
        let name = self.swap.as_ref().map_or("", |swap| swap.volume.volume.as_str());
        let Some(sources) = pod.volumes.get(name) else { return Vec::new() };
        let newest = self.readers.get(&container.id).map(|reader| &reader.newest);
        let watched_all = watching_since
            .is_some_and(|watching| watching <= container.started_at.plus_micros(-START_SLACK_US));
        let mut found: BTreeMap<(Option<&MountedObject>, u32), Stale<'p>> = BTreeMap::new();
        for path in due {
            let Some(changed) = self.changed.get(path) else { continue };
            let opened = newest.and_then(|newest| newest.get(path));
            let is_stale = opened.is_none_or(|number| *number < changed.number)
                && saw_before(container, &changed.swap)
                && sources.is_configuration(path);
            if !is_stale {
                continue;
            }
            let object = owner(sources, path);
            let stale = found.entry((object, changed.number)).or_insert_with(|| Stale {
                swap: Arc::clone(&changed.swap),
                object,
                files: Vec::new(),
                was_read_before: watched_all.then_some(false),
                superseded: 0,
                reason: self.reason(container, changed.number),
            });
            stale.files.push(path.clone());
            stale.superseded = stale.superseded.max(changed.superseded);
            if opened.is_some() {
                stale.was_read_before = Some(true);
            }
        }
        let mut found: Vec<Stale<'p>> = found.into_values().collect();
        for stale in &mut found {
            stale.files.sort();
        }
        found
    }
}

impl Volume {
    /// Why a container did not open what changed in a generation, as far as its watches explain it.
    fn reason(&self, container: &Running, number: u32) -> &'static str {
        if self.deaf.get(&container.id).is_some_and(|since| *since <= number) {
            "deaf_watcher"
        } else if self.notified.get(&container.id).is_some_and(|last| *last >= number) {
            "notified_not_reopened"
        } else {
            "not_reopened"
        }
    }
}

/// Whether the container surely ran before a swap.
pub(super) fn saw_before(container: &Running, swap: &SwapFact) -> bool {
    container.started_at.plus_micros(START_SLACK_US) <= swap.occurred.earliest
}

fn owner<'s>(sources: &'s VolumeSources, path: &str) -> Option<&'s MountedObject> {
    sources.owner_of(path).map(|(source, _)| &source.object)
}
