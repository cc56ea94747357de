//! Kernfs id of a cgroup → the container whose it is.
//!
//! Filled from what was found at the start and from what the kernel tells of new directories; read downward
//! from the kubelet's root, as every name. A container stays known for a while after its cgroup is gone, for
//! records about it may come later.

use std::collections::{HashMap, VecDeque};

use crate::attribute::cgroup_name::{Cgroup, CgroupRoot};
use crate::kernel::{CgroupChange, FoundCgroup, PodLevel};

/// Most cgroups that are gone and still known. A node that starts and ends a hundred containers a minute
/// keeps them for ten minutes.
const GONE_MAX: usize = 4_096;

/// The kubelet's cgroups, by kernfs id.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    by_id: HashMap<u64, Known>,
    gone: VecDeque<u64>,
}

#[derive(Debug)]
struct Known {
    path: Vec<String>,
    cgroup: Cgroup,
}

impl Containers {
    /// Takes in what a scan found.
    pub(crate) fn found(&mut self, found: &[FoundCgroup], root: &CgroupRoot) {
        for cgroup in found {
            self.insert(cgroup.kernfs_id, cgroup.path.clone(), root);
        }
    }

    /// A directory was made.
    pub(crate) fn made(&mut self, made: &CgroupChange, root: &CgroupRoot) {
        let Some(name) = &made.name else { return };
        let above = match self.by_id.get(&made.parent_id) {
            Some(parent) => parent.path.clone(),
            None if made.level == PodLevel::Kubepods => root.components().to_vec(),
            // The next scan finds it.
            None => return,
        };
        let path = above.into_iter().chain([name.clone()]).collect();
        self.insert(made.kernfs_id, path, root);
    }

    /// A directory is gone; its number may be used again.
    pub(crate) fn gone(&mut self, gone: &CgroupChange) {
        self.gone.push_back(gone.kernfs_id);
        if self.gone.len() > GONE_MAX
            && let Some(oldest) = self.gone.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    /// Whose cgroup it is.
    pub(crate) fn get(&self, kernfs_id: u64) -> Option<&Cgroup> {
        self.by_id.get(&kernfs_id).map(|known| &known.cgroup)
    }

    /// Whether it is the sandbox of its pod: the first container that a runtime makes there, and no container of
    /// the pod's spec. Kernfs ids are given in the order of making.
    pub(crate) fn is_sandbox(&self, kernfs_id: u64) -> bool {
        let Some(known) = self.by_id.get(&kernfs_id) else { return false };
        let Some((_, pod)) = known.path.split_last() else { return false };
        let is_container = |other: &Known| matches!(other.cgroup, Cgroup::Container { nested: false, .. });
        let is_earlier = |(id, other): (&u64, &Known)| {
            *id < kernfs_id
                && is_container(other)
                && other.path.split_last().is_some_and(|(_, above)| above == pod)
        };
        is_container(known) && !self.by_id.iter().any(is_earlier)
    }

    /// The path of a container's own cgroup below the hierarchy's mount, by the container's id.
    pub(crate) fn path_of(&self, container: &str) -> Option<&[String]> {
        self.by_id.values().find_map(|known| match &known.cgroup {
            Cgroup::Container { id, nested: false, .. } if id.as_str() == container => Some(&*known.path),
            _ => None,
        })
    }

    fn insert(&mut self, kernfs_id: u64, path: Vec<String>, root: &CgroupRoot) {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let cgroup = root.classify(&names);
        self.gone.retain(|id| *id != kernfs_id);
        self.by_id.insert(kernfs_id, Known { path, cgroup });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::cgroup_name::ContainerId;

    const POD: &str = "pod7c925680-6d5c-463d-b7a3-c322719af62a";
    const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

    fn change(kernfs_id: u64, parent_id: u64, level: PodLevel, name: &str) -> CgroupChange {
        CgroupChange {
            boot_ns: 1,
            kernfs_id,
            parent_id,
            level,
            name: Some(name.into()),
            name_truncated: false,
        }
    }

    #[test]
    fn a_container_is_known_from_its_making_until_long_after_its_end() {
        let root = CgroupRoot::parse("/x");
        let mut containers = Containers::default();
        let made = [
            change(2, 1, PodLevel::Kubepods, "kubepods"),
            change(3, 2, PodLevel::Pod, POD),
            change(4, 3, PodLevel::Member, ID),
        ];
        for made in &made {
            containers.made(made, &root);
        }
        let id = ContainerId::parse(ID).expect("an id");
        let is_known = |c: &Containers| matches!(c.get(4), Some(Cgroup::Container { id: i, .. }) if *i == id);
        assert!(is_known(&containers));
        assert_eq!(containers.path_of(ID).map(|path| path.join("/")), Some(format!("x/kubepods/{POD}/{ID}")));
        // The sandbox is the first; what is beside it is none, and neither is another pod's.
        let other = ID.replace('2', "3");
        containers.made(&change(9, 3, PodLevel::Member, "crio-conmon-1.scope"), &root);
        containers.made(&change(10, 3, PodLevel::Member, &other), &root);
        assert!(containers.is_sandbox(4) && !containers.is_sandbox(9) && !containers.is_sandbox(10));
        containers.gone(&made[2]);
        assert!(is_known(&containers));
        for n in 0..GONE_MAX as u64 {
            containers.gone(&change(100 + n, 3, PodLevel::Member, "x"));
        }
        assert!(containers.get(4).is_none());
    }
}
