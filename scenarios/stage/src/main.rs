//! The command `aftertrace-stage`: parses, builds, runs, and cleans up.

use std::path::PathBuf;

use aftertrace_stage::kubelet::shim;
use aftertrace_stage::scenario::{self, Progress, Scenario};
use aftertrace_stage::victim::{self, Victim};
use aftertrace_stage::workload::{self, PROGRAMS, Workload};
use aftertrace_stage::{Stage, StageConfig, run};
use anyhow::Context;
use clap::{Parser, Subcommand};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};

/// Plays a Kubernetes API server and kubelet around real kernel events.
#[derive(Debug, Parser)]
#[command(name = "aftertrace-stage", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a cluster of one node until interrupted.
    Serve {
        /// Address of the API server.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
        /// Name of the node.
        #[arg(long, default_value = "stage-node")]
        node: String,
    },
    /// Play a scenario (01 or 03) on a stage of its own, or on a cluster.
    Scenario {
        /// Its number.
        #[arg(value_parser = parse_scenario)]
        scenario: Scenario,
        /// Play on this cluster; its objects are removed at the end.
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Remove what crashed runs left behind: cgroups, processes, folders.
    Cleanup,
    /// Shim of a container.
    #[command(hide = true)]
    Container {
        /// The container's plan.
        plan: PathBuf,
    },
    /// First process of a container.
    #[command(hide = true)]
    ContainerInit {
        /// The container's plan.
        plan: PathBuf,
    },
    #[command(flatten)]
    Workload(Workload),
    /// Die, read or cheat in one of the ways that evidence must tell apart.
    #[command(hide = true)]
    Victim {
        #[command(subcommand)]
        victim: Victim,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse_from(arguments()).command {
        Command::Serve { listen, node } => serve(listen, node),
        Command::Scenario { scenario, kubeconfig } => play(scenario, kubeconfig),
        Command::Cleanup => {
            let removed = run::cleanup(&std::env::temp_dir()).context("cannot remove all leftovers")?;
            println!("removed {} leftover runs", removed.len());
            removed.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        Command::Container { plan } => shim::run_shim(&plan),
        Command::ContainerInit { plan } => shim::run_init(&plan),
        Command::Workload(workload) => workload::run(&workload),
        Command::Victim { victim } => victim::run(&victim),
    }
}

/// The command line; called by the name of a workload, that name is the subcommand.
fn arguments() -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let name = arguments.first().map(PathBuf::from).and_then(|path| Some(path.file_name()?.to_owned()));
    if let Some(name) = name.filter(|name| PROGRAMS.iter().any(|program| *program == name)) {
        arguments.insert(1, name);
    }
    arguments
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn serve(listen: std::net::SocketAddr, node: String) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut interrupt = interruption()?;
    let mut config = StageConfig { node, ..StageConfig::default() };
    config.server.listen = listen;
    let stage = Stage::start(config).await.context("cannot set up the stage")?;
    println!("server {}", stage.server().url());
    println!("kubeconfig {}", stage.write_kubeconfig()?.display());
    println!("node {}", stage.node());
    println!("cgroup root {}", stage.cgroup_root());
    println!("kubelet root {}", stage.kubelet_root().display());
    interrupt.recv().await;
    stage.stop().await;
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn play(scenario: Scenario, kubeconfig: Option<PathBuf>) -> anyhow::Result<()> {
    let mut interrupt = interruption()?;
    let mut tell = |progress: Progress| println!("{}", describe(&progress));
    let Some(kubeconfig) = kubeconfig else {
        let stage = Stage::start(StageConfig::default()).await.context("cannot set up the stage")?;
        let played = async {
            match scenario {
                Scenario::OomKill => {
                    scenario::scenario01(&stage, &mut tell).await.map(|(outcome, _)| outcome)
                }
                Scenario::MountSwap => {
                    scenario::scenario03(&stage, &mut tell).await.map(|(outcome, _)| outcome)
                }
            }
        };
        let outcome = tokio::select! {
            outcome = played => Some(outcome),
            _ = interrupt.recv() => None,
        };
        print!("{}", stage.truth().to_json_lines());
        stage.stop().await;
        return outcome.transpose().map(|_| ()).context("the scenario did not come to its end");
    };
    let config = Kubeconfig::read_from(&kubeconfig).context("cannot read the kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
    let client = kube::Client::try_from(config.context("cannot use the kubeconfig")?);
    let client = client.context("cannot make a client of the cluster")?;
    let outcome = tokio::select! {
        outcome = scenario::on_cluster(client.clone(), scenario, &mut tell) => Some(outcome),
        _ = interrupt.recv() => None,
    };
    scenario::manifest::remove(&client, scenario.manifest()).await.context("cannot remove the objects")?;
    outcome.transpose().map(|_| ()).context("the scenario did not come to its end")
}

/// Hears Ctrl-C and SIGTERM.
fn interruption() -> anyhow::Result<tokio::sync::mpsc::Receiver<()>> {
    let mut interrupts = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        let _ending_already = sender.send(()).await;
    });
    Ok(receiver)
}

fn parse_scenario(number: &str) -> Result<Scenario, String> {
    Scenario::from_number(number).ok_or_else(|| "there are scenarios 01 and 03".into())
}

fn describe(progress: &Progress) -> String {
    match progress {
        Progress::Applied { kind, name } => format!("applied {kind} {name}"),
        Progress::Container { pod, state, restarts } => format!("pod {pod}: {state}, restarts {restarts}"),
        Progress::Patched { name, resource_version } => {
            format!("patched ConfigMap {name}, resourceVersion {resource_version}")
        }
        Progress::Swapped { latency } => {
            format!("the volume was swapped {:.1} ms after the patch", latency.as_secs_f64() * 1_000.0)
        }
    }
}
