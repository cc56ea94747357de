//! Command line → validated settings. Nothing below this module sees an argument.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;

/// The command line of `aftertrace-aggregator`.
#[derive(Debug, Parser)]
#[command(name = "aftertrace-aggregator", version, about = "Keeps what happened in a cluster, and why")]
pub struct Args {
    /// Name of the cluster; agents must use the same one.
    #[arg(long, env = "AFTERTRACE_CLUSTER")]
    cluster: String,
    /// Directory of the store, certificate, tokens and cluster secret; made if it is missing.
    #[arg(long, env = "AFTERTRACE_DATA", default_value = "/var/lib/aftertrace")]
    data: PathBuf,
    /// Address to serve gRPC on; 0.0.0.0:7443 in a cluster.
    #[arg(long, env = "AFTERTRACE_LISTEN", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Kubeconfig of the cluster; default: $KUBECONFIG, ~/.kube/config, then the pod's service account.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Do not watch the cluster: no configuration changes, no object states, no hashing keys for agents.
    #[arg(long, conflicts_with = "kubeconfig")]
    no_watch: bool,
    /// Further DNS name or IP address that the certificate is valid for; may be repeated.
    #[arg(long = "tls-san", value_name = "NAME")]
    tls_names: Vec<String>,
}

/// Which API server to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiServer {
    /// As this kubeconfig says.
    Kubeconfig(PathBuf),
    /// As the environment says: `$KUBECONFIG`, `~/.kube/config`, or the pod's service account.
    Inferred,
    /// None: nothing of the cluster is watched.
    None,
}

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's name: not empty, at most [`CLUSTER_NAME_BYTES_MAX`] bytes, free of control characters.
    pub cluster: String,
    /// The data directory.
    pub data: PathBuf,
    /// The address to bind; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The API server to watch.
    pub api_server: ApiServer,
    /// Further names in the server's certificate.
    pub tls_names: Vec<String>,
}

/// Longest cluster name: it is in every row, and longer than a DNS name helps nobody.
pub const CLUSTER_NAME_BYTES_MAX: usize = 253;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The cluster's name is empty, too long, or has characters that cannot be shown.
    #[error(
        "--cluster {name:?} cannot be used: give 1 to {CLUSTER_NAME_BYTES_MAX} bytes without control characters"
    )]
    Cluster {
        /// The name as given.
        name: String,
    },
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let name = args.cluster;
        let unusable = name.is_empty()
            || name.len() > CLUSTER_NAME_BYTES_MAX
            || aftertrace_model::text::escape(&name) != name;
        if unusable {
            return Err(ConfigError::Cluster { name });
        }
        let api_server = match (args.no_watch, args.kubeconfig) {
            (true, _) => ApiServer::None,
            (false, Some(path)) => ApiServer::Kubeconfig(path),
            (false, None) => ApiServer::Inferred,
        };
        Ok(Self {
            cluster: name,
            data: args.data,
            listen: args.listen,
            api_server,
            tls_names: args.tls_names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, ConfigError> {
        let args = Args::try_parse_from([&["aftertrace-aggregator"], args].concat()).expect("parses");
        Config::try_from(args)
    }

    #[test]
    fn api_server_is_inferred_unless_told() {
        assert_eq!(config(&["--cluster", "c"]).expect("valid").api_server, ApiServer::Inferred);
        assert_eq!(config(&["--cluster", "c", "--no-watch"]).expect("valid").api_server, ApiServer::None);
        assert_eq!(
            config(&["--cluster", "c", "--kubeconfig", "/k"]).expect("valid").api_server,
            ApiServer::Kubeconfig("/k".into())
        );
    }

    #[test]
    fn a_cluster_name_that_cannot_be_shown_is_refused() {
        for name in ["", "a\x1b[31m", &"x".repeat(254)] {
            assert!(config(&["--cluster", name]).is_err(), "{name:?}");
        }
    }
}
