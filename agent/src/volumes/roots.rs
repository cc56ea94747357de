//! The registered volumes, and the checks that make a rename a swap.
//!
//! A volume is registered when it is first seen with a `..data`: at start, when its pod comes, or by its
//! first rename, which is the mount. Later renames must lead from the registered generation to another one
//! on the same device and inode. Evidence that fails a check is rejected, never guessed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aftertrace_ebpf_common::limits::MAX_VOLUME_ROOTS;
use aftertrace_model::Timestamp;
use aftertrace_model::config::ObjectKey;

use super::files::{self, Digests, Files, Listing};
use super::identity::{Devices, Identity};
use super::path::{self, VolumePath};
use crate::kernel::{Rename, VolumeId, WatchedVolumes};

/// Most registered volumes: 110 pods with a few each, many times over. Beyond it the rest is not registered,
/// and the first rename of such a volume counts as its mount.
const ROOTS_MAX: usize = MAX_VOLUME_ROOTS as usize;

/// How much later than the rename the link may claim to have been made, in microseconds: file systems stamp
/// with a clock that is at most one tick behind, and the wall clock may be slewed meanwhile.
const LINK_SLACK_US: i64 = 10_000;

/// A volume as last confirmed.
#[derive(Debug)]
pub(crate) struct Root {
    /// Which directory it is.
    pub(crate) identity: Identity,
    /// What its path says.
    pub(crate) volume: VolumePath,
    /// The directory that `..data` leads to.
    pub(crate) generation: String,
    /// What is in it; `None` where that is too much.
    pub(crate) listing: Option<Arc<Listing>>,
    digests: Option<Digests>,
    registered_boot_ns: u64,
}

/// The registered volumes of this node.
#[derive(Debug)]
pub(crate) struct Roots {
    kubelet_root: PathBuf,
    proc: PathBuf,
    /// The process whose mount namespace is the kubelet's, where one was named.
    kubelet_pid: Option<u32>,
    key: ObjectKey,
    by_path: HashMap<PathBuf, Root>,
    by_id: HashMap<VolumeId, PathBuf>,
    devices: Devices,
    /// The kernel's table of them; nothing where opens are not seen.
    watched: Option<WatchedVolumes>,
}

/// A confirmed swap.
#[derive(Debug)]
pub(crate) struct Swap {
    /// The volume.
    pub(crate) volume: VolumePath,
    /// Which directory it is.
    pub(crate) id: VolumeId,
    /// The new generation's directory name.
    pub(crate) generation: String,
    /// The one before.
    pub(crate) previous: String,
    /// What was in that one; `None` where it was too much.
    pub(crate) previous_listing: Option<Arc<Listing>>,
    /// What is in the new one; likewise.
    pub(crate) listing: Option<Arc<Listing>>,
    /// Paths that changed; `None` where a generation was too large to compare.
    pub(crate) changed: Option<Vec<String>>,
    /// The new files; `None` where they are too many or too large.
    pub(crate) files: Option<Files>,
}

/// What a rename turned out to be.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A swap.
    Swapped(Box<Swap>),
    /// The first generation of a volume, which may have taken the place of another: no change to report.
    Mounted(VolumeId),
    /// The generation that was registered already: no change to report.
    Known,
    /// Not certain.
    Rejected(Rejection),
}

/// Why a rename is no certain swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// The call failed.
    #[error("the rename failed")]
    Failed,
    /// Not the kubelet's mount namespace, or not known whose.
    #[error("the writer is not in the kubelet's mount namespace")]
    ForeignNamespace,
    /// A relative path could not be resolved.
    #[error("the path is relative and its directory is not known any more")]
    Unresolved,
    /// The path is not one of a volume under the kubelet's root.
    #[error("the path is no volume under the kubelet's root")]
    NotAVolume,
    /// The volume is not there.
    #[error("the volume is gone")]
    Gone,
    /// `..data` leads to no generation beside it.
    #[error("..data is no link to a generation")]
    NoGeneration,
    /// A later swap came before this one could be confirmed.
    #[error("a later swap came before this one was confirmed")]
    Superseded,
    /// `..data` still leads where it did.
    #[error("..data shows no new generation")]
    Unchanged,
}

impl Roots {
    /// No volume is registered yet. `key` must be random: it only tells changed files from others.
    pub(crate) fn new(kubelet_root: &Path, proc: &Path, kubelet_pid: Option<u32>, key: ObjectKey) -> Self {
        // Where the kubelet's root is itself a link, the kernel sees the path as the kubelet wrote it.
        let kubelet_root = kubelet_root.to_owned();
        Self {
            kubelet_root,
            proc: proc.to_owned(),
            kubelet_pid,
            key,
            by_path: HashMap::new(),
            by_id: HashMap::new(),
            devices: Devices::default(),
            watched: None,
        }
    }

