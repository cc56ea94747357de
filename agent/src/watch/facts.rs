//! Pod status → facts: containers started, terminated, waiting.
//!
//! Pure. A status is a picture, not an event: the same fact shows in many of them. Each fact has one id, made
//! from its key and the status's own time; what was given once is not given again.

use std::collections::{BTreeSet, HashMap, VecDeque};

use aftertrace_model::fact::FactKey;
use aftertrace_model::{Event, EventId, Kind, Occurrence, Severity, Source, Timestamp};
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::attribute::cgroup_name::ContainerId;
use crate::attribute::pods::{ContainerKind, last_restart_count, pod_ref, statuses, workload};
use crate::draft::{self, Origin};

/// Facts remembered per pod as given. A status names at most three per container; the rest guards against
/// one that goes back and forth (`ErrImagePull`, `ImagePullBackOff`).
const GIVEN_MAX: usize = 128;

/// Waiting for these is the normal course of a start.
const STARTING: &[&str] = &["ContainerCreating", "PodInitializing"];

/// What the statuses of this node's pods have told so far.
#[derive(Debug)]
pub(crate) struct Facts {
    origin: Origin,
    given: HashMap<String, VecDeque<EventId>>,
}

/// One container of one pod, while its status is read.
struct Subject<'a> {
    pod: &'a Pod,
    uid: &'a str,
    kind: ContainerKind,
    status: &'a ContainerStatus,
    seen: Timestamp,
}

