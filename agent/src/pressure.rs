//! Containers close to their memory limit, by a look at their counters once a second.
//!
//! Only containers with a limit are looked at, only above 80 % of it or when the limit was hit since the
//! last look; one event per container in ten seconds. What cgroup v1 lacks (`high`, PSI) is not made up.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aftertrace_model::{Event, Kind, Occurrence, Severity, Source, Timestamp};

use crate::attribute::cgroup_name::{Cgroup, CgroupRoot, ContainerId, components};
use crate::attribute::pods::Pods;
use crate::draft::{self, Origin};
use crate::episode::mib;

/// Above this part of the limit a container is under pressure (design §3), in percent.
const NEAR_PERCENT: u64 = 80;

/// Least time between two events of one container, in microseconds.
const QUIET_US: i64 = 10_000_000;

/// Looks at the counters between two looks at limits and at what cgroups there are: limits change rarely.
const LIMIT_PERIOD: u32 = 10;

/// Levels below the kubelet's root that are searched: class, pod, container.
const DEPTH_MAX: usize = 4;

/// Limits above this are the kernel's way to say that there is none.
const UNLIMITED_BYTES: u64 = 1 << 60;

/// Most of one counter file that is read.
const FILE_BYTES: usize = 512;

/// Which cgroup version has the memory controller, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroupfs {
    /// The memory hierarchy of cgroup v1.
    V1(PathBuf),
    /// The one hierarchy of cgroup v2.
    V2(PathBuf),
}

impl Cgroupfs {
    /// Finds it at `mount`, or in the usual places; `None` where there is no memory controller.
    pub(crate) fn detect(mount: Option<&Path>) -> Option<Self> {
        let usual = [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup")];
        let places = mount.map_or_else(|| usual.to_vec(), |m| vec![m]);
        places.into_iter().find_map(|place| {
            if place.join("memory.usage_in_bytes").exists() {
                return Some(Self::V1(place.to_owned()));
            }
            let controllers = std::fs::read_to_string(place.join("cgroup.controllers")).ok()?;
            controllers.split_whitespace().any(|c| c == "memory").then(|| Self::V2(place.to_owned()))
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }
}

/// One container's counters, held open: a look is two reads.
#[derive(Debug)]
struct Watched {
    usage: File,
    hits: File,
    limit: File,
    limit_bytes: Option<u64>,
    hits_seen: u64,
    cgroup_id: u64,
    told_at: Option<Timestamp>,
}

/// All containers that have counters.
#[derive(Debug)]
pub(crate) struct Pressure {
    cgroupfs: Cgroupfs,
    root: CgroupRoot,
    watched: HashMap<ContainerId, Watched>,
    /// Containers that were looked for: one without a cgroup is over, or not there yet.
    sought: HashSet<ContainerId>,
    looks: u32,
}

impl Pressure {
    /// No container is known yet.
    pub(crate) fn new(cgroupfs: Cgroupfs, root: CgroupRoot) -> Self {
        Self { cgroupfs, root, watched: HashMap::new(), sought: HashSet::new(), looks: 0 }
    }

    /// Looks at every container of `pods`; the events have no identity yet.
    pub(crate) fn look(&mut self, origin: &Origin, pods: &Pods, now: Timestamp) -> Vec<Event> {
        let is_limit_due = self.looks.is_multiple_of(LIMIT_PERIOD);
        self.looks = self.looks.wrapping_add(1);
        let alive: HashSet<&ContainerId> =
            pods.live().flat_map(|p| p.containers().map(|(id, _)| id)).collect();
        self.watched.retain(|id, _| alive.contains(id));
        if is_limit_due || alive.iter().any(|id| !self.sought.contains(*id)) {
            self.find(&alive);
            self.sought = alive.into_iter().cloned().collect();
        }
        let mut events = Vec::new();
        for known in pods.live() {
            for (id, life) in known.containers() {
                let Some(watched) = self.watched.get_mut(id) else { continue };
                if is_limit_due {
                    watched.limit_bytes = number(&watched.limit).ok();
                }
                match watched.look(&self.cgroupfs, now) {
                    Ok(Some(reading)) => {
                        let mut event = reading.event(origin, watched.cgroup_id, &self.cgroupfs, now);
                        draft::of_life(&mut event, known, id.as_str(), life);
                        let container = aftertrace_model::text::escape(&life.container);
                        let pod = draft::pod_name(&known.pod);
                        event.summary = format!("container {container} of {pod} {}", reading.shown());
                        events.push(event);
                    }
                    Ok(None) => {}
                    // The cgroup is gone: the container ended.
                    Err(_) => {
                        self.watched.remove(id);
                    }
                }
            }
        }
        events
    }

    /// Opens the counters of containers that are not watched yet.
    fn find(&mut self, alive: &HashSet<&ContainerId>) {
        if alive.iter().all(|id| self.watched.contains_key(*id)) {
            return;
        }
        let top = self.root.components().iter().fold(self.cgroupfs.path().to_owned(), |p, c| p.join(c));
        let Ok(entries) = std::fs::read_dir(&top) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().contains("kubepods") {
                self.descend(&entry.path(), DEPTH_MAX, alive);
            }
        }
    }

    fn descend(&mut self, dir: &Path, depth: usize, alive: &HashSet<&ContainerId>) {
        let below = dir.strip_prefix(self.cgroupfs.path()).ok().and_then(Path::to_str).unwrap_or_default();
        let names: Vec<&str> = components(below).collect();
        if let Cgroup::Container { id, nested: false, .. } = self.root.classify(&names) {
            if alive.contains(&id)
                && !self.watched.contains_key(&id)
                && let Ok(watched) = Watched::open(dir, &self.cgroupfs)
            {
                self.watched.insert(id, watched);
            }
            return;
        }
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten() {
            if depth > 0 && entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.descend(&entry.path(), depth - 1, alive);
            }
        }
    }
}

/// What one look saw.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    usage: u64,
    limit: u64,
    hits: u64,
    new_hits: u64,
}

