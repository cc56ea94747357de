//! The cgroups of a record as paths, and what each level is to the kubelet.

use aftertrace_model::text;

use crate::attribute::cgroup_name::{Cgroup, CgroupRoot, Level};
use crate::kernel::{MemcgLevel, OomKill};

/// What the victim's cgroup says; `None` where the record does not hold the whole path.
pub(crate) fn classify(kill: &OomKill, root: &CgroupRoot) -> Option<Cgroup> {
    Some(root.classify(&path(&kill.levels, kill.levels_truncated)?))
}

/// What the allocating task's cgroup says; `None` where the record does not hold the whole path.
pub(crate) fn allocator_cgroup(kill: &OomKill, root: &CgroupRoot) -> Option<Cgroup> {
    let (top, below) = kill.charge.levels.split_last()?;
    if kill.charge.levels_truncated || top.name.is_some() {
        return None;
    }
    let names = below.iter().rev().map(|l| l.name.as_deref().filter(|_| !l.name_truncated));
    let names: Vec<&str> = names.collect::<Option<_>>()?;
    Some(root.classify(&names))
}

/// The victim's cgroup as a path, escaped, for one that belongs to no pod.
pub(crate) fn cgroup_path(kill: &OomKill) -> String {
    let names = kill.levels.iter().rev().filter_map(|l| l.name.as_deref());
    names.fold(String::new(), |path, name| path + "/" + &text::escape(name))
}

/// What each level is to the kubelet, in the order of `levels`; `None` where the path is not whole.
pub(super) fn kinds(levels: &[MemcgLevel], is_truncated: bool, root: &CgroupRoot) -> Vec<Option<Level>> {
    let path = path(levels, is_truncated);
    let kind = |depth: usize| {
        let path = path.as_deref()?;
        Some(root.level_of(path.get(..path.len().checked_sub(depth)?)?))
    };
    (0..levels.len()).map(kind).collect()
}

/// What a level is called in a sentence: `container`, `pod`, or the cgroup's own name.
pub(super) fn label(level: &MemcgLevel, kind: Option<Level>) -> String {
    match kind {
        Some(Level::Container) => "container".to_owned(),
        Some(Level::Pod) => "pod".to_owned(),
        _ => level.name.as_deref().map_or_else(|| "node".to_owned(), text::escape),
    }
}

/// The names from the root down, without the root's.
fn path(levels: &[MemcgLevel], is_truncated: bool) -> Option<Vec<&str>> {
    let (top, below) = levels.split_last()?;
    if is_truncated || top.name.is_some() {
        return None;
    }
    below.iter().rev().map(|l| l.name.as_deref().filter(|_| !l.name_truncated)).collect()
}
