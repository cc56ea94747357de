//! Where the memory controller is mounted, and which cgroups of pods and containers it has.
//!
//! Finds directories only; what their files say is [`super::counters`]'.

use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};

use crate::attribute::cgroup_name::{Cgroup, CgroupRoot, CgroupUid, ContainerId, components};

/// Levels below the kubelet's root that are searched: class, pod, container.
const DEPTH_MAX: usize = 4;

/// Which cgroup version has the memory controller, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroupfs {
    /// The memory hierarchy of cgroup v1.
    V1(PathBuf),
    /// The one hierarchy of cgroup v2.
    V2(PathBuf),
}

impl Cgroupfs {
    /// Finds it at `mount`, or in the usual places; `None` where there is no memory controller.
    pub(crate) fn detect(mount: Option<&Path>) -> Option<Self> {
        let usual = [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup")];
        let places = mount.map_or_else(|| usual.to_vec(), |m| vec![m]);
        places.into_iter().find_map(|place| {
            if place.join("memory.usage_in_bytes").exists() {
                return Some(Self::V1(place.to_owned()));
            }
            let controllers = std::fs::read_to_string(place.join("cgroup.controllers")).ok()?;
            controllers.split_whitespace().any(|c| c == "memory").then(|| Self::V2(place.to_owned()))
        })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }

    /// What cannot be told here about pressure.
    pub(super) fn lacks(&self) -> Vec<Lack> {
        match self {
            Self::V1(_) => vec![Lack::High, Lack::PsiOfVersion],
            // Each cgroup has its file where the machine has its own.
            Self::V2(_) if std::fs::read_to_string("/proc/pressure/memory").is_err() => {
                vec![Lack::PsiOfKernel]
            }
            Self::V2(_) => Vec::new(),
        }
    }
}

/// Evidence of pressure that this machine does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Cgroup v1 has no `memory.high`.
    High,
    /// Cgroup v1 has no stall information.
    PsiOfVersion,
    /// The kernel was built without stall information, or started with `psi=0`.
    PsiOfKernel,
}

impl Lack {
    /// The name in rows.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::PsiOfVersion | Self::PsiOfKernel => "psi",
        }
    }

    /// For people.
    pub(super) const fn told(self) -> &'static str {
        match self {
            Self::High => "slowing down at memory.high, which cgroup v1 does not have",
            Self::PsiOfVersion => "pressure stall information (PSI), which cgroup v1 does not have",
            Self::PsiOfKernel => {
                "pressure stall information (PSI), which is not in this kernel or turned off (psi=1)"
            }
        }
    }
}

/// A cgroup of a pod or of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) dir: PathBuf,
    /// The directory's kernfs id.
    pub(super) id: u64,
    /// Of the pod.
    pub(super) uid: CgroupUid,
    /// Of the container; `None` for a pod's own cgroup. A sandbox has one too.
    pub(super) container: Option<ContainerId>,
}

/// All cgroups of pods and containers below the kubelet's root, each pod before its containers.
pub(super) fn search(cgroupfs: &Cgroupfs, root: &CgroupRoot) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let top = root.components().iter().fold(cgroupfs.path().to_owned(), |path, name| path.join(name));
    for entry in std::fs::read_dir(&top)?.flatten() {
        if entry.file_name().to_string_lossy().contains("kubepods") {
            descend(cgroupfs, root, &entry, DEPTH_MAX, &mut found);
        }
    }
    Ok(found)
}

fn descend(
    cgroupfs: &Cgroupfs,
    root: &CgroupRoot,
    entry: &std::fs::DirEntry,
    depth: usize,
    found: &mut Vec<Found>,
) {
    let (dir, id) = (entry.path(), entry.ino());
    let below = dir.strip_prefix(cgroupfs.path()).ok().and_then(Path::to_str).unwrap_or_default();
    let names: Vec<&str> = components(below).collect();
    let class = root.classify(&names);
    // What lies below a container's own cgroup, the container has made.
    let is_leaf = matches!(class, Cgroup::Container { .. });
    match class {
        Cgroup::Container { uid, id: container, nested: false } => {
            found.push(Found { dir: dir.clone(), id, uid, container: Some(container) });
        }
        // A conmon's cgroup is classified as of its pod; the pod's own is told by its parent, which is none.
        Cgroup::Pod { uid } if !found.iter().rev().any(|f| f.container.is_none() && f.uid == uid) => {
            found.push(Found { dir: dir.clone(), id, uid, container: None });
        }
        _ => {}
    }
    if is_leaf || depth == 0 {
        return;
    }
    let Ok(entries) = std::fs::read_dir(&dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            descend(cgroupfs, root, &entry, depth - 1, found);
        }
    }
}
