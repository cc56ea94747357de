//! An aggregator that only keeps: it acknowledges what the agent sends, gives out keys, and can be asked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aftertrace_api::proto::ingest_server::{Ingest, IngestServer};
use aftertrace_api::proto::{self, StreamRequest, StreamResponse, item, stream_request, stream_response};
use aftertrace_model::config::ObjectKey;
use aftertrace_model::{Edge, Event, Gap};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// What agents show.
const TOKEN: &str = "evidence-token";

/// The name that agents expect in the certificate.
const SERVER_NAME: &str = "aftertrace-aggregator";

/// Items that an agent may have in flight; a batch is a thousand.
const IN_FLIGHT_MAX: u32 = 4_000;

/// The cluster's secret; fixed, so that a test can hash what it wrote.
const SECRET: [u8; 32] = [7; 32];

/// Everything that came, in the order in which it came.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) events: Vec<Event>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) status: Option<proto::AgentStatus>,
    /// Spool and sequence of each item, for an item that comes twice.
    seen: BTreeSet<(Vec<u8>, u64)>,
}

/// A running collector. It ends with its runtime.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    kept: Arc<Mutex<Kept>>,
    /// Where the agent reaches it.
    pub(crate) url: String,
    /// File with its certificate.
    pub(crate) ca: PathBuf,
    /// File with the agent's token.
    pub(crate) token: PathBuf,
}

impl Collector {
    /// Starts one; its files are in `folder`.
    pub(crate) async fn start(folder: &std::path::Path) -> Self {
        let cert = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()]).expect("a certificate");
        let (ca, token) = (folder.join("collector-ca.crt"), folder.join("collector.token"));
        std::fs::write(&ca, cert.cert.pem()).expect("the run's folder is writable");
        std::fs::write(&token, TOKEN).expect("the run's folder is writable");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let collector = Self { kept: Arc::default(), url, ca, token };
        let identity = Identity::from_pem(cert.cert.pem(), cert.signing_key.serialize_pem());
        let service = IngestServer::new(Keeper(Arc::clone(&collector.kept)))
            .max_decoding_message_size(aftertrace_api::MESSAGE_BYTES_MAX);
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .expect("a certificate of ours")
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        collector
    }

    /// What came so far.
    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}

/// The key that the agent got for an object.
pub(crate) fn key_of(kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::derive(&SECRET, kind, namespace, name)
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Keeper(Arc<Mutex<Kept>>);

type Responses = Pin<Box<dyn futures::Stream<Item = Result<StreamResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Keeper {
    type StreamStream = Responses;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let token = request.metadata().get("authorization").and_then(|token| token.to_str().ok());
        if token != Some(&format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("not the agent's token"));
        }
        let mut incoming = request.into_inner();
        let (responses, out) = mpsc::channel(64);
        let keeper = self.clone();
        tokio::spawn(async move {
            let mut spool = Vec::new();
            while let Ok(Some(StreamRequest { message: Some(message) })) = incoming.message().await {
                let Some(answer) = keeper.take(message, &mut spool) else { continue };
                let answer = StreamResponse { message: Some(answer) };
                if responses.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

impl Keeper {
    /// Takes one message in; returns the answer to it.
    fn take(
        &self,
        message: stream_request::Message,
        spool: &mut Vec<u8>,
    ) -> Option<stream_response::Message> {
        let mut kept = lock(&self.0);
        match message {
            stream_request::Message::Hello(hello) => {
                *spool = hello.spool_id;
                let welcome = proto::Welcome { in_flight_items_max: IN_FLIGHT_MAX };
                Some(stream_response::Message::Welcome(welcome))
            }
            stream_request::Message::Batch(batch) => {
                let first_sequence = batch.first_sequence;
                let mut last_sequence = first_sequence;
                for (sequence, item) in (first_sequence..).zip(batch.items) {
                    last_sequence = sequence;
                    if kept.seen.insert((spool.clone(), sequence)) {
                        kept.keep(item);
                    }
                }
                Some(stream_response::Message::Ack(proto::Ack { first_sequence, last_sequence }))
            }
            stream_request::Message::ObjectKeyRequest(asked) => {
                let key = key_of(&asked.kind, &asked.namespace, &asked.name);
                Some(stream_response::Message::ObjectKey(proto::ObjectKey {
                    key: key.as_bytes().to_vec(),
                    kind: asked.kind,
                    namespace: asked.namespace,
                    name: asked.name,
                }))
            }
            stream_request::Message::Status(status) => {
                kept.status = Some(status);
                None
            }
        }
    }
}

impl Kept {
    fn keep(&mut self, item: proto::Item) {
        match item.item.expect("an agent sends one of them") {
            item::Item::Event(event) => {
                self.events.push(Event::try_from(event).expect("an agent sends events that can be read"));
            }
            item::Item::Edge(edge) => {
                self.edges.push(Edge::try_from(edge).expect("an agent sends edges that can be read"));
            }
            item::Item::Gap(gap) => {
                self.gaps.push(Gap::try_from(gap).expect("an agent sends gaps that can be read"));
            }
        }
    }
}
