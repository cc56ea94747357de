//! The kubelet's log directories → which container an id is, where no status has named it.
//!
//! The kubelet links `/var/log/containers/<pod>_<namespace>_<container>-<id>.log` to
//! `/var/log/pods/<namespace>_<pod>_<uid>/<container>/<restart count>.log` right after it has started a
//! container. It does so as root, in directories that no container is given; so a container chooses neither.
//! A link goes with its container, maybe seconds after a pod is deleted: what a waiting fact asks for is
//! looked for at once and each second, and kept when found.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use aftertrace_model::{PodRef, Timestamp};

use super::cgroup_name::{CgroupUid, ContainerId};
use super::pending::WAIT_US;

/// Most ids that are looked for at one time; beyond it a fact may stay without its container.
const WANTED_MAX: usize = 1_024;

/// Most ids that were found and are kept. Facts about one come within the wait for its pod.
const FOUND_MAX: usize = 1_024;

/// What the log directories say of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    /// The pod that the kubelet runs it for.
    pub(crate) pod: PodRef,
    /// The container's name.
    pub(crate) container: String,
    /// `restartCount` of this life.
    pub(crate) restart_count: i32,
}

/// What is looked for, and what was found.
#[derive(Debug)]
pub(crate) struct LogLinks {
    root: PathBuf,
    /// Until when each id is looked for.
    wanted: HashMap<ContainerId, Timestamp>,
    found: HashMap<ContainerId, Logged>,
    order: VecDeque<ContainerId>,
}

impl LogLinks {
    /// Looks below `root`, usually `/var/log`.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), wanted: HashMap::new(), found: HashMap::new(), order: VecDeque::new() }
    }

    /// Looks for an id now, and from now on.
    pub(crate) fn want(&mut self, id: &ContainerId, now: Timestamp) {
        if self.found.contains_key(id) || self.wanted.contains_key(id) || self.wanted.len() >= WANTED_MAX {
            return;
        }
        self.wanted.insert(id.clone(), now.plus_micros(WAIT_US));
        self.look(now);
    }

    /// Looks for all that is wanted; does nothing where nothing is.
    pub(crate) fn look(&mut self, now: Timestamp) {
        self.wanted.retain(|_, until| now < *until);
        if self.wanted.is_empty() {
            return;
        }
        let Ok(entries) = fs::read_dir(self.root.join("containers")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some((link, id)) = name.to_str().and_then(split_link) else { continue };
            if self.wanted.contains_key(&id)
                && let Some(logged) = fs::read_link(entry.path()).ok().and_then(|target| read(link, &target))
            {
                self.wanted.remove(&id);
                self.keep(id, logged);
            }
        }
    }

    /// What was found of a container in the pod of that uid.
    pub(crate) fn get(&self, uid: &CgroupUid, id: &ContainerId) -> Option<&Logged> {
        self.found.get(id).filter(|logged| logged.pod.uid == uid.as_str())
    }

    /// The pod of that uid, by its log directory. None for a static pod's hash, which is not the pod's uid.
    pub(crate) fn pod(&self, uid: &CgroupUid) -> Option<PodRef> {
        let entries = fs::read_dir(self.root.join("pods")).ok()?;
        let of_entry = |entry: fs::DirEntry| entry.file_name().to_str().and_then(pod_of_directory);
        entries.flatten().filter_map(of_entry).find(|pod| pod.uid == uid.as_str())
    }

    fn keep(&mut self, id: ContainerId, logged: Logged) {
        self.order.push_back(id.clone());
        self.found.insert(id, logged);
        while self.order.len() > FOUND_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.found.remove(&oldest);
            }
        }
    }
}

/// `<pod>_<namespace>_<container>-<id>.log` → what stands before the id, and the id.
fn split_link(name: &str) -> Option<(&str, ContainerId)> {
    let (link, id) = name.strip_suffix(".log")?.rsplit_once('-')?;
    Some((link, ContainerId::parse(id)?))
}

