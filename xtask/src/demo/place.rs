//! Where the demo plays: on the stage, or on a cluster that this machine is a node of.

use std::fmt;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http;
use super::programs::DataDir;
use super::scenarios::{self, NAMESPACE};
use crate::child::{self, Group};

/// The program that plays API server and kubelet.
pub(super) const STAGE: &str = "aftertrace-stage";

/// The place.
pub(super) struct Place {
    kind: Kind,
    pub(super) node: Node,
}

/// What agent and aggregator must know of the place.
pub(super) struct Node {
    pub(super) kubeconfig: PathBuf,
    pub(super) name: String,
    pub(super) kubelet_root: String,
    pub(super) kubelet_pid: u32,
    pub(super) cgroup_root: String,
}

enum Kind {
    Stage {
        server: String,
        _program: Group,
        /// Open as long as the stage runs: it must not die of a closed output.
        _output: BufReader<PipeReader>,
    },
    Cluster,
}

impl Place {
    /// Starts the stage; it ends and cleans up with the value.
    pub(super) fn stage(programs: &Path, data: &DataDir) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let mut command = Command::new(programs.join(STAGE));
        command.arg("serve").stdout(writer).stderr(data.log("stage")?);
        let program = Group::spawn(&mut command)?;
        // The command holds the pipe's write end too: drop it, or a stage that dies is never noticed.
        command.stdout(Stdio::null());
        let mut output = BufReader::new(reader);
        let mut facts = Facts::default();
        let mut line = String::new();
        while output.read_line(&mut line).context("read what the stage says")? > 0 {
            facts.take(line.trim_end());
            line.clear();
            if let Some((server, node)) = facts.complete(program.id()) {
                return Ok(Self { kind: Kind::Stage { server, _program: program, _output: output }, node });
            }
        }
        bail!("the stage did not start:\n{}", data.last_words("stage"))
    }

    /// Uses a cluster through kubectl. The kubelet's root and cgroup are the usual ones.
    pub(super) fn cluster(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = std::path::absolute(kubeconfig).context("resolve the kubeconfig's path")?;
        let node = Node {
            kubeconfig,
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            kubelet_root: "/var/lib/kubelet".to_owned(),
            kubelet_pid: 1,
            cgroup_root: "/".to_owned(),
        };
        let place = Self { kind: Kind::Cluster, node };
        let name = format!("node/{}", place.node.name);
        child::output(place.kubectl().args(["get", &name]))
            .with_context(|| format!("find this machine among the cluster's nodes as {name}"))?;
        Ok(place)
    }

    /// Whether nothing here is a real cluster's.
    pub(super) fn is_stage(&self) -> bool {
        matches!(self.kind, Kind::Stage { .. })
    }

    /// Creates an object.
    pub(super) fn create(&self, object: &Value) -> Result<()> {
        match &self.kind {
            Kind::Stage { server, .. } => http::send(server, "POST", &scenarios::collection(object), object),
            Kind::Cluster => self.pin_and_apply(object),
        }
    }

    /// Changes the ConfigMap. A kubelet looks at its volumes once a minute, or when the pod changes: so on a
    /// cluster the pod gets an annotation.
    pub(super) fn change_config(&self) -> Result<()> {
        let patch = scenarios::config_change();
        match &self.kind {
            Kind::Stage { server, .. } => http::send(server, "PATCH", &scenarios::config_map_path(), &patch),
            Kind::Cluster => {
                let patch = patch.to_string();
                let name = scenarios::CONFIG;
                child::output(self.kubectl().args([
                    "-n",
                    NAMESPACE,
                    "patch",
                    "configmap",
                    name,
                    "-p",
                    &patch,
                ]))?;
                let mark = "aftertrace-demo/changed=true";
                child::output(self.kubectl().args([
                    "-n",
                    NAMESPACE,
                    "annotate",
                    "pod",
                    scenarios::READER,
                    mark,
                ]))?;
                Ok(())
            }
        }
    }

    /// Pods must come to this node: only here is an agent.
    fn pin_and_apply(&self, object: &Value) -> Result<()> {
        let mut object = object.clone();
        if object["kind"] == "Pod" {
            object["spec"]["nodeName"] = Value::from(self.node.name.as_str());
        }
        let mut kubectl = self.kubectl();
        let mut apply = kubectl
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("start kubectl")?;
        if let Some(mut input) = apply.stdin.take() {
            input.write_all(object.to_string().as_bytes()).context("write to kubectl")?;
        }
        let status = apply.wait().context("wait for kubectl")?;
        if !status.success() {
            bail!("kubectl could not apply {}", scenarios::collection(&object));
        }
        Ok(())
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&self.node.kubeconfig);
        kubectl
    }
}

