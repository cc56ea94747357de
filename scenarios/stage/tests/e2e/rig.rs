//! One stage with an agent and an aggregator on it, and the ways to ask them.

#[path = "../common/mod.rs"]
mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aftertrace_api::proto::memory_client::MemoryClient;
use aftertrace_stage::api::ApiServer;
use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::{Stage, StageConfig, StageError};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use tonic::{Request, Status};

use self::common::Program;
#[allow(unused_imports, reason = "each test and bench uses its own part")]
pub(crate) use self::common::{config_map, mounting_pod, pod};

/// The name that both programs are given.
pub(crate) const CLUSTER: &str = "e2e";

/// How long anything here may take; a guess, far above what it takes, because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A client that shows its token.
pub(crate) type Memory = MemoryClient<InterceptedService<Channel, Token>>;

/// Adds the token to each request.
#[derive(Clone)]
pub(crate) struct Token(MetadataValue<tonic::metadata::Ascii>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// What the two programs are told of the node they are on.
struct Ground {
    /// For their files; holds the kubeconfig.
    folder: PathBuf,
    node: String,
    cgroup_root: String,
    kubelet_root: PathBuf,
}

/// A stage, or an API server alone, and the two programs on it.
pub(crate) struct Rig {
    agent: Option<Program>,
    aggregator: Option<Program>,
    address: String,
    ground: Ground,
    stage: Option<Stage>,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    /// A stage with both programs running, or `None` where the machine cannot; then it said so.
    pub(crate) async fn start(pace: Pace) -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().await;
        let stage = match Stage::start(StageConfig { pace, ..StageConfig::default() }).await {
            Ok(stage) => stage,
            Err(error @ (StageError::NotRoot | StageError::Cgroup(_))) => {
                println!("SKIPPED: {error}");
                return None;
            }
            Err(error) => panic!("the stage does not start: {error}"),
        };
        stage.write_kubeconfig().expect("the run's folder is writable");
        let ground = Ground {
            folder: stage.folder().to_owned(),
            node: stage.node().to_owned(),
            cgroup_root: stage.cgroup_root(),
            kubelet_root: stage.kubelet_root().to_owned(),
        };
        let rig = Self::on(ground, Some(stage), alone).await;
        rig.wait_for("the agent's hooks", async |rig| rig.agent_is_watching().await.then_some(())).await;
        Some(rig)
    }

    /// Both programs on a bare API server, as on a node whose kernel is another's: all evidence is the API's.
    /// `folder` is theirs and outlives the rig.
    pub(crate) async fn on_api(server: &ApiServer, node: &str, folder: &Path) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        std::fs::write(folder.join("kubeconfig"), server.kubeconfig()).expect("the folder is writable");
        let ground = Ground {
            folder: folder.to_owned(),
            node: node.to_owned(),
            cgroup_root: "/aftertrace-no-such-cgroup".to_owned(),
            kubelet_root: folder.join("kubelet"),
        };
        std::fs::create_dir_all(&ground.kubelet_root).expect("the folder is writable");
        Self::on(ground, None, alone).await
    }

    async fn on(ground: Ground, stage: Option<Stage>, alone: MutexGuard<'static, ()>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("bound").port();
        let address = format!("127.0.0.1:{port}");
        let mut rig = Self { agent: None, aggregator: None, address, ground, stage, _alone: alone };
        rig.start_aggregator();
        rig.wait_for("the aggregator's certificate and tokens", async |rig| {
            ["tls/ca.crt", "tokens/agent.token", "tokens/reader.token"]
                .iter()
                .all(|file| rig.data().join(file).is_file())
                .then_some(())
        })
        .await;
        rig.start_agent();
        rig
    }

    /// The stage.
    pub(crate) fn stage(&self) -> &Stage {
        self.stage.as_ref().expect("a test that asks for it has started one, and only `stop` takes it")
    }

    /// The aggregator's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.ground.folder.join("data")
    }

    /// Starts the aggregator.
    pub(crate) fn start_aggregator(&mut self) {
        let mut command = self.program("aftertrace-aggregator");
        command.args(["--listen", &self.address]).arg("--data").arg(self.data());
        command.arg("--kubeconfig").arg(self.ground.folder.join("kubeconfig"));
        self.aggregator = Some(Program::start(command));
    }

    /// Starts the agent.
    pub(crate) fn start_agent(&mut self) {
        let ground = &self.ground;
        let mut command = self.program("aftertrace-agent");
        command.args(["--node", &ground.node, "--cgroup-root", &ground.cgroup_root]);
        command.args(["--aggregator", &format!("https://{}", self.address)]);
        command.arg("--ca").arg(self.data().join("tls/ca.crt"));
        command.arg("--token-file").arg(self.data().join("tokens/agent.token"));
        command.arg("--kubeconfig").arg(ground.folder.join("kubeconfig"));
        command.arg("--kubelet-root").arg(&ground.kubelet_root);
        command.arg("--spool").arg(ground.folder.join("spool"));
        command.arg("--kubelet-pid").arg(std::process::id().to_string());
        self.agent = Some(Program::start(command));
    }

    /// The process that runs as the agent.
    #[allow(dead_code, reason = "a bench measures it")]
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").id()
    }

    /// The agent's program.
    #[allow(dead_code, reason = "a bench measures it")]
    pub(crate) fn agent_program(&self) -> PathBuf {
        common::program_path("aftertrace-agent")
    }

    /// kill -9.
    pub(crate) fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// kill -9.
    pub(crate) fn kill_aggregator(&mut self) {
        self.aggregator = None;
    }

    /// Whether the agent is connected and sees kills and swaps in the kernel.
    pub(crate) async fn agent_is_watching(&self) -> bool {
        let Some(mut memory) = self.memory().await else { return false };
        let Ok(status) = memory.status(aftertrace_api::proto::StatusRequest {}).await else { return false };
        status.into_inner().agents.iter().any(|agent| {
            let subjects = agent.status.iter().flat_map(|s| &s.subjects);
            agent.connected && subjects.filter(|s| s.tier == "tracepoint" && !s.hooks.is_empty()).count() >= 2
        })
    }

    /// A client, if the aggregator answers.
    pub(crate) async fn memory(&self) -> Option<Memory> {
        let ca = std::fs::read(self.data().join("tls/ca.crt")).ok()?;
        let token = std::fs::read_to_string(self.data().join("tokens/reader.token")).ok()?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(ca))
            .domain_name("aftertrace-aggregator");
        let channel = Channel::from_shared(format!("https://{}", self.address))
            .expect("an address of ours")
            .tls_config(tls)
            .expect("a certificate of ours")
            .connect()
            .await
            .ok()?;
        let token = format!("Bearer {}", token.trim()).parse().expect("a token is ASCII");
        Some(MemoryClient::with_interceptor(channel, Token(token)))
    }

    /// Asks the DuckDB CLI on the catalog; rows as JSON objects.
    pub(crate) fn sql(&self, query: &str) -> Result<Vec<Value>, String> {
        let output = Command::new(tool("duckdb"))
            .args(["-readonly", "-json"])
            .arg(self.data().join("memory.duckdb"))
            .arg(query)
            .output()
            .expect("the DuckDB CLI was brought by `cargo xtask setup`");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// One number from the catalog; `None` while there is no catalog.
    pub(crate) fn number(&self, query: &str) -> Option<u64> {
        self.sql(query).ok()?.first()?.as_object()?.values().next()?.as_u64()
    }

    /// Waits until `ready` gives something.
    pub(crate) async fn wait_for<T>(&self, what: &str, ready: impl AsyncFn(&Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = ready(self).await {
                return value;
            }
            assert!(
                Instant::now() < end,
                "waited {PATIENCE:?} for {what}; the programs said:\n{}",
                self.tail_of_logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends everything in order.
    pub(crate) async fn stop(mut self) {
        self.agent = None;
        self.aggregator = None;
        if let Some(stage) = self.stage.take() {
            stage.stop().await;
        }
    }

    /// Warnings and errors that the programs logged.
    pub(crate) fn tail_of_logs(&self) -> String {
        let tail = |name: &&str| common::tail_of_log(name, &self.ground.folder);
        ["aftertrace-agent", "aftertrace-aggregator"].iter().map(tail).collect()
    }

    fn program(&self, name: &str) -> Command {
        let mut command = common::program(name, &self.ground.folder);
        command.args(["--cluster", CLUSTER]);
        command
    }
}

fn tool(name: &str) -> PathBuf {
    let tools = std::env::var_os("AFTERTRACE_TOOLS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools"), PathBuf::from);
    tools.join(name)
}
