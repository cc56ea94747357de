//! One stream, from the connection to its end.

use std::collections::HashSet;
use std::time::Duration;

use aftertrace_api::proto::ingest_client::IngestClient;
use aftertrace_api::proto::{self, stream_request, stream_response};
use aftertrace_api::{BATCH_ITEMS_MAX, MESSAGE_BYTES_MAX};
use aftertrace_model::config::ObjectKey;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Streaming};
use tracing::info;

use super::flight::Flight;
use super::{Beside, ExportError, Target};
use crate::config::read_file;
use crate::draft::Origin;
use crate::spool::Reader;
use crate::status::VERSION;
use crate::volumes::sources::MountedObject;

/// The name in the aggregator's certificate, whatever its address.
const SERVER_NAME: &str = "aftertrace-aggregator";

/// How long a connection may take, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the welcome may take after that.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings on a quiet stream, and how long their answer may take: a vanished aggregator is found out about
/// within both together.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Least time between two status messages (the contract's bound).
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that wait for the transport; more would only hide that it is slow.
const OUTGOING_MAX: usize = 4;

type Outgoing = mpsc::Sender<proto::StreamRequest>;

/// Serves one stream; ends with an error, or without one when the spool's thread is gone.
pub(super) async fn serve(
    target: &Target,
    origin: &Origin,
    spool: &Reader,
    beside: &mut Beside,
    was_welcome: &mut bool,
) -> Result<(), ExportError> {
    let (outgoing, mut incoming, in_flight_max) = open(target, origin, spool).await?;
    info!(address = %target.address, in_flight_max, "streaming to the aggregator");
    *was_welcome = true;
    let mut progress = spool.progress();
    let mut flight = Flight::default();
    let mut next = progress.borrow_and_update().acked + 1;
    let mut asked: HashSet<MountedObject> = HashSet::new();
    let mut status_at = Instant::now();
    beside.wanted.mark_changed();
    beside.status.mark_changed();
    loop {
        let available = progress.borrow_and_update().available;
        let room = in_flight_max.saturating_sub(flight.items());
        let may_send = available >= next && room > 0;
        tokio::select! {
            // Acknowledgements first: they make room.
            biased;
            message = incoming.message() => {
                let message = message?.and_then(|m| m.message).ok_or(ExportError::Closed)?;
                match message {
                    stream_response::Message::Ack(ack) => {
                        let done = flight.acked(ack.first_sequence, ack.last_sequence);
                        let done = done.map_err(|_| ExportError::Protocol("it acknowledged what was not sent"))?;
                        if let Some((through, items)) = done {
                            spool.ack(through, items).await;
                        }
                    }
                    stream_response::Message::ObjectKey(key) => {
                        if let Some(given) = object_key(&key) {
                            // Without a pipeline there is nothing to hash.
                            let _ = beside.keys.send(given).await;
                        }
                    }
                    stream_response::Message::Welcome(_) => {
                        return Err(ExportError::Protocol("it welcomed us twice"));
                    }
                }
            }
            permit = outgoing.reserve(), if may_send => {
                let permit = permit.map_err(|_| ExportError::Closed)?;
                let items_max = usize::try_from(room).unwrap_or(usize::MAX).min(BATCH_ITEMS_MAX);
                let Some(batch) = spool.read(next, items_max).await else {
                    // Given up meanwhile, or the disk cannot be read now: look again when it has changed.
                    tokio::time::sleep(STATUS_INTERVAL).await;
                    continue;
                };
                let last = batch.first + batch.items.len() as u64 - 1;
                flight.sent(batch.first, last);
                next = last + 1;
                permit.send(request(stream_request::Message::Batch(proto::Batch {
                    first_sequence: batch.first,
                    items: batch.items,
                })));
            }
            changed = progress.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            changed = beside.wanted.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let wanted = beside.wanted.borrow_and_update().clone();
                asked.retain(|object| wanted.contains(object));
                for object in wanted {
                    if asked.insert(object.clone()) {
                        send(&outgoing, stream_request::Message::ObjectKeyRequest(proto::ObjectKeyRequest {
                            kind: object.kind.to_owned(),
                            namespace: object.namespace,
                            name: object.name,
                        })).await?;
                    }
                }
            }
            () = tokio::time::sleep_until(status_at), if beside.status.has_changed().unwrap_or(false) => {
                let status = beside.status.borrow_and_update().clone();
                status_at = Instant::now() + STATUS_INTERVAL;
                send(&outgoing, stream_request::Message::Status(status)).await?;
            }
            changed = beside.status.changed(), if !beside.status.has_changed().unwrap_or(false) => {
                if changed.is_err() {
                    return Ok(());
                }
                // `changed` marks it as seen; it is to be sent.
                beside.status.mark_changed();
            }
        }
    }
}

