//! What became of a swap: which container opened the new files, when first, and which did not.
//!
//! Confirmed swaps and opens in, claims out; no clock of its own, no I/O. For each volume and file it keeps in
//! which generation the file last changed, and for each container the newest generation in which it opened
//! that file. An open is a claim if it is the first since the change; a file that changed and was not opened
//! again within the time allowed is stale.
//!
//! Where an open may have been missed there is no claim that it was not: a [`judge::Unknown`] says so instead.

mod events;
mod held;
mod judge;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aftertrace_model::{Content, Event, ObjectRef, Occurrence, Timestamp};

use crate::attribute::cgroup_name::{CgroupUid, ContainerId};
use crate::attribute::pods::KnownPod;
use crate::draft::Origin;
use crate::kernel::{FileOpen, Notice, Rename, VolumeId};
use crate::volumes::files::Listing;
use crate::volumes::path::VolumePath;
use crate::volumes::roots::{Root, Roots, Swap};
use crate::volumes::sources::MountedObject;

pub(crate) use events::{notified_event, read_event, watched_event};
use held::Held;

/// Most volumes with opens or swaps; a node has a few hundred. Of one more, nothing is claimed.
const VOLUMES_MAX: usize = 4_096;

/// Most containers whose opens of one volume are kept: those of a pod, and their lives. Of one more, it is not
/// known what it opened.
const READERS_MAX: usize = 64;

/// Former generations of a volume whose names are kept, to tell a late open from one of an unknown swap.
const OLDER_MAX: usize = 16;

/// All that is known of opens and swaps.
#[derive(Debug)]
pub(crate) struct Reload {
    volumes: HashMap<VolumeId, Volume>,
    held: Held,
    /// Since when opens are seen; nothing while they are not.
    watching_since: Option<Timestamp>,
    /// When opens may last have been missed.
    missed_at: Option<Timestamp>,
}

/// One volume.
#[derive(Debug, Default)]
struct Volume {
    /// The number of the current generation; the first one that was seen is 0.
    number: u32,
    /// The last swap, with what is known of the files' content.
    swap: Option<Arc<SwapFact>>,
    /// Former generations and their numbers, the newest last.
    older: VecDeque<(String, u32)>,
    /// Files that have changed, by path.
    changed: HashMap<String, Changed>,
    /// What was opened, by container.
    readers: HashMap<ContainerId, Reader>,
    /// Hashes by object, as the last swap's events have them.
    contents: Vec<(ObjectRef, Content)>,
    /// When an open of this volume may last have been missed.
    missed_at: Option<Timestamp>,
    /// Containers whose watches tell them nothing any more, with the number of the generation whose swap made
    /// them so.
    deaf: HashMap<ContainerId, u32>,
    /// Containers that were told of a generation, with its number.
    notified: HashMap<ContainerId, u32>,
}

/// When a file last changed.
#[derive(Clone, Debug)]
struct Changed {
    /// The number of the generation.
    number: u32,
    swap: Arc<SwapFact>,
    /// Earlier changes that nobody was asked about, because this one came before their time was over.
    superseded: u32,
    /// Whether it has been looked at whether it is stale.
    is_judged: bool,
}

/// What a container opened: the newest generation's number by path.
#[derive(Debug, Default)]
struct Reader {
    newest: HashMap<String, u32>,
}

/// What is kept of a swap.
#[derive(Clone, Debug)]
pub(crate) struct SwapFact {
    /// The volume.
    pub(crate) volume: VolumePath,
    /// The new generation.
    pub(crate) generation: String,
    /// When.
    pub(crate) occurred: Occurrence,
    /// When the call was entered, by the boot clock.
    pub(crate) enter_boot_ns: u64,
    /// When it returned.
    pub(crate) boot_ns: u64,
    /// Files that changed; `None` where a generation was too large to compare.
    pub(crate) changed: Option<Vec<String>>,
    /// What is in it.
    listing: Option<Arc<Listing>>,
}

/// The first open of a file since it changed, or of an unchanged file beside it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// Who opened, and what.
    pub(crate) open: FileOpen,
    /// The pod by its cgroup.
    pub(crate) uid: CgroupUid,
    /// The container by its cgroup.
    pub(crate) container: ContainerId,
    /// The path within the volume.
    pub(crate) path: String,
    /// The swap that brought the file's content.
    pub(crate) swap: Arc<SwapFact>,
    /// Whether the swap changed the file.
    pub(crate) is_changed: bool,
}

