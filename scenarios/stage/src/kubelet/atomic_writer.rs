//! Writes a volume's files so that a reader sees all of the old ones or all of the new ones.
//!
//! The system calls and their order are those of a real kubelet, as traced: `mkdirat ..<time>.<random>`,
//! `fchmodat`, per file `openat` + `write` + `fchmodat`, `symlinkat ..data_tmp`, `renameat` onto `..data`, then
//! the links that users see and the removal of the old folder. Nothing is renamed where nothing changed.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rand::Rng;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::clock::Instant;

/// The link that names the current folder.
const DATA: &str = "..data";
/// The link that is renamed onto [`DATA`].
const DATA_TMP: &str = "..data_tmp";

/// Files of a volume: name to content. Names are single path components, as the keys of a ConfigMap are.
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
    /// A file name that would leave the volume, or hide among the writer's own names.
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
    let old_names = match &old {
        Some(old) => {
            let files = read_files(&root.join(old));
            if files.as_ref() == Some(payload) {
                return Ok(None);
            }
            files.unwrap_or_default().into_keys().collect()
        }
        None => BTreeSet::new(),
    };

    let new = new_folder(root)?;
    let folder = root.join(&new);
    for (name, content) in payload {
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

    for name in payload.keys().filter(|name| !old_names.contains(*name)) {
        let link = root.join(name);
        let target = format!("{DATA}/{name}");
        call("symlinkat", &link, rustix::fs::symlinkat(target, CWD, &link))?;
    }
    for name in old_names.iter().filter(|name| !payload.contains_key(*name)) {
        let link = root.join(name);
        call("unlinkat", &link, rustix::fs::unlinkat(CWD, &link, AtFlags::empty()))?;
    }
    if let Some(old) = &old {
        remove_folder(root, old)?;
    }
    Ok(Some(Swap { old, new, before, after, tid }))
}

fn is_allowed(name: &str) -> bool {
    !name.is_empty() && name != "." && !name.starts_with("..") && !name.contains(['/', '\0'])
}

fn read_files(folder: &Path) -> Option<Payload> {
    let mut files = Payload::new();
    for entry in std::fs::read_dir(folder).ok()? {
        let entry = entry.ok()?;
        files.insert(entry.file_name().into_string().ok()?, std::fs::read(entry.path()).ok()?);
    }
    Some(files)
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
    let _is_a_folder = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
    let folder = open_folder(&parent, Path::new(name))?;
    let entries = call("getdents64", &path, rustix::fs::Dir::read_from(&folder))?;
    for entry in entries {
        let entry = call("getdents64", &path, entry)?;
        let file = entry.file_name();
        if file.to_bytes() != b"." && file.to_bytes() != b".." {
            call("unlinkat", &path, rustix::fs::unlinkat(&folder, file, AtFlags::empty()))?;
        }
    }
    call("unlinkat", &path, rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR))
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
    fn names_cannot_leave_the_volume() {
        let root = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "..data", "a/b", "../x"] {
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
