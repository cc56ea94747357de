//! How processes follow a volume: who will miss its next change, and who still holds what was removed.
//!
//! Right after a swap the watches on the generation before are noted, while nobody can have used its inode
//! numbers again; a little later, when the writer has removed that generation, the same processes are looked at
//! once more. A watch that is still bound to the removed generation gets no event ever again; one that went with
//! it and was not replaced gets none either. Both are deaf, unless the process has another watch on the volume
//! that lives. A watch on the link itself ends with the rename, which tells its process so: that is no deafness.
//!
//! Pure but for [`proc`]. What the volume consists of comes from its registry.

pub(crate) mod proc;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::attribute::cgroup_name::ContainerId;
use crate::kernel::VolumeId;
use crate::volumes::files::Listing;
use proc::{Mark, ProcessId, Seen};

/// Former generations whose inodes are kept for each volume.
const OLDER_MAX: usize = 4;

/// Processes whose watches are kept for each volume.
const PROCESSES_MAX: usize = 256;

/// Most findings that are remembered, so that each is told once; beyond it some may be told again.
const TOLD_MAX: usize = 8_192;

/// All watches on registered volumes that are known.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    volumes: HashMap<VolumeId, Volume>,
    told: HashSet<(ProcessId, VolumeId, Reason, String)>,
}

#[derive(Debug, Default)]
struct Volume {
    older: VecDeque<(String, Arc<Listing>)>,
    watching: HashMap<ProcessId, BTreeSet<Mark>>,
}

/// What a volume consists of now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Current<'a> {
    /// The root directory.
    pub(crate) id: VolumeId,
    /// Its device as `st_dev` has it, packed as the kernel's.
    pub(crate) shown_device: u32,
    /// The current generation.
    pub(crate) listing: Option<&'a Listing>,
}

/// How a process follows a volume in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// Its watches are on removed files, or are gone.
    Deaf,
    /// It has a removed file open.
    HeldDescriptor,
    /// It has a removed file mapped.
    HeldMapping,
}

impl Reason {
    /// The event's reason.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Deaf => "deaf",
            Self::HeldDescriptor => "held_descriptor",
            Self::HeldMapping => "held_mapping",
        }
    }
}

/// One process that follows a volume in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) reason: Reason,
    pub(crate) container: ContainerId,
    pub(crate) pid: u32,
    pub(crate) comm: String,
    /// The descriptor of the watch or the file; nothing for a mapping.
    pub(crate) descriptor: Option<u32>,
    /// The inode watched or held; nothing for a watch that went with its file.
    pub(crate) inode: Option<u64>,
    /// The generation that it is of, if it is.
    pub(crate) generation: Option<String>,
    /// Where it was, as the process saw it.
    pub(crate) path: Option<String>,
}

/// What a look at a container has told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Looked {
    /// What is to be told.
    pub(crate) findings: Vec<Finding>,
    /// Whether some process watches the volume in vain and none with success.
    pub(crate) is_deaf: bool,
    /// Whether some process has a watch that lives.
    pub(crate) is_listening: bool,
}

impl Watchers {
    /// A volume was swapped: its former generation is kept.
    pub(crate) fn swapped(&mut self, id: VolumeId, previous: &str, listing: Option<Arc<Listing>>) {
        let volume = self.volumes.entry(id).or_default();
        if let Some(listing) = listing {
            volume.older.push_back((previous.to_owned(), listing));
        }
        if volume.older.len() > OLDER_MAX {
            volume.older.pop_front();
        }
    }

    /// Forgets a volume.
    pub(crate) fn forget(&mut self, id: VolumeId) {
        self.volumes.remove(&id);
    }