impl Reload {
    /// Nothing is known. Opens are seen from `watching_since` on, or not at all.
    pub(crate) fn new(watching_since: Option<Timestamp>) -> Self {
        Self { volumes: HashMap::new(), held: Held::default(), watching_since, missed_at: None }
    }

    /// Opens may have been missed until now.
    pub(crate) fn missed(&mut self, now: Timestamp) {
        self.missed_at = Some(now);
    }

    /// Opens are seen no more.
    pub(crate) fn blind(&mut self) {
        self.watching_since = None;
    }

    /// An open of this volume could not be tied to a container or to a file.
    pub(crate) fn missed_in(&mut self, id: VolumeId, now: Timestamp) {
        match self.volumes.get_mut(&id) {
            Some(volume) => volume.missed_at = Some(now),
            None => self.missed_at = Some(now),
        }
    }

    /// A volume was set up, perhaps in the place of another.
    pub(crate) fn mounted(&mut self, id: VolumeId) {
        self.volumes.remove(&id);
    }

    /// Forgets the volumes that are not registered any more.
    pub(crate) fn keep_registered(&mut self, roots: &Roots) {
        self.volumes.retain(|id, _| roots.get(*id).is_some());
    }

    /// Takes in an open by a container; a claim if it is the first since the file changed.
    ///
    /// An open of a generation that is not known is kept for its swap, whose record may be behind.
    pub(crate) fn opened(
        &mut self,
        open: FileOpen,
        uid: CgroupUid,
        container: ContainerId,
        roots: &Roots,
        now: Timestamp,
    ) -> Option<Read> {
        let root = roots.get(open.volume)?;
        if !self.volumes.contains_key(&open.volume) && self.volumes.len() >= VOLUMES_MAX {
            self.missed_at = Some(now);
            return None;
        }
        let volume = self.volumes.entry(open.volume).or_default();
        let Some(number) = volume.number_of(&open.generation, root) else {
            if let Some(dropped) = self.held.push(now, open, uid, container) {
                self.missed_in(dropped, now);
            }
            return None;
        };
        let is_current = number == volume.number;
        let listing = root.listing.as_deref().filter(|_| is_current);
        let Some(path) = path_of(&open, listing) else {
            volume.missed_at = Some(now);
            return None;
        };
        if !volume.readers.contains_key(&container) && volume.readers.len() >= READERS_MAX {
            volume.missed_at = Some(now);
            return None;
        }
        let reader = volume.readers.entry(container.clone()).or_default();
        let before = reader.newest.get(&path).copied();
        if before.is_some_and(|before| before >= number) {
            return None;
        }
        reader.newest.insert(path.clone(), number);
        // An old file in a held folder or a subPath mount proves nothing about the new one.
        if !is_current {
            return None;
        }
        let changed = volume.changed.get(&path).filter(|changed| before.is_none_or(|b| b < changed.number));
        let (swap, is_changed) = match (changed, &volume.swap) {
            (Some(changed), _) => (Arc::clone(&changed.swap), true),
            (None, Some(swap)) => (Arc::clone(swap), false),
            (None, None) => return None,
        };
        Some(Read { open, uid, container, path, swap, is_changed })
    }

    /// How a container's watches on a volume were found after its last swap.
    pub(crate) fn watches(&mut self, id: VolumeId, container: &ContainerId, is_deaf: bool) {
        let Some(volume) = self.volumes.get_mut(&id) else { return };
        let number = volume.number;
        if !is_deaf {
            volume.deaf.remove(container);
        } else if volume.deaf.len() < READERS_MAX {
            volume.deaf.entry(container.clone()).or_insert(number);
        }
    }

    /// A container was told by inotify of the last swap; returns the swap if it was the first time.
    pub(crate) fn notified(&mut self, notice: &Notice, container: &ContainerId) -> Option<Arc<SwapFact>> {
        let volume = self.volumes.get_mut(&notice.volume)?;
        let swap = volume.swap.as_ref()?;
        let is_of_last = notice.boot_ns >= swap.enter_boot_ns;
        if !is_of_last || volume.notified.get(container) == Some(&volume.number) {
            return None;
        }
        if volume.notified.len() < READERS_MAX || volume.notified.contains_key(container) {
            volume.notified.insert(container.clone(), volume.number);
        }
        Some(Arc::clone(swap))
    }

    /// The last swap of a volume.
    pub(crate) fn last_swap(&self, id: VolumeId) -> Option<Arc<SwapFact>> {
        self.volumes.get(&id)?.swap.clone()
    }

