//! Cgroups for pods and containers: made, limited, counted and removed, on cgroup v1 and v2.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a removal waits for the last processes to leave; killed ones are gone within milliseconds.
const REMOVAL_WAIT: Duration = Duration::from_secs(5);

/// Depth of a cgroup tree that a removal walks into; a stage makes five levels.
const DEPTH_MAX: usize = 16;

/// The mounted memory hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v1: the memory controller's own mount, and the unified mount beside it if there is one.
    V1 {
        /// Mount point of the memory controller.
        memory: PathBuf,
        /// Mount point of the controller-less cgroup2, which `bpf_get_current_cgroup_id` speaks about.
        unified: Option<PathBuf>,
    },
    /// cgroup v2.
    V2 {
        /// Mount point.
        root: PathBuf,
    },
}

/// Why a cgroup could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// This machine has no memory controller mounted.
    #[error(
        "no memory cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup with the memory controller"
    )]
    NoHierarchy,
    /// A file or folder refused; without root they all do.
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
}

impl Hierarchy {
    /// Finds what is mounted.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`].
    pub fn detect() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mounts");
        let mounts = std::fs::read_to_string(path).map_err(|source| io_error("read", path, source))?;
        Self::from_mounts(&mounts).ok_or(CgroupError::NoHierarchy)
    }

    /// Reads the text of `/proc/self/mounts`. The memory controller is on v1 wherever it is mounted there.
    fn from_mounts(mounts: &str) -> Option<Self> {
        let mut unified = None;
        let mut memory = None;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, mount_point, kind, options, ..] = fields.as_slice() else { continue };
            match *kind {
                "cgroup2" => unified = Some(PathBuf::from(mount_point)),
                "cgroup" if options.split(',').any(|option| option == "memory") => {
                    memory = Some(PathBuf::from(mount_point));
                }
                _ => {}
            }
        }
        match (memory, unified) {
            (Some(memory), unified) => Some(Self::V1 { memory, unified }),
            (None, Some(root)) => Some(Self::V2 { root }),
            (None, None) => None,
        }
    }

    /// The mounts in which every cgroup is made; the first has the memory controller.
    pub fn mounts(&self) -> Vec<&Path> {
        match self {
            Self::V1 { memory, unified } => {
                std::iter::once(memory.as_path()).chain(unified.as_deref()).collect()
            }
            Self::V2 { root } => vec![root],
        }
    }

    /// Makes the cgroup at `path` (relative, without leading slash) and its ancestors.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn create(&self, path: &str) -> Result<Cgroup, CgroupError> {
        if let Self::V2 { root } = self {
            enable_memory(root, path)?;
        }
        for mount in self.mounts() {
            let folder = mount.join(path);
            std::fs::create_dir_all(&folder).map_err(|source| io_error("create", &folder, source))?;
        }
        Ok(Cgroup { hierarchy: self.clone(), path: path.to_owned() })
    }

    /// Kills every process below the cgroup at `path` and removes it with all its children.
    ///
    /// # Errors
    /// [`CgroupError::Io`] where a cgroup is still busy after five seconds.
    pub fn remove_tree(&self, path: &str) -> Result<(), CgroupError> {
        for mount in self.mounts() {
            let folder = mount.join(path);
            let deadline = Instant::now() + REMOVAL_WAIT;
            loop {
                kill_below(&folder, DEPTH_MAX);
                match remove_below(&folder, DEPTH_MAX) {
                    Ok(()) => break,
                    Err(source) if source.kind() == io::ErrorKind::NotFound => break,
                    Err(source) if Instant::now() >= deadline => {
                        return Err(io_error("remove", &folder, source));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }
        Ok(())
    }

    /// Names of the cgroups at the top that begin with `prefix`, in any mount, sorted.
    pub fn top_level(&self, prefix: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .mounts()
            .into_iter()
            .filter_map(|mount| std::fs::read_dir(mount).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

/// One made cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    hierarchy: Hierarchy,
    path: String,
}

impl Cgroup {
    /// Its path in the hierarchy, with leading slash, as `/proc/<pid>/cgroup` shows it.
    pub fn path(&self) -> String {
        format!("/{}", self.path)
    }

    /// Its folder in the mount that has the memory controller.
    pub fn memory_folder(&self) -> PathBuf {
        self.hierarchy.mounts()[0].join(&self.path)
    }

    /// The files that a process writes "0" to in order to enter it.
    pub fn entrances(&self) -> Vec<PathBuf> {
        self.hierarchy.mounts().into_iter().map(|mount| mount.join(&self.path).join("cgroup.procs")).collect()
    }

    /// Its kernfs id in the mount that has the memory controller: what the kernel's hooks know it by.
    ///
    /// # Errors
    /// [`CgroupError::Io`], for instance once it is removed.
    pub fn id(&self) -> Result<u64, CgroupError> {
        let folder = self.memory_folder();
        let metadata = std::fs::metadata(&folder).map_err(|source| io_error("look at", &folder, source))?;
        Ok(metadata.ino())
    }

    /// Limits its memory, swap included; lowering a limit that was set is allowed.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let (limit, swap, swap_bytes) = match self.hierarchy {
            Hierarchy::V1 { .. } => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", bytes),
            Hierarchy::V2 { .. } => ("memory.max", "memory.swap.max", 0),
        };
        self.write(limit, &bytes.to_string())?;
        self.write_if_present(swap, &swap_bytes.to_string())
    }

    /// Takes its memory limit away.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn unlimit_memory(&self) -> Result<(), CgroupError> {
        match self.hierarchy {
            // v1 wants the limit with swap to be the higher one at each moment.
            Hierarchy::V1 { .. } => {
                self.write_if_present("memory.memsw.limit_in_bytes", "-1")?;
                self.write("memory.limit_in_bytes", "-1")
            }
            Hierarchy::V2 { .. } => {
                self.write_if_present("memory.swap.max", "max")?;
                self.write("memory.max", "max")
            }
        }
    }

    /// Makes the kernel kill all of it together, as kubelets since 1.28 do; cgroup v1 cannot.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn kill_as_group(&self) -> Result<(), CgroupError> {
        match self.hierarchy {
            Hierarchy::V1 { .. } => Ok(()),
            Hierarchy::V2 { .. } => self.write("memory.oom.group", "1"),
        }
    }

    /// The processes in it, not in its children, by their ids in the initial namespace, ascending.
    pub fn processes(&self) -> Vec<i32> {
        processes(&self.memory_folder())
    }

    /// Kills that the kernel's OOM killer made in it so far; on v2 those of its children count too.
    ///
    /// # Errors
    /// [`CgroupError::Io`], for instance once it is removed.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let file = match self.hierarchy {
            Hierarchy::V1 { .. } => "memory.oom_control",
            Hierarchy::V2 { .. } => "memory.events",
        };
        let path = self.memory_folder().join(file);
        let text = std::fs::read_to_string(&path).map_err(|source| io_error("read", &path, source))?;
        Ok(counter(&text, "oom_kill"))
    }

    /// Removes it; the processes in it must be gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.hierarchy.remove_tree(&self.path)
    }

    fn write(&self, file: &str, text: &str) -> Result<(), CgroupError> {
        write(&self.memory_folder().join(file), text)
    }

    /// The swap files are absent where the kernel does not account swap; then there is nothing to forbid.
    fn write_if_present(&self, file: &str, text: &str) -> Result<(), CgroupError> {
        if self.memory_folder().join(file).exists() { self.write(file, text) } else { Ok(()) }
    }
}

