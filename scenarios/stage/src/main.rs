//! The command `aftertrace-stage`.

use aftertrace_stage::api::{ApiServer, Cluster, ServerConfig};
use clap::{Parser, Subcommand};

/// Plays a Kubernetes API server and kubelet around real kernel events.
#[derive(Debug, Parser)]
#[command(name = "aftertrace-stage", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an empty cluster's API until interrupted.
    Serve {
        /// Address to listen on.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Serve { listen } = Arguments::parse().command;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let server =
            ApiServer::start(Cluster::new(), ServerConfig { listen, ..ServerConfig::default() }).await?;
        println!("{}", server.url());
        tokio::signal::ctrl_c().await?;
        Ok(())
    })
}
