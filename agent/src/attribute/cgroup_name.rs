//! Cgroup names as kubelets and runtimes give them, read downward from the kubelet's configured root.
//!
//! Pure: components in, [`Cgroup`] out. Downward and from a fixed root, because a container that may make
//! cgroups of its own can imitate every name, but only below its own cgroup.

use std::fmt;

/// Hex digits of a container id with containerd, CRI-O and Docker.
const CONTAINER_ID_DIGITS: usize = 64;

/// Hex digits of a static pod's config hash (an MD5), which stands in its cgroup's name for the uid.
const CONFIG_HASH_DIGITS: usize = 32;

/// The cgroup below a container's own that crun puts its processes in.
pub(crate) const CRUN_CHILD: &str = "container";

/// Uid of a pod as its cgroup names it: `metadata.uid`, or the config hash of a static pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CgroupUid(String);

/// A container's id without the runtime's prefix: 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ContainerId(String);

impl CgroupUid {
    /// Reads `8-4-4-4-12` hex digits or a config hash; anything else is no uid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let groups: Vec<&str> = text.split('-').collect();
        let sizes: Vec<usize> = groups.iter().map(|g| g.len()).collect();
        let shaped = sizes == [8, 4, 4, 4, 12] || sizes == [CONFIG_HASH_DIGITS];
        (shaped && groups.iter().all(|g| is_hex(g))).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ContainerId {
    /// Reads 64 lower-case hex digits; anything else is no container id.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        (text.len() == CONTAINER_ID_DIGITS && is_hex(text)).then(|| Self(text.to_owned()))
    }

    /// Reads `containerID` of a container status, such as `containerd://2c3d…`.
    pub(crate) fn from_status(text: &str) -> Option<Self> {
        Self::parse(text.split_once("://").map_or(text, |(_, id)| id))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a cgroup is to the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroup {
    /// A container's, or one below it.
    Container {
        /// Of the pod.
        uid: CgroupUid,
        /// Of the container; the sandbox has one too.
        id: ContainerId,
        /// Whether it lies below the container's own cgroup: something in the container made it.
        nested: bool,
    },
    /// A pod's own, or a member of it that is no container (such as a conmon).
    Pod {
        /// Of the pod.
        uid: CgroupUid,
    },
    /// Not of a pod.
    Outside,
}

/// Whose limit a cgroup's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// A container's, or that of the one cgroup that crun puts below it.
    Container,
    /// A pod's.
    Pod,
    /// That of all pods of a QoS class.
    Qos,
    /// That of all pods.
    Kubepods,
    /// The root: the machine's.
    Node,
    /// Another: above the kubelet's, beside them, or made by a container within its own.
    Cgroup,
}

impl Level {
    /// The name in facts.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Qos => "qos",
            Self::Kubepods => "kubepods",
            Self::Node => "node",
            Self::Cgroup => "cgroup",
        }
    }
}

/// Where the kubelet's cgroups begin: the components above `kubepods`, none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CgroupRoot(Vec<String>);

impl CgroupRoot {
    /// Reads a path such as `/` or `/docker/<id>/kubelet`.
    pub(crate) fn parse(path: &str) -> Self {
        Self(components(path).map(str::to_owned).collect())
    }

    /// The components, outermost first.
    pub(crate) fn components(&self) -> &[String] {
        &self.0
    }

