//! What the operator says → what the agent needs: flags, environment and defaults, checked once.

use std::path::{Path, PathBuf};

use clap::Parser;
use tonic::transport::Uri;

use crate::attribute::cgroup_name::CgroupRoot;
use crate::draft::Origin;
use crate::pressure::Cgroupfs;
use crate::spool;

/// Watches this node's kernel and pods, and sends what happened to the aggregator.
#[derive(Clone, Debug, Parser)]
#[command(name = "aftertrace-agent", version)]
pub struct Args {
    /// Name of the cluster; must be the aggregator's.
    #[arg(long, env = "AFTERTRACE_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Name of this node as the API server has it [default: the host's name].
    #[arg(long, env = "NODE_NAME")]
    pub node: Option<String>,
    /// Address of the aggregator, https://host:port.
    #[arg(long, env = "AFTERTRACE_AGGREGATOR")]
    pub aggregator: String,
    /// File with the certificate that the aggregator's own is checked against.
    #[arg(long, env = "AFTERTRACE_CA")]
    pub ca: PathBuf,
    /// File with the agent's token.
    #[arg(long, env = "AFTERTRACE_TOKEN_FILE")]
    pub token_file: PathBuf,
    /// Kubeconfig of the API server [default: in the cluster, else KUBECONFIG or ~/.kube/config].
    #[arg(long, env = "AFTERTRACE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory of the spool, for this agent alone.
    #[arg(long, env = "AFTERTRACE_SPOOL", default_value = "/var/lib/aftertrace/spool")]
    pub spool: PathBuf,
    /// Most bytes of the spool; the oldest items are given up above it.
    #[arg(long, env = "AFTERTRACE_SPOOL_BYTES_MAX", default_value_t = 256 * 1024 * 1024)]
    pub spool_bytes_max: u64,
    /// The kubelet's root, the same path here as for the kubelet; not every distribution has the usual one.
    #[arg(long, env = "AFTERTRACE_KUBELET_ROOT", default_value = "/var/lib/kubelet")]
    pub kubelet_root: PathBuf,
    /// A process in the kubelet's mount namespace: swaps are believed only from there [default: 1, or where
    /// that one may not be looked at, the agent itself].
    #[arg(long, env = "AFTERTRACE_KUBELET_PID")]
    pub kubelet_pid: Option<u32>,
    /// The cgroup under which the kubelet has made `kubepods`, as the host's kernel sees it.
    #[arg(long, env = "AFTERTRACE_CGROUP_ROOT", default_value = "/")]
    pub cgroup_root: String,
    /// Where the memory controller is mounted [default: /sys/fs/cgroup/memory (v1), then /sys/fs/cgroup (v2)].
    #[arg(long, env = "AFTERTRACE_CGROUPFS")]
    pub cgroupfs: Option<PathBuf>,
    /// Where the host's proc is mounted.
    #[arg(long, env = "AFTERTRACE_PROC", default_value = "/proc")]
    pub proc: PathBuf,
    /// Seconds after which a container that has not opened a changed file is told as stale. An application
    /// that polls needs more than its period.
    #[arg(long, env = "AFTERTRACE_STALE_AFTER", default_value_t = 300)]
    pub stale_after: u32,
    /// Where the kubelet keeps its containers' logs: their links name containers that no status has listed.
    #[arg(long, env = "AFTERTRACE_LOG_ROOT", default_value = "/var/log")]
    pub log_root: PathBuf,
    /// Fail at start where the kernel cannot be watched, instead of going on with the API's evidence alone.
    #[arg(long, env = "AFTERTRACE_REQUIRE_KERNEL")]
    pub require_kernel: bool,
}

/// A value that cannot be used, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The aggregator's address is no https URL.
    #[error("--aggregator {value:?} is no address: give https://host:port, such as https://aftertrace:7443")]
    Aggregator {
        /// As given.
        value: String,
    },
    /// A name is empty or has characters that no name has.
    #[error("{flag} {value:?} is no name: use letters, digits, '.', '-' and '_', at most 253 characters")]
    Name {
        /// The flag.
        flag: &'static str,
        /// As given.
        value: String,
    },
    /// The node's name was not given and the host has none.
    #[error("the node's name is not known: give --node or NODE_NAME as the API server has it")]
    NoNode,
    /// A path that must be absolute is not.
    #[error("{flag} {value:?} is relative: give the absolute path")]
    Relative {
        /// The flag.
        flag: &'static str,
        /// As given.
        value: PathBuf,
    },
    /// The spool would hold nothing.
    #[error("--spool-bytes-max {value} is too small: give at least {}", spool::BYTES_MIN)]
    SpoolBytes {
        /// As given.
        value: u64,
    },
    /// No memory controller at the place that was given.
    #[error("--cgroupfs {value:?} holds no memory controller: give its mount, such as /sys/fs/cgroup")]
    Cgroupfs {
        /// As given.
        value: PathBuf,
    },
}

