//! Claims → `config_read` and `config_stale` events.
//!
//! Pure. A service-account token and a downward API field are no configuration, and neither is an object of a
//! projected volume that the swap did not change.

use std::collections::BTreeMap;

use aftertrace_model::attribute::{
    FILE, HELD_GENERATION, PROCESS_COMMAND, PROCESS_START_BOOT_NS, READ_LATENCY_US, STALE_AFTER_S,
    VOLUME_GENERATION, VOLUME_NAME,
};
use aftertrace_model::{
    Content, Event, Kind, ObjectRef, Occurrence, Severity, Source as EventSource, Timestamp, text,
};
use serde_json::Value;

use super::judge::{Stale, Unknown, saw_before};
use super::{Read, SwapFact};
use crate::attribute::cgroup_name::ContainerId;
use crate::attribute::pods::{KnownPod, Life, Running};
use crate::draft::{self, Origin};
use crate::kernel::{Notice, OpenCall};
use crate::volumes::mounts::Part;
use crate::volumes::sources::{MountedObject, VolumeSources};
use crate::watchers::{Finding, Reason};

/// Most files named in one event.
const FILES_MAX: usize = 64;

/// Where stale configuration is concluded.
const HOOK: &str = "agent/reload";

/// The event of a first open; `None` where the file is no configuration that the swap brought. `content` gives
/// the hashes of an object.
pub(crate) fn read_event(
    origin: &Origin,
    read: &Read,
    occurred: Occurrence,
    (pod, life): (&KnownPod, &Life),
    content: impl FnOnce(&MountedObject) -> Option<Content>,
) -> Option<Event> {
    let sources = pod.volumes.get(&read.swap.volume.volume)?;
    if !sources.is_configuration(&read.path) {
        return None;
    }
    let object = sources.owner_of(&read.path).map(|(source, _)| &source.object);
    if !read.is_changed && !is_affected(sources, &read.swap, object) {
        return None;
    }
    let open = &read.open;
    let hook = match open.call {
        Some(call) => format!("tp:syscalls/sys_exit_{}", OpenCall::as_str(call)),
        None => "fexit:security_file_open".to_owned(),
    };
    let mut event = draft::event(origin, Kind::ConfigRead, EventSource::Kernel, &hook, occurred);
    draft::of_life(&mut event, pod, read.container.as_str(), life);
    event.boot_ns = Some(open.boot_ns);
    event.pid = Some(open.task.tgid);
    event.cgroup_id = open.cgroup_id;
    event.object = object.map(object_ref);
    event.content = object.and_then(content);
    let latency_us = open.boot_ns.saturating_sub(read.swap.boot_ns) / 1_000;
    let attributes = of_swap(&mut event, &read.swap);
    let mut put = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
    put(FILE, text::escape(&read.path).into());
    put(READ_LATENCY_US, latency_us.into());
    put("aftertrace.file.changed", read.is_changed.into());
    put("process.pid", open.task.tgid.into());
    if open.generation != read.swap.generation {
        // A later swap changed other files only; what was opened is what the earlier one brought.
        put("aftertrace.volume.opened_generation", text::escape(&open.generation).into());
    }
    let comm = text::escape(open.task.comm.as_deref().unwrap_or("?"));
    put(PROCESS_COMMAND, comm.clone().into());
    if let Some(start) = open.task.process_start_boot_ns {
        put(PROCESS_START_BOOT_NS, start.into());
    }
    event.summary = format!(
        "{comm} (pid {}) in container {} of {} opened {} {} after the swap",
        open.task.tgid,
        text::escape(&life.container),
        draft::pod_name(&pod.pod),
        text::escape(&read.path),
        duration(latency_us),
    );
    Some(event)
}

/// The event of an inotify event that was queued for a container.
pub(crate) fn notified_event(
    origin: &Origin,
    notice: &Notice,
    swap: &SwapFact,
    occurred: Occurrence,
    (pod, container, life): (&KnownPod, &ContainerId, &Life),
) -> Event {
    let hook = "fentry:inotify_handle_inode_event";
    let mut event = draft::event(origin, Kind::ConfigNotified, EventSource::Kernel, hook, occurred);
    draft::of_life(&mut event, pod, container.as_str(), life);
    event.boot_ns = Some(notice.boot_ns);
    event.pid = Some(notice.tgid);
    event.cgroup_id = notice.cgroup_id;
    let latency_us = notice.boot_ns.saturating_sub(swap.boot_ns) / 1_000;
    let comm = text::escape(notice.comm.as_deref().unwrap_or("?"));
    let attributes = of_swap(&mut event, swap);
    let mut put = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
    put("aftertrace.notify.mask", notice.mask.into());
    put("aftertrace.notify.latency_us", latency_us.into());
    put("process.pid", notice.tgid.into());
    put(PROCESS_COMMAND, comm.clone().into());
    if let Some(start) = notice.process_start_boot_ns {
        put(PROCESS_START_BOOT_NS, start.into());
    }
    event.summary = format!(
        "inotify told {comm} (pid {}) in container {} of {} of the swap of volume {}",
        notice.tgid,
        text::escape(&life.container),
        draft::pod_name(&pod.pod),
        text::escape(&swap.volume.volume),
    );
    event
}

