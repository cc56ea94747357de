//! A whole stage: API server, controllers and kubelet over one run's folder and cgroup.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use crate::api::server::ServerError;
use crate::api::{ApiServer, Cluster, ServerConfig};
use crate::controller;
use crate::kubelet::cgroup::CgroupError;
use crate::kubelet::names::CgroupDriver;
use crate::kubelet::truth::Truth;
use crate::kubelet::{Kubelet, KubeletConfig, Pace};
use crate::program;
use crate::run::{Run, RunError};
use crate::workload::PROGRAMS;

/// What a stage is like. The default is a node `stage-node` at the recorded pace, on a free port.
#[derive(Clone, Debug)]
pub struct StageConfig {
    /// Name of the only node.
    pub node: String,
    /// Folder in which the run's own folder is made. Default: the system's folder for temporary files.
    pub base: PathBuf,
    /// Who names cgroups.
    pub driver: CgroupDriver,
    /// How long things take.
    pub pace: Pace,
    /// The API server.
    pub server: ServerConfig,
    /// The `aftertrace-stage` program; `None` looks for it by [`program::locate`].
    pub program: Option<PathBuf>,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            node: "stage-node".into(),
            base: std::env::temp_dir(),
            driver: CgroupDriver::default(),
            pace: Pace::default(),
            server: ServerConfig::default(),
            program: None,
        }
    }
}

/// Why a stage cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Cgroups and namespaces need root.
    #[error("the stage needs root: it makes cgroups, namespaces and mounts; run it with sudo")]
    NotRoot,
    /// The program for containers is missing.
    #[error(transparent)]
    Program(#[from] program::NotFound),
    /// The run's folder cannot be made.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A folder in the run's folder cannot be made.
    #[error("cannot make {}", .path.display())]
    Folder {
        /// The folder or link.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The API server cannot be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Cgroups cannot be made.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A running stage. Dropping it removes all it made; [`Stage::stop`] does so in order.
#[derive(Debug)]
pub struct Stage {
    // In the order in which they are to be dropped: who makes things before who removes them.
    kubelet: Kubelet,
    controllers: JoinHandle<()>,
    server: ApiServer,
    run: Run,
}

impl Stage {
    /// Sets up a stage.
    ///
    /// # Errors
    /// [`StageError`].
    pub async fn start(config: StageConfig) -> Result<Self, StageError> {
        if !rustix::process::geteuid().is_root() {
            return Err(StageError::NotRoot);
        }
        let program = config.program.map_or_else(program::locate, Ok)?;
        let run = Run::begin(&config.base)?;
        let [root, state, bin, logs] = ["kubelet", "state", "bin", "log"].map(|name| run.folder().join(name));
        for folder in [&root, &state, &bin, &logs.join("pods"), &logs.join("containers")] {
            std::fs::create_dir_all(folder).map_err(|source| folder_error(folder, source))?;
        }
        for name in PROGRAMS {
            let link = bin.join(name);
            symlink(&program, &link).map_err(|source| folder_error(&link, source))?;
        }
        let cluster = Cluster::new();
        let server = ApiServer::start(cluster.clone(), config.server).await?;
        controller::create_namespaces(&cluster);
        let controllers = tokio::spawn(controller::run(cluster.clone(), config.node.clone()));
        let kubelet = Kubelet::start(
            cluster,
            KubeletConfig {
                node: config.node,
                cgroup_root: run.name().to_owned(),
                driver: config.driver,
                root,
                state,
                logs,
                program,
                bin,
                pace: config.pace,
            },
        )?;
        Ok(Self { kubelet, controllers, server, run })
    }

    /// The objects.
    pub fn cluster(&self) -> &Cluster {
        self.server.cluster()
    }

    /// The API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// The kubelet.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// What really happened so far.
    pub fn truth(&self) -> &Truth {
        self.kubelet.truth()
    }

    /// Name of the node.
    pub fn node(&self) -> &str {
        &self.kubelet.config().node
    }

    /// The kubelet's cgroup root as `/proc/<pid>/cgroup` spells it: `kubepods` is right below.
    pub fn cgroup_root(&self) -> String {
        format!("/{}", self.run.name())
    }

    /// The kubelet's folder: volumes are in `pods/<uid>/volumes` below.
    pub fn kubelet_root(&self) -> &Path {
        &self.kubelet.config().root
    }

    /// Where containers' logs are: `pods` and `containers` are below.
    pub fn log_root(&self) -> &Path {
        &self.kubelet.config().logs
    }

    /// A folder that is removed with the stage, for whatever else a demo or test needs.
    pub fn folder(&self) -> &Path {
        self.run.folder()
    }

    /// Writes a kubeconfig file into the run's folder and returns its path.
    ///
    /// # Errors
    /// [`StageError::Folder`].
    pub fn write_kubeconfig(&self) -> Result<PathBuf, StageError> {
        let path = self.run.folder().join("kubeconfig");
        std::fs::write(&path, self.server.kubeconfig()).map_err(|source| folder_error(&path, source))?;
        Ok(path)
    }

    /// Stops containers, kubelet and server, and removes all that was made.
    pub async fn stop(mut self) {
        self.controllers.abort();
        self.kubelet.stop().await;
        let removed = tokio::task::spawn_blocking(move || drop(self)).await;
        removed.expect("the removal does not panic and is not aborted");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

fn folder_error(path: &Path, source: std::io::Error) -> StageError {
    StageError::Folder { path: path.to_owned(), source }
}