    /// As a path.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.0.join("/"))
    }

    /// What the systemd driver puts before `kubepods` in a slice's name: a slice repeats its parents.
    fn slice_prefix(&self) -> String {
        match self.0.last().and_then(|last| last.strip_suffix(".slice")) {
            Some(stem) => format!("{stem}-"),
            None => String::new(),
        }
    }

    /// The names that a kubelet may give the directory of all pods, and those of the classes in it.
    pub(crate) fn first_names(&self) -> (Vec<String>, Vec<String>) {
        let prefix = self.slice_prefix();
        let kubepods = vec!["kubepods".to_owned(), format!("{prefix}kubepods.slice")];
        let slice = |class: &str| format!("{prefix}kubepods-{class}.slice");
        let classes = ["burstable", "besteffort"];
        (kubepods, classes.iter().flat_map(|class| [(*class).to_owned(), slice(class)]).collect())
    }

    /// Says whose limit that of the cgroup at `path` is; `path` as in [`Self::classify`], empty for the root.
    pub(crate) fn level_of(&self, path: &[&str]) -> Level {
        let Some(below) = self.below(path) else {
            return if path.is_empty() { Level::Node } else { Level::Cgroup };
        };
        let prefix = self.slice_prefix();
        match self.classify(path) {
            Cgroup::Container { nested: false, .. } => Level::Container,
            Cgroup::Container { .. } => Level::Cgroup,
            // A pod's members that are no containers have cgroups of their own.
            Cgroup::Pod { .. } if self.classify(&path[..path.len() - 1]) == Cgroup::Outside => Level::Pod,
            Cgroup::Pod { .. } => Level::Cgroup,
            Cgroup::Outside => match below {
                [top] if *top == "kubepods" || is_slice(top, &prefix, "") => Level::Kubepods,
                ["kubepods", "burstable" | "besteffort"] => Level::Qos,
                [top, class]
                    if is_slice(top, &prefix, "")
                        && (is_slice(class, &prefix, "-burstable")
                            || is_slice(class, &prefix, "-besteffort")) =>
                {
                    Level::Qos
                }
                _ => Level::Cgroup,
            },
        }
    }

    /// The components below the root's, at least one; `None` for what lies elsewhere.
    fn below<'p, 'n>(&self, path: &'p [&'n str]) -> Option<&'p [&'n str]> {
        let inside = path.len() > self.0.len() && self.0.iter().zip(path).all(|(root, name)| root == name);
        inside.then(|| &path[self.0.len()..])
    }

    /// Says what the cgroup at `path` is; `path` are its components, outermost first, without the root's
    /// empty name.
    pub(crate) fn classify(&self, path: &[&str]) -> Cgroup {
        let Some(below) = self.below(path) else { return Cgroup::Outside };
        let found = cgroupfs(below).or_else(|| systemd(below, &self.slice_prefix()));
        let Some((uid, members)) = found else { return Cgroup::Outside };
        match members.split_first().and_then(|(member, rest)| Some((container(member)?, rest))) {
            Some((id, rest)) => Cgroup::Container { uid, id, nested: !matches!(rest, [] | [CRUN_CHILD]) },
            None => Cgroup::Pod { uid },
        }
    }
}

/// The non-empty components of a path.
pub(crate) fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|c| !c.is_empty())
}

/// `kubepods[/burstable|/besteffort]/pod<uid>/…`
fn cgroupfs<'p, 'n>(path: &'p [&'n str]) -> Option<(CgroupUid, &'p [&'n str])> {
    let rest = path.strip_prefix(&["kubepods"])?;
    let (pod, members) = match rest {
        ["burstable" | "besteffort", pod, members @ ..] => (pod, members),
        [pod, members @ ..] => (pod, members),
        [] => return None,
    };
    Some((CgroupUid::parse(pod.strip_prefix("pod")?)?, members))
}

/// `[<prefix>]kubepods<rest>.slice`
fn is_slice(name: &str, prefix: &str, rest: &str) -> bool {
    let stem = || name.strip_suffix(".slice")?.strip_prefix(prefix)?.strip_prefix("kubepods");
    stem() == Some(rest)
}

/// `kubepods.slice[/kubepods-burstable.slice]/kubepods[-burstable]-pod<uid with _>.slice/…`
fn systemd<'p, 'n>(path: &'p [&'n str], prefix: &str) -> Option<(CgroupUid, &'p [&'n str])> {
    let stem = |name: &'n str| name.strip_suffix(".slice")?.strip_prefix(prefix)?.strip_prefix("kubepods");
    let (top, rest) = path.split_first()?;
    if !stem(top)?.is_empty() {
        return None;
    }
    let (class, pod, members) = match rest {
        [class, pod, members @ ..] if matches!(stem(class), Some("-burstable" | "-besteffort")) => {
            (stem(class)?, pod, members)
        }
        [pod, members @ ..] => ("", pod, members),
        [] => return None,
    };
    let uid = stem(pod)?.strip_prefix(class)?.strip_prefix("-pod")?.replace('_', "-");
    Some((CgroupUid::parse(&uid)?, members))
}

/// `[cri-containerd-|crio-|docker-]<id>[.scope]`; a conmon's id follows `crio-conmon-` and so is none.
pub(crate) fn container(name: &str) -> Option<ContainerId> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id =
        ["cri-containerd-", "crio-", "docker-"].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    ContainerId::parse(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
