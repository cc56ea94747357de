//! What `vm-test` boots: qemu, the kernels, and the base programs of the guest.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::kernels::{self, Kernel, Series};
use super::{deb, on_path, one_line, pins, system};

/// The parts of a virtual machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// A static busybox: the guest's shell and base programs.
    pub(crate) busybox: PathBuf,
    /// The newest kernel of each series, oldest series first.
    pub(crate) kernels: Vec<Kernel>,
    /// The series of which none could be had, and why: Debian 13 has no 6.1, Ubuntu has neither.
    pub(crate) absent: Vec<(Series, String)>,
}

/// Brings what is missing.
pub(crate) fn bring(tools: &Path) -> Result<Machine> {
    if ARCH != "x86_64" {
        bail!("the kernels of the matrix are for x86_64, this machine is {ARCH}");
    }
    if !on_path("apt-get") || !on_path("dpkg-deb") {
        bail!("the kernels of the matrix are Debian's, and this system has no apt");
    }
    if !on_path(pins::QEMU) {
        system::install(pins::QEMU_PACKAGE, "qemu is not installed")?;
    }
    let (mut kernels, mut absent) = (Vec::new(), Vec::new());
    for series in Series::ALL {
        match kernels::bring(tools, series) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => absent.push((series, one_line(&error))),
        }
    }
    let busybox = tools.join("busybox");
    if !busybox.exists() {
        let unpacked = deb::unpack(tools, pins::BUSYBOX_PACKAGE)?;
        fs::rename(unpacked.join("bin/busybox"), &busybox).context("take busybox")?;
    }
    Ok(Machine { busybox, kernels, absent })
}
