//! The socket: accepts connections, plays outages, hands out clients.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::cluster::Cluster;
use super::respond::respond;

/// How the server behaves where real ones differ.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one. Default: loopback, a free port.
    pub listen: SocketAddr,
    /// Time between two bookmarks. A real server sends them about once a minute; the default is 5 s, so that
    /// a short scenario sees some.
    pub bookmark_interval: Duration,
    /// How a watch from a compacted version is refused.
    pub gone: GoneStyle,
}

/// How a client that resumes from a compacted version learns of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GoneStyle {
    /// 200, then one ERROR event with code 410: what the watch cache does.
    #[default]
    InStream,
    /// HTTP 410 with a `Status` body: what a server without watch cache does.
    HttpStatus,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            bookmark_interval: Duration::from_secs(5),
            gone: GoneStyle::default(),
        }
    }
}

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The serving task is gone.
    #[error("the API server has stopped")]
    Stopped,
    /// A client for the own address cannot be built.
    #[error("cannot build a client of the API server")]
    Client(#[source] kube::Error),
}

/// A running API server. Dropping it closes the socket and every connection.
#[derive(Debug)]
pub struct ApiServer {
    cluster: Cluster,
    address: SocketAddr,
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
enum Command {
    Pause(oneshot::Sender<()>),
    Resume(oneshot::Sender<std::io::Result<()>>),
}

impl ApiServer {
    /// Serves `cluster`.
    ///
    /// # Errors
    /// [`ServerError::Listen`].
    pub async fn start(cluster: Cluster, config: ServerConfig) -> Result<Self, ServerError> {
        let listen_error = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let (commands, receiver) = mpsc::channel(1);
        let task = tokio::spawn(serve(cluster.clone(), config, listener, address, receiver));
        Ok(Self { cluster, address, commands, task })
    }

    /// The served cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base address for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Plays an outage: when this returns, connections are cut and new ones are refused.
    ///
    /// # Errors
    /// [`ServerError::Stopped`].
    pub async fn pause(&self) -> Result<(), ServerError> {
        let (done, paused) = oneshot::channel();
        self.commands.send(Command::Pause(done)).await.map_err(|_| ServerError::Stopped)?;
        paused.await.map_err(|_| ServerError::Stopped)
    }

    /// Ends an outage, on the same address.
    ///
    /// # Errors
    /// [`ServerError::Listen`] where another program has taken the port meanwhile.
    pub async fn resume(&self) -> Result<(), ServerError> {
        let (done, resumed) = oneshot::channel();
        self.commands.send(Command::Resume(done)).await.map_err(|_| ServerError::Stopped)?;
        let result = resumed.await.map_err(|_| ServerError::Stopped)?;
        result.map_err(|source| ServerError::Listen { address: self.address, source })
    }

    /// A Kubernetes client of this server.
    ///
    /// # Errors
    /// [`ServerError::Client`].
    pub fn client(&self) -> Result<kube::Client, ServerError> {
        let url = self.url().parse().expect("a socket address behind http:// is a valid URI");
        kube::Client::try_from(kube::Config::new(url)).map_err(ServerError::Client)
    }

    /// The text of a kubeconfig file that points here, for programs that read `KUBECONFIG`.
    pub fn kubeconfig(&self) -> String {
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "aftertrace-stage",
            "clusters": [{ "name": "aftertrace-stage", "cluster": { "server": self.url() } }],
            "contexts": [{
                "name": "aftertrace-stage",
                "context": { "cluster": "aftertrace-stage", "user": "aftertrace-stage" },
            }],
            "users": [{ "name": "aftertrace-stage", "user": {} }],
        })
        .to_string()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    cluster: Cluster,
    config: ServerConfig,
    listener: TcpListener,
    address: SocketAddr,
    mut commands: mpsc::Receiver<Command>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(cluster.clone(), config.clone(), stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    // Out of file descriptors, most likely: do not spin on it.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            command = commands.recv() => match command {
                None => return,
                Some(Command::Pause(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    let _caller_left = done.send(());
                }
                Some(Command::Resume(done)) => {
                    let result = match &listener {
                        Some(_) => Ok(()),
                        None => TcpListener::bind(address).await.map(|bound| listener = Some(bound)),
                    };
                    let _caller_left = done.send(result);
                }
            },
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn connection(cluster: Cluster, config: ServerConfig, stream: tokio::net::TcpStream) {
    // Watch lines are small and must not wait for more.
    let _unsupported = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (cluster, config) = (cluster.clone(), config.clone());
        async move { Ok::<_, Infallible>(respond(cluster, config, request).await) }
    });
    let served =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}