    /// Takes in a confirmed swap; returns the opens that were waiting for it, in their order.
    pub(crate) fn swapped(
        &mut self,
        swap: &Swap,
        rename: &Rename,
        occurred: Occurrence,
    ) -> Vec<(FileOpen, CgroupUid, ContainerId)> {
        if !self.volumes.contains_key(&swap.id) && self.volumes.len() >= VOLUMES_MAX {
            self.missed_at = Some(occurred.latest);
            return Vec::new();
        }
        let volume = self.volumes.entry(swap.id).or_default();
        volume.older.push_back((swap.previous.clone(), volume.number));
        if volume.older.len() > OLDER_MAX {
            volume.older.pop_front();
        }
        volume.number += 1;
        let fact = Arc::new(SwapFact {
            volume: swap.volume.clone(),
            generation: swap.generation.clone(),
            occurred,
            enter_boot_ns: rename.enter_boot_ns,
            boot_ns: rename.boot_ns,
            changed: swap.changed.clone(),
            listing: swap.listing.clone(),
        });
        volume.change(&fact);
        volume.swap = Some(fact);
        volume.contents.clear();
        self.held.take(swap.id, &swap.generation)
    }

    /// Keeps the hashes that the events of a swap carry, for the claims that follow.
    pub(crate) fn told(&mut self, swap: &Swap, events: &[Event]) {
        let Some(volume) = self.volumes.get_mut(&swap.id) else { return };
        if volume.swap.as_ref().is_some_and(|held| held.generation == swap.generation) {
            let hashes = events.iter().filter_map(|e| Some((e.object.clone()?, e.content.clone()?)));
            volume.contents = hashes.collect();
        }
    }

    /// What containers that mount a part of the volume keep for ever.
    pub(crate) fn frozen(&self, origin: &Origin, swap: &Swap, pod: &KnownPod, now: Timestamp) -> Vec<Event> {
        let fact = self.volumes.get(&swap.id).and_then(|volume| volume.swap.as_ref());
        match fact.filter(|fact| fact.generation == swap.generation) {
            Some(fact) => events::sub_path_events(origin, pod, fact, now),
            None => Vec::new(),
        }
    }

    /// The hashes of an object's content in the current generation.
    pub(crate) fn content(&self, read: &Read, object: &MountedObject) -> Option<Content> {
        let volume = self.volumes.get(&read.open.volume)?;
        let is_current = volume.swap.as_ref().is_some_and(|swap| Arc::ptr_eq(swap, &read.swap));
        let is_of = |held: &ObjectRef| {
            held.kind == object.kind && held.namespace == object.namespace && held.name == object.name
        };
        let (_, content) = volume.contents.iter().find(|(held, _)| is_current && is_of(held))?;
        Some(content.clone())
    }
}

impl Volume {
    /// The number of a generation by its name; nothing for one that is not known.
    fn number_of(&self, generation: &str, root: &Root) -> Option<u32> {
        let is_current = match &self.swap {
            Some(swap) => swap.generation == generation,
            None => root.generation == generation,
        };
        if is_current {
            return Some(self.number);
        }
        self.older.iter().rev().find(|(name, _)| name == generation).map(|(_, number)| *number)
    }

    /// Notes which files a swap changed. A file that is gone cannot be opened and is not waited for.
    fn change(&mut self, fact: &Arc<SwapFact>) {
        let (Some(changed), Some(listing)) = (&fact.changed, &fact.listing) else {
            // It is not known what changed, so nothing can be said to be stale.
            self.missed_at = Some(fact.occurred.latest);
            self.changed.clear();
            return;
        };
        for path in changed {
            if !listing.files.values().any(|held| held == path) {
                self.changed.remove(path);
                continue;
            }
            let before = self.changed.get(path).filter(|before| !before.is_judged);
            let superseded = before.map_or(0, |before| before.superseded + 1);
            let change =
                Changed { number: self.number, swap: Arc::clone(fact), superseded, is_judged: false };
            self.changed.insert(path.clone(), change);
        }
        self.changed.retain(|path, _| listing.files.values().any(|held| held == path));
    }
}

/// The path of a file within its volume: by its inode, and by its name alone where it lies in the generation
/// itself.
fn path_of(open: &FileOpen, listing: Option<&Listing>) -> Option<String> {
    if open.is_direct {
        return Some(open.name.clone());
    }
    let path = listing?.files.get(&open.inode?)?;
    path.rsplit('/').next().is_some_and(|name| name == open.name).then(|| path.clone())
}
