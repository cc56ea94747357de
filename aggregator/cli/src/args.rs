//! The command line, parsed and checked: names, ids and formats are values of their own from here on.
//!
//! Times stay text, because what `10:03` means depends on the zone and the moment; see [`crate::time`].

use std::path::PathBuf;
use std::str::FromStr;

use aftertrace_model::EventId;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Where a port-forward or an aggregator on this machine listens.
const SERVER_DEFAULT: &str = "https://127.0.0.1:7443";

/// Ask Aftertrace what caused this.
#[derive(Debug, Parser)]
#[command(name = "aft", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 found, 1 failure, 2 wrong usage, 3 nothing found.\n\
                        Times: RFC 3339, '2026-11-20 10:03', '10:03' (today), '5m' or '2h ago', 'now'.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the aggregator
    #[arg(long, env = "AFT_SERVER", value_name = "URL", default_value = SERVER_DEFAULT, global = true)]
    pub(crate) server: String,
    /// Certificate (PEM) by which the aggregator is recognised: `tls/ca.crt` of its data directory
    #[arg(long, env = "AFT_CA", value_name = "FILE", global = true)]
    pub(crate) ca: Option<PathBuf>,
    /// File with the reader token: `tokens/reader.token` of the aggregator's data directory
    #[arg(long, env = "AFT_TOKEN_FILE", value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,
    /// Namespace; `default` where a command needs one
    #[arg(short, long, env = "AFT_NAMESPACE", value_name = "NAMESPACE", global = true)]
    pub(crate) namespace: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "table", global = true)]
    pub(crate) output: Format,
    /// Read and show times in UTC instead of the local zone
    #[arg(long, global = true)]
    pub(crate) utc: bool,
    /// Show times as ages, such as `5m12s ago`
    #[arg(long, global = true)]
    pub(crate) relative: bool,
    /// When to colour
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub(crate) color: Color,
}

impl Global {
    /// The namespace for commands that need one; `default` as with kubectl.
    pub(crate) fn namespace_or_default(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| "default".to_owned())
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Trees and tables for people
    Table,
    /// The same with ids of events, full ids of containers and nodes
    Wide,
    /// JSON for programs
    Json,
    /// Graphviz, for `why` only
    Dot,
}

/// The level whose limit fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// The container's own limit
    Container,
    /// The pod's, which counts all its containers and the sandbox
    Pod,
    /// That of all pods of a quality-of-service class
    Qos,
    /// That of all pods of the node
    Kubepods,
    /// The node's memory
    Node,
    /// A cgroup outside the kubelet's scheme, or of a container's own making
    Cgroup,
    /// It could not be told which
    Unknown,
}

impl Level {
    /// As facts have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Qos => "qos",
            Self::Kubepods => "kubepods",
            Self::Node => "node",
            Self::Cgroup => "cgroup",
            Self::Unknown => "unknown",
        }
    }
}

/// What a victim was to the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The kernel chose it
    Chosen,
    /// It was in the chosen one's group (memory.oom.group)
    Group,
    /// It shared the chosen one's memory
    SharedMm,
}

impl Role {
    /// As facts have it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Group => "group",
            Self::SharedMm => "shared_mm",
        }
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The questions.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what caused the last failure or configuration swap of a pod, or one event
    Why {
        /// `pod/NAME`, or the id of an event
        #[arg(value_name = "pod/NAME|EVENT_ID")]
        subject: Subject,
        /// Most edges to follow from the fact asked about
        #[arg(long, value_name = "EDGES", value_parser = clap::value_parser!(u32).range(1..))]
        depth: Option<u32>,
    },
    /// Show what happened to a pod, or in a namespace, in order of time
    Timeline {
        /// `pod/NAME`; without it the whole namespace
        #[arg(value_name = "pod/NAME")]
        pod: Option<PodName>,
        /// From this time; 24 hours before the end if not given
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Until this time; now if not given
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Most events to show, the latest win; 200 if not given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: Option<u32>,
    },
    /// Show whether a pattern has happened before, and to whom
    History {
        /// Such as P001 (OOM kill), P003 (ConfigMap mount swap) or P006 (killed by a signal)
        pattern: String,
        /// Only this workload
        #[arg(long, value_name = "[NAMESPACE/]NAME")]
        workload: Option<WorkloadName>,
        /// Only this pod
        #[arg(long, value_name = "NAME")]
        pod: Option<String>,
        /// From this time; 30 days ago if not given
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Most occurrences to list, the latest win; 50 if not given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
        limit: Option<u32>,
    },
    /// Show the state of an object at a time, deleted objects included
    At {
        /// The time
        time: String,
        /// `pod/NAME` or `configmap/NAME`
        #[arg(value_name = "KIND/NAME")]
        object: ObjectName,
    },
    /// Show who was killed by the kernel's OOM killer, in what role, and by which limit
    Oom {
        /// Only this pod, of the namespace given or `default`
        #[arg(long, value_name = "NAME")]
        pod: Option<String>,
        /// Only this workload
        #[arg(long, value_name = "NAME")]
        workload: Option<String>,
        /// Only where the limit of this level fired
        #[arg(long, value_name = "LEVEL")]
        level: Option<Level>,
        /// Only victims that died as this
        #[arg(long, value_name = "ROLE")]
        role: Option<Role>,
        /// From this time; 24 hours before the end if not given
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Until this time; now if not given
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Most kills to show, the latest win; 200 if not given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: Option<u32>,
    },
    /// Show which containers still run on old configuration, and why
    Stale {
        /// Only this pod, of the namespace given or `default`
        #[arg(long, value_name = "NAME")]
        pod: Option<String>,
        /// Only this workload
        #[arg(long, value_name = "NAME")]
        workload: Option<String>,
        /// Most to show, the latest win; 200 if not given
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: Option<u32>,
    },
    /// Show what Aftertrace sees, what it misses, and how far behind it is
    Status,
    /// Open the DuckDB command on the catalog, read-only, or run one query
    Sql {
        /// Path of memory.duckdb; asked from the aggregator if not given
        #[arg(long, env = "AFT_CATALOG", value_name = "FILE")]
        catalog: Option<PathBuf>,
        /// A query; without it, a prompt
        #[arg(trailing_var_arg = true)]
        query: Vec<String>,
    },
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What `why` is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The newest failure or swap of a pod.
    Pod(PodName),
    /// One event.
    Event(EventId),
}