async fn send(outgoing: &Outgoing, message: stream_request::Message) -> Result<(), ExportError> {
    outgoing.send(request(message)).await.map_err(|_| ExportError::Closed)
}

const fn request(message: stream_request::Message) -> proto::StreamRequest {
    proto::StreamRequest { message: Some(message) }
}

/// Connects, says hello and waits for the welcome.
async fn open(
    target: &Target,
    origin: &Origin,
    spool: &Reader,
) -> Result<(Outgoing, Streaming<proto::StreamResponse>, u64), ExportError> {
    let token = token(target)?;
    let channel = connect(target).await?;
    let mut client = IngestClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    let hello = proto::Hello {
        cluster: origin.cluster.clone(),
        node: origin.node.clone(),
        boot_id: target.boot_id.clone(),
        spool_id: spool.spool_id().as_bytes().to_vec(),
        version: VERSION.to_owned(),
    };
    send(&outgoing, stream_request::Message::Hello(hello)).await?;
    let mut request = Request::new(ReceiverStream::new(queue));
    request.metadata_mut().insert("authorization", token);
    let welcome = async {
        let mut incoming = client.stream(request).await?.into_inner();
        let first = incoming.message().await?.and_then(|m| m.message).ok_or(ExportError::Closed)?;
        let stream_response::Message::Welcome(welcome) = first else {
            return Err(ExportError::Protocol("its first message was no welcome"));
        };
        Ok((incoming, u64::from(welcome.in_flight_items_max).max(1)))
    };
    let (incoming, in_flight_max) = tokio::time::timeout(WELCOME_TIMEOUT, welcome)
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("no welcome in time"))??;
    Ok((outgoing, incoming, in_flight_max))
}

fn token(target: &Target) -> Result<MetadataValue<Ascii>, ExportError> {
    let path = &target.token_file;
    let token = read_file(path).map_err(|source| ExportError::File {
        flag: "--token-file",
        path: path.clone(),
        source,
    })?;
    let unusable = || ExportError::Token { path: path.clone() };
    if token.is_empty() {
        return Err(unusable());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

async fn connect(target: &Target) -> Result<Channel, ExportError> {
    let ca = read_file(&target.ca).map_err(|source| ExportError::File {
        flag: "--ca",
        path: target.ca.clone(),
        source,
    })?;
    let failed = |source| ExportError::Connect { address: target.address.clone(), source };
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(SERVER_NAME);
    Endpoint::from(target.address.clone())
        .tls_config(tls)
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(failed)
}

fn object_key(key: &proto::ObjectKey) -> Option<(MountedObject, ObjectKey)> {
    let kind = ["ConfigMap", "Secret"].into_iter().find(|k| *k == key.kind)?;
    let bytes: [u8; 32] = key.key.as_slice().try_into().ok()?;
    let object = MountedObject { kind, namespace: key.namespace.clone(), name: key.name.clone() };
    Some((object, ObjectKey::from_bytes(bytes)))
}
