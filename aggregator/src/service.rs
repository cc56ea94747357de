//! Everything connected: opens the data directory, starts writer, watches and server, and drains them.
//!
//! Channels between the stages are bounded where they are made: the writer's queue, each stream's responses
//! and items in flight, the questions answered at once. Shutdown begins at the sources: agents' streams and
//! watches first, then the server, then the writer, which flushes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aftertrace_api::proto::ingest_server::IngestServer;
use aftertrace_api::proto::memory_server::MemoryServer;
use aftertrace_api::{MESSAGE_BYTES_MAX, proto};
use aftertrace_model::{Gap, GapReason, ObjectVersion, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};
use uuid::Uuid;

use crate::agents::Agents;
use crate::auth::Auth;
use crate::clock;
use crate::config::Config;
use crate::hot::Hot;
use crate::ingest::{self, IngestService};
use crate::memory::recall::Recall;
use crate::memory::{self, MemoryService};
use crate::private_file::{self, FileError};
use crate::secret::{ClusterSecret, SecretError};
use crate::sign_of_life::SignOfLife;
use crate::store::{Reader, Store, StoreConfig, StoreError};
use crate::tls::{ServerCertificate, TlsError};
use crate::watch::{self, KINDS, Placements, WatchError, WatchHealth, Watches};
use crate::writer::{Facts, Writer, WriterHandle};

/// How often a silent connection is probed, and how long the answer may take: a node that vanished is
/// noticed within half a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open calls may take to end once the aggregator drains. Kubernetes kills after 30 s.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the aggregator does not start, or why it stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A token or the address file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API server cannot be addressed.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; free it or choose another with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The server cannot start, or stopped by itself.
    #[error("the gRPC server stopped: {source}")]
    Serve {
        /// What the transport says.
        #[source]
        source: tonic::transport::Error,
    },
    /// The reflection service refuses the contract's descriptors.
    #[error("cannot describe the services: {source}")]
    Reflection {
        /// What it says.
        #[source]
        source: tonic_reflection::server::Error,
    },
}

/// A running aggregator.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    address_file: PathBuf,
    writer: WriterHandle,
    draining: signal::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    watches: JoinSet<Result<(), StoreError>>,
    signs: JoinHandle<()>,
    sign: SignOfLife,
    health: Arc<WatchHealth>,
}

/// Runs until `shutdown` completes or the server fails, then drains.
///
/// # Errors
/// [`StartError`] where it cannot start, the server stops by itself, or the last flush fails.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let mut running = Running::start(config).await?;
    tokio::select! {
        () = shutdown => info!("draining"),
        stopped = &mut running.server => {
            running.drain().await?;
            return match stopped {
                Ok(Err(source)) => Err(StartError::Serve { source }),
                Ok(Ok(())) | Err(_) => Ok(()),
            };
        }
    }
    running.drain().await
}

impl Running {
    /// Opens the data directory, replays what was not in segments, and starts to serve.
    ///
    /// The bound address is [`Running::address`] and stands in `<data>/listen` while it runs.
    ///
    /// # Errors
    /// [`StartError`] with what to do about it.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let client = watch::client(&config.api_server).await?;
        let started = clock::now();
        let hot = Arc::new(Hot::default());
        let opened = {
            let (config, hot) = (config.clone(), Arc::clone(&hot));
            tokio::task::spawn_blocking(move || Opened::open(&config, hot)).await
        };
        let opened = opened.unwrap_or(Err(StartError::Store(StoreError::Closed)))?;
        let Opened { secret, auth, certificate, writer, reader, catalog, stored } = opened;

        // What was recorded was also heard, whatever became of the sign.
        let sign = SignOfLife::new(&config.data);
        let heard_until =
            writer.status().recorded_at.map(|recorded| sign.last().map_or(recorded, |s| s.max(recorded)));
        if let Some(since) = heard_until {
            writer
                .submit(Facts { gaps: vec![down_gap(&config, since, started)], ..Facts::default() })
                .await?;
        }

        let auth = Arc::new(auth);
        let agents = Arc::new(Agents::default());
        let placements = Arc::new(Placements::default());
        let health = Arc::new(WatchHealth::new(&config.cluster));
        let is_watching = client.is_some();
        let watches = client.map_or_else(JoinSet::new, |client| {
            let watches = Watches {
                client,
                cluster: config.cluster.clone(),
                secret: secret.clone(),
                writer: writer.clone(),
                health: Arc::clone(&health),
                placements: Arc::clone(&placements),
                stored,
                heard_until,
            };
            watches.spawn()
        });

        let signs = tokio::spawn(sign.clone().keep(Arc::clone(&health)));

        let (draining, drains) = signal::channel(false);
        let recall = Recall { hot, reader, health: Arc::clone(&health) };
        let ingest = IngestService::new(ingest::Shared {
            cluster: config.cluster.clone(),
            auth: Arc::clone(&auth),
            secret,
            writer: writer.clone(),
            agents: Arc::clone(&agents),
            recall: recall.clone(),
            placements,
            draining: drains.clone(),
        });
        let memory = MemoryService::new(memory::Shared {
            cluster: config.cluster.clone(),
            catalog,
            auth,
            recall,
            agents,
            writer: writer.clone(),
            certificate: certificate.clone(),
            is_watching,
        });