    /// Forgets what is not kept.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(VolumeId) -> bool) {
        self.volumes.retain(|id, _| is_kept(*id));
    }

    /// Notes the watches on a volume as they are. Only right after a swap may those on the generation before be
    /// taken for what they were: `with_previous`.
    pub(crate) fn note(&mut self, current: Current<'_>, seen: &[Seen], with_previous: bool) {
        let volume = self.volumes.entry(current.id).or_default();
        let previous = volume.older.back().filter(|_| with_previous).map(|(_, listing)| Arc::clone(listing));
        for process in seen {
            let is_ours = |mark: &&Mark| {
                current.is_live(mark)
                    || mark.device == current.id.device
                        && previous.as_ref().is_some_and(|previous| previous.watches(mark.inode))
            };
            let marks: Vec<Mark> = process.marks.iter().filter(is_ours).copied().collect();
            let has_room = volume.watching.len() < PROCESSES_MAX || volume.watching.contains_key(&process.id);
            if !marks.is_empty() && has_room {
                volume.watching.entry(process.id).or_default().extend(marks);
            }
        }
    }

    /// Compares what one container's processes do now with what was noted. To be called for all containers of
    /// a volume when its former generation has been removed.
    pub(crate) fn compare(&mut self, current: Current<'_>, container: &ContainerId, seen: &[Seen]) -> Looked {
        let mut looked = Looked::default();
        let volume = self.volumes.entry(current.id).or_default();
        let mut deaf = Vec::new();
        for process in seen {
            let live: BTreeSet<Mark> = process.marks.iter().filter(|m| current.is_live(m)).copied().collect();
            if !live.is_empty() {
                looked.is_listening = true;
                volume.watching.insert(process.id, live);
            } else if let Some(finding) = volume.deaf(container, process) {
                deaf.push(finding);
            }
            let held = process.removed.iter().filter_map(|removed| volume.held(current, removed));
            for (reason, generation, removed) in held {
                let finding = Finding {
                    reason,
                    container: container.clone(),
                    pid: process.id.pid,
                    comm: process.comm.clone(),
                    descriptor: removed.descriptor,
                    inode: Some(removed.inode),
                    generation: Some(generation.clone()),
                    path: Some(removed.path.to_string_lossy().into_owned()),
                };
                if self.told.insert((process.id, current.id, reason, generation)) {
                    looked.findings.push(finding);
                }
            }
        }
        looked.is_deaf = !deaf.is_empty() && !looked.is_listening;
        let ids: HashMap<u32, ProcessId> = seen.iter().map(|process| (process.id.pid, process.id)).collect();
        for finding in deaf {
            // Told again only when it has listened in between, and so is bound to another generation.
            let key = finding.generation.clone().unwrap_or_default();
            if let Some(id) = ids.get(&finding.pid)
                && self.told.insert((*id, current.id, Reason::Deaf, key))
            {
                looked.findings.push(finding);
            }
        }
        if self.told.len() > TOLD_MAX {
            self.told.clear();
        }
        looked
    }
}

impl Current<'_> {
    /// Whether a watch is on something that will tell of the next swap, or is of the current generation.
    fn is_live(&self, mark: &Mark) -> bool {
        mark.device == self.id.device
            && (mark.inode == self.id.inode
                || self.listing.is_some_and(|listing| listing.watches(mark.inode)))
    }
}

impl Volume {
    /// A process without a watch that lives: deaf if it watched a former generation.
    fn deaf(&self, container: &ContainerId, process: &Seen) -> Option<Finding> {
        let known = self.watching.get(&process.id)?;
        let of = |mark: &Mark| self.older.iter().rev().find(|(_, listing)| listing.has(mark.inode));
        // One that is still there before one that went with its file.
        let bound = known.iter().find(|mark| process.marks.contains(mark) && of(mark).is_some());
        let mark = bound.or_else(|| known.iter().find(|mark| of(mark).is_some()))?;
        let (generation, _) = of(mark)?;
        Some(Finding {
            reason: Reason::Deaf,
            container: container.clone(),
            pid: process.id.pid,
            comm: process.comm.clone(),
            descriptor: Some(mark.descriptor),
            inode: bound.map(|mark| mark.inode),
            generation: Some(generation.clone()),
            path: None,
        })
    }

    /// Whether a removed file was of a former generation: by its inode, and by the folder that it was in.
    fn held<'r>(
        &self,
        current: Current<'_>,
        removed: &'r proc::Removed,
    ) -> Option<(Reason, String, &'r proc::Removed)> {
        let (reason, device) = match removed.descriptor {
            Some(_) => (Reason::HeldDescriptor, current.shown_device),
            None => (Reason::HeldMapping, current.id.device),
        };
        let is_in = |name: &str| removed.path.components().any(|part| part.as_os_str() == name);
        let (name, _) = self
            .older
            .iter()
            .find(|(name, listing)| removed.device == device && listing.has(removed.inode) && is_in(name))?;
        Some((reason, name.clone(), removed))
    }
}

#[cfg(test)]
mod tests;
