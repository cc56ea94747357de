//! What makes two reports the same fact.
//!
//! Each kind has one key. An event's id is made from the cluster and that key, so a fact reported by twenty
//! status updates, a relist and a restarted agent has one id and becomes one row.

use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use crate::{EventId, Timestamp};

/// The identity of a fact within a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FactKey<'a> {
    /// A record of an agent: the spool's random id and the record's durable sequence.
    Record {
        /// The spool's id, random, created with the spool.
        spool_id: Uuid,
        /// The sequence within the spool.
        sequence: u64,
    },
    /// A container's life was started.
    Started {
        /// Uid of the pod.
        pod_uid: &'a str,
        /// Id of the container, without the runtime's prefix.
        container_id: &'a str,
    },
    /// A container's life ended.
    Terminated {
        /// Uid of the pod.
        pod_uid: &'a str,
        /// Id of the container, without the runtime's prefix.
        container_id: &'a str,
    },
    /// A container waits, after its `restart_count`-th life, for this reason.
    Waiting {
        /// Uid of the pod.
        pod_uid: &'a str,
        /// Name of the container.
        container: &'a str,
        /// `restartCount` in the status that shows it waiting.
        restart_count: i32,
        /// Such as `CrashLoopBackOff`.
        reason: &'a str,
    },
    /// A version of an API object.
    Version {
        /// `metadata.uid`.
        uid: &'a str,
        /// `metadata.resourceVersion`.
        resource_version: &'a str,
    },
    /// The deletion of an API object.
    Deleted {
        /// `metadata.uid`.
        uid: &'a str,
    },
    /// A container did not take up a generation of a volume. Its first time is the swap's.
    Stale {
        /// Uid of the pod.
        pod_uid: &'a str,
        /// Id of the container, without the runtime's prefix.
        container_id: &'a str,
        /// Name of the volume in the pod spec.
        volume: &'a str,
        /// The generation, or the object's version for a mount that has none (`subPath`).
        generation: &'a str,
        /// `kind/namespace/name` of the object shown; empty where it is not known.
        object: &'a str,
    },
    /// A container's environment holds values of an object. Its first time is the container's start as its
    /// status tells.
    Injected {
        /// Uid of the pod.
        pod_uid: &'a str,
        /// Id of the container, without the runtime's prefix.
        container_id: &'a str,
        /// `kind/namespace/name` of the object.
        object: &'a str,
    },
}

impl FactKey<'_> {
    /// The event id: 48 bits of `first_recorded` in milliseconds, then a hash of cluster and key.
    ///
    /// `first_recorded` is the source's own time of the fact, so that every report yields the same id.
    #[must_use]
    pub fn event_id(&self, cluster: &str, first_recorded: Timestamp) -> EventId {
        let mut hash = Sha256::new();
        part(&mut hash, cluster.as_bytes());
        match self {
            Self::Record { spool_id, sequence } => {
                part(&mut hash, b"record");
                part(&mut hash, spool_id.as_bytes());
                part(&mut hash, &sequence.to_be_bytes());
            }
            Self::Started { pod_uid, container_id } => texts(&mut hash, &["started", pod_uid, container_id]),
            Self::Terminated { pod_uid, container_id } => {
                texts(&mut hash, &["terminated", pod_uid, container_id]);
            }
            Self::Waiting { pod_uid, container, restart_count, reason } => {
                texts(&mut hash, &["waiting", pod_uid, container, reason]);
                part(&mut hash, &restart_count.to_be_bytes());
            }
            Self::Version { uid, resource_version } => texts(&mut hash, &["version", uid, resource_version]),
            Self::Deleted { uid } => texts(&mut hash, &["deleted", uid]),
            Self::Stale { pod_uid, container_id, volume, generation, object } => {
                texts(&mut hash, &["stale", pod_uid, container_id, volume, generation, object]);
            }
            Self::Injected { pod_uid, container_id, object } => {
                texts(&mut hash, &["injected", pod_uid, container_id, object]);
            }
        }
        let digest = hash.finalize();
        let mut bytes = [0_u8; 16];
        let ms = u64::try_from(first_recorded.as_micros() / 1_000).unwrap_or(0);
        bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&digest[..10]);
        EventId(Builder::from_custom_bytes(bytes).into_uuid())
    }
}

fn texts(hash: &mut Sha256, parts: &[&str]) {
    for text in parts {
        part(hash, text.as_bytes());
    }
}

/// Adds a part with its length before it, so that no two lists of parts hash alike.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timestamp = Timestamp::from_micros(1_795_171_922_000_000);

    #[test]
    fn same_key_same_id() {
        let key = FactKey::Terminated { pod_uid: "u", container_id: "c" };
        assert_eq!(key.event_id("k", T), key.clone().event_id("k", T));
        assert_eq!(key.event_id("k", T).unix_ms(), 1_795_171_922_000);
        assert_eq!(key.event_id("k", T).0.get_version_num(), 8);
    }

    #[test]
    fn different_facts_differ() {
        let stale = |generation| FactKey::Stale {
            pod_uid: "u",
            container_id: "c",
            volume: "v",
            generation,
            object: "ConfigMap/shop/cfg",
        };
        let ids = [
            FactKey::Terminated { pod_uid: "u", container_id: "c" }.event_id("k", T),
            FactKey::Started { pod_uid: "u", container_id: "c" }.event_id("k", T),
            FactKey::Terminated { pod_uid: "uc", container_id: "" }.event_id("k", T),
            FactKey::Terminated { pod_uid: "u", container_id: "c" }.event_id("other", T),
            FactKey::Record { spool_id: Uuid::nil(), sequence: 1 }.event_id("k", T),
            FactKey::Record { spool_id: Uuid::nil(), sequence: 2 }.event_id("k", T),
            FactKey::Injected { pod_uid: "u", container_id: "c", object: "o" }.event_id("k", T),
            stale("..1").event_id("k", T),
            stale("..2").event_id("k", T),
        ];
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
    }
}
