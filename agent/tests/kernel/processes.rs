//! Cgroups named as a kubelet names them, under a root of the tests', and what happens in them.

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use aftertrace_agent::kernel::{
    CgroupChange, Exec, InitExit, InitPlace, PodLevel, Record, Signal, SignalBy, SignalResult, Subject,
};

use crate::machine::{Cgroup, HOG, Observer};

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

/// A container's cgroup in a pod's, under a root of the tests'. Dropped from the inside out.
struct Tree {
    container: Cgroup,
    pod: Cgroup,
    _kubepods: Cgroup,
    _root: Cgroup,
}

impl Tree {
    /// The cgroups, and the programs told of their root before the container's is made.
    fn grow(name: &str, subject: Subject) -> Option<(Self, Observer)> {
        let root = Cgroup::make(name)?;
        let observer = Observer::start(&root.kubelet(), subject)?;
        let kubepods = root.child("kubepods");
        let pod = kubepods.child(POD);
        let container = pod.child(CONTAINER);
        Some((Self { container, pod, _kubepods: kubepods, _root: root }, observer))
    }

    /// Starts a container as a runtime does: its init is made outside, enters the cgroup as the runtime, and
    /// executes the program last. What is returned is the shim.
    fn start(&self, program: &str) -> Shim {
        start_in(&self.container, program)
    }
}

fn start_in(cgroup: &Cgroup, program: &str) -> Shim {
    let script = format!("echo 0 > {} && {program}", cgroup.procs().display());
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    Shim(command.stderr(Stdio::null()).spawn().expect("a command of the base system starts"))
}

/// Killed with its init, and reaped, when dropped.
struct Shim(Child);

