//! The cgroup file system → which cgroups are the kubelet's, told to the programs before they need it.
//!
//! At load, and now and then afterwards, the directories under the kubelet's root are listed and put into
//! `POD_CGROUPS`; what is made or removed in between the programs take in themselves. A directory's inode
//! number is its kernfs id. What lies below the members of pods was made by containers and is not kept.

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use aftertrace_ebpf_common::{
    limits::AWAITED_NAME_BYTES,
    record::{AwaitedName, pod_level},
};
use aya::maps::{HashMap, Map, MapData, MapError};
use tracing::{debug, warn};
use zerocopy::IntoBytes as _;

use super::{load::LoadError, record::PodLevel};
use crate::attribute::cgroup_name::CgroupRoot;

/// `bpf(2)`: insert only what is not there.
const BPF_NOEXIST: u64 = 1;
/// The same error number on all of Linux's architectures.
const EEXIST: i32 = 17;

/// [`AwaitedName`] as the map's key; the loader takes arrays of bytes.
type AwaitedKey = [u8; size_of::<AwaitedName>()];

/// Where the kubelet's cgroups are, and what it names the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletCgroups {
    /// Where the hierarchy with the memory controller is mounted.
    mount: PathBuf,
    /// The directory under which the kubelet makes its own, relative to the mount.
    root: Vec<String>,
    /// What it may name the directory of all pods.
    kubepods: Vec<String>,
    /// What it may name the classes in there.
    classes: Vec<String>,
}

impl KubeletCgroups {
    /// The cgroups of a kubelet whose `--cgroup-root` is `root`, such as `/`, by either driver's names; the
    /// hierarchy with the memory controller is mounted at `mount`.
    #[must_use]
    pub fn new(mount: &Path, root: &str) -> Self {
        let root = CgroupRoot::parse(root);
        let (kubepods, classes) = root.first_names();
        Self { mount: mount.to_owned(), root: root.components().to_vec(), kubepods, classes }
    }

