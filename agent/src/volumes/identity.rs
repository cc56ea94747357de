//! Which directory a volume is: its identity for the kernel, and whether it is still the same directory.
//!
//! An inode number is used again once a directory is gone, by some file systems at once; the time of birth
//! tells a volume from the one that was set up in its place. The kernel's own device number is taken from
//! the mount, because some file systems (btrfs) show another one in `st_dev`.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::kernel::VolumeId;

/// Most devices whose number is remembered; each Secret's volume is a file system of its own.
const DEVICES_MAX: usize = 16_384;

/// A volume's root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// For the kernel.
    pub(crate) id: VolumeId,
    /// The device as `stat` shows it, packed as the kernel's.
    pub(crate) shown_device: u32,
    /// When the directory was made, in seconds and nanoseconds; `None` where the file system does not keep it.
    born: Option<(i64, u32)>,
}

/// `st_dev` and mount to the kernel's device numbers.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    by_mount: HashMap<(u64, u32), u32>,
}

impl Devices {
    /// Looks at a directory, without following a link.
    ///
    /// # Errors
    /// What the system said; something that is no directory is [`io::ErrorKind::NotADirectory`].
    pub(crate) fn identify(&mut self, path: &Path) -> io::Result<Identity> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
        let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        if rustix::fs::FileType::from_raw_mode(found.stx_mode.into()) != rustix::fs::FileType::Directory {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let flags = StatxFlags::from_bits_retain(found.stx_mask);
        let born =
            flags.contains(StatxFlags::BTIME).then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        let shown = encode(found.stx_dev_major, found.stx_dev_minor);
        let device = match flags.contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id) {
            Some(mount) => self.device(mount, shown),
            None => shown,
        };
        Ok(Identity { id: VolumeId { device, inode: found.stx_ino }, shown_device: shown, born })
    }

    fn device(&mut self, mount: u64, shown: u32) -> u32 {
        if let Some(device) = self.by_mount.get(&(mount, shown)) {
            return *device;
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let device = of_mount(&mounts, mount).unwrap_or(shown);
        if self.by_mount.len() >= DEVICES_MAX {
            self.by_mount.clear();
        }
        self.by_mount.insert((mount, shown), device);
        device
    }
}

/// The device of a mount: `<id> <parent> <major>:<minor> …`.
fn of_mount(mountinfo: &str, mount: u64) -> Option<u32> {
    let mut fields = mountinfo.lines().map(|line| line.split(' '));
    let mut line =
        fields.find(|fields| fields.clone().next().and_then(|id| id.parse().ok()) == Some(mount))?;
    let (major, minor) = line.nth(2)?.split_once(':')?;
    Some(encode(major.parse().ok()?, minor.parse().ok()?))
}

/// `MKDEV` of `include/linux/kdev_t.h`.
fn encode(major: u32, minor: u32) -> u32 {
    major << 20 | minor & 0xf_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounts_device_is_read() {
        let mounts = "22 1 0:21 / /proc rw - proc proc rw\n36 22 259:5 /a b /mnt rw - btrfs /dev/x rw\n";
        assert_eq!(of_mount(mounts, 36), Some(259 << 20 | 5));
        assert_eq!(of_mount(mounts, 3), None);
    }

    #[test]
    fn a_directory_made_in_the_place_of_another_is_another() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("v");
        let mut devices = Devices::default();
        std::fs::create_dir(&path).expect("makes a folder");
        let first = devices.identify(&path).expect("is there");
        assert_eq!(devices.identify(&path).expect("is there"), first);
        if first.born.is_none() {
            return println!("SKIPPED: this file system keeps no times of birth");
        }
        std::fs::remove_dir(&path).expect("removes");
        // File systems stamp with a clock that ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::create_dir(&path).expect("makes a folder");
        assert_ne!(devices.identify(&path).expect("is there"), first);
        assert!(devices.identify(&dir.path().join("absent")).is_err());
    }
}
