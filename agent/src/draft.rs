//! The fields that every event of this agent has, so that each subject fills in only its own.

use aftertrace_model::{Event, EventId, Kind, Occurrence, PodRef, Source};
use uuid::Uuid;

use crate::attribute::pods::{KnownPod, Life};

/// Longest message or reason taken over from a status, in characters. Kubernetes allows 4 KiB for a
/// termination message; the first line is what people look for.
pub(crate) const TEXT_CHARS_MAX: usize = 1_024;

/// Where this agent speaks from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The cluster's configured name.
    pub(crate) cluster: String,
    /// The node's name.
    pub(crate) node: String,
}

/// An event without its identity and its subject's fields.
pub(crate) fn event(origin: &Origin, kind: Kind, source: Source, hook: &str, occurred: Occurrence) -> Event {
    let node = Some(origin.node.clone());
    Event { node, ..Event::new(EventId(Uuid::nil()), kind, occurred, &origin.cluster, source, hook) }
}

/// Ties an event to a pod.
pub(crate) fn of_pod(event: &mut Event, known: &KnownPod) {
    event.pod = Some(known.pod.clone());
    event.workload.clone_from(&known.workload);
}

/// Ties an event to one life of a container of a pod.
pub(crate) fn of_life(event: &mut Event, known: &KnownPod, container_id: &str, life: &Life) {
    of_pod(event, known);
    event.container = Some(life.container.clone());
    event.container_id = Some(container_id.to_owned());
    event.restart_count = Some(life.restart_count);
    event.attributes.insert("aftertrace.container.kind".to_owned(), life.kind.as_str().into());
}

/// `<namespace>/<name>` for a summary.
pub(crate) fn pod_name(pod: &PodRef) -> String {
    aftertrace_model::text::escape(&format!("{}/{}", pod.namespace, pod.name))
}

/// Foreign text on one line, bounded.
pub(crate) fn text(foreign: &str) -> String {
    let mut text: String = foreign.trim().chars().take(TEXT_CHARS_MAX).collect();
    if text.len() < foreign.trim().len() {
        text.push('…');
    }
    aftertrace_model::text::escape(&text)
}
