//! Each way in which the OOM killer kills: who dies, in which role, by whose limit.

use aftertrace_model::Kind;
use aftertrace_stage::kubelet::names::QosClass;
use aftertrace_stage::kubelet::spec::SINGLE_PROCESS;
use serde_json::{Value, json};

use crate::common::pod;
use crate::rig::{Rig, is_alive};
use crate::rows::{Case, Process};

/// The kinds that tell of processes.
pub(crate) const KINDS: &[Kind] =
    &[Kind::OomEpisode, Kind::OomKill, Kind::ProcessStarted, Kind::ProcessExited, Kind::ProcessKilled];

/// Limit of a victim's container.
pub(crate) const LIMIT: &str = "24Mi";

/// MiB that no limit of these tests allows.
pub(crate) const MUCH: &str = "1024";

/// A pod of one container that runs a victim and is never restarted.
pub(crate) fn victim(name: &str, arguments: &[&str], limit: &str) -> Value {
    let command: Vec<&str> = ["victim"].iter().chain(arguments).copied().collect();
    let mut pod = pod(name, &command, limit);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

/// Lets an OOM kill take one process and not its container.
pub(crate) fn alone(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({ SINGLE_PROCESS: "app" });
    pod
}

/// Takes limits and requests away: the pod is BestEffort.
fn best_effort(mut pod: Value) -> Value {
    pod["spec"]["containers"][0]["resources"] = json!({});
    pod
}

pub(crate) async fn pid_1_is_killed(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("pid-1"));
    let pod = rig.run(victim("pid-1", &["hog", gate.path(), MUCH], LIMIT)).await;
    let app = pod.container("app");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    rig.assert_counted(app, 1);
    case.lives(&pod).killed(app, "pod").check().await;
}

pub(crate) async fn a_child_is_killed_while_pid_1_lives(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("child"));
    let pod = rig.run(alone(victim("child", &["family", "child", gate.path(), MUCH], LIMIT))).await;
    let app = pod.container("app");
    rig.ready(&pod, "app", 2).await;
    let child = child_of(rig, &pod);
    gate.open();
    rig.until("the child to be gone", || (!is_alive(child)).then_some(())).await;
    assert!(is_alive(app.pid), "the first process lives on");
    assert_eq!(rig.cgroup(&pod, "app").oom_kills().expect("the container runs"), 1);
    case.lives(&pod).child_killed(app, "pod", child).check().await;
}

pub(crate) async fn a_process_that_shares_the_memory_dies_with_it(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("sharer"));
    let pod = rig.run(alone(victim("sharer", &["shared-mm", gate.path()], LIMIT))).await;
    let app = pod.container("app");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    // The kernel counts one kill where two processes died.
    rig.assert_counted(app, 1);
    // Which of the two it marks is the kernel's choice, and the sharer's pid is known to nobody else.
    let of_sharer = |kind: Kind, events: &[aftertrace_model::Event]| {
        let init = u32::try_from(app.pid).expect("pids are positive");
        let found = events.iter().find(|e| e.kind == kind && e.pid != Some(init));
        found.and_then(|event| Some((event.pid?, event.attributes.get("aftertrace.oom.role")?.clone())))
    };
    let (sharer, role) = rig.until("the sharer's kill", || of_sharer(Kind::OomKill, &case.events())).await;
    let sharer = i32::try_from(sharer).expect("pids are small");
    let (of_sharer, of_init) =
        if role == "chosen" { ("chosen", "shared_mm") } else { ("shared_mm", "chosen") };
    case.lives(&pod).episode(app, "pod");
    case.kill(app, of_sharer, "pod", (Process::Child, sharer));
    case.kill(app, of_init, "pod", (Process::Init, app.pid));
    case.check().await;
}

pub(crate) async fn a_group_is_killed(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("group"));
    let pod = rig.run(victim("group", &["family", "child", gate.path(), MUCH, "3"], LIMIT)).await;
    let app = pod.container("app");
    rig.ready(&pod, "app", 5).await;
    let members = rig.cgroup(&pod, "app").processes();
    assert_eq!(members.len(), 5, "{members:?}");
    let hog = newest(rig, &pod);
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    // The end of the pid namespace may reach a sleeper before the OOM killer does, which then finds it dying, and
    // counts it all the same: only the chosen one and the first process are sure to be killed by it.
    let killed = || {
        let kills = case.events().into_iter().filter(|event| event.kind == Kind::OomKill);
        kills.filter_map(|kill| i32::try_from(kill.pid?).ok()).collect::<Vec<_>>()
    };
    rig.until("the first process's row", || killed().contains(&app.pid).then_some(())).await;
    rig.settle().await;
    let killed = killed();
    case.lives(&pod).child_killed(app, "pod", hog);
    for pid in members.into_iter().filter(|pid| *pid != hog && killed.contains(pid)) {
        let process = if pid == app.pid { Process::Init } else { Process::Child };
        case.kill(app, "group", "pod", (process, pid));
    }
    case.check().await;
}

