//! A `Memory` service in this process, over TLS, that answers from fixtures and remembers what it was asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use aftertrace_api::proto;
use aftertrace_api::proto::memory_server::{Memory, MemoryServer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use crate::fixture;

/// The token that the service takes.
pub(crate) const TOKEN: &str = "reader-token";

/// What the service was asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) why: Vec<proto::WhyRequest>,
    pub(crate) timeline: Vec<proto::TimelineRequest>,
    pub(crate) history: Vec<proto::HistoryRequest>,
    pub(crate) state_at: Vec<proto::StateAtRequest>,
}

/// A running service; it ends with this value.
pub(crate) struct Fake {
    /// The address, as for `--server`.
    pub(crate) server: String,
    /// Its certificate, as for `--ca`.
    pub(crate) ca: PathBuf,
    /// A file with its token.
    pub(crate) token_file: PathBuf,
    /// A folder that goes with it.
    pub(crate) folder: TempDir,
    asked: Arc<Mutex<Asked>>,
    _runtime: tokio::runtime::Runtime,
}

impl Fake {
    /// Starts the service on a free port of the loopback; its certificate names `localhost` only.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let names = vec!["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let certificate = certified.cert.pem();
        let ca = folder.path().join("ca.crt");
        std::fs::write(&ca, &certificate).expect("ca.crt");
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, format!("{TOKEN}\n")).expect("token");

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let asked = Arc::new(Mutex::new(Asked::default()));
        let catalog = folder.path().join("memory.duckdb").display().to_string();
        let service = Service { asked: Arc::clone(&asked), catalog };
        let identity = Identity::from_pem(certificate, certified.signing_key.serialize_pem());
        let address = runtime.block_on(serve(service, identity));
        Self {
            server: format!("https://localhost:{}", address.port()),
            ca,
            token_file,
            folder,
            asked,
            _runtime: runtime,
        }
    }

    /// What was asked until now.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }
}