    /// Has the kernel watch the opens of all volumes, those registered and those to come.
    pub(crate) fn watch(&mut self, mut watched: WatchedVolumes) {
        for id in self.by_id.keys() {
            watched.insert(*id);
        }
        self.watched = Some(watched);
    }

    /// A registered volume.
    pub(crate) fn get(&self, id: VolumeId) -> Option<&Root> {
        self.by_path.get(self.by_id.get(&id)?)
    }

    /// The registered volumes of a pod, by its uid or its static pod's config hash.
    pub(crate) fn of_pod(&self, uid: &str) -> Vec<VolumeId> {
        self.by_path.values().filter(|root| root.volume.uid == uid).map(|root| root.identity.id).collect()
    }

    /// Registers every volume that is there; returns how many are registered.
    pub(crate) fn scan(&mut self, boot_ns: u64) -> usize {
        self.keep(|path| path.exists());
        if let Ok(pods) = std::fs::read_dir(self.kubelet_root.join("pods")) {
            for pod in pods.flatten() {
                if let Ok(uid) = pod.file_name().into_string() {
                    self.scan_pod(&uid, boot_ns);
                }
            }
        }
        self.by_path.len()
    }

    /// Registers the volumes of a pod that are not registered yet.
    pub(crate) fn scan_pod(&mut self, uid: &str, boot_ns: u64) {
        for volume in path::volumes_of(&self.kubelet_root, uid) {
            if !self.by_path.contains_key(&volume.root)
                && let Ok((root, _)) = self.look(&volume, boot_ns)
            {
                self.register(root);
            }
        }
    }

    /// Forgets the volumes of a pod that is gone.
    pub(crate) fn forget_pod(&mut self, uid: &str) {
        let pod = self.kubelet_root.join("pods").join(uid);
        self.keep(|path| !path.starts_with(&pod));
    }

    fn keep(&mut self, is_kept: impl Fn(&Path) -> bool) {
        let gone: Vec<PathBuf> = self.by_path.keys().filter(|path| !is_kept(path)).cloned().collect();
        for path in gone {
            self.forget(&path);
        }
    }

    fn forget(&mut self, path: &Path) {
        let Some(root) = self.by_path.remove(path) else { return };
        self.by_id.remove(&root.identity.id);
        if let Some(watched) = &mut self.watched {
            watched.remove(root.identity.id);
        }
    }

    /// Judges a rename; `at` is when the call returned.
    pub(crate) fn judge(&mut self, rename: &Rename, at: Timestamp) -> Outcome {
        match self.confirm(rename, at) {
            Ok(outcome) => outcome,
            Err(rejection) => Outcome::Rejected(rejection),
        }
    }

    fn confirm(&mut self, rename: &Rename, at: Timestamp) -> Result<Outcome, Rejection> {
        if rename.result.is_err() {
            return Err(Rejection::Failed);
        }
        let namespace = kubelet_namespace(&self.proc, self.kubelet_pid);
        if namespace.is_none() || rename.mount_namespace != namespace {
            return Err(Rejection::ForeignNamespace);
        }
        let volume = match rename.volume {
            Some(id) => self.find(rename, id).ok_or(Rejection::NotAVolume)?,
            None => self.read_paths(rename)?,
        };
        let (seen, files) = self.look(&volume, rename.boot_ns)?;
        let link = std::fs::symlink_metadata(volume.root.join(path::DATA)).map_err(|_| Rejection::Gone)?;
        let made = link.mtime().saturating_mul(1_000_000).saturating_add(link.mtime_nsec() / 1_000);
        if made > at.as_micros().saturating_add(LINK_SLACK_US) {
            return Err(Rejection::Superseded);
        }
        let id = seen.identity.id;
        let held = self.by_path.get(&volume.root).filter(|held| held.identity == seen.identity);
        let Some(held) = held else {
            // New, or another directory under an old name: the volume was taken down and set up again.
            self.register(seen);
            return Ok(Outcome::Mounted(id));
        };
        if held.generation == seen.generation {
            let is_known = rename.boot_ns <= held.registered_boot_ns;
            return if is_known { Ok(Outcome::Known) } else { Err(Rejection::Unchanged) };
        }
        let changed = held.digests.as_ref().zip(seen.digests.as_ref()).map(|(b, a)| a.changed_since(b));
        let previous = held.generation.clone();
        let previous_listing = held.listing.clone();
        let generation = seen.generation.clone();
        let listing = seen.listing.clone();
        self.register(seen);
        let swap = Swap { volume, id, generation, previous, previous_listing, listing, changed, files };
        Ok(Outcome::Swapped(Box::new(swap)))
    }

