//! One path per line and what it is.

use super::*;
use crate::recordings;

const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
const UID_: &str = "7c925680_6d5c_463d_b7a3_c322719af62a";
const ID: &str = "223afe3d8e7a9aa5dd3a155170373b69429dcb031d5956d9cbd77683a5cfde84";
const HASH: &str = "0123456789abcdef0123456789abcdef";

/// Reads a path with `U`, `U_`, `I` and `H` for the uid, the uid with underscores, the id and the hash.
fn classify(root: &str, path: &str) -> String {
    let path = path.replace("{U}", UID).replace("{U_}", UID_).replace("{I}", ID).replace("{H}", HASH);
    let path: Vec<&str> = components(&path).collect();
    match CgroupRoot::parse(root).classify(&path) {
        Cgroup::Container { uid, id, nested } => {
            assert_eq!(id.as_str(), ID);
            let uid = uid.as_str().replace(UID, "U").replace(HASH, "H");
            format!("container of {uid}{}", if nested { ", nested" } else { "" })
        }
        Cgroup::Pod { uid } => format!("pod {}", uid.as_str().replace(UID, "U").replace(HASH, "H")),
        Cgroup::Outside => "outside".to_owned(),
    }
}

fn check(root: &str, path: &str, expected: &str) {
    assert_eq!(classify(root, path), expected, "{path} under {root}");
}

#[test]
fn cgroupfs_driver() {
    check("/", "/kubepods/burstable/pod{U}/{I}", "container of U");
    check("/", "/kubepods/besteffort/pod{U}/{I}", "container of U");
    check("/", "/kubepods/pod{U}/{I}", "container of U");
    check("/", "/kubepods/burstable/pod{U}/crio-{I}", "container of U");
    check("/", "/kubepods/burstable/pod{U}/crio-{I}/container", "container of U");
    check("/", "/kubepods/burstable/pod{U}/crio-conmon-{I}", "pod U");
    check("/", "/kubepods/burstable/pod{U}", "pod U");
    check("/", "/kubepods/burstable/pod{H}/{I}", "container of H");
}

#[test]
fn systemd_driver() {
    let burstable = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{U_}.slice";
    check("/", &format!("{burstable}/cri-containerd-{{I}}.scope"), "container of U");
    check("/", &format!("{burstable}/crio-{{I}}.scope"), "container of U");
    check("/", &format!("{burstable}/crio-{{I}}.scope/container"), "container of U");
    check("/", &format!("{burstable}/docker-{{I}}.scope"), "container of U");
    check("/", &format!("{burstable}/crio-conmon-{{I}}.scope"), "pod U");
    check("/", burstable, "pod U");
    check("/", "/kubepods.slice/kubepods-pod{U_}.slice/cri-containerd-{I}.scope", "container of U");
    check("/", "/kubepods.slice/kubepods-pod{H}.slice/crio-{I}.scope", "container of H");
}

#[test]
fn a_root_of_its_own() {
    check("/docker/n1/kubelet", "/docker/n1/kubelet/kubepods/pod{U}/{I}", "container of U");
    check("/docker/n1/kubelet", "/docker/n2/kubelet/kubepods/pod{U}/{I}", "outside");
    let slices = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice";
    let pod = format!("{slices}/kubelet-kubepods-besteffort-pod{{U_}}.slice/cri-containerd-{{I}}.scope");
    check("/kubelet.slice", &pod, "container of U");
    check("/", &pod, "outside");
}

#[test]
fn what_a_container_makes_is_its_own() {
    check("/", "/kubepods/pod{U}/{I}/job", "container of U, nested");
    check("/", "/kubepods/pod{U}/{I}/container/init", "container of U, nested");
    check("/", "/kubepods/pod{U}/{I}/kubepods/pod{H}/{I}", "container of U, nested");
    check("/", "/system.slice/fake.service/kubepods/pod{U}/{I}", "outside");
}

#[test]
fn what_is_no_pod() {
    for path in ["/", "/kubepods", "/kubepods/burstable", "/system.slice/kubelet.service", "/user.slice"] {
        check("/", path, "outside");
    }
    check("/", "/kubepods/podnothex/{I}", "outside");
    check("/", "/kubepods/pod{U}/short", "pod U");
    check("/", "/kubepods.slice/kubepods-burstable.slice/kubepods-besteffort-pod{U_}.slice", "outside");
}

