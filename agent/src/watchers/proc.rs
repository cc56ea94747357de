//! `/proc/<pid>` → what a process watches by inotify, and which removed files it still holds.
//!
//! Bounded by a budget of descriptors over all processes of one look. A process is looked at between two
//! readings of its start time, so that what is told is of one process.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Most bytes read of one process's mappings: some ten thousand lines.
const MAPS_BYTES_MAX: u64 = 1 << 20;

/// Most processes of one container that are looked at.
const PROCESSES_MAX: usize = 256;

/// Deepest cgroup below a container's own that is looked into.
const CGROUP_DEPTH_MAX: usize = 4;

/// A process, by what `/proc` knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProcessId {
    /// In the agent's pid namespace, which is the host's.
    pub(crate) pid: u32,
    /// When it was started, in clock ticks since boot.
    start_ticks: u64,
}

/// One watch of an inotify descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// The inotify descriptor.
    pub(crate) descriptor: u32,
    /// The watch's number, which its group does not use again.
    pub(crate) watch: u32,
    /// The kernel's device number.
    pub(crate) device: u32,
    /// The inode watched.
    pub(crate) inode: u64,
}

/// A removed file that is still open or mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The descriptor, or nothing for a mapping.
    pub(crate) descriptor: Option<u32>,
    /// `st_dev` for a descriptor, the kernel's device number for a mapping; both as the kernel packs them.
    pub(crate) device: u32,
    /// Its inode number.
    pub(crate) inode: u64,
    /// Where it was, as the process saw it.
    pub(crate) path: PathBuf,
}

/// What one look at a process has found.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) id: ProcessId,
    pub(crate) comm: String,
    pub(crate) marks: Vec<Mark>,
    pub(crate) removed: Vec<Removed>,
}

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At inotify descriptors alone.
    Marks,
    /// At removed files too.
    Everything,
}

/// The processes of a cgroup and of those below it.
pub(crate) fn processes(cgroup: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    gather(cgroup, CGROUP_DEPTH_MAX, &mut found);
    found.truncate(PROCESSES_MAX);
    found
}

fn gather(cgroup: &Path, depth: usize, found: &mut Vec<u32>) {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    found.extend(procs.lines().filter_map(|line| line.parse::<u32>().ok()));
    if depth == 0 || found.len() >= PROCESSES_MAX {
        return;
    }
    let Ok(entries) = std::fs::read_dir(cgroup) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            gather(&entry.path(), depth - 1, found);
        }
    }
}

/// Looks at one process; nothing if it is gone, or another took its number meanwhile. `budget` is how many
/// descriptors may still be looked at.
pub(crate) fn look(proc: &Path, pid: u32, how: Look, budget: &mut usize) -> Option<Seen> {
    let dir = proc.join(pid.to_string());
    let start_ticks = start_ticks(&dir)?;
    let mut seen = Seen {
        id: ProcessId { pid, start_ticks },
        comm: std::fs::read_to_string(dir.join("comm")).unwrap_or_default().trim_end().to_owned(),
        marks: Vec::new(),
        removed: Vec::new(),
    };
    for entry in std::fs::read_dir(dir.join("fd")).ok()?.flatten() {
        let Some(left) = budget.checked_sub(1) else { break };
        *budget = left;
        let Some(descriptor) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let Some(text) = target.to_str() else { continue };
        if text == "anon_inode:inotify" {
            let info = std::fs::read_to_string(dir.join("fdinfo").join(descriptor.to_string()));
            seen.marks.extend(info.unwrap_or_default().lines().filter_map(|line| mark(descriptor, line)));
        } else if how == Look::Everything
            && let Some(path) = text.strip_suffix(" (deleted)")
            && let Ok(meta) = std::fs::metadata(entry.path())
        {
            let device = pack(rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            let path = PathBuf::from(path);
            seen.removed.push(Removed { descriptor: Some(descriptor), device, inode: meta.ino(), path });
        }
    }
    if how == Look::Everything {
        seen.removed.extend(mappings(&dir));
    }
    (self::start_ticks(&dir)? == start_ticks).then_some(seen)
}

/// The 22nd field of `stat`, the 20th behind the name, which may hold spaces and parentheses.
fn start_ticks(dir: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(dir.join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// `inotify wd:<hex> ino:<hex> sdev:<hex> …`
fn mark(descriptor: u32, line: &str) -> Option<Mark> {
    let mut fields = line.strip_prefix("inotify ")?.split(' ');
    let mut hex = |name: &str| u64::from_str_radix(fields.next()?.strip_prefix(name)?, 16).ok();
    let watch = u32::try_from(hex("wd:")?).ok()?;
    let inode = hex("ino:")?;
    let device = u32::try_from(hex("sdev:")?).ok()?;
    Some(Mark { descriptor, watch, device, inode })
}

fn mappings(dir: &Path) -> Vec<Removed> {
    use std::io::Read as _;
    let Ok(maps) = std::fs::File::open(dir.join("maps")) else { return Vec::new() };
    let mut text = Vec::new();
    let _ = maps.take(MAPS_BYTES_MAX).read_to_end(&mut text);
    let mut found: Vec<Removed> = String::from_utf8_lossy(&text).lines().filter_map(mapping).collect();
    found.dedup();
    found
}

/// `<from>-<to> <permissions> <offset> <major>:<minor> <inode>   <path> (deleted)`
fn mapping(line: &str) -> Option<Removed> {
    let line = line.strip_suffix(" (deleted)")?;
    let mut fields = line.splitn(6, ' ');
    let (major, minor) = fields.nth(3)?.split_once(':')?;
    let device = pack(u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = fields.next()?.parse().ok()?;
    let path = PathBuf::from(fields.next()?.trim_start());
    Some(Removed { descriptor: None, device, inode, path })
}

/// As the kernel packs a device number.
fn pack(major: u32, minor: u32) -> u32 {
    major << 20 | minor & 0xf_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_and_mappings_are_read() {
        let line =
            "inotify wd:1f ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1";
        let expected = Mark { descriptor: 7, watch: 0x1f, device: 0x80_0013, inode: 0x9e7e };
        assert_eq!(mark(7, line), Some(expected));
        assert_eq!(mark(7, "pos:\t0"), None);
        let line = "7f00-7f01 r--s 00000000 08:13 131                       /etc/c f/..1/a (deleted)";
        let expected = Removed {
            descriptor: None,
            device: 0x80_0013,
            inode: 131,
            path: PathBuf::from("/etc/c f/..1/a"),
        };
        assert_eq!(mapping(line), Some(expected));
        assert_eq!(mapping("7f00-7f01 r--s 00000000 08:13 131 /etc/cfg/..1/a"), None);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let mut budget = 1_000;
        let me = std::process::id();
        let first = look(Path::new("/proc"), me, Look::Marks, &mut budget).expect("it runs");
        let again = look(Path::new("/proc"), me, Look::Everything, &mut budget).expect("it runs");
        assert_eq!(first.id, again.id);
        assert!(budget < 1_000);
        assert!(look(Path::new("/proc"), u32::MAX, Look::Marks, &mut budget).is_none());
    }
}
