//! One memory cgroup's files → numbers.
//!
//! The two that are read at every look are held open; the rest is opened when there is something to say.
//! `None` means that the kernel does not tell, never zero.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::cgroupfs::Cgroupfs;

/// Most of one counter file that is read: `memory.stat` of Linux 6.18 takes 1.5 KiB.
const FILE_BYTES: usize = 4_096;

/// Limits above this are cgroup v1's way to say that there is none.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// A cgroup's limits in bytes; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Above it nothing is charged.
    pub(super) max: Option<u64>,
    /// Above it allocators are slowed down; cgroup v2 alone has it.
    pub(super) high: Option<u64>,
}

impl Limits {
    /// Reads them.
    pub(super) fn read(dir: &Path, cgroupfs: &Cgroupfs) -> io::Result<Self> {
        let limit = |file: &str| {
            let text = open(dir, file).and_then(|file| read(&file))?;
            Ok::<_, io::Error>(number(&text).ok().filter(|l| (1..UNLIMITED_BYTES).contains(l)))
        };
        Ok(match cgroupfs {
            Cgroupfs::V1(_) => Self { max: limit("memory.limit_in_bytes")?, high: None },
            Cgroupfs::V2(_) => Self { max: limit("memory.max")?, high: limit("memory.high").unwrap_or(None) },
        })
    }

    /// The one that is met first.
    pub(super) fn first(self) -> Option<u64> {
        match (self.max, self.high) {
            (Some(max), Some(high)) => Some(max.min(high)),
            (max, high) => max.or(high),
        }
    }

    /// Whether `usage` has come to that part of the first limit.
    pub(super) fn is_met(self, usage: u64, percent: u64) -> bool {
        self.first().is_some_and(|limit| usage >= limit / 100 * percent)
    }
}

/// How often limits of this very cgroup were met since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hits {
    /// Charges that the limit stopped at first: `memory.failcnt` and `memory.memsw.failcnt`, or `max` of
    /// `memory.events.local`.
    pub(super) max: u64,
    /// Times that allocators were slowed down at `memory.high`; `None` with cgroup v1.
    pub(super) high: Option<u64>,
    /// With cgroup v1, whether usage was ever at the limit.
    pub(super) is_reached: bool,
}

impl Hits {
    /// What came up since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            max: self.max.saturating_sub(before.max),
            high: self.high.map(|high| high.saturating_sub(before.high.unwrap_or(0))),
            is_reached: self.is_reached && !before.is_reached,
        }
    }

    /// Whether there was none.
    pub(super) fn is_none(self) -> bool {
        self.max == 0 && self.high.unwrap_or(0) == 0 && !self.is_reached
    }

    /// Whether the kernel counts them: since Linux 6.15 it does not count hits of the limit of memory and swap
    /// together (`track_failcnt` of `mm/page_counter.c` is set for memory alone), which is asked first.
    pub(super) fn is_counted(self) -> bool {
        self.max > 0 || !self.is_reached
    }
}

/// What the memory of a cgroup is, from `memory.stat`, its descendants' included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) anon: Option<u64>,
    pub(super) file: Option<u64>,
    pub(super) shmem: Option<u64>,
}

/// Microseconds for which tasks waited for memory since the cgroup was made, from `memory.pressure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stalls {
    /// Some task did.
    pub(super) some_us: u64,
    /// All that could have run did.
    pub(super) full_us: u64,
}

/// The files that are read at every look.
#[derive(Debug)]
pub(super) struct Counters {
    usage: File,
    hits: File,
    /// With cgroup v1, of memory and swap together. That limit is asked first, and kubelets set it to the
    /// same value to forbid swap; then it alone counts. Absent where the kernel does not account swap.
    swap_hits: Option<File>,
    /// With cgroup v1, the highest usage ever.
    peak: Option<File>,
}