impl Watched {
    fn open(dir: &Path, cgroupfs: &Cgroupfs) -> io::Result<Self> {
        let [usage, hits, limit] = match cgroupfs {
            Cgroupfs::V1(_) => ["memory.usage_in_bytes", "memory.failcnt", "memory.limit_in_bytes"],
            Cgroupfs::V2(_) => ["memory.current", "memory.events", "memory.max"],
        };
        let hits = File::open(dir.join(hits))?;
        // What was hit before we looked is no news.
        let hits_seen = count_hits(&hits, cgroupfs)?;
        let limit = File::open(dir.join(limit))?;
        Ok(Self {
            usage: File::open(dir.join(usage))?,
            hits,
            limit_bytes: number(&limit).ok(),
            limit,
            hits_seen,
            cgroup_id: std::fs::metadata(dir)?.ino(),
            told_at: None,
        })
    }

    /// A reading, if it is worth an event.
    fn look(&mut self, cgroupfs: &Cgroupfs, now: Timestamp) -> io::Result<Option<Reading>> {
        let Some(limit) = self.limit_bytes.filter(|l| (1..UNLIMITED_BYTES).contains(l)) else {
            return Ok(None);
        };
        let usage = number(&self.usage)?;
        let hits = count_hits(&self.hits, cgroupfs)?;
        let new_hits = hits.saturating_sub(self.hits_seen);
        let is_near = usage >= limit / 100 * NEAR_PERCENT;
        let is_quiet = self.told_at.is_some_and(|told| now.micros_since(told) < QUIET_US);
        if !(is_near || new_hits > 0) || is_quiet {
            return Ok(None);
        }
        self.hits_seen = hits;
        self.told_at = Some(now);
        Ok(Some(Reading { usage, limit, hits, new_hits }))
    }
}

impl Reading {
    fn event(&self, origin: &Origin, cgroup_id: u64, cgroupfs: &Cgroupfs, now: Timestamp) -> Event {
        let hook = match cgroupfs {
            Cgroupfs::V1(_) => "poll/memory.usage_in_bytes",
            Cgroupfs::V2(_) => "poll/memory.current",
        };
        // It may have been so since the last look, a second ago.
        let occurred = Occurrence::between(now.plus_micros(-1_000_000), now);
        let mut event = draft::event(origin, Kind::MemoryPressure, Source::Node, hook, occurred);
        event.cgroup_id = Some(cgroup_id);
        event.severity = Severity::Warning;
        let attributes = &mut event.attributes;
        attributes.insert("aftertrace.memory.usage_bytes".to_owned(), self.usage.into());
        attributes.insert("aftertrace.memory.limit_bytes".to_owned(), self.limit.into());
        attributes.insert("aftertrace.memory.limit_hits".to_owned(), self.hits.into());
        attributes.insert("aftertrace.memory.new_limit_hits".to_owned(), self.new_hits.into());
        event
    }

