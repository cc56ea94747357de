//! Cgroups named as a kubelet names them, under a root of the tests', and what happens in them.

use aftertrace_agent::kernel::{CgroupChange, PodLevel, Record, Subject};

use crate::machine::{Cgroup, Observer};

const POD: &str = "pod7c925680-6d5c-463d-b7a3-c322719af62a";
const CONTAINER: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

/// The next change of a cgroup: `true` for one that was made. Those of other tests have other roots, which
/// this observer was not told of.
async fn change(observer: &mut Observer) -> (bool, CgroupChange) {
    observer
        .next(|record| match record {
            Record::CgroupMade(change) => Some((true, change)),
            Record::CgroupGone(change) => Some((false, change)),
            _ => None,
        })
        .await
}

fn made(cgroup: &Cgroup, parent: &Cgroup, level: PodLevel) -> (bool, u64, u64, PodLevel, Option<String>) {
    (true, cgroup.id(), parent.id(), level, Some(cgroup.name()))
}

fn shown((is_made, change): (bool, CgroupChange)) -> (bool, u64, u64, PodLevel, Option<String>) {
    (is_made, change.kernfs_id, change.parent_id, change.level, change.name)
}

#[tokio::test(flavor = "current_thread")]
async fn cgroups_of_pods_are_told_as_they_come_and_go() {
    let Some(root) = Cgroup::make("kubelet") else { return };
    let Some(mut observer) = Observer::start(&root.kubelet(), Subject::Lifetime) else { return };
    assert!(observer.found.is_empty() && observer.pod_cgroups.is_rooted());

    // The kubelet comes to life only now.
    let kubepods = root.child("kubepods");
    let class = kubepods.child("burstable");
    let pod = class.child(POD);
    let container = pod.child(CONTAINER);
    let guaranteed = kubepods.child("pod00000000-0000-4000-8000-000000000001");
    // What a container makes in its own cgroup imitates another pod, and is none.
    let nested = container.child("kubepods");
    let imitation = nested.child(POD);
    let outside = root.child("system.slice");
    drop((imitation, nested, outside));
    let (container_id, pod_id) = (container.id(), pod.id());
    drop(container);
    let expected = [
        made(&kubepods, &root, PodLevel::Kubepods),
        made(&class, &kubepods, PodLevel::Class),
        made(&pod, &class, PodLevel::Pod),
        (true, container_id, pod_id, PodLevel::Member, Some(CONTAINER.to_owned())),
        made(&guaranteed, &kubepods, PodLevel::Pod),
        (false, container_id, pod_id, PodLevel::Member, None),
    ];
    for expected in expected {
        assert_eq!(shown(change(&mut observer).await), expected);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn cgroups_from_before_the_start_are_found_in_either_drivers_names() {
    let Some(root) = Cgroup::make("slices") else { return };
    let kubepods = root.child("kubepods.slice");
    let class = kubepods.child("kubepods-besteffort.slice");
    let pod = class.child("kubepods-besteffort-pod7c925680_6d5c_463d_b7a3_c322719af62a.slice");
    let container = pod.child(&format!("cri-containerd-{CONTAINER}.scope"));
    let _nested = container.child("init.scope");
    let Some(mut observer) = Observer::start(&root.kubelet(), Subject::Lifetime) else { return };

    let found: Vec<_> = observer.found.iter().map(|c| (c.kernfs_id, c.parent_id, c.level)).collect();
    let expected = [
        (kubepods.id(), root.id(), PodLevel::Kubepods),
        (class.id(), kubepods.id(), PodLevel::Class),
        (pod.id(), class.id(), PodLevel::Pod),
        (container.id(), pod.id(), PodLevel::Member),
    ];
    assert_eq!(found, expected);
    let path = [root.name(), kubepods.name(), class.name(), pod.name(), container.name()];
    assert_eq!(observer.found[3].path, path);

    // The programs know them: what comes below is told.
    let second = pod.child("crio-conmon-1.scope");
    assert_eq!(shown(change(&mut observer).await), made(&second, &pod, PodLevel::Member));
    assert_eq!(observer.pod_cgroups.scan().len(), 5);
}