    /// The volume that a rename's paths name.
    fn read_paths(&self, rename: &Rename) -> Result<VolumePath, Rejection> {
        let tid = rename.writer.tid;
        let old = self.resolve(tid, rename.old_dfd, &rename.old_path).ok_or(Rejection::Unresolved)?;
        let new = self.resolve(tid, rename.new_dfd, &rename.new_path).ok_or(Rejection::Unresolved)?;
        path::renamed(&self.kubelet_root, &old, &new).ok_or(Rejection::NotAVolume)
    }

    /// The volume whose root directory the kernel named. One that is not registered has just been mounted, so
    /// all of them are looked at; that only the kubelet's namespace comes here keeps containers from causing it.
    fn find(&mut self, rename: &Rename, id: VolumeId) -> Option<VolumePath> {
        if rename.old_path != Path::new(path::DATA_TMP) {
            return None;
        }
        if let Some(root) = self.get(id) {
            let volume = root.volume.clone();
            // Its number may be another volume's by now.
            if self.devices.identify(&volume.root).is_ok_and(|identity| identity.id == id) {
                return Some(volume);
            }
        }
        let pods = std::fs::read_dir(self.kubelet_root.join("pods")).ok()?;
        for pod in pods.flatten() {
            let Ok(uid) = pod.file_name().into_string() else { continue };
            for volume in path::volumes_of(&self.kubelet_root, &uid) {
                if self.devices.identify(&volume.root).is_ok_and(|identity| identity.id == id) {
                    return Some(volume);
                }
            }
        }
        None
    }

    fn register(&mut self, root: Root) {
        let id = root.identity.id;
        let path = root.volume.root.clone();
        if self.by_path.get(&path).is_some_and(|held| held.identity.id != id) {
            self.forget(&path);
        }
        if self.by_path.len() < ROOTS_MAX || self.by_path.contains_key(&path) {
            if let Some(watched) = &mut self.watched {
                watched.insert(id);
            }
            self.by_id.insert(id, path.clone());
            self.by_path.insert(path, root);
        }
    }

    /// The volume as it is now, read so that all of it belongs to one generation.
    fn look(&mut self, volume: &VolumePath, boot_ns: u64) -> Result<(Root, Option<Files>), Rejection> {
        let path = volume.root.as_path();
        let identity = self.devices.identify(path).map_err(|_| Rejection::Gone)?;
        let generation = generation(path)?;
        let files = match files::read(&path.join(&generation)) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Rejection::Superseded),
            Err(_) => None,
        };
        let listing = Listing::read(&path.join(&generation)).ok().flatten().map(Arc::new);
        if self::generation(path)? != generation {
            return Err(Rejection::Superseded);
        }
        let digests = files.as_ref().map(|f| Digests::of(f, &self.key));
        let volume = volume.clone();
        Ok((Root { identity, volume, generation, listing, digests, registered_boot_ns: boot_ns }, files))
    }

    /// An absolute path; a relative one through the writer's directory, while the writer still has it.
    fn resolve(&self, tid: u32, dfd: Option<RawFd>, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        let task = self.proc.join(tid.to_string());
        let base = match dfd {
            None => std::fs::read_link(task.join("cwd")),
            Some(fd) => std::fs::read_link(task.join("fd").join(fd.to_string())),
        };
        Some(base.ok().filter(|b| b.is_absolute())?.join(path))
    }
}

/// Where `..data` leads: a directory beside it whose name begins with two dots.
fn generation(root: &Path) -> Result<String, Rejection> {
    let target = std::fs::read_link(root.join(path::DATA)).map_err(|_| Rejection::NoGeneration)?;
    let name = target.to_str().ok_or(Rejection::NoGeneration)?;
    let is_beside = target.file_name() == Some(OsStr::new(name)) && name.starts_with("..") && name.len() > 2;
    is_beside.then(|| name.to_owned()).ok_or(Rejection::NoGeneration)
}

/// The inode number of the kubelet's mount namespace: that of the process named, else of the host's first.
///
/// Where that one may not be looked at, our own stands in: on a host the same, in a pod one in which nobody
/// but the agent can rename anything.
pub(crate) fn kubelet_namespace(proc: &Path, pid: Option<u32>) -> Option<u32> {
    match pid {
        Some(pid) => mount_namespace(&proc.join(pid.to_string())),
        None => mount_namespace(&proc.join("1")).or_else(|| mount_namespace(Path::new("/proc/self"))),
    }
}

fn mount_namespace(process: &Path) -> Option<u32> {
    let link = std::fs::read_link(process.join("ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests;
