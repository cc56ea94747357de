//! The kernels of the matrix: Debian's, the newest of each series that apt knows, unpacked and not installed.
//!
//! Nothing here is pinned by hash: apt checks each package against its signed lists, and a security update
//! removes the version before it, so a pinned one would be gone within weeks. What was booted is said.
//! The `cloud` flavour: it has BTF, ftrace, kprobes, lockdown and both serial ports built in, boots without
//! modules, and is half as large.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{deb, say, system};
use crate::child;

/// A series of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Series {
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backport of Debian 13's.
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// All of the matrix, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As people say it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Its series.
    pub(crate) series: Series,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// Where its files are.
    dir: PathBuf,
}

impl Kernel {
    /// The image that a boot loader takes.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// Its own type information, written when it first boots.
    pub(crate) fn btf(&self) -> PathBuf {
        self.dir.join("btf")
    }
}

/// Brings the newest kernel of a series unless it is there. Where apt cannot, the newest that it brought before
/// will do.
pub(crate) fn bring(tools: &Path, series: Series) -> Result<Kernel> {
    newest_package(series).and_then(|package| bring_package(tools, series, &package)).or_else(|error| {
        let Some(kernel) = brought_before(tools, series) else { return Err(error) };
        say(&format!("taking {}, because no newer one can be had: {error:#}", kernel.release));
        Ok(kernel)
    })
}

fn bring_package(tools: &Path, series: Series, package: &str) -> Result<Kernel> {
    let release = package.trim_start_matches(PREFIX).to_owned();
    let kernel = Kernel { series, dir: folder(tools).join(&release), release };
    if !kernel.image().exists() {
        let unpacked = deb::unpack(tools, package)?;
        fs::create_dir_all(&kernel.dir).with_context(|| format!("make {}", kernel.dir.display()))?;
        let image = unpacked.join(format!("boot/vmlinuz-{}", kernel.release));
        fs::rename(&image, kernel.image()).with_context(|| format!("take {}", image.display()))?;
    }
    Ok(kernel)
}

fn brought_before(tools: &Path, series: Series) -> Option<Kernel> {
    let entries =
        fs::read_dir(folder(tools)).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let known: Vec<String> = entries.map(|release| format!("{PREFIX}{release}")).collect();
    let release = newest(&known.join("\n"), series)?.trim_start_matches(PREFIX).to_owned();
    let kernel = Kernel { series, dir: folder(tools).join(&release), release };
    kernel.image().exists().then_some(kernel)
}

fn folder(tools: &Path) -> PathBuf {
    tools.join("kernels")
}

/// Before the release in a package's name.
const PREFIX: &str = "linux-image-";

/// Asks apt; its lists are brought if it knows none of the series.
fn newest_package(series: Series) -> Result<String> {
    let search = || -> Result<Option<String>> {
        let known = child::output(Command::new("apt-cache").args(["search", "--names-only", PREFIX]))?;
        Ok(newest(&known, series))
    };
    if let Some(package) = search()? {
        return Ok(package);
    }
    system::update()?;
    match search()? {
        Some(package) => Ok(package),
        None => bail!(
            "apt knows no kernel {} of flavour cloud-amd64; Debian 12 with its security updates has it",
            series.name()
        ),
    }
}

/// The package with the highest version among the lines `package - description` of apt.
fn newest(known: &str, series: Series) -> Option<String> {
    let packages = known.lines().filter_map(|line| line.split(' ').next());
    packages
        .filter_map(|package| Some((version(package, series)?, package)))
        .max()
        .map(|(_, package)| package.to_owned())
}

/// The numbers of a signed cloud kernel of this series: `6.1.0-56` and `6.12.117+deb12` are its two shapes.
fn version(package: &str, series: Series) -> Option<Vec<u32>> {
    let release = package.strip_prefix(PREFIX)?.strip_suffix("-cloud-amd64")?;
    let rest = release.strip_prefix(series.name())?.strip_prefix('.')?;
    let numbers = rest.split(['.', '-', '+']).map(|part| part.trim_start_matches("deb").parse().ok());
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What apt says on Debian 12, shortened.
    const KNOWN: &str = "\
linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)
linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-57-cloud-amd64-unsigned - Linux 6.1 for x86-64 cloud
linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-58-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.118+deb12-rt-amd64 - Linux 6.12 for 64-bit PCs (signed), PREEMPT_RT
linux-image-cloud-amd64 - Linux for x86-64 cloud (meta-package)
";

    #[test]
    fn the_newest_signed_cloud_kernel_of_the_series_is_chosen_by_number() {
        let chosen = |series| newest(KNOWN, series);
        assert_eq!(chosen(Series::V6_1).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(chosen(Series::V6_12).as_deref(), Some("linux-image-6.12.117+deb12-cloud-amd64"));
    }

    #[test]
    fn a_series_that_apt_does_not_know_is_none() {
        assert_eq!(newest("linux-image-6.12.1+deb12-cloud-amd64 - x\n", Series::V6_1), None);
        assert_eq!(newest("", Series::V6_12), None);
    }

    #[test]
    fn without_apt_the_newest_that_is_there_will_do() {
        let tools = tempfile::tempdir().expect("a temporary folder");
        for release in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.1+deb12-cloud-amd64"] {
            let dir = folder(tools.path()).join(release);
            fs::create_dir_all(&dir).expect("make a folder");
            fs::write(dir.join("vmlinuz"), "").expect("write a file");
        }
        let found = |series| brought_before(tools.path(), series).map(|kernel| kernel.release);
        assert_eq!(found(Series::V6_1).as_deref(), Some("6.1.0-56-cloud-amd64"));
        fs::remove_file(folder(tools.path()).join("6.12.1+deb12-cloud-amd64/vmlinuz")).expect("it is there");
        assert_eq!(found(Series::V6_12), None);
    }
}
