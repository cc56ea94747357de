//! Comparing configuration without keeping it: keyed hashes per key of a ConfigMap or Secret.
//!
//! The key of an object is derived from the cluster's secret and the object's name, so equal values in two
//! objects hash differently, and a node learns only the keys of the objects that it mounts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes of a hash that are kept: 128 bits make chance equality of two values a thing that does not happen.
const DIGEST_BYTES: usize = 16;

/// Keyed hashes of an object's values. Comparable only under an equal `key_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// Names the key under which the hashes were made.
    pub key_id: String,
    /// Key of the object (or file, translated back to its key) to 32 hex digits, sorted.
    pub keys: BTreeMap<String, String>,
}

/// How two contents compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Every key of the part has the same value in the whole.
    Same,
    /// Some key is missing or differs.
    Different,
    /// Made under different keys: nothing can be said.
    Incomparable,
}

impl Content {
    /// Compares what a volume shows (`self`: maybe only some items) with a version of its object.
    #[must_use]
    pub fn compare_with(&self, whole: &Self) -> Comparison {
        if self.key_id != whole.key_id || self.keys.is_empty() {
            return Comparison::Incomparable;
        }
        let same = self.keys.iter().all(|(key, hash)| whole.keys.get(key) == Some(hash));
        if same { Comparison::Same } else { Comparison::Different }
    }
}

/// The key that belongs to one object. It never leaves TLS and memory.
#[derive(Clone)]
pub struct ObjectKey([u8; 32]);

impl std::fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectKey({})", self.id())
    }
}

impl ObjectKey {
    /// Derives the key of `kind` `namespace`/`name` from the cluster's secret (HKDF-SHA-256).
    #[must_use]
    pub fn derive(cluster_secret: &[u8; 32], kind: &str, namespace: &str, name: &str) -> Self {
        let mut okm = [0_u8; 32];
        let info = format!("aftertrace/v1/{kind}/{namespace}/{name}");
        Hkdf::<Sha256>::new(None, cluster_secret)
            .expand(info.as_bytes(), &mut okm)
            .expect("32 bytes are within what HKDF-SHA-256 can give");
        Self(okm)
    }

    /// A key as it came over the wire.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key as it goes over the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public name of this key: 16 hex digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.0)[..8])
    }

    /// HMAC-SHA-256 of a value, cut to 128 bits, as 32 hex digits.
    #[must_use]
    pub fn hash(&self, value: &[u8]) -> String {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(value);
        hex(&mac.finalize().into_bytes()[..DIGEST_BYTES])
    }

    /// Hashes each value; the order of the input does not matter.
    pub fn content<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Content {
        let keys = values.into_iter().map(|(key, value)| (key.to_owned(), self.hash(value))).collect();
        Content { key_id: self.id(), keys }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_of_two_objects_hash_differently() {
        let a = ObjectKey::derive(&[7; 32], "ConfigMap", "shop", "a");
        let b = ObjectKey::derive(&[7; 32], "ConfigMap", "shop", "b");
        assert_ne!(a.hash(b"v"), b.hash(b"v"));
        assert_eq!(a.hash(b"v"), ObjectKey::derive(&[7; 32], "ConfigMap", "shop", "a").hash(b"v"));
        assert!(!format!("{a:?}").contains("0707"), "debug output shows no key");
    }

    #[test]
    fn a_part_is_compared_by_its_own_keys() {
        let key = ObjectKey::derive(&[1; 32], "ConfigMap", "s", "n");
        let whole = key.content([("a", b"1".as_slice()), ("b", b"2")]);
        assert_eq!(key.content([("b", b"2".as_slice())]).compare_with(&whole), Comparison::Same);
        assert_eq!(key.content([("b", b"3".as_slice())]).compare_with(&whole), Comparison::Different);
        let other = ObjectKey::derive(&[1; 32], "ConfigMap", "s", "m").content([("b", b"2".as_slice())]);
        assert_eq!(other.compare_with(&whole), Comparison::Incomparable);
    }
}
