//! Writes a volume's files so that a reader sees all of the old ones or all of the new ones.
//!
//! The system calls and their order are those of a real kubelet, as traced: `mkdirat ..<time>.<random>`,
//! `fchmodat`, per file `openat` + `write` + `fchmodat`, `symlinkat ..data_tmp`, `renameat` onto `..data`, then
//! the links that users see and the removal of the old folder. Nothing is renamed where nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::clock::Instant;

/// The link that names the current folder.
const DATA: &str = "..data";
/// The link that is renamed onto [`DATA`].
const DATA_TMP: &str = "..data_tmp";
/// Components of a path in a volume; far more than any pod's `items` have.
const DEPTH_MAX: usize = 16;

/// Files of a volume: path to content. A path has one component, as the keys of a ConfigMap are, unless the pod
/// names another one in `items`; then it may have several.
pub type Payload = BTreeMap<String, Vec<u8>>;

/// One rename of `..data_tmp` onto `..data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// Name of the folder that was current before; `None` at the first write.
    pub old: Option<String>,
    /// Name of the folder that is current now.
    pub new: String,
    /// Just before the rename.
    pub before: Instant,
    /// Just after the rename.
    pub after: Instant,
    /// Thread that renamed.
    pub tid: i32,
}

/// Why a volume could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A path that would leave the volume, or hide among the writer's own names.
    #[error("file name not allowed in a volume: {name:?}")]
    Name {
        /// The name.
        name: String,
    },
    /// The system refused.
    #[error("cannot {call} {}", .path.display())]
    System {
        /// The system call.
        call: &'static str,
        /// On which path.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: Errno,
    },
}

/// Brings the volume at `root` (which exists) to `payload`. Returns `None` where it already holds just that.
///
/// # Errors
/// [`WriteError`]; the volume then still shows its old files.
pub fn write(root: &Path, payload: &Payload) -> Result<Option<Swap>, WriteError> {
    if let Some(name) = payload.keys().find(|name| !is_allowed(name)) {
        return Err(WriteError::Name { name: name.clone() });
    }
    let data = root.join(DATA);
    let old = std::fs::read_link(&data).ok().map(|target| target.to_string_lossy().into_owned());
    let mut old_files = Payload::new();
    if let Some(old) = &old {
        let is_read = read_files(&root.join(old), "", &mut old_files);
        if is_read.is_some() && old_files == *payload {
            return Ok(None);
        }
    }

    let new = new_folder(root)?;
    let folder = root.join(&new);
    for (name, content) in payload {
        make_parents(&folder, name)?;
        write_file(&folder.join(name), content)?;
    }
    let data_tmp = root.join(DATA_TMP);
    let mut linked = rustix::fs::symlinkat(new.as_str(), CWD, &data_tmp);
    if linked == Err(Errno::EXIST) {
        // Left by a crash. A real kubelet fails here, and goes on failing.
        call("unlinkat", &data_tmp, rustix::fs::unlinkat(CWD, &data_tmp, AtFlags::empty()))?;
        linked = rustix::fs::symlinkat(new.as_str(), CWD, &data_tmp);
    }
    call("symlinkat", &data_tmp, linked)?;
    let before = Instant::now();
    let renamed = rustix::fs::renameat(CWD, &data_tmp, CWD, &data);
    let after = Instant::now();
    call("renameat", &data, renamed)?;
    let tid = rustix::thread::gettid().as_raw_nonzero().get();

    let (names, old_names) = (first_components(payload), first_components(&old_files));
    for name in names.difference(&old_names) {
        let link = root.join(name);
        let target = format!("{DATA}/{name}");
        call("symlinkat", &link, rustix::fs::symlinkat(target, CWD, &link))?;
    }
    for name in old_names.difference(&names) {
        let link = root.join(name);
        call("unlinkat", &link, rustix::fs::unlinkat(CWD, &link, AtFlags::empty()))?;
    }
    if let Some(old) = &old {
        remove_folder(root, old)?;
    }
    Ok(Some(Swap { old, new, before, after, tid }))
}

fn is_allowed(path: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    !path.starts_with("..") && path.split('/').all(is_plain) && path.split('/').count() <= DEPTH_MAX
}

/// Reads the files below `folder`, whose path in the volume is `prefix`; `None` where one cannot be read.
fn read_files(folder: &Path, prefix: &str, files: &mut Payload) -> Option<()> {
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        let path = format!("{prefix}{}", entry.file_name().into_string().ok()?);
        if entry.file_type().ok()?.is_dir() {
            // As deep as the writer made it: at most `DEPTH_MAX`.
            read_files(&entry.path(), &format!("{path}/"), files)?;
        } else {
            files.insert(path, std::fs::read(entry.path()).ok()?);
        }
    }
    Some(())
}

/// The names that users see in the volume's folder.
fn first_components(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn make_parents(folder: &Path, path: &str) -> Result<(), WriteError> {
    let parents = path.match_indices('/').map(|(end, _)| folder.join(&path[..end]));
    for parent in parents {
        match rustix::fs::mkdirat(CWD, &parent, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {}
            made => call("mkdirat", &parent, made)?,
        }
    }
    Ok(())
}

/// Makes `..<UTC time>.<random number>`, named as Go's `os.MkdirTemp` names it.
fn new_folder(root: &Path) -> Result<String, WriteError> {
    let time = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.");
    let name = format!("{time}{}", rand::rng().random::<u32>());
    let path = root.join(&name);
    call("mkdirat", &path, rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(0o700)))?;
    call("fchmodat", &path, rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(0o755), AtFlags::empty()))?;
    Ok(name)
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), WriteError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = call("openat", path, rustix::fs::openat(CWD, path, flags, mode))?;
    let mut rest = content;
    while !rest.is_empty() {
        let written = call("write", path, rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    drop(file);
    call("fchmodat", path, rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()))
}

