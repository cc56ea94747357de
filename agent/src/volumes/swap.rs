//! A confirmed swap → `config_swapped` events: one for each ConfigMap or Secret whose files changed.
//!
//! Pure. A service-account token and a downward API field share volumes with configuration and are written
//! the same way; a swap that changed nothing else is not one of configuration.

use std::collections::{BTreeMap, HashMap};

use aftertrace_model::config::ObjectKey;
use aftertrace_model::{Content, Event, Kind, ObjectRef, Occurrence, Severity, Source as EventSource, text};
use serde_json::Value;

use super::files::Files;
use super::roots::Swap;
use super::sources::{MountedObject, Source, VolumeSources};
use crate::attribute::pods::KnownPod;
use crate::draft::{self, Origin};
use crate::kernel::{Rename, RenameCall};

/// Most changed keys named in one event.
const CHANGED_MAX: usize = 64;

/// The hook behind it: the call that renamed.
fn hook(rename: &Rename) -> String {
    match rename.call {
        RenameCall::Any => "fexit:vfs_rename".to_owned(),
        call => format!("tp:syscalls/sys_exit_{}", call.as_str()),
    }
}

/// The keys by which values are hashed, by object; in memory only.
pub(crate) type Keys = HashMap<MountedObject, ObjectKey>;

/// The events of a swap in a known pod; empty if no configuration changed.
pub(crate) fn events(
    origin: &Origin,
    swap: &Swap,
    rename: &Rename,
    occurred: Occurrence,
    pod: &KnownPod,
    keys: &Keys,
) -> Vec<Event> {
    let unknown = VolumeSources::default();
    let sources = pod.volumes.get(&swap.volume.volume).unwrap_or(&unknown);
    let mut events = Vec::new();
    for (source, changed) in affected(swap, sources) {
        let mut event = bare(origin, swap, rename, occurred);
        draft::of_pod(&mut event, pod);
        let subject = match source {
            Some(source) => {
                let object = &source.object;
                event.object = Some(ObjectRef {
                    kind: object.kind.to_owned(),
                    namespace: object.namespace.clone(),
                    name: object.name.clone(),
                    uid: None,
                    resource_version: None,
                });
                event.content = swap
                    .files
                    .as_ref()
                    .zip(keys.get(object))
                    .map(|(files, key)| content(files, sources, source, key));
                format!("{} {}", object.kind, text::escape(&object.name))
            }
            None => {
                let of = sources.objects.iter().map(|s| format!("{} {}", s.object.kind, s.object.name));
                let candidates: Vec<Value> = of.map(|c| text::escape(&c).into()).collect();
                event.attributes.insert("aftertrace.object.candidates".to_owned(), candidates.into());
                "one of several objects".to_owned()
            }
        };
        if event.content.is_none() {
            event.attributes.insert("aftertrace.content".to_owned(), "hash unavailable".into());
        }
        if let Some(changed) = changed {
            let names: Vec<Value> =
                changed.iter().take(CHANGED_MAX).map(|c| text::escape(c).into()).collect();
            event.attributes.insert("aftertrace.changed_keys".to_owned(), names.into());
        }
        let volume = text::escape(&swap.volume.volume);
        let generation = text::escape(&swap.generation);
        let pod = draft::pod_name(&pod.pod);
        event.summary = format!("volume {volume} of {pod} now shows generation {generation} of {subject}");
        events.push(event);
    }
    events
}

/// The event of a swap whose pod did not become known.
pub(crate) fn unattributed(origin: &Origin, swap: &Swap, rename: &Rename, occurred: Occurrence) -> Event {
    let mut event = bare(origin, swap, rename, occurred);
    event.attributes.insert("aftertrace.content".to_owned(), "hash unavailable".into());
    event.attributes.insert("aftertrace.hint.pod.uid".to_owned(), swap.volume.uid.clone().into());
    event.summary = format!(
        "volume {} of an unknown pod now shows generation {}",
        text::escape(&swap.volume.volume),
        text::escape(&swap.generation)
    );
    event
}

fn bare(origin: &Origin, swap: &Swap, rename: &Rename, occurred: Occurrence) -> Event {
    let mut event = draft::event(origin, Kind::ConfigSwapped, EventSource::Kernel, &hook(rename), occurred);
    event.boot_ns = Some(rename.boot_ns);
    event.pid = Some(rename.writer.tgid);
    event.severity = Severity::Info;
    let attributes = &mut event.attributes;
    let mut put = |name: &str, value: Value| {
        attributes.insert(name.to_owned(), value);
    };
    put("k8s.volume.name", text::escape(&swap.volume.volume).into());
    put("aftertrace.volume.plugin", swap.volume.plugin.clone().into());
    put("aftertrace.volume.generation", text::escape(&swap.generation).into());
    put("aftertrace.volume.previous_generation", text::escape(&swap.previous).into());
    put("process.pid", rename.writer.tgid.into());
    put("aftertrace.rename.enter_boot_ns", rename.enter_boot_ns.into());
    if let Some(comm) = &rename.writer.comm {
        put("process.command", text::escape(comm).into());
    }
    event
}

/// Changed configuration by source; `None` as source where the pod spec cannot tell which. Without a
/// comparison every source may have changed.
fn affected<'a>(swap: &Swap, sources: &'a VolumeSources) -> Vec<(Option<&'a Source>, Option<Vec<String>>)> {
    let Some(changed) = &swap.changed else {
        return sources.objects.iter().map(|s| (Some(s), None)).collect();
    };
    let mut of_source: BTreeMap<&'a MountedObject, (&'a Source, Vec<String>)> = BTreeMap::new();
    let mut of_some = Vec::new();
    for path in changed.iter().filter(|p| sources.is_configuration(p)) {
        match sources.owner_of(path.as_str()) {
            Some((source, key)) => {
                let (_, keys) = of_source.entry(&source.object).or_insert((source, Vec::new()));
                keys.push(key.to_owned());
            }
            None => of_some.push(path.clone()),
        }
    }
    let mut affected: Vec<_> = of_source.into_values().map(|(s, keys)| (Some(s), Some(keys))).collect();
    if !of_some.is_empty() {
        affected.push((None, Some(of_some)));
    }
    affected
}

/// Keyed hashes of the files that show a source.
fn content(files: &Files, sources: &VolumeSources, source: &Source, key: &ObjectKey) -> Content {
    key.content(files.iter().filter_map(|(path, bytes)| {
        let (owner, name) = sources.owner_of(path)?;
        (owner == source).then_some((name, bytes.as_slice()))
    }))
}

#[cfg(test)]
mod tests;