        let failed = |source| StartError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let server = serve(listener, &certificate, ingest, memory, drains)?;
        let address_file = config.data.join("listen");
        private_file::replace(&address_file, format!("{address}\n").as_bytes(), 0o644)?;
        info!(%address, cluster = config.cluster, data = %config.data.display(), "serving");
        Ok(Self { address, address_file, writer, draining, server, watches, signs, sign, health })
    }

    /// The address that is served.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The writer, for what is submitted from within the process.
    #[must_use]
    pub const fn writer(&self) -> &WriterHandle {
        &self.writer
    }

    /// Stops the sources, ends open calls, flushes.
    ///
    /// # Errors
    /// [`StartError::Store`] if the last flush failed; what was acknowledged is then safe in the WAL.
    pub async fn drain(mut self) -> Result<(), StartError> {
        self.watches.shutdown().await;
        // Nobody listens if the server stopped by itself.
        let _ = self.draining.send(true);
        if !self.server.is_finished() && tokio::time::timeout(DRAIN, &mut self.server).await.is_err() {
            warn!("open calls did not end in time; closing them");
            self.server.abort();
        }
        if let Err(error) = std::fs::remove_file(&self.address_file) {
            warn!(%error, path = %self.address_file.display(), "cannot remove the address file");
        }
        self.signs.abort();
        self.sign.give(&self.health).await;
        self.writer.shutdown().await?;
        info!("drained");
        Ok(())
    }
}

/// What lies in the data directory, opened.
struct Opened {
    secret: ClusterSecret,
    auth: Auth,
    certificate: ServerCertificate,
    writer: WriterHandle,
    reader: Reader,
    catalog: PathBuf,
    stored: BTreeMap<&'static str, Vec<ObjectVersion>>,
}

impl Opened {
    /// Blocks until what is not in segments is replayed. The store is first: it locks the directory.
    fn open(config: &Config, hot: Arc<Hot>) -> Result<Self, StartError> {
        let store = Store::open(StoreConfig { dir: config.data.clone(), cluster: config.cluster.clone() })?;
        let secret = ClusterSecret::open(&config.data)?;
        let auth = Auth::open(&config.data)?;
        let certificate = ServerCertificate::open(&config.data, &config.tls_names, clock::now())?;
        let reader = store.reader();
        let catalog = store.catalog_path();
        let on_commit = Arc::clone(&hot);
        let writer = Writer::spawn(store, move |committed| on_commit.commit(committed))?;
        if reader.as_of() > 0 {
            hot.begins_at(clock::now());
        }
        let stored = KINDS
            .iter()
            .map(|kind| Ok((*kind, in_force(reader.current_objects(kind)?, &hot, kind))))
            .collect::<Result<_, StoreError>>()?;
        Ok(Self { secret, auth, certificate, writer, reader, catalog, stored })
    }
}

/// The last version of each object: what segments hold, overlaid by what was replayed.
fn in_force(segments: Vec<ObjectVersion>, hot: &Hot, kind: &str) -> Vec<ObjectVersion> {
    let mut by_name: BTreeMap<_, _> =
        segments.into_iter().map(|v| ((v.namespace.clone(), v.name.clone()), v)).collect();
    for version in hot.last_versions(kind) {
        let key = (version.namespace.clone(), version.name.clone());
        if by_name.get(&key).is_none_or(|known| known.valid_from <= version.valid_from) {
            by_name.insert(key, ObjectVersion::clone(&version));
        }
    }
    by_name.into_values().filter(|version| !version.deleted).collect()
}

/// While nobody ran, nothing was watched cluster-wide. It begins with the last frame, the last sign of life.
fn down_gap(config: &Config, since: Timestamp, until: Timestamp) -> Gap {
    Gap {
        gap_id: Uuid::new_v4(),
        cluster: config.cluster.clone(),
        node: None,
        component: "aggregator".to_owned(),
        reason: GapReason::AggregatorDown,
        from: since.min(until),
        to: until,
        count: 0,
        detail: "the aggregator was not running; agents keep their facts meanwhile, watches do not"
            .to_owned(),
        recorded_at: None,
    }
}

fn serve(
    listener: TcpListener,
    certificate: &ServerCertificate,
    ingest: IngestService,
    memory: MemoryService,
    mut drains: signal::Receiver<bool>,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|source| StartError::Reflection { source })?;
    let router = Server::builder()
        .tls_config(certificate.server_config())
        .map_err(|source| StartError::Serve { source })?
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(IngestServer::new(ingest).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(MemoryServer::new(memory).max_decoding_message_size(MESSAGE_BYTES_MAX));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(tokio::spawn(async move {
        health.set_serving::<IngestServer<IngestService>>().await;
        health.set_serving::<MemoryServer<MemoryService>>().await;
        let drained = async move {
            // An error means that the sender is gone, which ends the server as well.
            let _ = drains.wait_for(|draining| *draining).await;
            health.set_not_serving::<IngestServer<IngestService>>().await;
            health.set_not_serving::<MemoryServer<MemoryService>>().await;
        };
        router.serve_with_incoming_shutdown(incoming, drained).await
    }))
}
