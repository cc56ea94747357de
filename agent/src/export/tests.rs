//! An aggregator that loses streams and acknowledgements, and what reaches it all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use aftertrace_api::proto::ingest_server::{Ingest, IngestServer};
use aftertrace_api::proto::{
    Gap, Item, StreamRequest, StreamResponse, item, stream_request, stream_response,
};
use futures::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::losses::Ledger;
use crate::spool::{self, Options, Writer};

const TOKEN: &str = "agent-token";
const PATIENCE: Duration = Duration::from_secs(60);

/// What the aggregator got, and what it is to do wrong.
#[derive(Debug, Default)]
struct Seen {
    stored: BTreeMap<u64, String>,
    streams: u64,
    spools: BTreeSet<Vec<u8>>,
    refused: u64,
    resent: u64,
    disorder: u64,
    in_flight_most: u64,
    asked: Vec<String>,
    statuses: Vec<proto::AgentStatus>,
}

#[derive(Clone, Default)]
struct Aggregator {
    seen: Arc<Mutex<Seen>>,
    /// Batches of a stream after which it is cut: first stored without an acknowledgement, then not at all.
    cut_after: Option<u64>,
    in_flight_max: u32,
}

type Responses = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

fn respond(message: stream_response::Message) -> Result<StreamResponse, Status> {
    Ok(StreamResponse { message: Some(message) })
}