    /// The depth of the directory of all pods below the hierarchy's root.
    pub(super) fn kubepods_level(&self) -> u32 {
        u32::try_from(self.root.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// One directory that a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCgroup {
    /// Its kernfs id.
    pub kernfs_id: u64,
    /// The kernfs id of the directory above it.
    pub parent_id: u64,
    /// What it is.
    pub level: PodLevel,
    /// Its names from the hierarchy's root down, without the root's.
    pub path: Vec<String>,
}

/// The programs' tables of the kubelet's cgroups.
pub struct PodCgroups {
    levels: HashMap<MapData, u64, u32>,
    awaited: HashMap<MapData, AwaitedKey, u32>,
    place: Option<KubeletCgroups>,
    /// The kernfs id of the kubelet's root for which names are awaited.
    awaited_under: Option<u64>,
}

impl PodCgroups {
    /// Takes the tables over; nothing is in them yet.
    ///
    /// # Errors
    /// The tables are not what this build expects.
    pub(super) fn new(levels: Map, awaited: Map, place: Option<KubeletCgroups>) -> Result<Self, LoadError> {
        let failed = |name| move |source| LoadError::Map { name, source };
        Ok(Self {
            levels: HashMap::try_from(levels).map_err(failed("POD_CGROUPS"))?,
            awaited: HashMap::try_from(awaited).map_err(failed("AWAITED_CGROUPS"))?,
            place,
            awaited_under: None,
        })
    }

    /// Whether the kubelet's root was there at the last scan: what it makes there is seen at once. Where it
    /// is not, only the next scan finds it.
    #[must_use]
    pub fn is_rooted(&self) -> bool {
        self.awaited_under.is_some()
    }

    /// Lists the kubelet's cgroups, teaches them to the programs, and has them forget what is gone. The
    /// directories are in an order in which each comes after the one above it.
    ///
    /// A directory that cannot be read is one that goes away just now. A table that takes no more is logged;
    /// what it lacks is taken for the host's.
    pub fn scan(&mut self) -> Vec<FoundCgroup> {
        let Some(place) = self.place.clone() else { return Vec::new() };
        // First what is kept, then what there is: what a program adds in between is not taken for gone.
        let kept: Vec<u64> = self.levels.keys().filter_map(Result::ok).collect();
        self.await_names(&place);
        let mut found = Vec::new();
        let top = place.root.iter().fold(place.mount.clone(), |path, name| path.join(name));
        if let Some(id) = self.awaited_under {
            for name in &place.kubepods {
                let path = [place.root.as_slice(), std::slice::from_ref(name)].concat();
                let directory = top.join(name);
                let Ok(metadata) = fs::metadata(&directory) else { continue };
                let at =
                    FoundCgroup { kernfs_id: metadata.ino(), parent_id: id, level: PodLevel::Kubepods, path };
                walk(&directory, at, &place.classes, &mut found);
            }
        }
        for cgroup in &found {
            // What a program has put there says more, and stays.
            match self.levels.insert(cgroup.kernfs_id, raw(cgroup.level), BPF_NOEXIST) {
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(EEXIST) => {}
                Ok(()) => {}
                Err(error) => {
                    warn!(%error, cgroups = found.len(), "the table of the pods' cgroups takes no more");
                    break;
                }
            }
        }
        let there: HashSet<u64> = found.iter().map(|cgroup| cgroup.kernfs_id).collect();
        for id in kept.into_iter().filter(|id| !there.contains(id)) {
            match self.levels.remove(&id) {
                // The program that saw it go was faster.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => debug!(%error, id, "a cgroup that is gone could not be forgotten"),
            }
        }
        found
    }

    /// Tells the programs what the kubelet's first directories will be called, if its root is another one
    /// than at the last scan.
    fn await_names(&mut self, place: &KubeletCgroups) {
        let top = place.root.iter().fold(place.mount.clone(), |path, name| path.join(name));
        let root_id = fs::metadata(&top).ok().map(|metadata| metadata.ino());
        if root_id == self.awaited_under {
            return;
        }
        for key in self.awaited.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            let _ = self.awaited.remove(&key);
        }
        self.awaited_under = root_id;
        let Some(root_id) = root_id else { return };
        let kubepods = place.kubepods.iter().map(|name| (root_id, name, pod_level::KUBEPODS));
        let classes = place.classes.iter().map(|name| (0, name, pod_level::CLASS));
        for (parent_id, name, level) in kubepods.chain(classes) {
            let Some(key) = awaited_key(parent_id, name) else {
                warn!(name, "a cgroup's name is too long to be awaited; pods there are seen late");
                continue;
            };
            if let Err(error) = self.awaited.insert(key, level, 0) {
                warn!(%error, name, "a cgroup could not be awaited; pods there are seen late");
            }
        }
    }
}

/// Adds a directory, and those in it down to the members of pods.
fn walk(directory: &Path, at: FoundCgroup, classes: &[String], found: &mut Vec<FoundCgroup>) {
    let below = |name: &str| match at.level {
        PodLevel::Kubepods if classes.iter().any(|class| class == name) => Some(PodLevel::Class),
        PodLevel::Kubepods | PodLevel::Class => Some(PodLevel::Pod),
        PodLevel::Pod => Some(PodLevel::Member),
        PodLevel::Member => None,
    };
    let (parent_id, path) = (at.kernfs_id, at.path.clone());
    let is_leaf = at.level == PodLevel::Member;
    found.push(at.clone());
    if is_leaf {
        return;
    }
    for (kernfs_id, name) in directories(directory).unwrap_or_default() {
        let Some(level) = below(&name) else { continue };
        let mut path = path.clone();
        path.push(name.clone());
        walk(&directory.join(&name), FoundCgroup { kernfs_id, parent_id, level, path }, classes, found);
    }
}

/// The directories in one, with their inode numbers.
fn directories(directory: &Path) -> io::Result<Vec<(u64, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.ino(), entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

fn awaited_key(parent_id: u64, name: &str) -> Option<AwaitedKey> {
    let mut key = AwaitedName { parent_id, name: [0; AWAITED_NAME_BYTES] };
    // The last byte stays NUL.
    key.name[..AWAITED_NAME_BYTES - 1].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    key.as_bytes().try_into().ok()
}

fn raw(level: PodLevel) -> u32 {
    match level {
        PodLevel::Kubepods => pod_level::KUBEPODS,
        PodLevel::Class => pod_level::CLASS,
        PodLevel::Pod => pod_level::POD,
        PodLevel::Member => pod_level::MEMBER,
    }
}
