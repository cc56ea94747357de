//! The node agent: kernel evidence and this node's pods, correlated, spooled and streamed.
//!
//! ```text
//! kernel ──records──▶┐
//! watch ───changes──▶├ pipeline (attribute, volumes, episode, pressure, correlate) ──▶ spool ──▶ export
//! export ──keys─────▶┘
//! ```
//!
//! The stages meet in [`run`] and nowhere else, over bounded channels. Each owns its state; losses are
//! counted in one ledger and travel with the evidence. Everything runs on one thread but the spool's disk.

pub mod kernel;

mod config;
mod draft;

mod attribute;
mod watch;

mod environment;
mod episode;
mod lifetimes;
mod pressure;
mod reload;
mod volumes;
mod watchers;

mod correlate;
mod pipeline;

mod spool;

mod export;

mod clock;
mod losses;
mod status;

#[cfg(test)]
mod recordings;

use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::config::ObjectKey;
use aftertrace_model::{GapReason, Timestamp};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

pub use config::{Args, Config, ConfigError};

use crate::attribute::pending;
use crate::correlate::Correlator;
use crate::kernel::{Attached, Kernel, KernelConfig, KubeletCgroups, LoadError, Record};
use crate::losses::Ledger;
use crate::pipeline::{Inputs, KernelParts, Parts, Pipeline};
use crate::pressure::Pressure;
use crate::spool::{Recovered, SpoolError};
use crate::volumes::roots::{self, Roots};

/// Kernel records on their way to the pipeline. A record takes up to 3 KiB; when the channel is full the
/// ring buffer is the buffer, and the kernel counts what finds no room there.
const RECORDS_MAX: usize = 256;

/// Pod changes on their way to the pipeline; the watch waits when it is full.
const CHANGES_MAX: usize = 64;

/// Keys on their way to the pipeline; the stream waits when it is full.
const KEYS_MAX: usize = 64;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolFailure),
    /// The kernel cannot be watched, and `--require-kernel` was given.
    #[error("the kernel cannot be watched: {reason}")]
    Kernel {
        /// Why, with the remedy.
        reason: String,
    },
    /// There is no way to the API server.
    #[error("no way to the API server: {reason}; give --kubeconfig, or run in a pod with a service account")]
    Kubernetes {
        /// Why.
        reason: String,
    },
}

/// The spool cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SpoolFailure(#[from] SpoolError);

/// Runs the agent until `stop`, then takes in what has come already and closes the spool.
///
/// Needs a Tokio runtime with I/O and time, on one thread.
///
/// # Errors
/// [`RunError`] where it cannot start. What fails later is a degradation that the status shows.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    // Both the API server's client and the stream use it; a second call finds it set.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = kube_client(&config).await?;
    let ledger = Arc::new(Ledger::default());
    let (spool, reader, recovered) =
        spool::start(&config.spool, Arc::clone(&ledger)).map_err(SpoolFailure)?;
    let Recovered { tail, spool_id, .. } = account(recovered, &ledger);

    // Volumes are registered before the hooks are attached, so that no swap falls between the two.
    let proc = &config.proc;
    let mut roots = Roots::new(&config.kubelet_root, proc, config.kubelet_pid, random_key());
    let volumes = roots.scan(kernel::clock::boot_now_ns());
    let mut trouble = Vec::new();
    if roots::kubelet_namespace(proc, config.kubelet_pid).is_none() {
        trouble.push(
            "cannot read the kubelet's mount namespace: swaps are rejected; run in the host's pid namespace with \
             CAP_SYS_PTRACE, or give --kubelet-pid"
                .to_owned(),
        );
    }
    if config.cgroupfs.is_none() {
        trouble
            .push("no memory controller is mounted: memory pressure is not seen; give --cgroupfs".to_owned());
    }
    for what in &trouble {
        warn!("{what}");
    }

    let (records_in, records) = mpsc::channel(RECORDS_MAX);
    let mut tasks = JoinSet::new();
    let (subjects, kernel, attached) = watch_kernel(&config, records_in, &mut tasks)?;
    info!(node = config.origin.node, cluster = config.origin.cluster, %spool_id, volumes, "the agent runs");

    let (changes_in, changes) = mpsc::channel(CHANGES_MAX);
    let (keys_in, keys) = mpsc::channel(KEYS_MAX);
    let (wanted, wanted_out) = channel::channel(Vec::new());
    let (status, status_out) = channel::channel(proto::AgentStatus::default());
    let (health, watch_health) = channel::channel("not listed yet".to_owned());
    tasks.spawn(watch::run(client, config.origin.node.clone(), changes_in, health, Arc::clone(&ledger)));
    let target = export::Target {
        address: config.aggregator.clone(),
        ca: config.ca.clone(),
        token_file: config.token_file.clone(),
        boot_id: config::read_file(&proc.join("sys/kernel/random/boot_id")).unwrap_or_default(),
    };
    let beside = export::Beside { wanted: wanted_out, keys: keys_in, status: status_out };
    let spool_progress = reader.progress();
    tasks.spawn(export::run(target, config.origin.clone(), reader, beside));

    let pipeline = Pipeline::new(Parts {
        origin: config.origin,
        cgroup_root: config.cgroup_root.clone(),
        proc: config.proc,
        log_root: config.log_root,
        cgroup_mount: config.cgroupfs.as_ref().map(|fs| fs.path().to_owned()),
        roots,
        pressure: config.cgroupfs.map(|fs| Pressure::new(fs, config.cgroup_root)),
        correlator: Correlator::new(tail),
        spool,
        spool_progress,
        ledger,
        kernel,
        subjects,
        trouble,
        wanted,
        status,
        watch_health,
        stale_after_us: config.stale_after_us,
    });
    pipeline.run(Inputs { records, changes, keys }, stop).await;
    drop(attached);
    tasks.shutdown().await;
    info!("the agent has ended");
    Ok(())
}

