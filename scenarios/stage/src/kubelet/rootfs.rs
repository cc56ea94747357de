//! What a container's first process sees: the machine's own files, with volumes where the pod mounts them.
//!
//! There are no images: the root is put together from bind mounts of the machine's root, in a mount namespace
//! of its own, so that nothing of it is left behind and the kubelet's namespace never sees it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

/// Folders between the root and a mount point; far more than any pod uses.
const DEPTH_MAX: usize = 32;

/// One volume, or a part of it, in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the machine.
    pub source: PathBuf,
    /// In the container; absolute.
    pub target: PathBuf,
}

/// Enters a mount namespace of its own, mounts the pid namespace's `/proc`, and puts the volumes in place.
///
/// # Errors
/// What the kernel refuses, and mount points that are not plain absolute paths.
pub fn enter(root: &Path, binds: &[Bind]) -> anyhow::Result<()> {
    open_mount_namespace().context("cannot open a mount namespace")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).context("cannot make mounts private")?;
    if !binds.is_empty() {
        assemble(root, binds)?;
    }
    mount("proc", Path::new("/proc"), "proc")
}

/// Writes a file of the machine that the new root shows as well.
///
/// # Errors
/// As `std::fs::write`; the file is not created.
pub fn write_outside(path: &Path, content: &[u8]) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(content)
}

fn open_mount_namespace() -> rustix::io::Result<()> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe because of UnshareFlags::FILES, which is not used here"
    )]
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS)
}

fn assemble(root: &Path, binds: &[Bind]) -> anyhow::Result<()> {
    let targets: Vec<PathBuf> =
        binds.iter().map(|bind| relative(&bind.target)).collect::<anyhow::Result<_>>()?;
    mount("tmpfs", root, "tmpfs")?;
    // Else the bind of the folder that the new root is in would show the new root inside itself.
    let unbindable = rustix::mount::mount_change(root, MountPropagationFlags::UNBINDABLE);
    unbindable.with_context(|| format!("cannot seal {}", root.display()))?;
    mirror(Path::new("/"), root, &targets.iter().map(PathBuf::as_path).collect::<Vec<_>>(), DEPTH_MAX)?;
    for (bind, target) in binds.iter().zip(&targets) {
        let target = root.join(target);
        make_mount_point(&bind.source, &target)
            .with_context(|| format!("cannot make the mount point {}", bind.target.display()))?;
        bind_mount(&bind.source, &target)?;
    }
    // The old root goes on top of the new one, and is then taken off.
    std::env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    rustix::process::pivot_root(".", ".").context("cannot change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).context("cannot leave the old root")?;
    std::env::set_current_dir("/").context("cannot enter the new root")
}

/// Shows `host` at `copy`. A folder in which a mount point is wanted that the machine does not have is made
/// anew and filled entry by entry; everything else is one bind mount.
fn mirror(host: &Path, copy: &Path, wanted: &[&Path], depth: usize) -> anyhow::Result<()> {
    let depth = depth.checked_sub(1).context("mount point is too deep")?;
    let entries = fs::read_dir(host).with_context(|| format!("cannot list {}", host.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", host.display()))?;
        let (from, to) = (entry.path(), copy.join(entry.file_name()));
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", from.display()))?;
        let inside: Vec<&Path> =
            wanted.iter().filter_map(|path| path.strip_prefix(entry.file_name()).ok()).collect();
        if kind.is_symlink() {
            let target = fs::read_link(&from).with_context(|| format!("cannot read {}", from.display()))?;
            symlink(target, &to).with_context(|| format!("cannot link {}", to.display()))?;
        } else if kind.is_dir() {
            fs::create_dir(&to).with_context(|| format!("cannot create {}", to.display()))?;
            if inside.iter().all(|path| from.join(path).exists()) {
                bind_mount(&from, &to)?;
            } else {
                mirror(&from, &to, &inside, depth)?;
            }
        } else {
            File::create(&to).with_context(|| format!("cannot create {}", to.display()))?;
            bind_mount(&from, &to)?;
        }
    }
    Ok(())
}

fn make_mount_point(source: &Path, target: &Path) -> io::Result<()> {
    if target.exists() {
        return Ok(());
    }
    if source.is_dir() {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(target).map(drop)
}

fn bind_mount(source: &Path, target: &Path) -> anyhow::Result<()> {
    let bound = rustix::mount::mount_bind_recursive(source, target);
    bound.with_context(|| format!("cannot bind {} to {}", source.display(), target.display()))
}

fn mount(kind: &str, target: &Path, source: &str) -> anyhow::Result<()> {
    let mounted = rustix::mount::mount(source, target, kind, MountFlags::empty(), None);
    mounted.with_context(|| format!("cannot mount {kind} at {}", target.display()))
}

/// The path below the root; a pod's mount point may not climb.
fn relative(path: &Path) -> anyhow::Result<PathBuf> {
    let mut components = path.components();
    anyhow::ensure!(
        components.next() == Some(Component::RootDir),
        "mount point is not absolute: {}",
        path.display()
    );
    let rest = components.as_path();
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    anyhow::ensure!(
        plain && rest.components().next().is_some(),
        "mount point not allowed: {}",
        path.display()
    );
    Ok(rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_plain_absolute_paths() {
        assert_eq!(relative(Path::new("/etc/checkout")).unwrap(), Path::new("etc/checkout"));
        for path in ["etc", "/", "", "/a/../b"] {
            assert!(relative(Path::new(path)).is_err(), "{path:?}");
        }
    }
}