/// The event of a process that follows a volume in vain.
pub(crate) fn watched_event(
    origin: &Origin,
    finding: &Finding,
    swap: &SwapFact,
    (pod, life): (&KnownPod, &Life),
    now: Timestamp,
) -> Event {
    let (hook, what) = match finding.reason {
        Reason::Deaf => ("proc/fdinfo", "watches what was removed"),
        Reason::HeldDescriptor => ("proc/fd", "has a removed file open"),
        Reason::HeldMapping => ("proc/maps", "has a removed file mapped"),
    };
    let occurred = Occurrence::between(swap.occurred.at, now.max(swap.occurred.latest));
    let mut event = draft::event(origin, Kind::ConfigWatched, EventSource::Node, hook, occurred);
    draft::of_life(&mut event, pod, finding.container.as_str(), life);
    event.pid = Some(finding.pid);
    event.reason = Some(finding.reason.as_str().to_owned());
    event.severity = Severity::Warning;
    let comm = text::escape(&finding.comm);
    let attributes = of_swap(&mut event, swap);
    let mut put = |name: &str, value: Value| attributes.insert(name.to_owned(), value);
    put("process.pid", finding.pid.into());
    put(PROCESS_COMMAND, comm.clone().into());
    if let Some(descriptor) = finding.descriptor {
        put("aftertrace.watch.descriptor", descriptor.into());
    }
    if let Some(inode) = finding.inode {
        put("aftertrace.watch.inode", inode.into());
    } else {
        put("aftertrace.watch.is_gone", true.into());
    }
    if let Some(generation) = &finding.generation {
        put(HELD_GENERATION, text::escape(generation).into());
    }
    if let Some(path) = &finding.path {
        put("aftertrace.watch.path", text::escape(path).into());
    }
    event.summary = format!(
        "{comm} (pid {}) in container {} of {} {what} from volume {}",
        finding.pid,
        text::escape(&life.container),
        draft::pod_name(&pod.pod),
        text::escape(&swap.volume.volume),
    );
    event
}

/// The event of files that were not opened in time.
pub(super) fn stale_event(
    origin: &Origin,
    pod: &KnownPod,
    container: &Running,
    stale: &Stale<'_>,
    stale_after_us: i64,
    now: Timestamp,
) -> Event {
    let mut event = bare(origin, pod, container, &stale.swap, stale.object, stale.reason, now);
    if stale.was_read_before == Some(false) {
        // It holds no old content: it may never need this file.
        event.severity = Severity::Info;
    }
    let after_s = stale_after_us / 1_000_000;
    put_files(&mut event, &stale.files);
    let mut put = |name: &str, value: Value| event.attributes.insert(name.to_owned(), value);
    put(STALE_AFTER_S, after_s.into());
    if let Some(was_read) = stale.was_read_before {
        put("aftertrace.stale.was_read_before", was_read.into());
    }
    if stale.superseded > 0 {
        put("aftertrace.stale.superseded", stale.superseded.into());
    }
    let why = match stale.reason {
        "deaf_watcher" => ": its watch is on what was removed",
        "notified_not_reopened" => ", though inotify told it",
        _ => "",
    };
    let never = if stale.was_read_before == Some(false) { ", and never before" } else { "" };
    event.summary = format!(
        "container {} of {} has not opened {} of {} {after_s} s after the swap{never}{why}",
        text::escape(&container.container),
        draft::pod_name(&pod.pod),
        names(&stale.files),
        subject(stale.object),
    );
    event
}