/// A stage takes its objects with it; on a cluster they are in a namespace of their own.
impl Drop for Place {
    fn drop(&mut self) {
        let Kind::Cluster = self.kind else { return };
        let removed =
            child::output(self.kubectl().args(["delete", "namespace", NAMESPACE, "--ignore-not-found"]));
        if let Err(error) = removed {
            eprintln!("warning: the namespace {NAMESPACE} may still be there: {error:#}");
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Stage { server, .. } => write!(f, "the stage at {server}, node {}", self.node.name),
            Kind::Cluster => {
                write!(f, "the cluster of {}, node {}", self.node.kubeconfig.display(), self.node.name)
            }
        }
    }
}

/// What the stage says of itself, a line each: `server http://…`, `kubeconfig …`, `node …`,
/// `cgroup root …`, `kubelet root …`.
#[derive(Debug, Default)]
struct Facts {
    server: Option<String>,
    kubeconfig: Option<String>,
    node: Option<String>,
    cgroup_root: Option<String>,
    kubelet_root: Option<String>,
}

impl Facts {
    fn take(&mut self, line: &str) {
        let slots = [
            ("server ", &mut self.server),
            ("kubeconfig ", &mut self.kubeconfig),
            ("node ", &mut self.node),
            ("cgroup root ", &mut self.cgroup_root),
            ("kubelet root ", &mut self.kubelet_root),
        ];
        for (name, slot) in slots {
            if let Some(value) = line.strip_prefix(name) {
                *slot = Some(value.to_owned());
            }
        }
    }

    /// The server's address and the node, once everything was said.
    fn complete(&self, kubelet_pid: u32) -> Option<(String, Node)> {
        let node = Node {
            kubeconfig: PathBuf::from(self.kubeconfig.as_ref()?),
            name: self.node.clone()?,
            kubelet_root: self.kubelet_root.clone()?,
            kubelet_pid,
            cgroup_root: self.cgroup_root.clone()?,
        };
        Some((self.server.clone()?, node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: [&str; 5] = [
        "server http://127.0.0.1:40123",
        "kubeconfig /run/x/kubeconfig",
        "node stage-node",
        "cgroup root /aftertrace-stage-0",
        "kubelet root /run/x/kubelet",
    ];

    #[test]
    fn the_stage_is_up_when_it_has_said_everything() {
        let mut facts = Facts::default();
        for line in SAID {
            assert!(facts.complete(7).is_none(), "before {line:?}");
            facts.take(line);
        }
        let (server, node) = facts.complete(7).expect("everything was said");
        assert_eq!(server, "http://127.0.0.1:40123");
        assert_eq!((node.name.as_str(), node.kubelet_pid), ("stage-node", 7));
        assert_eq!(node.kubelet_root, "/run/x/kubelet");
        assert_eq!(node.cgroup_root, "/aftertrace-stage-0");
    }

    #[test]
    fn other_lines_say_nothing() {
        let mut facts = Facts::default();
        for line in ["", "warning: server x", "listening"] {
            facts.take(line);
        }
        assert!(facts.server.is_none());
    }
}