/// A pod by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodName(pub(crate) String);

/// An object by kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectName {
    /// As the API writes it, such as `ConfigMap`.
    pub(crate) kind: String,
    /// `metadata.name`.
    pub(crate) name: String,
}

/// A workload by its name, with its namespace if one was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadName {
    /// The part before the slash.
    pub(crate) namespace: Option<String>,
    /// The name.
    pub(crate) name: String,
}

/// A name on the command line that cannot be read; clap adds the input and the argument it was given for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    /// Neither a pod nor an event.
    #[error("give a pod such as pod/checkout-7d9, or the id of an event")]
    Subject,
    /// Not a pod.
    #[error("give a pod such as pod/checkout-7d9")]
    Pod,
    /// Not an object.
    #[error("give kind and name such as pod/checkout-7d9 or configmap/flags")]
    Object,
    /// Not a workload.
    #[error("give a name such as checkout or shop/checkout")]
    Workload,
}

/// Splits `kind/name`; neither part is empty and the name has no further slash.
fn split(text: &str) -> Option<(&str, &str)> {
    let (kind, name) = text.split_once('/')?;
    (!kind.is_empty() && is_name(name)).then_some((kind, name))
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', ' '])
}

/// The kind as the API writes it, for the plurals and short names that kubectl takes too.
fn kind_of(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        "pod" | "pods" | "po" => "Pod".to_owned(),
        "configmap" | "configmaps" | "cm" => "ConfigMap".to_owned(),
        _ => text.to_owned(),
    }
}

impl FromStr for PodName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match split(text) {
            Some((kind, name)) if kind_of(kind) == "Pod" => Ok(Self(name.to_owned())),
            _ => Err(NameError::Pod),
        }
    }
}

impl FromStr for Subject {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse()
            .map(Self::Event)
            .or_else(|_| text.parse().map(Self::Pod))
            .map_err(|_: NameError| NameError::Subject)
    }
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, name) = split(text).ok_or(NameError::Object)?;
        Ok(Self { kind: kind_of(kind), name: name.to_owned() })
    }
}

impl FromStr for WorkloadName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match split(text) {
            Some((namespace, name)) => {
                Ok(Self { namespace: Some(namespace.to_owned()), name: name.to_owned() })
            }
            None if is_name(text) => Ok(Self { namespace: None, name: text.to_owned() }),
            None => Err(NameError::Workload),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn subjects() {
        let id = "019a9e2b-4c00-8000-8000-0123456789ab";
        assert_eq!(id.parse(), Ok(Subject::Event(id.parse().expect("a uuid"))));
        for text in ["pod/checkout-7d9", "po/checkout-7d9", "Pods/checkout-7d9"] {
            assert_eq!(text.parse(), Ok(Subject::Pod(PodName("checkout-7d9".into()))), "{text}");
        }
        for text in ["", "checkout-7d9", "pod/", "/x", "deploy/checkout", "pod/a/b", "pod/a b"] {
            assert_eq!(text.parse::<Subject>(), Err(NameError::Subject), "{text:?}");
        }
    }

    #[test]
    fn objects_and_workloads() {
        assert_eq!("cm/flags".parse(), Ok(ObjectName { kind: "ConfigMap".into(), name: "flags".into() }));
        assert_eq!(
            "shop/checkout".parse(),
            Ok(WorkloadName { namespace: Some("shop".into()), name: "checkout".into() })
        );
        assert_eq!("checkout".parse(), Ok(WorkloadName { namespace: None, name: "checkout".into() }));
        assert_eq!("shop/".parse::<WorkloadName>(), Err(NameError::Workload));
    }
}
