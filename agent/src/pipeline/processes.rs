//! Starts, ends and signals of containers' inits → events with their container.

use aftertrace_model::{GapReason, Timestamp};

use aftertrace_model::config::ObjectKey;

use super::claims::Claim;
use super::{Pipeline, Waiting, instant};
use crate::attribute::cgroup_name::Cgroup;
use crate::attribute::pending::Patience;
use crate::clock;
use crate::environment::Told;
use crate::kernel::Exec;
use crate::lifetimes::{self, Lifetime};
use crate::volumes::sources::MountedObject;

impl Pipeline {
    /// An init executed its program: what it was given is read before it can rewrite it.
    pub(super) async fn started(&mut self, exec: Box<Exec>) {
        let now = clock::now();
        if let Some(Cgroup::Container { uid, id, .. }) = self.containers.get(exec.place.member) {
            let let_go = self.environments.started(&exec, (uid, id), now);
            self.tell_environments(let_go.into_iter().collect(), now).await;
            self.settle_environments(now).await;
        }
        self.lived(Lifetime::Started(exec)).await;
    }

    /// An object's key came.
    pub(super) async fn key(&mut self, object: MountedObject, key: ObjectKey) {
        self.keys.insert(object, key);
        self.settle_environments(clock::now()).await;
    }

    /// Tells of the environments whose containers and keys are known, and of those that can wait no longer.
    pub(super) async fn settle_environments(&mut self, now: Timestamp) {
        if self.environments.is_empty() {
            return;
        }
        let (wall, parts) = (&mut self.wall, &self.parts);
        let known = (&self.pods, &self.keys, parts.proc.as_path());
        let told = self.environments.settle(&parts.origin, known, now, |boot_ns| instant(wall, boot_ns));
        self.tell_environments(told, now).await;
    }

    async fn tell_environments(&mut self, told: Vec<Told>, now: Timestamp) {
        const COMPONENT: &str = "agent/environment";
        for told in told {
            match told {
                Told::Events(events) => {
                    for event in events {
                        self.put_record(event).await;
                    }
                }
                Told::Unread(error) => {
                    let detail = error.to_string();
                    self.parts.ledger.add(COMPONENT, GapReason::KernelReadFailed, now, 1, &detail);
                }
                Told::LetGo => {
                    let detail = "more environments waited than are held";
                    self.parts.ledger.add(COMPONENT, GapReason::WindowFull, now, 1, detail);
                }
            }
        }
    }

    /// An init did or suffered something.
    pub(super) async fn lived(&mut self, fact: Lifetime) {
        self.attribute(Waiting::Lifetime(fact)).await;
    }

    /// Whether the fact was emitted.
    pub(super) async fn try_lifetime(&mut self, fact: &Lifetime, patience: Patience) -> bool {
        let cgroup = self.containers.get(fact.place().member).cloned();
        let claimed = match &cgroup {
            Some(Cgroup::Container { uid, id, .. }) => match self.claim(uid, id, patience) {
                Some(claim) => Some((uid, id, claim)),
                None => return false,
            },
            Some(_) => None,
            None if patience == Patience::Wait => {
                // The record of the cgroup's making was lost; a scan finds it while it is there.
                self.lacks_cgroups = true;
                return false;
            }
            None => None,
        };
        if matches!(&claimed, Some((_, _, Claim::Pod(_)))) && self.containers.is_sandbox(fact.place().member)
        {
            // It is no container of the pod's: no status names it, and it has no log.
            self.sandboxes += 1;
            tracing::debug!(pid = fact.pid(), count = self.sandboxes, "a fact of a pod's sandbox");
            return true;
        }
        let sender = match fact {
            Lifetime::Signalled(signal) => signal.sender_place.and_then(|id| self.containers.get(id)),
            _ => None,
        };
        let sender = sender.cloned();
        let occurred = self.at(fact.boot_ns());
        let mut event = lifetimes::event(&self.parts.origin, fact, sender.as_ref(), occurred);
        let place = match &claimed {
            Some((uid, id, claim)) => {
                let place = self.tie_claim(&mut event, uid, id, claim);
                event.container_init = matches!(claim, Claim::Status | Claim::LogLink(_)).then_some(true);
                place
            }
            None => "a process in a pod's cgroup that no runtime names so".to_owned(),
        };
        event.summary = lifetimes::summary(fact, &format!("the init of {place}"));
        if !matches!(&claimed, Some((_, _, Claim::Status | Claim::LogLink(_) | Claim::Pod(_)))) {
            let detail = format!("{place}; its {} was kept without a pod", event.kind);
            self.parts.ledger.add("agent/attribute", GapReason::Unattributed, occurred.at, 1, &detail);
        }
        self.put_record(event).await;
        true
    }

    /// Looks again for what facts wait for: cgroups whose making was lost, and log links.
    pub(super) async fn look_for_owners(&mut self, now: Timestamp) {
        self.log_links.look(now);
        if !std::mem::take(&mut self.lacks_cgroups) {
            return;
        }
        if let Some(kernel) = &mut self.parts.kernel {
            kernel.found_cgroups = kernel.pod_cgroups.scan();
            self.containers.found(&kernel.found_cgroups, &self.parts.cgroup_root);
        }
        self.settle_pending(now).await;
    }
}