/// The events of containers that mount a part of a swapped volume: they keep what they were started with, by
/// construction, so there is nothing to wait for.
pub(super) fn sub_path_events(
    origin: &Origin,
    pod: &KnownPod,
    swap: &SwapFact,
    now: Timestamp,
) -> Vec<Event> {
    let name = swap.volume.volume.as_str();
    let (Some(sources), Some(changed)) = (pod.volumes.get(name), &swap.changed) else { return Vec::new() };
    let mut events = Vec::new();
    for container in pod.running.iter().filter(|container| saw_before(container, swap)) {
        let parts: Vec<&Part> = pod
            .mounts
            .iter()
            .filter(|mount| mount.volume == name && mount.container == container.container)
            .map(|mount| &mount.part)
            .collect();
        let mut by_object: BTreeMap<Option<&MountedObject>, Vec<String>> = BTreeMap::new();
        for path in changed {
            if sources.is_configuration(path) && parts.iter().any(|part| part.freezes(path)) {
                let object = sources.owner_of(path).map(|(source, _)| &source.object);
                by_object.entry(object).or_default().push(path.clone());
            }
        }
        for (object, files) in by_object {
            let mut event = bare(origin, pod, container, swap, object, "sub_path", now);
            put_files(&mut event, &files);
            event.summary = format!(
                "container {} of {} mounts {} of {} by subPath and keeps what it was started with",
                text::escape(&container.container),
                draft::pod_name(&pod.pod),
                names(&files),
                subject(object),
            );
            events.push(event);
        }
    }
    events
}

/// Why it is not known whether a container opened what changed.
pub(super) fn unknown(pod: &KnownPod, container: &Running, stale: &Stale<'_>) -> Unknown {
    let detail = format!(
        "opens may have been missed: whether container {} of {} opened {} since the swap is not known",
        text::escape(&container.container),
        draft::pod_name(&pod.pod),
        subject(stale.object),
    );
    Unknown { since: stale.swap.occurred.earliest, detail }
}

/// A `config_stale` event without its files and summary.
fn bare(
    origin: &Origin,
    pod: &KnownPod,
    container: &Running,
    swap: &SwapFact,
    object: Option<&MountedObject>,
    reason: &str,
    now: Timestamp,
) -> Event {
    // Not before its cause, whatever the clock did.
    let at = now.max(swap.occurred.latest);
    let occurred = Occurrence::within(at, 0);
    let mut event = draft::event(origin, Kind::ConfigStale, EventSource::Node, HOOK, occurred);
    draft::of_pod(&mut event, pod);
    match pod.containers().find(|(id, _)| **id == container.id) {
        Some((id, life)) => draft::of_life(&mut event, pod, id.as_str(), life),
        None => event.container = Some(container.container.clone()),
    }
    event.object = object.map(object_ref);
    event.reason = Some(reason.to_owned());
    event.severity = Severity::Warning;
    of_swap(&mut event, swap);
    event
}

fn of_swap<'e>(event: &'e mut Event, swap: &SwapFact) -> &'e mut aftertrace_model::Attributes {
    let attributes = &mut event.attributes;
    attributes.insert(VOLUME_NAME.to_owned(), text::escape(&swap.volume.volume).into());
    attributes.insert(VOLUME_GENERATION.to_owned(), text::escape(&swap.generation).into());
    attributes
}

fn put_files(event: &mut Event, files: &[String]) {
    let named: Vec<Value> = files.iter().take(FILES_MAX).map(|file| text::escape(file).into()).collect();
    event.attributes.insert("aftertrace.stale.files".to_owned(), named.into());
}

/// Whether a swap changed a file of the object; of several objects that cannot be told apart, of any.
fn is_affected(sources: &VolumeSources, swap: &SwapFact, object: Option<&MountedObject>) -> bool {
    let Some(changed) = &swap.changed else { return true };
    changed.iter().filter(|path| sources.is_configuration(path)).any(|path| {
        let owner = sources.owner_of(path).map(|(source, _)| &source.object);
        owner == object
    })
}

fn object_ref(object: &MountedObject) -> ObjectRef {
    ObjectRef {
        kind: object.kind.to_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: None,
        resource_version: None,
    }
}

fn subject(object: Option<&MountedObject>) -> String {
    match object {
        Some(object) => format!("{} {}", object.kind, text::escape(&object.name)),
        None => "one of several objects".to_owned(),
    }
}

fn names(files: &[String]) -> String {
    match files {
        [one] => text::escape(one),
        [first, rest @ ..] => format!("{} and {} more", text::escape(first), rest.len()),
        [] => "nothing".to_owned(),
    }
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{}.{} s", us / 1_000_000, us / 100_000 % 10),
    }
}
