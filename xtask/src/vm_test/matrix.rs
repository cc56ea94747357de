//! The variants in which each kernel is booted.

use crate::setup::Series;

/// How a kernel is booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// Four processors: every test.
    Full,
    /// One processor: nothing runs at the same time as anything else.
    OneCpu,
    /// Four processors, `lockdown=confidentiality`: no program may read the kernel's memory.
    Lockdown,
    /// Four processors, without `/sys/kernel/btf/vmlinux`: a kernel built without type information.
    NoBtf,
}

impl Variant {
    /// The variants of a series.
    pub(crate) fn of(series: Series) -> &'static [Self] {
        match series {
            // What a refusal looks like to us does not depend on the series, so the newest shows it.
            Series::V6_1 => &[Self::Full, Self::OneCpu],
            Series::V6_12 => &[Self::Full, Self::OneCpu, Self::Lockdown, Self::NoBtf],
        }
    }

    /// As it is said in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "4 CPUs",
            Self::OneCpu => "1 CPU",
            Self::Lockdown => "lockdown",
            Self::NoBtf => "no BTF",
        }
    }

    /// As it is written on the command line and in paths.
    pub(crate) fn slug(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::OneCpu => "one-cpu",
            Self::Lockdown => "lockdown",
            Self::NoBtf => "no-btf",
        }
    }

    /// The guest's processors.
    pub(crate) fn cpus(self) -> u32 {
        match self {
            Self::OneCpu => 1,
            Self::Full | Self::Lockdown | Self::NoBtf => 4,
        }
    }

    /// What is added to the kernel's command line.
    pub(crate) fn boot_options(self) -> &'static str {
        match self {
            Self::Lockdown => "lockdown=confidentiality",
            Self::Full | Self::OneCpu | Self::NoBtf => "",
        }
    }

    /// What the guest's shell does before the first program.
    pub(crate) fn preparation(self) -> &'static str {
        match self {
            Self::NoBtf => "mount -t tmpfs tmpfs /sys/kernel/btf",
            Self::Full | Self::OneCpu | Self::Lockdown => "",
        }
    }
}