/// Everything the agent needs, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) origin: Origin,
    pub(crate) aggregator: Uri,
    pub(crate) ca: PathBuf,
    pub(crate) token_file: PathBuf,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) spool: spool::Options,
    pub(crate) kubelet_root: PathBuf,
    pub(crate) kubelet_pid: Option<u32>,
    pub(crate) cgroup_root: CgroupRoot,
    /// `None` where this machine has no memory controller: no pressure is seen then.
    pub(crate) cgroupfs: Option<Cgroupfs>,
    pub(crate) proc: PathBuf,
    pub(crate) log_root: PathBuf,
    /// After how many microseconds what was not opened is stale.
    pub(crate) stale_after_us: i64,
    pub(crate) require_kernel: bool,
}

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let node = match args.node.filter(|n| !n.is_empty()) {
            Some(node) => node,
            None => rustix::system::uname()
                .nodename()
                .to_str()
                .map(str::to_owned)
                .map_err(|_| ConfigError::NoNode)?,
        };
        let cgroupfs = Cgroupfs::detect(args.cgroupfs.as_deref());
        if let (Some(value), None) = (&args.cgroupfs, &cgroupfs) {
            return Err(ConfigError::Cgroupfs { value: value.clone() });
        }
        if args.spool_bytes_max < spool::BYTES_MIN {
            return Err(ConfigError::SpoolBytes { value: args.spool_bytes_max });
        }
        Ok(Self {
            origin: Origin { cluster: name("--cluster", args.cluster)?, node: name("--node", node)? },
            aggregator: address(&args.aggregator)?,
            ca: args.ca,
            token_file: args.token_file,
            kubeconfig: args.kubeconfig,
            spool: spool::Options { dir: args.spool, bytes_max: args.spool_bytes_max },
            kubelet_root: absolute("--kubelet-root", args.kubelet_root)?,
            kubelet_pid: args.kubelet_pid,
            cgroup_root: CgroupRoot::parse(&args.cgroup_root),
            cgroupfs,
            proc: absolute("--proc", args.proc)?,
            log_root: absolute("--log-root", args.log_root)?,
            stale_after_us: i64::from(args.stale_after) * 1_000_000,
            require_kernel: args.require_kernel,
        })
    }
}

fn name(flag: &'static str, value: String) -> Result<String, ConfigError> {
    let is_name = !value.is_empty()
        && value.len() <= 253
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    if is_name { Ok(value) } else { Err(ConfigError::Name { flag, value }) }
}

fn address(value: &str) -> Result<Uri, ConfigError> {
    let error = || ConfigError::Aggregator { value: value.to_owned() };
    let uri: Uri = value.parse().map_err(|_| error())?;
    let is_whole = uri.scheme_str() == Some("https")
        && uri.host().is_some_and(|h| !h.is_empty())
        && uri.port_u16().is_some()
        && matches!(uri.path(), "" | "/");
    if is_whole { Ok(uri) } else { Err(error()) }
}

fn absolute(flag: &'static str, value: PathBuf) -> Result<PathBuf, ConfigError> {
    if !value.is_absolute() {
        return Err(ConfigError::Relative { flag, value });
    }
    // Without a trailing slash or a dot, so that prefixes compare.
    Ok(value.components().collect::<PathBuf>().as_path().to_owned())
}

/// Reads a file of one secret or certificate, whose content is never logged.
pub(crate) fn read_file(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[&str] =
        &["--aggregator", "https://agg:7443", "--ca", "/ca", "--token-file", "/t", "--node", "n1"];

    /// The error for further flags; the last of a repeated flag counts.
    fn check(flags: &[&str], expected: Option<&str>) {
        let mut args: Vec<&str> = vec!["aftertrace-agent"];
        let pairs = OK.chunks(2).filter(|pair| !flags.contains(&pair[0]));
        args.extend(pairs.flatten());
        args.extend(flags);
        let args = Args::try_parse_from(args).expect("flags that clap accepts");
        let error = Config::try_from(args).err().map(|e| e.to_string());
        match expected {
            None => assert_eq!(error, None, "{flags:?}"),
            Some(part) => {
                let error = error.unwrap_or_else(|| panic!("{flags:?} was accepted"));
                assert!(error.contains(part), "{flags:?}: {error}");
            }
        }
    }

    #[test]
    fn what_is_right_passes() {
        check(&[], None);
        check(&["--kubelet-root", "/var/lib/k0s/kubelet/"], None);
        check(&["--cluster", "prod-1.eu"], None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        check(&["--aggregator", "agg:7443"], Some("https://host:port"));
        check(&["--aggregator", "http://agg:7443"], Some("\"http://agg:7443\""));
        check(&["--aggregator", "https://agg"], Some("https://host:port"));
        check(&["--cluster", ""], Some("--cluster"));
        check(&["--node", "a b"], Some("\"a b\""));
        check(&["--kubelet-root", "kubelet"], Some("absolute"));
        check(&["--spool-bytes-max", "10"], Some("at least 1048576"));
        check(&["--cgroupfs", "/nonexistent"], Some("/sys/fs/cgroup"));
    }
}
