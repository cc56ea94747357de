//! Containers that pretend to be another pod, by everything that a container can choose: paths, cgroups, names.

use std::path::Path;

use anyhow::Context;
use rustix::mount::MountFlags;

use super::{memory, say, sleep_for_ever, wait_at};
use crate::kubelet::atomic_writer;

/// More than any container of a test may use, in MiB.
const MUCH_MIB: usize = 1_024;

/// A command name that would move the cursor, colour the screen and add a line to a log.
pub const HOSTILE_NAME: &[u8] = b"\x1b[31mA\nB\tC\x07";

/// See [`super::Victim::ForgeVolume`]. Swaps twice: the first is a mount to whoever has not seen the volume.
///
/// # Errors
/// What the system refuses.
pub fn volume(gate: &Path, kubelet_root: &Path, volume: &Path) -> anyhow::Result<()> {
    wait_at(gate)?;
    rustix::mount::mount("tmpfs", kubelet_root, "tmpfs", MountFlags::empty(), None)
        .context("cannot hide the kubelet's folder")?;
    std::fs::create_dir_all(volume).context("cannot make the volume's folder")?;
    for content in ["one", "two", "three"] {
        let payload = [("app.conf".to_owned(), content.as_bytes().to_vec())].into();
        atomic_writer::write(volume, &payload).context("cannot write the volume")?;
    }
    say("forged")?;
    sleep_for_ever()
}

/// See [`super::Victim::ForgeCgroup`].
///
/// # Errors
/// What the system refuses.
pub fn cgroup(gate: &Path, mount: &Path, path: &Path, limit: Option<u64>) -> anyhow::Result<()> {
    let own = mount.join(own_cgroup()?);
    let inner = own.join(path);
    std::fs::create_dir_all(&inner).context("cannot make the cgroups")?;
    std::fs::write(inner.join("cgroup.procs"), "0").context("cannot enter the cgroup")?;
    let mut folder = own;
    // On v2 each level hands the controller on, once no process is left in it.
    for part in path {
        let control = folder.join("cgroup.subtree_control");
        if control.exists() {
            std::fs::write(&control, "+memory").context("cannot hand on the memory controller")?;
        }
        folder.push(part);
    }
    if let Some(bytes) = limit {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|name| inner.join(name));
        let file = files.iter().find(|file| file.exists()).context("the cgroup has no memory controller")?;
        std::fs::write(file, bytes.to_string()).context("cannot limit the cgroup")?;
    }
    memory::hog(gate, MUCH_MIB)
}

/// This container's cgroup in the hierarchy with the memory controller, relative to its mount.
fn own_cgroup() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let lines = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let v1 = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let found = v1.or_else(|| lines().find(|(controllers, _)| controllers.is_empty()));
    let (_, path) = found.context("this process is in no cgroup")?;
    Ok(path.trim_start_matches('/').to_owned())
}

/// See [`super::Victim::ForgeName`].
///
/// # Errors
/// What the system refuses.
pub fn name(gate: &Path) -> anyhow::Result<()> {
    std::fs::write("/proc/self/comm", HOSTILE_NAME).context("cannot take the name")?;
    memory::hog(gate, MUCH_MIB)
}