#[tonic::async_trait]
impl Ingest for Aggregator {
    type StreamStream = Responses;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let token = request.metadata().get("authorization").and_then(|t| t.to_str().ok()).map(str::to_owned);
        if token.as_deref() != Some(&format!("Bearer {TOKEN}")) {
            self.seen.lock().expect("no panics").refused += 1;
            return Err(Status::unauthenticated("no agent token"));
        }
        let mut incoming = request.into_inner();
        let (responses, out) = mpsc::channel(64);
        let this = self.clone();
        tokio::spawn(async move {
            let stream = {
                let mut seen = this.seen.lock().expect("no panics");
                seen.streams += 1;
                seen.streams
            };
            let (mut batches, mut last) = (0, 0);
            let mut open: u64 = 0;
            while let Ok(Some(message)) = incoming.message().await {
                match message.message.expect("one of them") {
                    stream_request::Message::Hello(hello) => {
                        this.seen.lock().expect("no panics").spools.insert(hello.spool_id);
                        let welcome = proto::Welcome { in_flight_items_max: this.in_flight_max };
                        let _ = responses.send(respond(stream_response::Message::Welcome(welcome))).await;
                    }
                    stream_request::Message::Batch(batch) => {
                        batches += 1;
                        let is_last = this.cut_after.is_some_and(|n| batches > n);
                        let end = batch.first_sequence + batch.items.len() as u64 - 1;
                        open += batch.items.len() as u64;
                        {
                            let mut seen = this.seen.lock().expect("no panics");
                            seen.disorder += u64::from(batch.first_sequence <= last);
                            seen.in_flight_most = seen.in_flight_most.max(open);
                            if !is_last || stream.is_multiple_of(2) {
                                for (n, item) in (batch.first_sequence..).zip(&batch.items) {
                                    let was = seen.stored.insert(n, detail(item));
                                    seen.resent += u64::from(was.is_some());
                                    assert!(was.is_none_or(|w| w == detail(item)), "another item under {n}");
                                }
                            }
                        }
                        last = end;
                        if is_last {
                            return;
                        }
                        let ack = proto::Ack { first_sequence: batch.first_sequence, last_sequence: end };
                        open -= batch.items.len() as u64;
                        let _ = responses.send(respond(stream_response::Message::Ack(ack))).await;
                    }
                    stream_request::Message::ObjectKeyRequest(asked) => {
                        this.seen.lock().expect("no panics").asked.push(asked.name.clone());
                        let key = proto::ObjectKey {
                            kind: asked.kind,
                            namespace: asked.namespace,
                            name: asked.name,
                            key: vec![7; 32],
                        };
                        let _ = responses.send(respond(stream_response::Message::ObjectKey(key))).await;
                    }
                    stream_request::Message::Status(status) => {
                        this.seen.lock().expect("no panics").statuses.push(status);
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

fn item(n: u64) -> Item {
    Item { item: Some(item::Item::Gap(Gap { detail: format!("item {n}"), ..Gap::default() })) }
}

fn detail(item: &Item) -> String {
    match &item.item {
        Some(item::Item::Gap(gap)) => gap.detail.clone(),
        other => panic!("not one of ours: {other:?}"),
    }
}

/// An aggregator on a port, and an agent's export on a new spool.
struct Rig {
    dir: tempfile::TempDir,
    seen: Arc<Mutex<Seen>>,
    writer: Writer,
    reader: Reader,
    wanted: watch::Sender<Vec<MountedObject>>,
    status: watch::Sender<proto::AgentStatus>,
    keys: mpsc::Receiver<GivenKey>,
}

impl Rig {
    async fn start(aggregator: Aggregator, token: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cert =
            rcgen::generate_simple_self_signed(["aftertrace-aggregator".to_owned()]).expect("a certificate");
        std::fs::write(dir.path().join("ca"), cert.cert.pem()).expect("writes");
        std::fs::write(dir.path().join("token"), format!("{token}\n")).expect("writes");
        let identity = Identity::from_pem(cert.cert.pem(), cert.signing_key.serialize_pem());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::clone(&aggregator.seen);
        let server = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .expect("a TLS configuration")
            .add_service(IngestServer::new(aggregator))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);

        let options = Options { dir: dir.path().join("spool"), bytes_max: 64 << 20 };
        let (writer, reader, _) =
            spool::start(&options, Arc::new(Ledger::default())).expect("the spool opens");
        let (wanted, wanted_out) = watch::channel(Vec::new());
        let (status, status_out) = watch::channel(proto::AgentStatus::default());
        let (keys_in, keys) = mpsc::channel(8);
        let target = Target {
            address: format!("https://127.0.0.1:{port}").parse().expect("an address"),
            ca: dir.path().join("ca"),
            token_file: dir.path().join("token"),
            boot_id: "boot".to_owned(),
        };
        let origin = Origin { cluster: "c".into(), node: "n".into() };
        let beside = Beside { wanted: wanted_out, keys: keys_in, status: status_out };
        tokio::spawn(run(target, origin, reader.clone(), beside));
        Self { dir, seen, writer, reader, wanted, status, keys }
    }

    async fn all_acked(&self, sequence: u64) {
        let mut progress = self.reader.progress();
        let reached = progress.wait_for(|p| p.acked >= sequence);
        tokio::time::timeout(PATIENCE, reached).await.expect("in time").expect("the spool runs");
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !is_so(&self.seen.lock().expect("no panics")) {
            assert!(tokio::time::Instant::now() < end, "waited for {what}: {:?}", self.seen);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn check(aggregator: Aggregator, count: u64) -> Arc<Mutex<Seen>> {
    let mut rig = Rig::start(aggregator, TOKEN).await;
    for n in 1..=count {
        assert_eq!(rig.writer.append(item(n)).await, n);
        if n % 97 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    rig.all_acked(count).await;
    let seen = rig.seen.lock().expect("no panics");
    let stored: Vec<u64> = seen.stored.keys().copied().collect();
    assert_eq!(stored, (1..=count).collect::<Vec<_>>(), "each item is there");
    assert!(seen.stored.iter().all(|(n, text)| *text == format!("item {n}")));
    assert_eq!((seen.disorder, seen.spools.len()), (0, 1));
    drop(seen);
    let progress = rig.reader.progress().borrow().clone();
    assert_eq!(progress.unacked_items, 0);
    Arc::clone(&rig.seen)
}

#[tokio::test]
async fn everything_arrives_once_on_a_good_day() {
    let seen = check(Aggregator { in_flight_max: 10_000, ..Aggregator::default() }, 3_000).await;
    let seen = seen.lock().expect("no panics");
    assert_eq!((seen.streams, seen.resent), (1, 0));
}

#[tokio::test]
async fn the_window_is_kept() {
    let seen = check(Aggregator { in_flight_max: 5, ..Aggregator::default() }, 300).await;
    let most = seen.lock().expect("no panics").in_flight_most;
    assert!((1..=5).contains(&most), "{most} items in flight");
}

#[tokio::test]
async fn lost_streams_and_acknowledgements_lose_nothing() {
    let aggregator = Aggregator { cut_after: Some(3), in_flight_max: 50, ..Aggregator::default() };
    let seen = check(aggregator, 1_000).await;
    let seen = seen.lock().expect("no panics");
    assert!(seen.streams > 3, "the streams were cut: {}", seen.streams);
    assert!(seen.resent > 0, "what was stored without an acknowledgement came again");
}

#[tokio::test]
async fn a_wrong_token_is_refused_until_it_is_replaced() {
    let mut rig = Rig::start(Aggregator { in_flight_max: 10, ..Aggregator::default() }, "wrong").await;
    rig.writer.append(item(1)).await;
    rig.until("a refusal", |s| s.refused > 0).await;
    assert!(rig.seen.lock().expect("no panics").stored.is_empty());
    std::fs::write(rig.dir.path().join("token"), TOKEN).expect("writes");
    rig.all_acked(1).await;
}

#[tokio::test]
async fn keys_are_asked_for_and_states_are_told() {
    let mut rig = Rig::start(Aggregator { in_flight_max: 10, ..Aggregator::default() }, TOKEN).await;
    let object = MountedObject { kind: "ConfigMap", namespace: "ns".into(), name: "cm".into() };
    rig.wanted.send_replace(vec![object.clone()]);
    let given = tokio::time::timeout(PATIENCE, rig.keys.recv()).await.expect("in time").expect("a key");
    assert_eq!(given.0, object);
    assert_eq!(given.1.as_bytes(), &[7; 32]);
    for pods in 1..=3 {
        rig.status.send_replace(proto::AgentStatus { pods, ..proto::AgentStatus::default() });
    }
    rig.until("the last state", |s| s.statuses.last().is_some_and(|s| s.pods == 3)).await;
    let seen = rig.seen.lock().expect("no panics");
    assert_eq!(seen.asked, ["cm"]);
    assert!(seen.statuses.len() <= 3, "states are not repeated: {:?}", seen.statuses);
}

#[test]
fn what_a_person_must_mend_says_how() {
    let check = |status: Status, expected: Option<&str>| {
        let remedy = ExportError::from(status).remedy();
        assert!(
            remedy.zip(expected).is_none_or(|(r, e)| r.contains(e)) && remedy.is_some() == expected.is_some()
        );
    };
    check(Status::unauthenticated("x"), Some("--token-file"));
    check(Status::failed_precondition("cluster"), Some("--cluster"));
    check(Status::unimplemented("x"), Some("--aggregator"));
    check(Status::unavailable("x"), None);
}
