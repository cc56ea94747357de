//! Starts an aggregator on a free port, and plays its callers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aftertrace_aggregator::config::ApiServer as Source;
use aftertrace_aggregator::{Config, Running};
use aftertrace_api::proto;
use aftertrace_api::proto::ingest_client::IngestClient;
use aftertrace_api::proto::item::Item;
use aftertrace_api::proto::memory_client::MemoryClient;
use aftertrace_api::proto::stream_request::Message as Request;
use aftertrace_api::proto::stream_response::Message as Response;
use aftertrace_model::fact::FactKey;
use aftertrace_model::{
    Edge, Engine, Event, Kind, Occurrence, Owner, PodRef, Severity, Source as Teller, Timestamp,
};
use aftertrace_stage::api::{ApiServer, Cluster, ServerConfig};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Status, Streaming};
use uuid::Uuid;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CLUSTER: &str = "test";

/// An aggregator and the API server it watches.
pub(crate) struct Setup {
    dir: tempfile::TempDir,
    running: Option<Running>,
    api: Option<ApiServer>,
}

impl Setup {
    /// An aggregator that watches nothing.
    pub(crate) async fn unwatched() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut setup = Self { dir, running: None, api: None };
        setup.start().await;
        setup
    }

    /// An aggregator that watches this played cluster.
    pub(crate) async fn watching(cluster: Cluster) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let api = ApiServer::start(cluster, ServerConfig::default()).await.expect("a free port");
        std::fs::write(dir.path().join("kubeconfig"), api.kubeconfig()).expect("written");
        let mut setup = Self { dir, running: None, api: Some(api) };
        setup.start().await;
        setup
    }

    pub(crate) async fn start(&mut self) {
        let api_server = match &self.api {
            Some(_) => Source::Kubeconfig(self.dir.path().join("kubeconfig")),
            None => Source::None,
        };
        let config = Config {
            cluster: CLUSTER.to_owned(),
            data: self.dir.path().join("data"),
            listen: ([127, 0, 0, 1], 0).into(),
            api_server,
            tls_names: Vec::new(),
        };
        self.running = Some(Running::start(config).await.expect("starts"));
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().expect("runs").drain().await.expect("drains");
    }

    pub(crate) fn api(&self) -> &ApiServer {
        self.api.as_ref().expect("a watching setup")
    }

    pub(crate) fn client(&self) -> Client {
        let address = self.running.as_ref().expect("runs").address();
        Client { data: self.dir.path().join("data"), address }
    }

    pub(crate) async fn memory(&self) -> Memory {
        self.client().memory().await
    }

    /// Opens a stream as the agent of a node does.
    pub(crate) async fn agent(&self, node: &str) -> Agent {
        self.client().agent(node).await
    }
}

/// Asks with the reader's token.
pub(crate) type Memory = MemoryClient<InterceptedService<Channel, Bearer>>;

/// A caller that finds tokens and certificate in the data directory.
pub(crate) struct Client {
    pub(crate) data: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Client {
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.data.join(file)).expect("the aggregator made it")
    }

    pub(crate) async fn channel(&self) -> Channel {
        let port = self.address.port();
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.read("tls/ca.crt")));
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).expect("an address");
        endpoint.tls_config(tls).expect("a certificate").connect().await.expect("the certificate is trusted")
    }

    pub(crate) async fn memory(&self) -> Memory {
        MemoryClient::with_interceptor(self.channel().await, Bearer::new(&self.read("tokens/reader.token")))
    }

    pub(crate) async fn agent(&self, node: &str) -> Agent {
        let token = self.read("tokens/agent.token");
        self.stream(&token, hello(CLUSTER, node)).await.expect("welcome")
    }

    pub(crate) async fn stream(&self, token: &str, hello: proto::Hello) -> Result<Agent, Status> {
        let mut client = IngestClient::with_interceptor(self.channel().await, Bearer::new(token));
        let (requests, receiver) = mpsc::channel(16);
        let first = proto::StreamRequest { message: Some(Request::Hello(hello)) };
        requests.send(first).await.expect("room");
        let responses = client.stream(ReceiverStream::new(receiver)).await?.into_inner();
        let mut agent = Agent { requests, responses };
        match agent.next().await? {
            Response::Welcome(welcome) => assert!(welcome.in_flight_items_max > 0),
            other => panic!("no welcome but {other:?}"),
        }
        Ok(agent)
    }
}

pub(crate) fn hello(cluster: &str, node: &str) -> proto::Hello {
    proto::Hello {
        cluster: cluster.to_owned(),
        node: node.to_owned(),
        boot_id: "b".to_owned(),
        spool_id: SPOOL.as_bytes().to_vec(),
        version: "0.0.0".to_owned(),
    }
}

