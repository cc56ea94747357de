//! The cluster's secret, from which the hashing key of each ConfigMap and Secret is derived.

use std::path::Path;

use aftertrace_model::config::ObjectKey;
use rand::RngCore as _;

use crate::private_file::{self, FileError};

/// 32 random bytes at `<data>/cluster.key`, made on the first start. They never leave this machine; agents
/// get keys derived from them.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

impl std::fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not ours, or damaged.
    #[error(
        "{path} has {bytes} bytes, a cluster secret has 32: restore it from a backup, or remove it to make a new \
         one (hashes made before cannot be compared with those made after)"
    )]
    Length {
        /// The file.
        path: String,
        /// How many bytes it has.
        bytes: usize,
    },
}

impl ClusterSecret {
    /// Reads the secret in `data`, or makes it.
    ///
    /// # Errors
    /// [`SecretError`] where the file cannot be read, made, or is no secret.
    pub fn open(data: &Path) -> Result<Self, SecretError> {
        let path = data.join("cluster.key");
        let bytes = private_file::read_or_make(&path, || {
            let mut bytes = vec![0; 32];
            rand::rng().fill_bytes(&mut bytes);
            bytes
        })?;
        let length = bytes.len();
        let secret = <[u8; 32]>::try_from(bytes)
            .map_err(|_| SecretError::Length { path: path.display().to_string(), bytes: length })?;
        Ok(Self(secret))
    }

    /// The key of one object.
    #[must_use]
    pub fn object_key(&self, kind: &str, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey::derive(&self.0, kind, namespace, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart_and_is_refused_when_damaged() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let key = |s: ClusterSecret| s.object_key("ConfigMap", "shop", "app").id();
        let first = key(ClusterSecret::open(dir.path()).expect("made"));
        assert_eq!(key(ClusterSecret::open(dir.path()).expect("read")), first);
        std::fs::write(dir.path().join("cluster.key"), b"short").expect("write");
        let error = ClusterSecret::open(dir.path()).expect_err("damaged");
        assert!(error.to_string().contains("has 5 bytes"), "{error}");
    }
}
