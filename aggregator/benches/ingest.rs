//! Measures acknowledged ingest: batches of 1,000 kernel facts over TLS on loopback, each acknowledged only when it
//! is on disk, with segments and catalog being written meanwhile. Prints rows for `cargo xtask bench`.

use std::time::Instant;

use aftertrace_aggregator::Config;
use aftertrace_aggregator::config::ApiServer;
use aftertrace_aggregator::service::Running;
use aftertrace_api::proto::ingest_client::IngestClient;
use aftertrace_api::proto::{self, stream_request, stream_response};
use aftertrace_api::{BATCH_ITEMS_MAX, MESSAGE_BYTES_MAX};
use aftertrace_model::fact::FactKey;
use aftertrace_model::{Attributes, Event, Kind, Occurrence, PodRef, Severity, Source, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use uuid::Uuid;

/// Batches sent; 1,000 events each.
const BATCHES: u64 = 300;

/// Batches on their way at once.
const IN_FLIGHT: usize = 8;

const CLUSTER: &str = "bench";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime of two threads");
    runtime.block_on(measure());
}

async fn measure() {
    let folder = std::env::temp_dir().join(format!("aftertrace-bench-{}", std::process::id()));
    let config = Config {
        cluster: CLUSTER.to_owned(),
        data: folder.clone(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        api_server: ApiServer::None,
        tls_names: Vec::new(),
    };
    let running = Running::start(config).await.expect("the aggregator starts in an empty folder");
    let ca = std::fs::read(folder.join("tls/ca.crt")).expect("made at the first start");
    let token = std::fs::read_to_string(folder.join("tokens/agent.token")).expect("made at the first start");
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("aftertrace-aggregator");
    let channel = Channel::from_shared(format!("https://{}", running.address()))
        .expect("an address")
        .tls_config(tls)
        .expect("a certificate")
        .connect()
        .await
        .expect("the aggregator listens");

    let batches: Vec<proto::StreamRequest> = (0..BATCHES).map(batch).collect();
    let (sender, requests) = mpsc::channel(IN_FLIGHT);
    let mut request = Request::new(ReceiverStream::new(requests));
    let bearer = format!("Bearer {}", token.trim()).parse().expect("a token is ASCII");
    request.metadata_mut().insert("authorization", bearer);
    sender.send(hello()).await.expect("the channel is open");
    let mut client = IngestClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut responses = client.stream(request).await.expect("the stream opens").into_inner();

    let started = Instant::now();
    tokio::spawn(async move {
        for batch in batches {
            sender.send(batch).await.expect("the stream is open");
        }
        // The stream stays open until the last acknowledgement came.
        std::future::pending::<()>().await;
    });
    let mut acknowledged = 0;
    while acknowledged < BATCHES {
        let response = responses.message().await.expect("the stream is open").expect("the stream goes on");
        if let Some(stream_response::Message::Ack(_)) = response.message {
            acknowledged += 1;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let events = BATCHES * BATCH_ITEMS_MAX as u64;
    println!("row\tingest, acknowledged, batches of 1,000\t{:.0}\tevents/s\t200000", events as f64 / seconds);
    println!("row\taggregator and its load, RSS after {events} events\t{:.1}\tMiB\t512", rss_mib());
    running.drain().await.expect("the last flush works");
    println!(
        "row\tat rest, before a day's compaction\t{:.1}\tB/event\t30",
        bytes(&folder.join("segments")) / events as f64
    );
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

fn hello() -> proto::StreamRequest {
    let hello = proto::Hello {
        cluster: CLUSTER.to_owned(),
        node: "node1".to_owned(),
        boot_id: Uuid::nil().to_string(),
        spool_id: Uuid::nil().as_bytes().to_vec(),
        version: "bench".to_owned(),
    };
    proto::StreamRequest { message: Some(stream_request::Message::Hello(hello)) }
}

fn batch(n: u64) -> proto::StreamRequest {
    let first_sequence = n * BATCH_ITEMS_MAX as u64;
    let items = (0..BATCH_ITEMS_MAX as u64)
        .map(|i| proto::Item { item: Some(proto::item::Item::Event((&event(first_sequence + i)).into())) })
        .collect();
    let batch = proto::Batch { first_sequence, items };
    proto::StreamRequest { message: Some(stream_request::Message::Batch(batch)) }
}

/// A kill with all that a kill has; one pod for each fifty of them.
fn event(sequence: u64) -> Event {
    let at = Timestamp::from_micros(1_795_171_922_000_000 + i64::try_from(sequence).expect("small") * 1_000);
    let pod = sequence / 50;
    let event_id = FactKey::Record { spool_id: Uuid::nil(), sequence }.event_id(CLUSTER, at);
    let occurred = Occurrence::within(at, 40);
    Event {
        boot_ns: Some(sequence * 1_000_000),
        node: Some("node1".to_owned()),
        pod: Some(PodRef {
            namespace: "shop".to_owned(),
            name: format!("checkout-{pod:x}"),
            uid: Uuid::from_u128(u128::from(pod)).to_string(),
        }),
        container: Some("app".to_owned()),
        container_id: Some(format!("{sequence:064x}")),
        restart_count: Some(i32::try_from(sequence % 50).expect("small")),
        pid: Some(u32::try_from(sequence % 30_000).expect("small")),
        container_init: Some(true),
        cgroup_id: Some(sequence),
        severity: Severity::Error,
        summary: format!("memhog (pid {}) OOM-killed in container app", sequence % 30_000),
        attributes: Attributes::from([("process.command".to_owned(), serde_json::json!("memhog"))]),
        ..Event::new(event_id, Kind::OomKill, occurred, CLUSTER, Source::Kernel, "raw_tracepoint/mark_victim")
    }
}

fn rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Bytes of all files below a folder.
fn bytes(folder: &std::path::Path) -> f64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0.0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            Ok(metadata) => metadata.len() as f64,
            Err(_) => 0.0,
        })
        .sum()
}