const SPOOL: Uuid = Uuid::from_u128(7);

/// Puts a token into each call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<tonic::metadata::Ascii>);

impl Bearer {
    pub(crate) fn new(token: &str) -> Self {
        Self(format!("Bearer {}", token.trim()).parse().expect("ASCII"))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A played agent.
pub(crate) struct Agent {
    requests: mpsc::Sender<proto::StreamRequest>,
    responses: Streaming<proto::StreamResponse>,
}

impl Agent {
    pub(crate) async fn say(&self, message: Request) {
        self.requests
            .send(proto::StreamRequest { message: Some(message) })
            .await
            .expect("the stream is open");
    }

    pub(crate) async fn next(&mut self) -> Result<Response, Status> {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        let response = next.expect("an answer comes in time")?.expect("the stream is open");
        Ok(response.message.expect("every answer has content"))
    }

    pub(crate) async fn send(&self, first_sequence: u64, items: Vec<Item>) {
        let items = items.into_iter().map(|item| proto::Item { item: Some(item) }).collect();
        self.say(Request::Batch(proto::Batch { first_sequence, items })).await;
    }

    /// Sends a batch and waits for its acknowledgement.
    pub(crate) async fn deliver(&mut self, first_sequence: u64, items: Vec<Item>) {
        let last_sequence = first_sequence + items.len() as u64 - 1;
        self.send(first_sequence, items).await;
        let ack = self.next().await.expect("an acknowledgement");
        assert_eq!(ack, Response::Ack(proto::Ack { first_sequence, last_sequence }));
    }
}

/// Asks until the answer satisfies.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn now() -> Timestamp {
    aftertrace_aggregator::clock::now()
}

pub(crate) fn pod_ref(name: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

/// A fact of the kernel about a container of that pod.
pub(crate) fn event(sequence: u64, kind: Kind, pod: &str, at: Timestamp) -> Event {
    let occurred = Occurrence::within(at, 0);
    let event_id = FactKey::Record { spool_id: SPOOL, sequence }.event_id(CLUSTER, at);
    Event {
        pod: Some(pod_ref(pod)),
        container: Some("app".to_owned()),
        container_id: Some("c0ffee".to_owned()),
        restart_count: Some(0),
        severity: Severity::Error,
        summary: format!("{kind} of {pod}"),
        ..Event::new(event_id, kind, occurred, CLUSTER, Teller::Kernel, "test")
    }
}

/// The facts of an OOM kill with what the agent's own engine concludes from them.
pub(crate) fn oom_story(pod: &str, first_sequence: u64, at: Timestamp) -> (Vec<Event>, Vec<Edge>) {
    let us = |ms: i64| at.plus_micros(ms * 1_000);
    let pressure = event(first_sequence, Kind::MemoryPressure, pod, us(-5_000));
    let episode = event(first_sequence + 1, Kind::OomEpisode, pod, at);
    let kill = Event {
        episode_id: Some(episode.event_id),
        container_init: Some(true),
        ..event(first_sequence + 2, Kind::OomKill, pod, us(1))
    };
    let terminated = Event {
        exit_code: Some(137),
        reason: Some("OOMKilled".to_owned()),
        ..event(first_sequence + 3, Kind::ContainerTerminated, pod, us(5))
    };
    let events = vec![pressure, episode, kill, terminated];
    let mut engine = Engine::new(Owner::Node, 100);
    let edges = events
        .iter()
        .flat_map(|e| engine.observe(&std::sync::Arc::new(e.clone())))
        .filter_map(|derived| match derived {
            aftertrace_model::Derived::Edge(edge) => Some(edge),
            aftertrace_model::Derived::Retraction(_) => None,
        })
        .collect();
    (events, edges)
}

pub(crate) fn items(events: &[Event], edges: &[Edge]) -> Vec<Item> {
    let events = events.iter().map(|e| Item::Event(e.into()));
    events.chain(edges.iter().map(|e| Item::Edge(e.into()))).collect()
}

/// A pod of namespace `shop` that mounts ConfigMap `app`.
pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": pod_ref(name).uid},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "app", "image": "i", "env": [{"name": "P", "value": "hunter2"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "app"}}],
        },
        "status": {"phase": "Running"},
    })
}

pub(crate) fn config_map(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "shop", "name": "app"}, "data": data,
    })
}

pub(crate) fn why(pod: &str) -> proto::WhyRequest {
    proto::WhyRequest { namespace: "shop".to_owned(), pod: pod.to_owned(), ..Default::default() }
}

pub(crate) fn timeline(pod: &str) -> proto::TimelineRequest {
    proto::TimelineRequest { namespace: "shop".to_owned(), pod: pod.to_owned(), ..Default::default() }
}