#[test]
fn every_recorded_container_cgroup_is_recognised() {
    let Some(shared) = recordings::root() else { return };
    let mut seen = 0;
    for folder in ["s01-oom-crashloop", "s03-volume-swap", "s06-shortlived", "s09-rollout"] {
        let node = shared.join(folder).join("node");
        for entry in std::fs::read_dir(&node).expect("the recording has a node folder") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_none_or(|e| e != "cgroup") {
                continue;
            }
            let file = path.file_name().and_then(|n| n.to_str()).expect("plain names").to_owned();
            let text = std::fs::read_to_string(&path).expect("a readable recording");
            for line in text.lines().filter(|l| l.contains(":memory:")) {
                let cgroup = line.splitn(3, ':').nth(2).expect("id:controllers:path");
                let names: Vec<&str> = components(cgroup).collect();
                match CgroupRoot::default().classify(&names) {
                    Cgroup::Container { id, nested: false, .. } => {
                        let short = file.split('.').next().expect("split gives one part");
                        assert!(id.as_str().starts_with(short), "{file}: {id}");
                        seen += 1;
                    }
                    other => panic!("{file}: {cgroup} is {other:?}"),
                }
            }
        }
    }
    assert!(seen >= 6, "the recordings hold container cgroups, {seen} were read");
}

#[test]
fn every_recorded_v2_cgroup_is_recognised() {
    let Some(shared) = recordings::root() else { return };
    let tree = std::fs::read_to_string(shared.join("v2-node2/node2.tree.txt")).expect("a readable recording");
    let mut kinds = std::collections::BTreeMap::new();
    for line in tree.lines().filter_map(|l| l.strip_prefix("/sys/fs/cgroup/")) {
        let names: Vec<&str> = components(line.split_whitespace().next().unwrap_or("")).collect();
        let kind = match CgroupRoot::default().classify(&names) {
            Cgroup::Container { .. } => "container",
            Cgroup::Pod { .. } => "pod",
            Cgroup::Outside => "outside",
        };
        let expected =
            match names.len() - usize::from(matches!(names.get(1), Some(&"burstable" | &"besteffort"))) {
                3 => "container",
                2 => "pod",
                _ => "outside",
            };
        assert_eq!(kind, expected, "{line}");
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert!(kinds.contains_key("container") && kinds.contains_key("pod"), "{kinds:?}");
}

#[test]
fn each_limit_has_a_level() {
    let level = |root: &str, path: &str, expected: Level| {
        let path = path.replace("{U}", UID).replace("{U_}", UID_).replace("{I}", ID);
        let path: Vec<&str> = components(&path).collect();
        assert_eq!(CgroupRoot::parse(root).level_of(&path), expected, "{path:?} under {root}");
    };
    level("/", "/", Level::Node);
    level("/", "/kubepods", Level::Kubepods);
    level("/", "/kubepods/burstable", Level::Qos);
    level("/", "/kubepods/burstable/pod{U}", Level::Pod);
    level("/", "/kubepods/burstable/pod{U}/{I}", Level::Container);
    level("/", "/kubepods/burstable/pod{U}/crio-{I}/container", Level::Container);
    level("/", "/kubepods/burstable/pod{U}/{I}/inner", Level::Cgroup);
    level("/", "/kubepods/burstable/pod{U}/{I}/kubepods/besteffort", Level::Cgroup);
    level("/", "/kubepods/burstable/pod{U}/crio-conmon-{I}", Level::Cgroup);
    level("/", "/kubepods/pod{U}", Level::Pod);
    level("/", "/kubepods/guaranteed", Level::Cgroup);
    level("/", "/system.slice", Level::Cgroup);
    let slices = "/kubepods.slice/kubepods-burstable.slice";
    level("/", "/kubepods.slice", Level::Kubepods);
    level("/", slices, Level::Qos);
    level("/", &format!("{slices}/kubepods-burstable-pod{{U_}}.slice"), Level::Pod);
    level("/", &format!("{slices}/kubepods-burstable-pod{{U_}}.slice/crio-{{I}}.scope"), Level::Container);
    level("/", "/kubepods.slice/kubepods-pod{U_}.slice", Level::Pod);
    level("/kubelet.slice", "/kubelet.slice", Level::Cgroup);
    level("/kubelet.slice", "/kubelet.slice/kubelet-kubepods.slice", Level::Kubepods);
    level("/docker/n1", "/docker/n1/kubepods/besteffort", Level::Qos);
    level("/docker/n1", "/docker/n2/kubepods/besteffort", Level::Cgroup);
    level("/docker/n1", "/kubepods", Level::Cgroup);
}