pub(crate) async fn two_containers_are_killed_at_once(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("twins"));
    let one = rig.run(victim("twin-1", &["hog", gate.path(), MUCH], LIMIT)).await;
    let two = rig.run(victim("twin-2", &["hog", gate.path(), MUCH], LIMIT)).await;
    rig.ready(&one, "app", 1).await;
    rig.ready(&two, "app", 1).await;
    gate.open();
    for pod in [&one, &two] {
        assert_eq!(rig.exit_of(pod, "app").await, 137);
        rig.assert_counted(pod.container("app"), 1);
        case.lives(pod).killed(pod.container("app"), "pod");
    }
    case.check().await;
}

pub(crate) async fn a_containers_own_limit_fires(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("own-limit"));
    let mut spec = victim("own-limit", &["hog", gate.path(), MUCH], LIMIT);
    let resources = json!({ "limits": { "memory": "128Mi" }, "requests": { "memory": "128Mi" } });
    let side = json!({ "name": "side", "command": ["sleep", "3600"], "resources": resources });
    spec["spec"]["containers"].as_array_mut().expect("a list").push(side);
    let pod = rig.run(spec).await;
    let app = pod.container("app");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    case.lives(&pod).killed(app, "container").check().await;
}

pub(crate) async fn a_pods_own_limit_fires(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("pod-limit"));
    let mut spec = victim("pod-limit", &["hog", gate.path(), MUCH], "1Gi");
    spec["spec"]["resources"] = json!({ "limits": { "memory": LIMIT } });
    let side = json!({ "name": "side", "command": ["sleep", "3600"] });
    spec["spec"]["containers"].as_array_mut().expect("a list").push(side);
    let pod = rig.run(spec).await;
    let app = pod.container("app");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    case.lives(&pod).killed(app, "pod").check().await;
}

pub(crate) async fn a_class_limit_fires(rig: &Rig) {
    above_pods(rig, "class-limit", QosClass::BestEffort, "qos").await;
}

pub(crate) async fn the_limit_of_all_pods_fires(rig: &Rig) {
    above_pods(rig, "all-limit", QosClass::Guaranteed, "kubepods").await;
}

async fn above_pods(rig: &Rig, name: &str, class: QosClass, level: &str) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate(name));
    let pod = rig.run(best_effort(victim(name, &["hog", gate.path(), MUCH], LIMIT))).await;
    let app = pod.container("app");
    rig.class_cgroup(class).limit_memory(96 << 20).expect("less is used");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    rig.class_cgroup(class).unlimit_memory().expect("a limit can be lifted");
    case.lives(&pod).killed(app, level).check().await;
}

pub(crate) async fn a_limit_above_all_pods_fires(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("far-limit"));
    let pod = rig.run(best_effort(victim("far-limit", &["hog", gate.path(), MUCH], LIMIT))).await;
    let app = pod.container("app");
    let root = rig.stage().kubelet().hierarchy().create(rig.stage().cgroup_root().trim_start_matches('/'));
    let root = root.expect("the stage made it");
    root.limit_memory(96 << 20).expect("less is used");
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    root.unlimit_memory().expect("a limit can be lifted");
    case.lives(&pod).killed(app, "cgroup").check().await;
}

pub(crate) async fn a_victim_that_is_already_exiting_is_no_kill(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("exiting"));
    let pod = rig.run(alone(victim("exiting", &["exiting", gate.path(), "16", "14"], LIMIT))).await;
    rig.ready(&pod, "app", 2).await;
    gate.open();
    rig.until("the rest to be allocated", || rig.log_of(&pod, "app").contains("gone").then_some(())).await;
    let cgroup = rig.cgroup(&pod, "app");
    assert_eq!(cgroup.oom_kills().expect("the container runs"), 0, "the kernel killed nobody");
    // Nobody: the victim was marked and was dying of another signal.
    case.lives(&pod).check().await;
}

pub(crate) async fn a_pid_namespace_that_ends_beside_a_kill_makes_no_more_kills(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("teardown"));
    let pod = rig.run(alone(victim("teardown", &["family", "init", gate.path(), MUCH, "4"], LIMIT))).await;
    let app = pod.container("app");
    rig.ready(&pod, "app", 5).await;
    let members = rig.cgroup(&pod, "app").processes();
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    rig.until("the others to be gone", || members.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
    rig.assert_counted(app, 1);
    case.lives(&pod).killed(app, "pod").check().await;
}