/// Counts what the time since the last run has cost.
fn account(recovered: Recovered, ledger: &Ledger) -> Recovered {
    let now = clock::now();
    if let Some(alive) = recovered.last_alive {
        // After a crash, what waited for its pod is lost too.
        let lead = if recovered.ended_clean { 0 } else { pending::WAIT_US };
        let from: Timestamp = alive.plus_micros(-lead).min(now);
        let detail = if recovered.ended_clean { "stopped" } else { "ended without closing its spool" };
        ledger.add_between("agent", GapReason::AgentDown, (from, now), 0, detail);
    }
    if recovered.damaged > 0 {
        warn!(places = recovered.damaged, "damaged places of the spool were skipped");
        let from = recovered.last_alive.unwrap_or(now).min(now);
        let detail = "damaged places of the spool were skipped; how many items they held is not known";
        ledger.add_between("agent/spool", GapReason::DiskCorrupt, (from, now), 0, detail);
    }
    recovered
}

/// What the pipeline gets of the kernel's side.
type KernelSide = (Vec<proto::Subject>, Option<KernelParts>, Option<Attached>);

/// Attaches to the kernel as far as it can be; the rest is a status with its remedy.
fn watch_kernel(
    config: &Config,
    records: mpsc::Sender<Record>,
    tasks: &mut JoinSet<()>,
) -> Result<KernelSide, RunError> {
    let kubelet_cgroups =
        config.cgroupfs.as_ref().map(|fs| KubeletCgroups::new(fs.path(), &config.cgroup_root.path()));
    let kernel = match Kernel::load(&KernelConfig { kubelet_cgroups, ..KernelConfig::default() }) {
        Ok(kernel) => kernel,
        Err(failure) => return without_kernel(config, &failure),
    };
    let Kernel { attached, drain, losses, pod_cgroups, found_cgroups, stalls, volumes } = kernel;
    let subjects: Vec<proto::Subject> = attached.subjects().iter().map(status::subject).collect();
    for subject in subjects.iter().filter(|s| s.tier == "none") {
        let reason = format!("{}: {}", subject.name, subject.missing.join("; "));
        if config.require_kernel {
            return Err(RunError::Kernel { reason });
        }
        warn!(reason, "a subject of kernel evidence is not seen");
    }
    tasks.spawn(async move {
        if let Err(failure) = drain.run(records).await {
            error!(error = watch::chain(&failure), "kernel records are read no more; restart the agent");
        }
    });
    Ok((
        subjects,
        Some(KernelParts { losses, pod_cgroups, found_cgroups, stalls, volumes: Some(volumes) }),
        Some(attached),
    ))
}

fn without_kernel(config: &Config, failure: &LoadError) -> Result<KernelSide, RunError> {
    let reason = watch::chain(failure);
    if config.require_kernel {
        return Err(RunError::Kernel { reason });
    }
    warn!(reason, "the kernel is not watched; the API's evidence alone is left");
    Ok((status::no_kernel(&reason), None, None))
}

async fn kube_client(config: &Config) -> Result<Client, RunError> {
    let failed = |reason: String| RunError::Kubernetes { reason };
    let config = match &config.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|e| failed(watch::chain(&e)))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(|e| failed(watch::chain(&e)))?
        }
        None => match kube::Config::incluster() {
            Ok(config) => config,
            Err(_) => kube::Config::infer().await.map_err(|e| failed(watch::chain(&e)))?,
        },
    };
    Client::try_from(config).map_err(|e| failed(watch::chain(&e)))
}

/// A key for this process alone.
fn random_key() -> ObjectKey {
    ObjectKey::from_bytes(rand::random())
}