async fn serve(service: Service, identity: Identity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let tls = ServerTlsConfig::new().identity(identity);
    let guarded = MemoryServer::with_interceptor(service, |request: Request<()>| {
        let expected = format!("Bearer {TOKEN}");
        match request.metadata().get("authorization") {
            Some(value) if value.as_bytes() == expected.as_bytes() => Ok(request),
            Some(_) => Err(Status::unauthenticated("this token is not known")),
            None => Err(Status::unauthenticated("no token was presented")),
        }
    });
    let router = Server::builder().tls_config(tls).expect("TLS").add_service(guarded);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

struct Service {
    asked: Arc<Mutex<Asked>>,
    catalog: String,
}

impl Service {
    fn remember(&self, add: impl FnOnce(&mut Asked)) {
        add(&mut self.asked.lock().expect("no test panics while it holds this"));
    }
}

fn as_of() -> Option<proto::AsOf> {
    Some(proto::AsOf { wal_position: 17, recorded_at_us: fixture::T + 14_000_000 })
}

#[tonic::async_trait]
impl Memory for Service {
    async fn why(&self, request: Request<proto::WhyRequest>) -> Result<Response<proto::WhyResponse>, Status> {
        let request = request.into_inner();
        self.remember(|a| a.why.push(request.clone()));
        match request.pod.as_str() {
            "checkout-7d9" | "" => Ok(Response::new(fixture::oom_chain())),
            "swapped" => Ok(Response::new(fixture::swap_chain())),
            "forbidden" => Err(Status::permission_denied("namespace shop is not yours")),
            "missing\u{1b}" => Err(Status::not_found("no pod missing\u{1b}[31m in shop")),
            _ => Ok(Response::new(proto::WhyResponse {
                as_of: as_of(),
                no_cause_because: "no failure of this pod is known".into(),
                ..Default::default()
            })),
        }
    }

    async fn timeline(
        &self,
        request: Request<proto::TimelineRequest>,
    ) -> Result<Response<proto::TimelineResponse>, Status> {
        let request = request.into_inner();
        self.remember(|a| a.timeline.push(request.clone()));
        match (request.kinds.iter().any(|k| k == "oom_kill"), request.standing, request.pod.as_str()) {
            (true, _, "quiet") | (_, true, "quiet") => {}
            (true, ..) => return Ok(Response::new(fixture::oom_kills())),
            (_, true, _) => return Ok(Response::new(fixture::stale_configs())),
            _ => {}
        }
        let events = match request.pod.as_str() {
            "quiet" => Vec::new(),
            _ => fixture::oom_facts().iter().chain(&fixture::swap_facts()).map(Into::into).collect(),
        };
        let truncated = request.limit == 1;
        Ok(Response::new(proto::TimelineResponse {
            as_of: as_of(),
            events,
            gaps: Vec::new(),
            truncated,
            edges: Vec::new(),
        }))
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryResponse>, Status> {
        let request = request.into_inner();
        self.remember(|a| a.history.push(request.clone()));
        if request.pattern == "P999" {
            return Err(Status::invalid_argument("there is no pattern P999; there are P001 and P003"));
        }
        if request.pod == "quiet" {
            let name = "OOM kill".to_owned();
            return Ok(Response::new(proto::HistoryResponse { as_of: as_of(), name, ..Default::default() }));
        }
        Ok(Response::new(proto::HistoryResponse {
            as_of: as_of(),
            name: "OOM kill".into(),
            total: 3,
            occurrences: fixture::oom_facts()[2..3].iter().map(Into::into).collect(),
            groups: vec![proto::HistoryGroup {
                namespace: "shop".into(),
                workload: "Deployment/checkout".into(),
                count: 3,
                first_us: fixture::T - 86_400_000_000,
                last_us: fixture::T,
            }],
            remediation: vec!["raise the memory limit".into()],
            gaps: vec![fixture::gap()],
        }))
    }

    async fn state_at(
        &self,
        request: Request<proto::StateAtRequest>,
    ) -> Result<Response<proto::StateAtResponse>, Status> {
        let request = request.into_inner();
        self.remember(|a| a.state_at.push(request.clone()));
        let known = request.name == "checkout-7d9";
        Ok(Response::new(proto::StateAtResponse {
            as_of: as_of(),
            version: known.then(fixture::pod_version),
            valid_to_us: known.then_some(fixture::T + 60_000_000),
            gaps: Vec::new(),
            not_found_because: if known { String::new() } else { "it was first seen later".into() },
        }))
    }

    async fn status(
        &self,
        _: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        let subjects = vec![
            proto::Subject {
                name: "oom".into(),
                tier: "tracepoint".into(),
                hooks: vec!["raw_tracepoint/mark_victim".into(), "raw_tracepoint/signal_generate".into()],
                missing: Vec::new(),
            },
            proto::Subject {
                name: "volume_swap".into(),
                tier: "none".into(),
                hooks: Vec::new(),
                missing: vec!["no tracefs: mount it at /sys/kernel/tracing".into()],
            },
        ];
        let status = proto::AgentStatus {
            node: "node1".into(),
            version: "0.1.0".into(),
            subjects,
            spool_items: 3,
            spool_bytes: 4_096,
            pods: 12,
            watch: "ok".into(),
            rss_bytes: 8_388_608,
            clock_error_ns: 51_000,
        };
        Ok(Response::new(proto::StatusResponse {
            as_of: as_of(),
            cluster: "demo".into(),
            version: "0.1.0".into(),
            catalog: self.catalog.clone(),
            rows: [("events".to_owned(), 42), ("edges".to_owned(), 17)].into(),
            wal_pending_frames: 2,
            published_at_us: fixture::T,
            degraded: vec!["node1 sees no volume swaps: mount tracefs".into()],
            watches: [
                ("configmaps".to_owned(), "ok".to_owned()),
                ("pods".to_owned(), "forbidden".to_owned()),
            ]
            .into(),
            agents: vec![proto::AgentState {
                status: Some(status),
                connected: true,
                last_seen_us: fixture::T,
                events: 42,
                duplicates: 1,
            }],
            rss_bytes: 52_428_800,
        }))
    }
}
