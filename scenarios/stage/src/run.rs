//! One run of the stage: its name, its folder, and the exact removal of all it made.
//!
//! Everything a run makes carries its name, `aftertrace-stage-<8 hexadecimal digits>`: a folder for temporary
//! files and a cgroup at the top of the hierarchy. A lock in the folder tells a living run from a leftover.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::Rng;
use rustix::fs::FlockOperation;

use crate::kubelet::cgroup::{CgroupError, Hierarchy};
use crate::kubelet::volume::remove_folder;

/// Begins the name of everything that the stage makes on a machine.
pub const PREFIX: &str = "aftertrace-stage-";

/// Name of the lock file in a run's folder.
const LOCK: &str = "lock";

/// A folder without a lock file may be one that is just being made; after this time it is a leftover.
const UNLOCKED_AGE_MAX: Duration = Duration::from_secs(10);

/// Why a run could not be begun or removed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or folder refused.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Cgroups cannot be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A living run. Dropping it kills its processes and removes its cgroups and its folder.
#[derive(Debug)]
pub struct Run {
    name: String,
    folder: PathBuf,
    _lock: File,
}

impl Run {
    /// Begins a run with a folder below `base`.
    ///
    /// # Errors
    /// [`RunError::Io`].
    pub fn begin(base: &Path) -> Result<Self, RunError> {
        let name = format!("{PREFIX}{:08x}", rand::rng().random::<u32>());
        let folder = base.join(&name);
        std::fs::create_dir_all(&folder).map_err(|source| io_error("create", &folder, source))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(|source| io_error("create", &path, source))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|source| io_error("lock", &path, source.into()))?;
        Ok(Self { name, folder, _lock: lock })
    }

    /// Its name, which is also the path of its cgroup below the top.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name, &self.folder) {
            tracing::error!(%error, run = self.name, "failed to clean up; `aftertrace-stage cleanup` tries again");
        }
    }
}

/// Removes what dead runs left behind, and leaves living ones alone. Returns the names of the removed runs.
///
/// # Errors
/// [`RunError`] of the first run that cannot be removed; the others are tried all the same.
pub fn cleanup(base: &Path) -> Result<Vec<String>, RunError> {
    let mut names = match Hierarchy::detect() {
        Ok(hierarchy) => hierarchy.top_level(PREFIX),
        // Without cgroups there are only folders to remove.
        Err(_) => Vec::new(),
    };
    let entries = std::fs::read_dir(base).map_err(|source| io_error("list", base, source))?;
    let folders = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    names.extend(folders.filter(|name| name.starts_with(PREFIX)));
    names.sort();
    names.dedup();
    let mut removed = Vec::new();
    let mut first_error = None;
    for name in names {
        let folder = base.join(&name);
        if is_alive(&folder) {
            continue;
        }
        match remove(&name, &folder) {
            Ok(()) => removed.push(name),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(removed), Err)
}

fn is_alive(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
        Err(_) => {
            let modified = std::fs::metadata(folder).and_then(|folder| folder.modified());
            modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < UNLOCKED_AGE_MAX))
        }
    }
}

fn remove(name: &str, folder: &Path) -> Result<(), RunError> {
    if let Ok(hierarchy) = Hierarchy::detect() {
        // Processes first: they may still write into the folder.
        hierarchy.remove_tree(name)?;
    }
    remove_folder(folder).map_err(|source| io_error("remove", folder, source))
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::Io { verb, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_leaves_nothing_and_a_living_one_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let living = Run::begin(base.path()).unwrap();
        let dead = base.path().join(format!("{PREFIX}00000000"));
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        std::fs::write(base.path().join("other"), "").unwrap();
        // Only this folder's leftovers are looked at: other runs of this machine are not this test's to remove.
        assert!(is_alive(living.folder()) && !is_alive(&dead));
        remove(&format!("{PREFIX}00000000"), &dead).unwrap();
        assert!(!dead.exists());
        let folder = living.folder().to_owned();
        drop(living);
        assert!(!folder.exists());
        assert!(base.path().join("other").exists());
    }
}
