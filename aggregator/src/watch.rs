//! The cluster's objects as they change: API server → object versions, `config_changed`, `object_deleted`.
//!
//! Each watched kind has its own file with the fields that are kept (`pod`, `config_map`) and its own
//! `follow` task; the `ledger` turns looks into rows, `placement` holds what agents' claims are checked
//! against, `health` what `aft status` shows.

mod config_map;
mod diff;
mod follow;
mod health;
mod kind;
mod ledger;
mod placement;
mod pod;

use std::collections::BTreeMap;
use std::sync::Arc;

use aftertrace_model::{ObjectVersion, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client};
use tokio::task::JoinSet;

pub use health::WatchHealth;
pub use placement::{Claim, Placements};

use crate::config::ApiServer;
use crate::secret::ClusterSecret;
use crate::store::StoreError;
use crate::writer::WriterHandle;
use follow::Follower;
use kind::Watched;
use ledger::{Ledger, Subject};

/// Why the API server cannot be addressed at all. One that does not answer is no error; it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kubeconfig given cannot be used.
    #[error("cannot use kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// Nothing tells where the API server is.
    #[error("cannot find the API server: {source}; give --kubeconfig, or --no-watch to go without one")]
    Infer {
        /// What was tried.
        #[source]
        source: Box<InferConfigError>,
    },
    /// The client cannot be built from the configuration.
    #[error("cannot talk to the API server: {source}")]
    Client {
        /// What the client says.
        #[source]
        source: Box<kube::Error>,
    },
}

/// A client for the configured API server; `None` if nothing shall be watched.
///
/// # Errors
/// [`WatchError`] where the configuration cannot be used.
pub async fn client(api_server: &ApiServer) -> Result<Option<Client>, WatchError> {
    let config = match api_server {
        ApiServer::None => return Ok(None),
        ApiServer::Kubeconfig(path) => {
            let failed = |source| WatchError::Kubeconfig {
                path: path.display().to_string(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        ApiServer::Inferred => {
            kube::Config::infer().await.map_err(|source| WatchError::Infer { source: Box::new(source) })?
        }
    };
    Client::try_from(config).map(Some).map_err(|source| WatchError::Client { source: Box::new(source) })
}

/// What the watches need.
pub struct Watches {
    /// The API server.
    pub client: Client,
    /// The cluster's name.
    pub cluster: String,
    /// Derives hashing keys.
    pub secret: ClusterSecret,
    /// Takes the rows.
    pub writer: WriterHandle,
    /// Is kept up to date.
    pub health: Arc<WatchHealth>,
    /// Is kept up to date.
    pub placements: Arc<Placements>,
    /// The stored versions in force, by kind.
    pub stored: BTreeMap<&'static str, Vec<ObjectVersion>>,
    /// Up to when an earlier run watched; `None` in a new store.
    pub heard_until: Option<Timestamp>,
}

/// The kinds that are watched.
pub const KINDS: &[&str] = &[<Pod as Watched>::KIND, <ConfigMap as Watched>::KIND];

impl Watches {
    /// Starts a task per kind. Dropping the set ends them.
    #[must_use]
    pub fn spawn(mut self) -> JoinSet<Result<(), StoreError>> {
        let mut tasks = JoinSet::new();
        let placements = Arc::clone(&self.placements);
        tasks.spawn(self.follower::<Pod>(Some(placements)).run());
        tasks.spawn(self.follower::<ConfigMap>(None).run());
        tasks
    }

    fn follower<K: Watched>(&mut self, placements: Option<Arc<Placements>>) -> Follower<K> {
        let subject = Subject {
            cluster: self.cluster.clone(),
            kind: K::KIND,
            hook: format!("watch/{}", K::PLURAL),
            is_config: K::IS_CONFIG,
        };
        Follower {
            api: Api::all(self.client.clone()),
            ledger: Ledger::open(subject, self.stored.remove(K::KIND).unwrap_or_default()),
            secret: self.secret.clone(),
            cluster: self.cluster.clone(),
            writer: self.writer.clone(),
            health: Arc::clone(&self.health),
            placements,
            heard_until: self.heard_until,
            was_up: false,
        }
    }
}
