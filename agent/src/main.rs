//! Parses, builds, runs and drains.

use std::process::ExitCode;

use aftertrace_agent::{Args, Config, run};
use anyhow::{Context, Result};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What is logged unless `AFTERTRACE_LOG` says otherwise. The API client's own lines repeat, at each try, what
/// the watch says once.
const LOGGED: &str = "info,kube_client=off";

fn main() -> ExitCode {
    match serve(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, with what was tried and the remedy; a backtrace helps nobody who runs it.
            eprintln!("aftertrace-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Args) -> Result<()> {
    let config = Config::try_from(args)?;
    let filter = EnvFilter::try_from_env("AFTERTRACE_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // One thread: the agent is idle nearly always, and then it should be small.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("ending");
        };
        run(config, stop).await.map_err(Into::into)
    })
}