impl Facts {
    /// Nothing was told yet.
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, given: HashMap::new() }
    }

    /// What a pod's state, seen at `seen`, tells that was not told before; oldest first per container.
    pub(crate) fn observe(&mut self, pod: &Pod, seen: Timestamp) -> Vec<Event> {
        let Some(uid) = pod.metadata.uid.as_deref() else { return Vec::new() };
        let mut events = Vec::new();
        for (kind, status) in statuses(pod) {
            let subject = Subject { pod, uid, kind, status, seen };
            let last = status.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            if let Some(last) = last {
                let restart_count = last_restart_count(status, last.container_id.as_deref());
                self.lived(&subject, last, restart_count, &mut events);
            }
            if let Some(state) = &status.state {
                self.state(&subject, state, last, &mut events);
            }
        }
        let given = self.given.entry(uid.to_owned()).or_default();
        events.retain(|e| !given.contains(&e.event_id));
        given.extend(events.iter().map(|e| e.event_id));
        given.drain(..given.len().saturating_sub(GIVEN_MAX));
        events
    }

    /// Forgets a deleted pod.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.given.remove(uid);
    }

    /// Forgets every pod that is not in a whole list.
    pub(crate) fn keep_only(&mut self, uids: &BTreeSet<String>) {
        self.given.retain(|uid, _| uids.contains(uid));
    }

    fn state(
        &self,
        subject: &Subject<'_>,
        state: &ContainerState,
        last: Option<&ContainerStateTerminated>,
        events: &mut Vec<Event>,
    ) {
        let restart_count = subject.status.restart_count;
        if let Some(terminated) = &state.terminated {
            self.lived(subject, terminated, restart_count, events);
        } else if let Some(running) = &state.running {
            let id = subject.status.container_id.as_deref();
            self.started(subject, id, running.started_at.as_ref(), restart_count, events);
        } else if let Some(waiting) = &state.waiting {
            self.waiting(subject, waiting, last, events);
        }
    }

    /// A life that ended: it was started, and it terminated.
    fn lived(
        &self,
        subject: &Subject<'_>,
        ended: &ContainerStateTerminated,
        restart_count: i32,
        events: &mut Vec<Event>,
    ) {
        let id = ended.container_id.as_deref();
        self.started(subject, id, ended.started_at.as_ref(), restart_count, events);
        let occurred = match micros(ended.finished_at.as_ref()) {
            Some(at) => Occurrence::floored_to_second(at),
            None => Occurrence::between(subject.created(), subject.seen),
        };
        let first = micros(ended.finished_at.as_ref()).unwrap_or_else(|| subject.created());
        let (container_id, fact_id) = subject.ids(id, restart_count);
        let mut event = self.event(subject, Kind::ContainerTerminated, occurred, restart_count);
        event.event_id = FactKey::Terminated { pod_uid: subject.uid, container_id: &fact_id }
            .event_id(&self.origin.cluster, first);
        event.container_id = container_id;
        event.reason = ended.reason.as_deref().map(draft::text);
        event.exit_code = Some(ended.exit_code);
        event.severity = if ended.exit_code == 0 && event.reason.as_deref() != Some("OOMKilled") {
            Severity::Info
        } else {
            Severity::Error
        };
        event.summary = format!(
            "{} ended: {}, exit code {} (restart count {restart_count})",
            subject.name(),
            event.reason.as_deref().unwrap_or("no reason given"),
            ended.exit_code,
        );
        if let Some(signal) = ended.signal {
            event.attributes.insert("process.exit.signal".to_owned(), signal.into());
        }
        if let Some(message) = ended.message.as_deref().filter(|m| !m.is_empty()) {
            event.attributes.insert("aftertrace.status.message".to_owned(), draft::text(message).into());
        }
        if let Some(at) = micros(ended.started_at.as_ref()) {
            event.attributes.insert("aftertrace.container.started_at".to_owned(), at.to_string().into());
        }
        events.push(event);
    }

    fn started(
        &self,
        subject: &Subject<'_>,
        id: Option<&str>,
        at: Option<&Time>,
        restart_count: i32,
        events: &mut Vec<Event>,
    ) {
        // A container that could not be started has the epoch, or nothing, as its time: it was not started.
        let (Some(at), Some(id)) = (micros(at).filter(|at| at.as_micros() > 0), id) else { return };
        let (container_id, fact_id) = subject.ids(Some(id), restart_count);
        let occurred = Occurrence::floored_to_second(at);
        let mut event = self.event(subject, Kind::ContainerStarted, occurred, restart_count);
        event.event_id = FactKey::Started { pod_uid: subject.uid, container_id: &fact_id }
            .event_id(&self.origin.cluster, at);
        event.container_id = container_id;
        event.summary = format!("{} started (restart count {restart_count})", subject.name());
        events.push(event);
    }

    fn waiting(
        &self,
        subject: &Subject<'_>,
        waiting: &ContainerStateWaiting,
        last: Option<&ContainerStateTerminated>,
        events: &mut Vec<Event>,
    ) {
        let Some(reason) = waiting.reason.as_deref().filter(|r| !STARTING.contains(r)) else { return };
        // Waiting has no time of its own: it began after the last life's end, or the pod's creation.
        let since = last.and_then(|l| micros(l.finished_at.as_ref())).unwrap_or_else(|| subject.created());
        let restart_count = subject.status.restart_count;
        let occurred = Occurrence::between(since, subject.seen);
        let mut event = self.event(subject, Kind::ContainerWaiting, occurred, restart_count);
        let container = subject.status.name.as_str();
        event.event_id = FactKey::Waiting { pod_uid: subject.uid, container, restart_count, reason }
            .event_id(&self.origin.cluster, since);
        event.reason = Some(draft::text(reason));
        event.severity = Severity::Warning;
        event.summary = format!("{} waits: {}", subject.name(), draft::text(reason));
        if let Some(message) = waiting.message.as_deref().filter(|m| !m.is_empty()) {
            event.attributes.insert("aftertrace.status.message".to_owned(), draft::text(message).into());
        }
        events.push(event);
    }

    fn event(&self, subject: &Subject<'_>, kind: Kind, occurred: Occurrence, restart_count: i32) -> Event {
        let mut event = draft::event(&self.origin, kind, Source::Kube, "watch/pods", occurred);
        event.pod = Some(pod_ref(subject.pod, subject.uid));
        event.workload = workload(subject.pod);
        event.container = Some(subject.status.name.clone());
        event.restart_count = Some(restart_count);
        let attributes = &mut event.attributes;
        attributes.insert("aftertrace.container.kind".to_owned(), subject.kind.as_str().into());
        attributes.insert("container.image.name".to_owned(), draft::text(&subject.status.image).into());
        event
    }
}

impl Subject<'_> {
    /// The pod's creation: the earliest time that anything of it can have.
    fn created(&self) -> Timestamp {
        micros(self.pod.metadata.creation_timestamp.as_ref()).unwrap_or_default()
    }

    /// The container's id for the event, and that for the fact key: where the status gives none
    /// (`ContainerStatusUnknown`), name and restart count stand in.
    fn ids(&self, id: Option<&str>, restart_count: i32) -> (Option<String>, String) {
        let id = id.filter(|id| !id.is_empty());
        let bare = id.map(|id| match ContainerId::from_status(id) {
            Some(id) => id.as_str().to_owned(),
            None => draft::text(id.split_once("://").map_or(id, |(_, id)| id)),
        });
        let fact = bare.clone().unwrap_or_else(|| format!("{}#{restart_count}", self.status.name));
        (bare, fact)
    }

    /// `container <name> of <namespace>/<pod>`
    fn name(&self) -> String {
        let pod = draft::pod_name(&pod_ref(self.pod, self.uid));
        format!("container {} of {pod}", aftertrace_model::text::escape(&self.status.name))
    }
}

fn micros(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|t| Timestamp::from_micros(t.0.as_microsecond()))
}

#[cfg(test)]
mod tests;