/// `…/<namespace>_<pod>_<uid>/<container>/<restart count>.log`, if the link's own name agrees.
fn read(link: &str, target: &Path) -> Option<Logged> {
    let mut names = target.components().rev().map(|name| name.as_os_str().to_str());
    let restart_count = names.next()??.strip_suffix(".log")?.parse().ok()?;
    let container = names.next()??;
    let pod = pod_of_directory(names.next()??)?;
    let agrees = link == format!("{}_{}_{container}", pod.name, pod.namespace);
    agrees.then(|| Logged { pod, container: container.to_owned(), restart_count })
}

/// `<namespace>_<pod>_<uid>`; none of the three may hold an underscore.
fn pod_of_directory(name: &str) -> Option<PodRef> {
    let mut parts = name.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let is_uid = CgroupUid::parse(uid).is_some() && uid.contains('-');
    (is_uid && parts.next().is_none()).then(|| PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
    const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn ids() -> (CgroupUid, ContainerId) {
        (CgroupUid::parse(UID).expect("a uid"), ContainerId::parse(ID).expect("an id"))
    }

    fn link(root: &Path, name: &str, target: &str) {
        fs::create_dir_all(root.join("containers")).expect("a folder of ours");
        symlink(target, root.join("containers").join(name)).expect("a link of ours");
    }

    /// What one link says of the container.
    fn check(name: &str, target: &str, expected: Option<(&str, &str, &str, i32)>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        link(dir.path(), name, target);
        let (uid, id) = ids();
        let mut links = LogLinks::new(dir.path());
        links.want(&id, at(0));
        let found = links.get(&uid, &id);
        let found = found.map(|l| (&*l.pod.namespace, &*l.pod.name, &*l.container, l.restart_count));
        assert_eq!(found, expected, "{name} -> {target}");
    }

    #[test]
    fn a_link_names_the_container_only_if_all_of_it_agrees() {
        let name = format!("shop-1_n_app-{ID}.log");
        let target = |rest: &str| format!("/var/log/pods/n_shop-1_{rest}");
        check(&name, &target(&format!("{UID}/app/3.log")), Some(("n", "shop-1", "app", 3)));
        check(&name, &target(&format!("{UID}/other/3.log")), None);
        check(&name, &target(&format!("{UID}/app/x.log")), None);
        check(&name, &target("0b2f7c11-6d5c-463d-b7a3-c322719af62a/app/3.log"), None);
        check(&name, &target("0123456789abcdef0123456789abcdef/app/3.log"), None);
        check(&format!("shop-1_m_app-{ID}.log"), &target(&format!("{UID}/app/3.log")), None);
        check("shop-1_n_app-12.log", &target(&format!("{UID}/app/3.log")), None);
    }

    #[test]
    fn a_link_that_comes_later_is_found_and_outlives_its_removal() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (uid, id) = ids();
        let mut links = LogLinks::new(dir.path());
        links.want(&id, at(0));
        assert!(links.get(&uid, &id).is_none());
        let name = format!("p_n_app-{ID}.log");
        link(dir.path(), &name, &format!("/var/log/pods/n_p_{UID}/app/0.log"));
        links.look(at(1));
        fs::remove_file(dir.path().join("containers").join(&name)).expect("the link is ours");
        links.look(at(2));
        assert!(links.get(&uid, &id).is_some());
    }

    #[test]
    fn nothing_is_looked_for_for_ever() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (uid, id) = ids();
        let mut links = LogLinks::new(dir.path());
        links.want(&id, at(0));
        link(dir.path(), &format!("p_n_app-{ID}.log"), &format!("/var/log/pods/n_p_{UID}/app/0.log"));
        links.look(at(0).plus_micros(WAIT_US));
        assert!(links.get(&uid, &id).is_none());
    }

    #[test]
    fn a_pods_directory_names_the_pod() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join(format!("pods/n_p_{UID}/app"))).expect("a folder of ours");
        let links = LogLinks::new(dir.path());
        assert_eq!(links.pod(&ids().0).map(|p| (p.namespace, p.name)), Some(("n".into(), "p".into())));
        let other = CgroupUid::parse("0b2f7c11-6d5c-463d-b7a3-c322719af62a").expect("a uid");
        assert_eq!(links.pod(&other), None);
    }
}
