//! A directory entry → the registered volume that it lies in, by identity and never by path.
//!
//! Container mounts are bind mounts of the kubelet's directory, so a file has the same dentries and inodes
//! wherever it is seen. A dentry that a helper reads here is held by an open file or by its caller, and pins
//! its parents.

use aftertrace_ebpf_common::{config::NO_OFFSET, limits::MAX_FILE_PARENTS, loss::Loss, record::VolumeKey};

use crate::{
    maps::{VOLUME_DEVICES, VOLUME_ROOTS, config, count},
    read::{pointer, value, walk, walk_fact},
};

/// Where in a volume something lies.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The volume.
    pub(crate) volume: VolumeKey,
    /// The address of the dentry just below its root: the generation's.
    pub(crate) generation: u64,
    /// Directories between it and the root; 0 for what lies in the root itself.
    pub(crate) depth: u32,
}

/// The file system's device number, if a registered volume lies on it: the test that nearly all fail.
#[inline(always)]
pub(crate) fn watched_device(dentry: u64) -> Option<u32> {
    let device: u32 = value(pointer(dentry, config!(offsets.dentry_sb)), config!(offsets.sb_dev))?;
    VOLUME_DEVICES.get_ptr(u64::from(device)).is_some().then_some(device)
}

/// Walks from a dentry on `device` up to the root of a registered volume; reads as [`walk`] does.
#[inline(always)]
pub(crate) fn place(dentry: u64, device: u32) -> Option<Place> {
    let (mut below, mut failed) = (dentry, 0);
    for depth in 0..MAX_FILE_PARENTS {
        let parent = walk(below, config!(offsets.dentry_parent), &mut failed);
        if parent == below {
            break;
        }
        let inode = walk(parent, config!(offsets.dentry_inode), &mut failed);
        let volume = [u64::from(device), walk(inode, config!(offsets.inode_ino), &mut failed)];
        if VOLUME_ROOTS.get_ptr(volume).is_some() {
            return Some(Place { volume, generation: below, depth: depth as u32 });
        }
        below = parent;
    }
    if failed != 0 {
        count(Loss::ReadFailed);
    }
    None
}

/// The volume that an inode is the registered root of.
#[inline(always)]
pub(crate) fn root_of(inode: u64) -> Option<VolumeKey> {
    let device: u32 = value(pointer(inode, config!(offsets.inode_sb)), config!(offsets.sb_dev))?;
    VOLUME_DEVICES.get_ptr(u64::from(device))?;
    let volume = [u64::from(device), value(inode, config!(offsets.inode_ino))?];
    VOLUME_ROOTS.get_ptr(volume).is_some().then_some(volume)
}

/// Whether a dentry is named `name`, by the length that stands with its hash first.
#[inline(always)]
pub(crate) fn is_named<const N: usize>(dentry: u64, expected: [u8; N]) -> bool {
    // On both byte orders the length is the upper half of `hash_len`, as the kernel's `hashlen_len` has it.
    name_hash(dentry) >> 32 == N as u64 && value::<[u8; N]>(name(dentry), 0) == Some(expected)
}

/// The inode number behind a dentry.
#[inline(always)]
pub(crate) fn inode_number(dentry: u64) -> u64 {
    let mut failed = 0;
    walk_fact(
        walk(dentry, config!(offsets.dentry_inode), &mut failed),
        config!(offsets.inode_ino),
        &mut failed,
    )
}

/// The address of the inode behind a dentry; 0 if it has none.
#[inline(always)]
pub(crate) fn inode(dentry: u64) -> u64 {
    pointer(dentry, config!(offsets.dentry_inode))
}

/// The address of a dentry's name.
#[inline(always)]
pub(crate) fn name(dentry: u64) -> u64 {
    pointer(dentry, config!(offsets.dentry_name))
}

/// The hash of a dentry's name under its parent, with its length: one for each name in a directory.
#[inline(always)]
pub(crate) fn name_hash(dentry: u64) -> u64 {
    value(dentry, config!(offsets.dentry_name_hash)).unwrap_or(0)
}

/// Whether an inode is a regular file; true where this kernel does not tell.
#[inline(always)]
pub(crate) fn is_regular(inode: u64) -> bool {
    /// `S_IFMT` and `S_IFREG` of `include/uapi/linux/stat.h`.
    const TYPE: u16 = 0o170_000;
    const REGULAR: u16 = 0o100_000;
    if config!(offsets.inode_mode) == NO_OFFSET {
        return true;
    }
    value::<u16>(inode, config!(offsets.inode_mode)).is_some_and(|mode| mode & TYPE == REGULAR)
}
