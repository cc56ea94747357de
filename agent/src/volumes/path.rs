//! Paths of volumes under a kubelet's root.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::attribute::cgroup_name::CgroupUid;

/// Plugins whose volumes an AtomicWriter writes.
const PLUGINS: &[&str] = &[
    "kubernetes.io~configmap",
    "kubernetes.io~secret",
    "kubernetes.io~projected",
    "kubernetes.io~downward-api",
];

/// The name of the link to the current generation.
pub(crate) const DATA: &str = "..data";

/// The name that a new link is made under before it is renamed.
pub(crate) const DATA_TMP: &str = "..data_tmp";

/// A volume of a pod, as its path says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VolumePath {
    /// The volume's directory.
    pub(crate) root: PathBuf,
    /// The pod's uid, or a static pod's config hash.
    pub(crate) uid: String,
    /// Such as `kubernetes.io~configmap`.
    pub(crate) plugin: String,
    /// The volume's name in the pod spec.
    pub(crate) volume: String,
}

/// Reads `<kubelet_root>/pods/<uid>/volumes/<plugin>/<volume>`; `None` for any other shape.
pub(crate) fn volume(kubelet_root: &Path, path: &Path) -> Option<VolumePath> {
    let below = path.strip_prefix(kubelet_root).ok()?;
    let names: Vec<&str> = below
        .components()
        .map(|c| match c {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let ["pods", uid, "volumes", plugin, volume] = names.as_slice() else { return None };
    let is_ours = CgroupUid::parse(uid).is_some() && PLUGINS.contains(plugin);
    is_ours.then(|| VolumePath {
        root: path.to_owned(),
        uid: (*uid).to_owned(),
        plugin: (*plugin).to_owned(),
        volume: (*volume).to_owned(),
    })
}

/// Reads the two paths of a rename: the volume, if `..data_tmp` was renamed onto `..data` in one directory.
pub(crate) fn renamed(kubelet_root: &Path, old: &Path, new: &Path) -> Option<VolumePath> {
    let is_swap = new.file_name() == Some(OsStr::new(DATA)) && old.file_name() == Some(OsStr::new(DATA_TMP));
    let (old_dir, new_dir) = (old.parent()?, new.parent()?);
    (is_swap && old_dir == new_dir).then(|| volume(kubelet_root, new_dir)).flatten()
}

/// The directories of all volumes of a pod that can be listed, none where there are none.
pub(crate) fn volumes_of(kubelet_root: &Path, uid: &str) -> Vec<VolumePath> {
    let volumes = kubelet_root.join("pods").join(uid).join("volumes");
    let mut found = Vec::new();
    for plugin in PLUGINS {
        let Ok(entries) = std::fs::read_dir(volumes.join(plugin)) else { continue };
        found.extend(entries.flatten().filter_map(|e| volume(kubelet_root, &e.path())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "d3964cba-aabb-44b3-9b72-a1f3c378c40e";

    fn check(old: &str, new: &str, expected: Option<&str>) {
        let (old, new) = (old.replace("{U}", UID), new.replace("{U}", UID));
        let found = renamed(Path::new("/var/lib/kubelet"), Path::new(&old), Path::new(&new));
        let found = found.map(|v| format!("{} {}", v.plugin, v.volume));
        assert_eq!(found.as_deref(), expected, "{old} -> {new}");
    }

    #[test]
    fn only_the_kubelets_own_shape_is_read() {
        let cfg = "/var/lib/kubelet/pods/{U}/volumes/kubernetes.io~configmap/cfg";
        let ok = Some("kubernetes.io~configmap cfg");
        check(&format!("{cfg}/..data_tmp"), &format!("{cfg}/..data"), ok);
        check(&format!("{cfg}/..tmp"), &format!("{cfg}/..data"), None);
        check(&format!("{cfg}/..data_tmp"), &format!("{cfg}/..data_new"), None);
        check("/tmp/..data_tmp", &format!("{cfg}/..data"), None);
        check(&format!("{cfg}/a/..data_tmp"), &format!("{cfg}/a/..data"), None);
        check("..data_tmp", "..data", None);
        for (old, new) in [
            ("/etc/x/..data_tmp", "/etc/x/..data"),
            (
                "/var/lib/kubelet/pods/{U}/volumes/kubernetes.io~empty-dir/e/..data_tmp",
                "/var/lib/kubelet/pods/{U}/volumes/kubernetes.io~empty-dir/e/..data",
            ),
            (
                "/var/lib/kubelet/pods/x/../{U}/volumes/kubernetes.io~secret/s/..data_tmp",
                "/var/lib/kubelet/pods/x/../{U}/volumes/kubernetes.io~secret/s/..data",
            ),
        ] {
            check(old, new, None);
        }
    }

    #[test]
    fn every_recorded_swap_is_read() {
        let Some(root) = crate::recordings::root() else { return };
        let log = std::fs::read_to_string(root.join("s03-volume-swap/strace.kubelet.log"))
            .expect("a readable recording");
        let mut volumes = std::collections::BTreeMap::new();
        for line in log.lines().filter(|l| l.contains(" renameat(")) {
            let quoted: Vec<&str> = line.split('"').collect();
            let (old, new) = (Path::new(quoted[1]), Path::new(quoted[3]));
            let volume = renamed(Path::new("/var/lib/kubelet"), old, new).expect("a swap");
            assert_eq!(volume.uid, UID);
            *volumes.entry(volume.volume).or_insert(0) += 1;
        }
        let expected = [("cfg", 3), ("info", 1), ("proj", 3), ("sec", 1)].map(|(n, c)| (n.to_owned(), c));
        assert_eq!(volumes, expected.into_iter().collect());
    }
}