pub(crate) async fn a_process_is_killed_where_it_was_moved_to(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("moved"));
    let from = rig.run(alone(victim("moved-from", &["family", "child", gate.path(), MUCH], "512Mi"))).await;
    let to = rig.run(alone(victim("moved-to", &["sleep"], LIMIT))).await;
    rig.ready(&from, "app", 2).await;
    let child = child_of(rig, &from);
    for entrance in rig.cgroup(&to, "app").entrances() {
        std::fs::write(entrance, child.to_string()).expect("root may move processes");
    }
    gate.open();
    rig.until("the child to be gone", || (!is_alive(child)).then_some(())).await;
    assert!(is_alive(from.container("app").pid) && is_alive(to.container("app").pid));
    assert_eq!(rig.cgroup(&to, "app").oom_kills().expect("the container runs"), 1);
    case.lives(&from).lives(&to).child_killed(to.container("app"), "pod", child).check().await;
}

pub(crate) async fn a_second_thread_allocates_after_the_first_has_ended(rig: &Rig) {
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("leaderless"));
    let pod = rig.run(victim("leaderless", &["leaderless", gate.path()], LIMIT)).await;
    let app = pod.container("app");
    rig.ready(&pod, "app", 1).await;
    gate.open();
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    rig.assert_counted(app, 1);
    case.lives(&pod).killed(app, "pod").check().await;
    let episode = case.events().into_iter().find(|event| event.kind == Kind::OomEpisode).expect("checked");
    let number = |name: &str| episode.attributes.get(name).and_then(Value::as_i64);
    let (pid, tid) = (number("aftertrace.oom.allocator.pid"), number("aftertrace.oom.allocator.tid"));
    assert_eq!(pid, Some(i64::from(app.pid)));
    assert_ne!(tid, pid, "the thread that allocated is not the first");
}

pub(crate) async fn init_containers_and_sidecars_are_told_apart(rig: &Rig) {
    let case = Case::begin(rig, KINDS);
    let [setup_gate, proxy_gate] = ["setup", "proxy"].map(|name| rig.gate(name));
    let resources = json!({ "limits": { "memory": LIMIT }, "requests": { "memory": LIMIT } });
    let container = |name: &str, gate: &str| {
        let command = ["victim", "hog", gate, MUCH];
        json!({ "name": name, "command": command, "resources": resources })
    };
    let mut spec = pod("kinds", &["sleep", "3600"], "96Mi");
    let mut proxy = container("proxy", proxy_gate.path());
    proxy["restartPolicy"] = json!("Always");
    spec["spec"]["initContainers"] = json!([proxy, container("setup", setup_gate.path())]);
    let uid = rig.create(spec);
    let starts = |wanted: usize| {
        let uid = uid.clone();
        move || Some(rig.starts_of(&uid)).filter(|starts| starts.len() >= wanted)
    };
    rig.until("proxy and setup", starts(2)).await;
    setup_gate.open();
    // The gate is open for its next life too: it fails again and again, as an init container does.
    rig.until("a second kill of setup", starts(4)).await;
    proxy_gate.open();
    rig.until("a kill of proxy", || {
        rig.stage().truth().kills().into_iter().find(|kill| kill.container.container == "proxy")
    })
    .await;
    let key = aftertrace_stage::api::store::ObjectKey::new("shop", "kinds");
    let cluster = rig.stage().cluster();
    cluster.delete(aftertrace_stage::api::Resource::Pods, &key, None).expect("the pod is there");
    rig.until("the end", || cluster.get(aftertrace_stage::api::Resource::Pods, &key).is_none().then_some(()))
        .await;
    let kills = rig.stage().truth().kills();
    let killed: Vec<_> = kills.iter().filter(|kill| kill.container.pod_uid == uid).collect();
    rig.settle().await;
    let rows = case.events();
    let rows: Vec<_> = rows.iter().filter(|event| event.kind == Kind::OomKill).collect();
    assert_eq!(rows.len(), killed.len());
    for kill in killed {
        let id = Some(kill.container.container_id.as_str());
        let row = rows.iter().find(|row| row.container_id.as_deref() == id).expect("each life has its kill");
        assert_eq!(row.container.as_deref(), Some(kill.container.container.as_str()));
        let kind = if kill.container.container == "setup" { "init" } else { "sidecar" };
        assert_eq!(row.attributes["aftertrace.container.kind"], kind);
        assert_eq!(row.restart_count.map(i64::from), Some(i64::from(kill.container.restart_count)));
    }
}

/// The only process of a container beside its first.
fn child_of(rig: &Rig, pod: &crate::rig::Running) -> i32 {
    let first = pod.container("app").pid;
    let mut others = rig.cgroup(pod, "app").processes();
    others.retain(|pid| *pid != first);
    assert_eq!(others.len(), 1, "{others:?}");
    others[0]
}

/// The process of a container that was started last.
fn newest(rig: &Rig, pod: &crate::rig::Running) -> i32 {
    let start = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        (fields.split_whitespace().nth(19).and_then(|ticks| ticks.parse::<u64>().ok()), *pid)
    };
    rig.cgroup(pod, "app").processes().into_iter().max_by_key(start).expect("it has processes")
}
