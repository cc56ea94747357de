//! Renames onto `..data` → swaps of mounted configuration, or counted rejections.
//!
//! A rename's path is a hint, which every process can imitate. [`path`] reads it; [`identity`] says which
//! directory it leads to; [`roots`] holds the volumes
//! that were seen before, with device, inode and current generation, and confirms a swap on the file system
//! itself; [`sources`] leads from files back to ConfigMaps and Secrets; [`swap`] makes the events.

pub(crate) mod files;
pub(crate) mod identity;
pub(crate) mod mounts;
pub(crate) mod path;
pub(crate) mod roots;
pub(crate) mod sources;
pub(crate) mod swap;
