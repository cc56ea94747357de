//! Registered volumes → the kernel's maps by which opens of their files are matched.
//!
//! A volume is put in before it can be swapped, so that the first open of its new generation is not lost. A
//! device is taken out with the last volume on it, so that opens on other file systems stay cheap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use aftertrace_ebpf_common::record::VolumeKey;
use aya::maps::{HashMap, MapData, MapError};
use tracing::warn;

use super::record::VolumeId;

/// The volumes whose opens the programs see.
pub struct WatchedVolumes {
    roots: HashMap<MapData, VolumeKey, u32>,
    devices: HashMap<MapData, u64, u32>,
    held: BTreeSet<VolumeId>,
    by_device: BTreeMap<u32, usize>,
}

impl WatchedVolumes {
    pub(super) fn new(roots: HashMap<MapData, VolumeKey, u32>, devices: HashMap<MapData, u64, u32>) -> Self {
        Self { roots, devices, held: BTreeSet::new(), by_device: BTreeMap::new() }
    }

    /// Watches a volume from now on; false if the kernel has no room for it, which is logged. Opens of a volume
    /// that is not watched are not seen.
    pub fn insert(&mut self, volume: VolumeId) -> bool {
        if self.held.contains(&volume) {
            return true;
        }
        if let Err(error) = self.try_insert(volume) {
            warn!(%error, ?volume, "a volume's opens cannot be watched");
            return false;
        }
        self.held.insert(volume);
        *self.by_device.entry(volume.device).or_default() += 1;
        true
    }

    /// Watches a volume no more.
    pub fn remove(&mut self, volume: VolumeId) {
        if !self.held.remove(&volume) {
            return;
        }
        if let Err(error) = self.roots.remove(&key(volume)) {
            warn!(%error, ?volume, "a volume could not be taken out of the kernel's map");
        }
        let Some(count) = self.by_device.get_mut(&volume.device) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_device.remove(&volume.device);
            if let Err(error) = self.devices.remove(&u64::from(volume.device)) {
                warn!(%error, ?volume, "a device could not be taken out of the kernel's map");
            }
        }
    }

    /// The root first: an open that finds the device is walked up to it.
    fn try_insert(&mut self, volume: VolumeId) -> Result<(), MapError> {
        self.roots.insert(key(volume), 1, 0)?;
        if !self.by_device.contains_key(&volume.device)
            && let Err(error) = self.devices.insert(u64::from(volume.device), 1, 0)
        {
            let _ = self.roots.remove(&key(volume));
            return Err(error);
        }
        Ok(())
    }
}

impl fmt::Debug for WatchedVolumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedVolumes").field("held", &self.held).finish_non_exhaustive()
    }
}

fn key(volume: VolumeId) -> VolumeKey {
    [u64::from(volume.device), volume.inode]
}
