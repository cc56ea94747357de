//! `Ingest.Stream`: what agents send → the writer → acknowledgements.
//!
//! One task per stream reads batches, has them `batch`-sorted and submitted, and acknowledges in the order
//! of arrival once everything of a batch is durable. A fact about a pod that our watch has not confirmed yet
//! is held back and keeps the acknowledgements behind it waiting, not the facts behind it. What is in flight
//! is bounded: past the bound the stream is not read, and HTTP/2 slows the agent down.

mod batch;

use std::collections::{BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aftertrace_api::proto::ingest_server::Ingest;
use aftertrace_api::proto::stream_request::Message as Request;
use aftertrace_api::proto::stream_response::Message as Response;
use aftertrace_api::{BATCH_ITEMS_MAX, proto};
use aftertrace_model::{Event, EventId, text};
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::agents::{Agents, Connection};
use crate::auth::{Auth, Identity, Role};
use crate::clock;
use crate::memory::recall::Recall;
use crate::secret::ClusterSecret;
use crate::store::StoreError;
use crate::watch::Placements;
use crate::writer::{Accepted, WriterHandle};
use batch::{Sorted, Speaker};

/// Most items of one stream that are received and not acknowledged: ten batches hide the disk's latency.
const IN_FLIGHT_ITEMS_MAX: usize = 10 * BATCH_ITEMS_MAX;

/// Bytes of one stream from which it is not read until some are acknowledged. Ten full batches of ours are some
/// 10 MB; only a strange agent fills them with items of the largest size.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Streams of one node that are served: an agent's new one, and the one it replaces until that is seen to be
/// broken. A further one ends the oldest, so that what one node has in flight is bounded.
const NODE_STREAMS_MAX: u64 = 2;

/// How long a fact waits for the watch to confirm its pod: status reaches a watch within a second or two, and
/// an API server restart takes some ten.
const HOLD: Duration = Duration::from_secs(30);

/// How long a new stream may stay silent.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Responses that wait for a slow agent.
const RESPONSES_MAX: usize = 64;

/// Keys that one node may wait for: above the volumes of the 110 pods that Kubernetes runs on a node.
const KEYS_WAITING_MAX: usize = 4_096;

/// The longest node name: a DNS name. Names of objects are no longer.
const NODE_BYTES_MAX: usize = 253;

/// The largest status: one is kept for each node. Ours take a few KiB, with a verifier's words some more.
const STATUS_BYTES_MAX: usize = 256 * 1024;

/// The longest version of an agent.
const VERSION_BYTES_MAX: usize = 64;

/// The service.
#[derive(Clone, Debug)]
pub struct IngestService(Arc<Shared>);

/// What every stream needs.
#[derive(Debug)]
pub struct Shared {
    /// Our cluster's name.
    pub cluster: String,
    /// Checks tokens.
    pub auth: Arc<Auth>,
    /// Derives hashing keys.
    pub secret: ClusterSecret,
    /// Makes facts durable.
    pub writer: WriterHandle,
    /// Knows the agents.
    pub agents: Arc<Agents>,
    /// What is remembered, by which edges are checked.
    pub recall: Recall,
    /// Knows where pods run.
    pub placements: Arc<Placements>,
    /// Becomes true when the aggregator drains.
    pub draining: watch::Receiver<bool>,
}

impl IngestService {
    /// The service over what it shares.
    #[must_use]
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<proto::StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: tonic::Request<Streaming<proto::StreamRequest>>,
    ) -> Result<tonic::Response<Self::StreamStream>, Status> {
        let identity = self.0.auth.admit(request.metadata(), Role::Agent).await?;
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let shared = Arc::clone(&self.0);
        let inbound = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = serve(&shared, &identity, inbound, &responses).await {
                debug!(code = ?status.code(), message = status.message(), "stream ended");
                // The agent may be gone already; then nobody needs to be told.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Responses = mpsc::Sender<Result<proto::StreamResponse, Status>>;

async fn serve(
    shared: &Arc<Shared>,
    identity: &Identity,
    mut inbound: Streaming<proto::StreamRequest>,
    responses: &Responses,
) -> Result<(), Status> {
    let hello = match tokio::time::timeout(HELLO_WAIT, inbound.message()).await {
        Ok(first) => first?.and_then(|request| request.message),
        Err(_) => return Err(Status::deadline_exceeded("no hello came; a stream opens with one")),
    };
    let Some(Request::Hello(hello)) = hello else {
        return Err(Status::invalid_argument("the first message of a stream must be hello"));
    };
    let speaker = Arc::new(introduce(shared, identity, &hello)?);
    let node = speaker.node.clone();
    let version = text::escape(&hello.version);
    let connection = shared
        .agents
        .connect(&node, &version, clock::now())
        .ok_or_else(|| Status::resource_exhausted("too many nodes were heard; restart the aggregator"))?;
    info!(node, version, "agent connected");
    let in_flight_items_max = u32::try_from(IN_FLIGHT_ITEMS_MAX).expect("ten thousand fits");
    answer(responses, Response::Welcome(proto::Welcome { in_flight_items_max })).await?;
    let ended = converse(shared, &speaker, &connection, inbound, responses).await;
    info!(node, "agent disconnected");
    ended
}

/// Checks who speaks.
fn introduce(shared: &Shared, identity: &Identity, hello: &proto::Hello) -> Result<Speaker, Status> {
    if hello.cluster != shared.cluster {
        return Err(Status::failed_precondition(format!(
            "this aggregator keeps cluster {:?}, the agent says {:?}: start both with the same --cluster",
            shared.cluster,
            text::escape(&hello.cluster)
        )));
    }
    let node = &hello.node;
    if node.is_empty() || node.len() > NODE_BYTES_MAX || text::escape(node) != *node {
        return Err(Status::invalid_argument("hello.node must be the node's name: 1 to 253 visible bytes"));
    }
    if identity.node.as_ref().is_some_and(|own| own != node) {
        return Err(Status::permission_denied(format!("the token is not one of node {node}")));
    }
    if hello.version.len() > VERSION_BYTES_MAX {
        return Err(Status::invalid_argument("hello.version must have at most 64 bytes"));
    }
    let spool_id = Uuid::from_slice(&hello.spool_id)
        .map_err(|_| Status::invalid_argument("hello.spool_id must have 16 bytes"))?;
    Ok(Speaker { cluster: shared.cluster.clone(), node: node.clone(), spool_id })
}

async fn converse(
    shared: &Arc<Shared>,
    speaker: &Arc<Speaker>,
    connection: &Connection,
    mut inbound: Streaming<proto::StreamRequest>,
    responses: &Responses,
) -> Result<(), Status> {
    let mut work = FuturesOrdered::new();
    let (mut in_flight_items, mut in_flight_bytes) = (0, 0);
    let mut keys_waiting = BTreeSet::new();
    let mut placement_changes = shared.placements.changes();
    let mut draining = shared.draining.clone();
    let mut newest = connection.newest();
    loop {
        tokio::select! {
            biased;
            () = replaced(&mut newest, connection.number()) => {
                return Err(Status::aborted("the node opened newer streams; this one is no longer served"));
            }
            () = drains(&mut draining) => {
                return Err(Status::unavailable("the aggregator is shutting down; connect again"));
            }
            Some(done) = work.next(), if !work.is_empty() => {
                let Done { items, bytes, ack, accepted } = done?;
                in_flight_items -= items;
                in_flight_bytes -= bytes;
                connection.accepted(accepted.events, accepted.duplicates, clock::now());
                answer(responses, Response::Ack(ack)).await?;
            }
            Ok(()) = placement_changes.changed(), if !keys_waiting.is_empty() => {
                give_keys(shared, speaker, &mut keys_waiting, responses).await?;
            }
            message = inbound.message(),
                if in_flight_items < IN_FLIGHT_ITEMS_MAX && in_flight_bytes < IN_FLIGHT_BYTES_MAX => {
                let Some(message) = message? else { return finish(work, connection, responses).await };
                match message.message {
                    Some(Request::Batch(batch)) => {
                        let items = batch.items.len();
                        if items == 0 || items > BATCH_ITEMS_MAX {
                            return Err(Status::invalid_argument(format!(
                                "a batch of {items} items; it must have 1 to {BATCH_ITEMS_MAX}"
                            )));
                        }
                        in_flight_items += items;
                        in_flight_bytes += batch.encoded_len();
                        work.push_back(take(Arc::clone(shared), Arc::clone(speaker), batch));
                    }
                    Some(Request::ObjectKeyRequest(wanted)) => {
                        let names = [&wanted.kind, &wanted.namespace, &wanted.name];
                        if names.iter().any(|name| name.len() > NODE_BYTES_MAX) {
                            return Err(Status::invalid_argument("a wanted object's name has more than 253 bytes"));
                        }
                        if keys_waiting.len() < KEYS_WAITING_MAX {
                            keys_waiting.insert((wanted.kind, wanted.namespace, wanted.name));
                        }
                        give_keys(shared, speaker, &mut keys_waiting, responses).await?;
                    }
                    Some(Request::Status(status)) => {
                        let bytes = status.encoded_len();
                        if bytes <= STATUS_BYTES_MAX {
                            connection.heard(status, clock::now());
                        } else {
                            // Its evidence is worth more than its words.
                            warn!(node = speaker.node, bytes, "an agent's status is too large and was left out");
                        }
                    }
                    Some(Request::Hello(_)) => {
                        return Err(Status::invalid_argument("hello comes once, at the beginning"));
                    }
                    None => return Err(Status::invalid_argument("a message without content")),
                }
            }
        }
    }
}

/// Waits until the node has opened as many newer streams as are served.
async fn replaced(newest: &mut watch::Receiver<u64>, number: u64) {
    // The connection keeps the sender; without it there is no newer stream either.
    if newest.wait_for(|newest| *newest >= number.saturating_add(NODE_STREAMS_MAX)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until the aggregator drains, or is gone.
async fn drains(draining: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and the aggregator with it.
    let _ = draining.wait_for(|draining| *draining).await;
}

/// The agent sends nothing more: what it sent is still acknowledged.
async fn finish(
    mut work: FuturesOrdered<impl Future<Output = Result<Done, Status>>>,
    connection: &Connection,
    responses: &Responses,
) -> Result<(), Status> {
    while let Some(done) = work.next().await {
        let Done { ack, accepted, .. } = done?;
        connection.accepted(accepted.events, accepted.duplicates, clock::now());
        answer(responses, Response::Ack(ack)).await?;
    }
    Ok(())
}

/// A batch that is durable as a whole.
struct Done {
    items: usize,
    bytes: usize,
    ack: proto::Ack,
    accepted: Accepted,
}

/// Makes one batch durable.
async fn take(shared: Arc<Shared>, speaker: Arc<Speaker>, batch: proto::Batch) -> Result<Done, Status> {
    let (items, bytes) = (batch.items.len(), batch.encoded_len());
    let first_sequence = batch.first_sequence;
    let ack = proto::Ack { first_sequence, last_sequence: first_sequence.wrapping_add(items as u64 - 1) };
    // Subscribed before the first look, so that no change is missed between look and wait.
    let mut changes = shared.placements.changes();
    let mut sorted = speaker.sort(batch, &shared.placements, clock::now());
    let ends = sorted.edge_ends();
    if !ends.is_empty() {
        let known = told(&shared.recall, ends).await?;
        speaker.refuse_foreign_edges(&mut sorted, &known);
    }
    let Sorted { facts, mut held, .. } = sorted;
    let mut accepted = submit(&shared, facts).await?;
    let deadline = Instant::now() + HOLD;
    while !held.is_empty() {
        let waited = tokio::time::timeout_at(deadline, changes.changed()).await;
        let mut sorted = Sorted::default();
        for fact in held {
            speaker.settle(fact, &shared.placements, &mut sorted);
        }
        held = std::mem::take(&mut sorted.held);
        if waited.is_err() {
            for fact in held.drain(..) {
                warn!(node = speaker.node, kind = %fact.event.kind, "a fact's pod was not confirmed");
                sorted.facts.gaps.push(speaker.unauthorized(fact.sequence, &fact.event));
            }
        }
        let more = submit(&shared, sorted.facts).await?;
        accepted.events += more.events;
        accepted.duplicates += more.duplicates;
    }
    Ok(Done { items, bytes, ack, accepted })
}

/// Those of the facts that are remembered. Mostly they are in memory or not there yet; only what is older than
/// the memory reaches is looked for in segments, which blocks.
async fn told(recall: &Recall, ids: Vec<EventId>) -> Result<HashMap<EventId, Arc<Event>>, Status> {
    let (mut known, older) = recall.recent_events(&ids);
    if !older.is_empty() {
        let stored = recall.reader.run(move |reader| reader.events_by_id(&older)).await;
        let stored = stored.map_err(|error| {
            warn!(%error, "cannot look up the facts of an edge");
            Status::unavailable(format!("the facts of an edge cannot be looked up, send it again: {error}"))
        })?;
        known.extend(stored.into_iter().map(|event| (event.event_id, Arc::new(event))));
    }
    Ok(known)
}

async fn submit(shared: &Shared, facts: crate::writer::Facts) -> Result<Accepted, Status> {
    if facts.events.is_empty() && facts.edges.is_empty() && facts.gaps.is_empty() {
        return Ok(Accepted { position: 0, events: 0, duplicates: 0 });
    }
    shared.writer.submit(facts).await.map_err(|error| {
        if !matches!(error, StoreError::Closed) {
            warn!(%error, "cannot make a batch durable");
        }
        Status::unavailable(format!("the batch is not durable, send it again: {error}"))
    })
}

/// Sends the keys of objects that a pod on the node mounts by now.
async fn give_keys(
    shared: &Shared,
    speaker: &Speaker,
    waiting: &mut BTreeSet<(String, String, String)>,
    responses: &Responses,
) -> Result<(), Status> {
    let mounted: Vec<_> = waiting
        .iter()
        .filter(|(kind, namespace, name)| shared.placements.mounts(&speaker.node, kind, namespace, name))
        .cloned()
        .collect();
    for wanted in mounted {
        waiting.remove(&wanted);
        let (kind, namespace, name) = wanted;
        let key = shared.secret.object_key(&kind, &namespace, &name).as_bytes().to_vec();
        answer(responses, Response::ObjectKey(proto::ObjectKey { kind, namespace, name, key })).await?;
    }
    Ok(())
}

async fn answer(responses: &Responses, message: Response) -> Result<(), Status> {
    let response = proto::StreamResponse { message: Some(message) };
    responses.send(Ok(response)).await.map_err(|_| Status::cancelled("the agent is gone"))
}