/// Removes a folder of files by the calls of Go's `os.RemoveAll`: two that fail on a full folder, then file by
/// file through open folders.
fn remove_folder(root: &Path, name: &str) -> Result<(), WriteError> {
    let path = root.join(name);
    let _is_a_folder = rustix::fs::unlinkat(CWD, &path, AtFlags::empty());
    if rustix::fs::unlinkat(CWD, &path, AtFlags::REMOVEDIR).is_ok() {
        return Ok(());
    }
    let parent = open_folder(CWD, root)?;
    remove_entry(&parent, Path::new(name), &path, DEPTH_MAX)
}

/// Removes a file or folder of `parent`; `path` is for errors.
fn remove_entry(parent: &OwnedFd, name: &Path, path: &Path, depth: usize) -> Result<(), WriteError> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) if depth > 0 => {}
        removed => return call("unlinkat", path, removed),
    }
    let folder = open_folder(parent, name)?;
    let entries = call("getdents64", path, rustix::fs::Dir::read_from(&folder))?;
    for entry in entries {
        let entry = call("getdents64", path, entry)?;
        let file = entry.file_name().to_bytes();
        if file != b"." && file != b".." {
            let file = Path::new(OsStr::from_bytes(file));
            remove_entry(&folder, file, &path.join(file), depth - 1)?;
        }
    }
    call("unlinkat", path, rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

fn open_folder(at: impl std::os::fd::AsFd, path: &Path) -> Result<OwnedFd, WriteError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    call("openat", path, rustix::fs::openat(at, path, flags, Mode::empty()))
}

fn call<T>(call: &'static str, path: &Path, result: Result<T, Errno>) -> Result<T, WriteError> {
    result.map_err(|source| WriteError::System { call, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect()
    }

    /// The folder as `ls -la` shows it: links with their targets, the time-stamped folder as `..ts`.
    fn layout(root: &Path) -> Vec<String> {
        let current = std::fs::read_link(root.join(DATA)).unwrap().to_string_lossy().into_owned();
        let mut lines: Vec<String> = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                match std::fs::read_link(entry.path()) {
                    Ok(target) => format!("{name} -> {}", target.display()),
                    Err(_) => format!("{name}/"),
                }
            })
            .map(|line| line.replace(&current, "..ts"))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn the_layout_is_the_recorded_one() {
        let root = tempfile::tempdir().unwrap();
        let first = write(root.path(), &payload(&[("app.conf", "v1"), ("other.txt", "same")])).unwrap();
        assert_eq!(first.unwrap().old, None);
        let expected =
            ["..data -> ..ts", "..ts/", "app.conf -> ..data/app.conf", "other.txt -> ..data/other.txt"];
        assert_eq!(layout(root.path()), expected);
        let second = write(root.path(), &payload(&[("app.conf", "v3"), ("added.txt", "new")])).unwrap();
        assert!(second.unwrap().old.is_some());
        let expected =
            ["..data -> ..ts", "..ts/", "added.txt -> ..data/added.txt", "app.conf -> ..data/app.conf"];
        assert_eq!(layout(root.path()), expected, "the dropped key and the old folder are gone");
        assert_eq!(std::fs::read_to_string(root.path().join("app.conf")).unwrap(), "v3");
    }

    #[test]
    fn unchanged_content_is_not_renamed() {
        let root = tempfile::tempdir().unwrap();
        let files = payload(&[("app.conf", "v1")]);
        write(root.path(), &files).unwrap();
        let before = std::fs::read_link(root.path().join(DATA)).unwrap();
        assert_eq!(write(root.path(), &files).unwrap(), None);
        assert_eq!(std::fs::read_link(root.path().join(DATA)).unwrap(), before);
    }

    #[test]
    fn the_rename_lies_between_its_two_times() {
        let root = tempfile::tempdir().unwrap();
        let swap = write(root.path(), &payload(&[("a", "1")])).unwrap().unwrap();
        assert!(swap.before.boot_ns <= swap.after.boot_ns);
        assert!(swap.new.starts_with("..20") && swap.tid > 0, "{swap:?}");
    }

    #[test]
    fn nested_paths_are_linked_by_their_first_component() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), &payload(&[("a/b/one", "1"), ("a/two", "2"), ("top", "3")])).unwrap();
        assert_eq!(layout(root.path()), ["..data -> ..ts", "..ts/", "a -> ..data/a", "top -> ..data/top"]);
        assert_eq!(std::fs::read_to_string(root.path().join("a/b/one")).unwrap(), "1");
        assert_eq!(
            write(root.path(), &payload(&[("a/b/one", "1"), ("a/two", "2"), ("top", "3")])).unwrap(),
            None
        );
        assert!(write(root.path(), &payload(&[("a/two", "4")])).unwrap().is_some());
        assert_eq!(layout(root.path()), ["..data -> ..ts", "..ts/", "a -> ..data/a"]);
    }

    #[test]
    fn names_cannot_leave_the_volume() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "..data", "a//b", "/a", "a/../b", "a/", "../x"] {
            let error = write(root.path(), &payload(&[(name, "x")])).unwrap_err();
            assert!(matches!(error, WriteError::Name { .. }), "{name:?}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_leftover_of_a_crash_does_not_stop_the_next_write() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("..gone", root.path().join(DATA_TMP)).unwrap();
        assert!(write(root.path(), &payload(&[("a", "1")])).unwrap().is_some());
    }
}
