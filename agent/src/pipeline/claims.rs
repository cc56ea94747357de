//! Whose a container's cgroup is: by the pod's status, by the kubelet's log links, or only which pod's.
//!
//! The path of the cgroup, read downward from the kubelet's root, names the pod with certainty: nobody else
//! makes directories there. Which of its containers an id is, the status says, sooner or later; where it
//! will not say it any more the log link does.

use aftertrace_model::{Event, PodRef, text};

use super::Pipeline;
use crate::attribute::cgroup_name::{CgroupUid, ContainerId};
use crate::attribute::log_links::Logged;
use crate::attribute::pending::Patience;
use crate::clock;
use crate::draft;

/// What is certain of a container's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// The pod's status lists the container.
    Status,
    /// The kubelet's log link names it.
    LogLink(Logged),
    /// The pod, and not which container of it.
    Pod(PodRef),
    /// Neither the API nor a log directory has named the pod.
    Nobody,
}

impl Claim {
    /// The name in events.
    fn attributed_by(&self) -> Option<&'static str> {
        match self {
            Self::Status => Some("status"),
            Self::LogLink(_) => Some("log_link"),
            Self::Pod(_) => Some("cgroup"),
            Self::Nobody => None,
        }
    }
}

impl Pipeline {
    /// Who claims a container's cgroup; nothing where that may yet become known. A pod that the API has
    /// deleted has said its last, so nothing waits for it.
    pub(super) fn claim(&mut self, uid: &CgroupUid, id: &ContainerId, patience: Patience) -> Option<Claim> {
        if self.pods.find(uid, id).is_some() {
            return Some(Claim::Status);
        }
        self.log_links.want(id, clock::now());
        let known = self.pods.get(uid.as_str());
        if patience == Patience::Wait && !known.is_some_and(|known| known.is_deleted()) {
            return None;
        }
        let known = known.map(|known| known.pod.clone());
        // The link may have been made since, and this is the last time that it is asked for.
        self.log_links.look(clock::now());
        Some(match (self.log_links.get(uid, id), known) {
            (Some(logged), _) => Claim::LogLink(logged.clone()),
            (None, Some(pod)) => Claim::Pod(pod),
            (None, None) => self.log_links.pod(uid).map_or(Claim::Nobody, Claim::Pod),
        })
    }

    /// Ties an event to what claims its cgroup; returns where it happened, for people.
    pub(super) fn tie_claim(
        &self,
        event: &mut Event,
        uid: &CgroupUid,
        id: &ContainerId,
        claim: &Claim,
    ) -> String {
        let known = self.pods.get(uid.as_str());
        if let Some(by) = claim.attributed_by() {
            event.attributes.insert("aftertrace.attributed_by".to_owned(), by.into());
        }
        match claim {
            Claim::Status => {
                let Some((known, life)) = self.pods.find(uid, id) else { return String::new() };
                draft::of_life(event, known, id.as_str(), life);
                format!("container {} of {}", text::escape(&life.container), draft::pod_name(&known.pod))
            }
            Claim::LogLink(logged) => {
                match known {
                    Some(known) => draft::of_pod(event, known),
                    None => event.pod = Some(logged.pod.clone()),
                }
                event.container = Some(logged.container.clone());
                event.container_id = Some(id.as_str().to_owned());
                event.restart_count = Some(logged.restart_count);
                format!("container {} of {}", text::escape(&logged.container), draft::pod_name(&logged.pod))
            }
            Claim::Pod(pod) => {
                match known {
                    Some(known) => draft::of_pod(event, known),
                    None => event.pod = Some(pod.clone()),
                }
                event.attributes.insert("aftertrace.hint.container.id".to_owned(), id.as_str().into());
                format!("a container of {} that its status does not list", draft::pod_name(pod))
            }
            Claim::Nobody => {
                event.attributes.insert("aftertrace.hint.pod.uid".to_owned(), uid.as_str().into());
                event.attributes.insert("aftertrace.hint.container.id".to_owned(), id.as_str().into());
                "a container of a pod that is not known".to_owned()
            }
        }
    }
}