impl Counters {
    pub(super) fn open(dir: &Path, cgroupfs: &Cgroupfs) -> io::Result<Self> {
        Ok(match cgroupfs {
            Cgroupfs::V1(_) => Self {
                usage: open(dir, "memory.usage_in_bytes")?,
                hits: open(dir, "memory.failcnt")?,
                swap_hits: open(dir, "memory.memsw.failcnt").ok(),
                peak: open(dir, "memory.max_usage_in_bytes").ok(),
            },
            Cgroupfs::V2(_) => {
                // Before 5.2 there is the sum with all descendants only.
                let hits = open(dir, "memory.events.local").or_else(|_| open(dir, "memory.events"))?;
                Self { usage: open(dir, "memory.current")?, hits, swap_hits: None, peak: None }
            }
        })
    }

    /// Bytes charged now.
    pub(super) fn usage(&self) -> io::Result<u64> {
        number(&read(&self.usage)?)
    }

    pub(super) fn hits(&self, cgroupfs: &Cgroupfs, limits: Limits) -> io::Result<Hits> {
        let text = read(&self.hits)?;
        Ok(match cgroupfs {
            Cgroupfs::V1(_) => {
                let swap = self.swap_hits.as_ref().map_or(Ok(0), |file| number(&read(file)?))?;
                let peak = self.peak.as_ref().map_or(Ok(0), |file| number(&read(file)?))?;
                let is_reached = limits.max.is_some_and(|limit| peak >= limit);
                Hits { max: number(&text)?.saturating_add(swap), high: None, is_reached }
            }
            Cgroupfs::V2(_) => {
                let max = field(&text, "max").ok_or_else(|| invalid("memory.events has no max"))?;
                Hits { max, high: field(&text, "high"), is_reached: false }
            }
        })
    }
}

/// Kills by the OOM killer in this cgroup and below it, since each was made; `None` if it is not told.
///
/// With cgroup v1 a cgroup counts its own tasks only, and the count of one that is removed is gone.
pub(super) fn kills(dir: &Path, cgroupfs: &Cgroupfs) -> Option<u64> {
    let of = |dir: &Path, file: &str| {
        let text = open(dir, file).and_then(|file| read(&file)).ok()?;
        field(&text, "oom_kill")
    };
    match cgroupfs {
        Cgroupfs::V2(_) => of(dir, "memory.events"),
        Cgroupfs::V1(_) => {
            let own = of(dir, "memory.oom_control")?;
            let children = std::fs::read_dir(dir).ok()?.flatten();
            let below = children
                .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
                .filter_map(|entry| of(&entry.path(), "memory.oom_control"));
            Some(own.saturating_add(below.sum()))
        }
    }
}

pub(super) fn parts(dir: &Path, cgroupfs: &Cgroupfs) -> io::Result<Parts> {
    let text = read(&open(dir, "memory.stat")?)?;
    Ok(match cgroupfs {
        // `total_` counts descendants too. v1's cache contains shmem, as v2's file does.
        Cgroupfs::V1(_) => Parts {
            anon: field(&text, "total_rss"),
            file: field(&text, "total_cache"),
            shmem: field(&text, "total_shmem"),
        },
        Cgroupfs::V2(_) => {
            Parts { anon: field(&text, "anon"), file: field(&text, "file"), shmem: field(&text, "shmem") }
        }
    })
}

/// `None` with cgroup v1, and where PSI is not built in or turned off.
pub(super) fn stalls(dir: &Path, cgroupfs: &Cgroupfs) -> Option<Stalls> {
    if matches!(cgroupfs, Cgroupfs::V1(_)) {
        return None;
    }
    let text = read(&open(dir, "memory.pressure").ok()?).ok()?;
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(kind))?;
        line.split(' ').find_map(|part| part.strip_prefix("total="))?.parse().ok()
    };
    Some(Stalls { some_us: total("some")?, full_us: total("full")? })
}

fn open(dir: &Path, file: &str) -> io::Result<File> {
    File::open(dir.join(file))
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = [0; FILE_BYTES];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// A file of one number; `max` is no number.
fn number(text: &str) -> io::Result<u64> {
    text.trim().parse().map_err(|_| invalid("not a number"))
}

/// The value of a line `<name> <value>`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
