//! The command `aftertrace-stage`: parses, builds, runs, and cleans up.

use std::path::PathBuf;

use aftertrace_stage::kubelet::shim;
use aftertrace_stage::workload::{self, PROGRAMS, Workload};
use aftertrace_stage::{Stage, StageConfig, run};
use anyhow::Context;
use clap::{Parser, Subcommand};
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
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse_from(arguments()).command {
        Command::Serve { listen, node } => serve(listen, node),
        Command::Cleanup => {
            let removed = run::cleanup(&std::env::temp_dir()).context("cannot remove all leftovers")?;
            println!("removed {} leftover runs", removed.len());
            removed.iter().for_each(|name| println!("{name}"));
            Ok(())
        }
        Command::Container { plan } => shim::run_shim(&plan),
        Command::ContainerInit { plan } => shim::run_init(&plan),
        Command::Workload(workload) => workload::run(&workload),
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
    let mut config = StageConfig { node, ..StageConfig::default() };
    config.server.listen = listen;
    let mut terminated = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let stage = Stage::start(config).await.context("cannot set up the stage")?;
    println!("server {}", stage.server().url());
    println!("kubeconfig {}", stage.write_kubeconfig()?.display());
    println!("node {}", stage.node());
    println!("cgroup root {}", stage.cgroup_root());
    println!("kubelet root {}", stage.kubelet_root().display());
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C")?,
        _ = terminated.recv() => {}
    }
    stage.stop().await;
    Ok(())
}