/// The value of `name` in lines of `name value`; 0 where there is none.
fn counter(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// On v2 a cgroup has the memory controller only if each ancestor passes it on.
fn enable_memory(root: &Path, path: &str) -> Result<(), CgroupError> {
    let mut folder = root.to_owned();
    for part in path.split('/') {
        let control = folder.join("cgroup.subtree_control");
        let enabled =
            std::fs::read_to_string(&control).map_err(|source| io_error("read", &control, source))?;
        if !enabled.split_whitespace().any(|controller| controller == "memory") {
            write(&control, "+memory")?;
        }
        folder.push(part);
        std::fs::create_dir_all(&folder).map_err(|source| io_error("create", &folder, source))?;
    }
    Ok(())
}

fn kill_below(folder: &Path, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for child in children(folder) {
        kill_below(&child, depth);
    }
    for pid in processes(folder).into_iter().filter_map(rustix::process::Pid::from_raw) {
        // It may be gone already.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn processes(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn remove_below(folder: &Path, depth: usize) -> io::Result<()> {
    if let Some(depth) = depth.checked_sub(1) {
        for child in children(folder) {
            remove_below(&child, depth)?;
        }
    }
    std::fs::remove_dir(folder)
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    std::fs::write(path, text).map_err(|source| io_error("write", path, source))
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io { verb, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mounts: &str, expected: Option<Hierarchy>) {
        assert_eq!(Hierarchy::from_mounts(mounts), expected);
    }

    #[test]
    fn the_memory_controller_is_found_where_it_is() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                  cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n";
        let memory = PathBuf::from("/sys/fs/cgroup/memory");
        check(v1, Some(Hierarchy::V1 { memory: memory.clone(), unified: None }));
        let hybrid = format!("{v1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        let unified = Some(PathBuf::from("/sys/fs/cgroup/unified"));
        check(&hybrid, Some(Hierarchy::V1 { memory, unified }));
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        check(v2, Some(Hierarchy::V2 { root: "/sys/fs/cgroup".into() }));
        check("tmpfs / tmpfs rw 0 0\nmalformed\n", None);
    }

    #[test]
    fn counters_are_read_from_both_formats() {
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
        assert_eq!(counter("low 0\nmax 12\noom 1\noom_kill 2\noom_group_kill 1\n", "oom_kill"), 2);
        assert_eq!(counter("", "oom_kill"), 0);
    }
}