    fn shown(&self) -> String {
        let part = self.usage.saturating_mul(100) / self.limit.max(1);
        let hits = match self.new_hits {
            0 => String::new(),
            n => format!(", hit it {n} times since the last report"),
        };
        format!("uses {} of {} MiB ({part} %){hits}", mib(self.usage), mib(self.limit))
    }
}

fn read(file: &File) -> io::Result<String> {
    let mut bytes = [0; FILE_BYTES];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// A file of one number; `max` is no number.
fn number(file: &File) -> io::Result<u64> {
    let text = read(file)?;
    text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a number"))
}

/// How often the limit was hit: the whole of `memory.failcnt`, or the line `max` of `memory.events`.
fn count_hits(file: &File, cgroupfs: &Cgroupfs) -> io::Result<u64> {
    match cgroupfs {
        Cgroupfs::V1(_) => number(file),
        Cgroupfs::V2(_) => {
            let text = read(file)?;
            let max = text.lines().find_map(|l| l.strip_prefix("max ")).and_then(|n| n.trim().parse().ok());
            max.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "memory.events has no max"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
    const ID: &str = "223afe3d8e7a9aa5dd3a155170373b69429dcb031d5956d9cbd77683a5cfde84";

    fn pods() -> Pods {
        let mut pods = Pods::default();
        let pod = serde_json::json!({"metadata": {"uid": UID, "name": "p", "namespace": "n"},
            "status": {"containerStatuses": [{"name": "app", "restartCount": 1, "ready": true, "image": "",
                "imageID": "", "containerID": format!("containerd://{ID}")}]}});
        pods.apply(&serde_json::from_value(pod).expect("a pod"), Timestamp::from_micros(0));
        pods
    }

    /// Usage and hits at each second, and the seconds at which there is an event.
    fn check(files: [&str; 3], hits_text: impl Fn(u64) -> String, looks: &[(u64, u64)], expected: &[usize]) {
        let mount = tempfile::tempdir().expect("a temporary directory");
        let dir = mount.path().join("kubepods/burstable").join(format!("pod{UID}")).join(ID);
        std::fs::create_dir_all(&dir).expect("makes folders");
        let write = |file: &str, text: String| std::fs::write(dir.join(file), text).expect("writes");
        write(files[2], "1000\n".to_owned());
        let cgroupfs = if files[0] == "memory.current" {
            Cgroupfs::V2(mount.path().to_owned())
        } else {
            Cgroupfs::V1(mount.path().to_owned())
        };
        let origin = Origin { cluster: "c".into(), node: "n".into() };
        let mut pressure = Pressure::new(cgroupfs, CgroupRoot::default());
        let mut told = Vec::new();
        for (second, (usage, hits)) in looks.iter().enumerate() {
            write(files[0], format!("{usage}\n"));
            write(files[1], hits_text(*hits));
            let now = Timestamp::from_micros(second as i64 * 1_000_000);
            for event in pressure.look(&origin, &pods(), now) {
                assert_eq!(event.container_id.as_deref(), Some(ID));
                assert_eq!(event.restart_count, Some(1));
                told.push(second);
            }
        }
        assert_eq!(told, expected);
    }

    const V1: [&str; 3] = ["memory.usage_in_bytes", "memory.failcnt", "memory.limit_in_bytes"];
    const V2: [&str; 3] = ["memory.current", "memory.events", "memory.max"];

    #[test]
    fn near_the_limit_is_told_once_in_ten_seconds() {
        let mut looks = vec![(500, 0), (799, 0)];
        looks.extend([(800, 0); 12]);
        check(V1, |hits| format!("{hits}\n"), &looks, &[2, 12]);
    }

    #[test]
    fn a_hit_is_told_even_far_below() {
        let events = |hits| format!("low 0\nhigh 0\nmax {hits}\noom 0\noom_kill 0\n");
        check(V2, events, &[(100, 5), (100, 5), (100, 6), (100, 6)], &[2]);
    }
}