impl Shim {
    fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("the child is ours")
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Anything that is told of a container's init; each test has a root of its own.
async fn told(observer: &mut Observer) -> Record {
    observer
        .next(|record| match record {
            Record::Exec(_) | Record::InitExit(_) | Record::Signal(_) => Some(record),
            _ => None,
        })
        .await
}

async fn started(observer: &mut Observer) -> Exec {
    match told(observer).await {
        Record::Exec(exec) => *exec,
        other => panic!("{other:?}"),
    }
}

async fn ended(observer: &mut Observer) -> InitExit {
    match told(observer).await {
        Record::InitExit(exit) => exit,
        other => panic!("{other:?}"),
    }
}

async fn signalled(observer: &mut Observer) -> Signal {
    match told(observer).await {
        Record::Signal(signal) => *signal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_inits_start_and_end_are_told_once_and_nobody_elses() {
    let Some((tree, mut observer)) = Tree::grow("life", Subject::Lifetime) else { return };
    // Children come and go; a nested namespace has an init of its own; the program executes another.
    let program = "exec /bin/sh -c 'sleep 0; (exit 3); unshare --pid --fork sh -c \"exit 4\"; \
                   exec sh -c \"exit 7\"'";
    let mut shim = tree.start(program);
    // As `kubectl exec` does: another process enters from outside.
    let mut entered = tree.container.shell("exit 5");
    entered.run();
    assert!(!shim.wait().success());

    let exec = started(&mut observer).await;
    let place = InitPlace { memcg: tree.container.id(), member: tree.container.id() };
    assert_eq!((exec.place, exec.task.ns_tgid), (place, Some(1)));
    assert_eq!((exec.task.comm.as_deref(), exec.executable.as_deref()), (Some("sh"), Some("/bin/sh")));
    assert_eq!(exec.parent.map(|parent| parent.tgid), Some(shim.0.id()));
    let exit = ended(&mut observer).await;
    assert_eq!((exit.place, exit.task.tgid), (place, exec.task.tgid));
    assert_eq!(exit.task.process_start_boot_ns, exec.task.process_start_boot_ns);
    assert_eq!((exit.signal, exit.code), (None, Some(7)));
    assert!(exit.boot_ns >= exec.boot_ns);

    // The next life is another cgroup; nothing of the first one came in between.
    let second = tree.pod.child(&CONTAINER.replace('2', "3"));
    let mut shim = start_in(&second, "exec true");
    shim.wait();
    let exec = started(&mut observer).await;
    assert_eq!((exec.place.member, exec.task.comm.as_deref()), (second.id(), Some("true")));
    assert_eq!(ended(&mut observer).await.code, Some(0));
}

#[tokio::test(flavor = "current_thread")]
async fn crun_puts_its_processes_below_and_a_container_may_not_imitate_that() {
    let Some((tree, mut observer)) = Tree::grow("crun", Subject::Lifetime) else { return };
    let below = tree.container.child("container");
    start_in(&below, "exec true").wait();
    let exec = started(&mut observer).await;
    assert_eq!(exec.place, InitPlace { memcg: below.id(), member: tree.container.id() });
    assert_eq!(ended(&mut observer).await.code, Some(0));

    // From outside into what no runtime makes: not known whose init that would be.
    let nested = below.child("docker");
    start_in(&nested, "exec true").wait();
    // Not a pod's, though it has the names.
    let imitation = tree.container.child("kubepods");
    start_in(&imitation, "exec true").wait();
    let second = tree.pod.child(&CONTAINER.replace('2', "4"));
    start_in(&second, "exec true").wait();
    assert_eq!(started(&mut observer).await.place.member, second.id());
}

#[tokio::test(flavor = "current_thread")]
async fn of_a_container_from_before_the_start_no_start_is_told() {
    let Some(root) = Cgroup::make("before") else { return };
    let kubepods = root.child("kubepods");
    let pod = kubepods.child(POD);
    let container = pod.child(CONTAINER);
    let mut shim = start_in(&container, "exec sh -c 'sleep 0.3; exec sleep 30'");
    let Some(mut observer) = Observer::start(&root.kubelet(), Subject::Lifetime) else { return };
    std::thread::sleep(Duration::from_millis(600));
    // Its end is.
    rustix::process::kill_process(child_of(shim.0.id()), rustix::process::Signal::KILL).unwrap();
    shim.wait();
    let ends = observer
        .next(|record| match record {
            Record::InitExit(exit) => Some(exit),
            Record::Exec(exec) => panic!("{exec:?}"),
            _ => None,
        })
        .await;
    assert_eq!((ends.signal, ends.task.comm.as_deref()), (Some(9), Some("sleep")));
}

/// The one child of a process, waited for.
fn child_of(pid: u32) -> rustix::process::Pid {
    let path = format!("/proc/{pid}/task/{pid}/children");
    for _ in 0..200 {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} has no child");
}

#[tokio::test(flavor = "current_thread")]
async fn signals_to_an_init_name_their_sender_and_what_became_of_them() {
    let Some((tree, mut observer)) = Tree::grow("killed", Subject::Signal) else { return };
    // It has no handler for SIGTERM, has a child that is killed by its own, and one that outlives it.
    let mut shim = tree.start("exec sh -c 'sleep 60 & kill -9 $!; sleep 60 & wait; wait'");
    let init = started(&mut observer).await;
    let pid = rustix::process::Pid::from_raw(init.task.tgid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // A sender in a cgroup of its own.
    let sender = Cgroup::make("killed-sender").expect("one could be made before");
    sender.shell(&format!("exec kill -9 {}", init.task.tgid)).run();
    shim.wait();

    let term = signalled(&mut observer).await;
    assert_eq!((term.signal, term.result, term.by), (15, SignalResult::Ignored, SignalBy::Kill));
    assert_eq!(term.sender.tgid, std::process::id());
    let kill = signalled(&mut observer).await;
    assert_eq!((kill.signal, kill.result, kill.by), (9, SignalResult::Delivered, SignalBy::Kill));
    assert!(kill.is_group);
    assert_eq!(
        (kill.target.tgid, kill.target.process_start_boot_ns),
        (init.task.tgid, init.task.start_boot_ns)
    );
    assert_eq!(kill.place.member, tree.container.id());
    assert_eq!(kill.sender.comm.as_deref(), Some("kill"));
    assert_eq!((kill.sender_memcg, kill.sender_place), (Some(sender.id()), None));
    assert_eq!((kill.sender_levels, kill.untold), (vec![sender.name()], 0));
    // The namespace was torn down with the init: its children's SIGKILL is the kernel's, and not an init's.
    let exit = ended(&mut observer).await;
    assert_eq!((exit.task.tgid, exit.signal), (init.task.tgid, Some(9)));
    assert!(exit.boot_ns >= kill.boot_ns);
}

#[tokio::test(flavor = "current_thread")]
async fn a_sender_that_loops_is_counted_and_hides_nobody_else() {
    let Some((tree, mut observer)) = Tree::grow("flood", Subject::Signal) else { return };
    // The handler makes sure that each one is handled before the next comes.
    let script = "n=0; while [ $n -lt 100 ]; do n=$((n + 1)); kill -TERM $$; done; exec sleep 60";
    let mut shim = tree.start(&format!("exec sh -c 'trap : TERM; {script}'"));
    let init = started(&mut observer).await;
    let pid = rustix::process::Pid::from_raw(init.task.tgid as i32).unwrap();
    for _ in 0..16 {
        let signal = signalled(&mut observer).await;
        assert_eq!((signal.signal, signal.sender_place), (15, Some(tree.container.id())));
    }
    let flood = |observer: &mut Observer| -> u64 {
        let losses = observer.losses.take();
        losses.iter().filter(|l| l.reason.as_str() == "signal_flood").map(|l| l.count).sum()
    };
    let mut counted = 0;
    while counted < 84 {
        std::thread::sleep(Duration::from_millis(10));
        counted += flood(&mut observer);
    }
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    shim.wait();
    let kill = signalled(&mut observer).await;
    assert_eq!((kill.signal, kill.sender.tgid), (9, std::process::id()));
    assert_eq!(counted, 84);
}

#[tokio::test(flavor = "current_thread")]
async fn an_init_that_the_oom_killer_kills_ends_once() {
    let Some((tree, mut observer)) = Tree::grow("oom-init", Subject::OomKill) else { return };
    tree.container.limit(16 << 20);
    tree.start(HOG).wait();
    let exec = started(&mut observer).await;
    let exit = observer
        .next(|record| match record {
            Record::Exit(exit) if exit.task.tgid == exec.task.tgid => Some(exit),
            Record::InitExit(exit) => panic!("{exit:?}"),
            _ => None,
        })
        .await;
    assert_eq!((exit.signal, exit.code), (Some(9), None));
    let second = tree.pod.child(&CONTAINER.replace('2', "5"));
    start_in(&second, "exec true").wait();
    assert_eq!(started(&mut observer).await.place.member, second.id());
}

#[tokio::test(flavor = "current_thread")]
async fn a_whole_cgroup_that_is_killed_names_who_wrote_so() {
    let Some((tree, mut observer)) = Tree::grow("cgroup-kill", Subject::Signal) else { return };
    let file = tree.container.procs().with_file_name("cgroup.kill");
    if !file.exists() {
        return println!("SKIPPED: {} is not there: cgroup v1, or older than Linux 5.14", file.display());
    }
    let mut shim = tree.start("exec sleep 60");
    let init = started(&mut observer).await;
    std::fs::write(file, "1").unwrap();
    shim.wait();
    let kill = signalled(&mut observer).await;
    assert_eq!((kill.signal, kill.by, kill.target.tgid), (9, SignalBy::Untold, init.task.tgid));
    assert_eq!(kill.sender.tgid, std::process::id());
    assert_eq!(ended(&mut observer).await.signal, Some(9));
}
