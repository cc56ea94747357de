//! Who ended a container when it was not the OOM killer, and lives too short for the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use aftertrace_stage::api::Resource;
use aftertrace_stage::api::store::ObjectKey;
use aftertrace_stage::kubelet::truth::Started;
use rustix::process::Signal;
use serde_json::json;

use crate::common::pod;
use crate::kills::{KINDS, LIMIT, MUCH, victim};
use crate::rig::{Gate, Rig, Running, is_alive, kill};
use crate::rows::Case;

/// How often a case tries to be given a process id a second time; others of this machine may take it first.
const REUSES_TRIED: usize = 60;

/// A pod of one container that is never restarted.
fn once(name: &str, command: &[&str]) -> serde_json::Value {
    let mut pod = pod(name, command, "64Mi");
    pod["spec"]["restartPolicy"] = json!("Never");
    pod
}

pub(crate) async fn a_process_kills_a_container(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let pod = rig.run(once("killed", &["sleep", "3600"])).await;
    let app = pod.container("app");
    kill(app.pid, Signal::KILL);
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    assert_eq!(rig.kills_of(app), 0);
    case.lives(&pod).signalled(app, "SIGKILL", "delivered").check().await;
}

pub(crate) async fn a_process_asks_a_container_to_end(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let pod = rig.run(once("asked", &["sh", "-c", script])).await;
    rig.ready(&pod, "app", 1).await;
    let app = pod.container("app");
    kill(app.pid, Signal::TERM);
    assert_eq!(rig.exit_of(&pod, "app").await, 3);
    case.lives(&pod).signalled(app, "SIGTERM", "delivered").check().await;
}

pub(crate) async fn a_signal_that_the_kernel_drops_is_told_as_such(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    // The first process of a pid namespace gets no signal that it does not handle, SIGKILL from outside excepted.
    let pod = rig.run(once("deaf", &["sleep", "3600"])).await;
    let app = pod.container("app");
    kill(app.pid, Signal::TERM);
    kill(app.pid, Signal::USR1);
    rig.settle().await;
    assert!(is_alive(app.pid));
    case.lives(&pod).signalled(app, "SIGTERM", "ignored").check().await;
}

pub(crate) async fn a_process_of_the_container_itself_ends_it(rig: &Rig) {
    let case = Case::begin(rig, KINDS);
    let script = "trap 'exit 4' TERM; (kill -TERM 1); while :; do sleep 0.05; done";
    let pod = rig.run(once("suicide", &["sh", "-c", script])).await;
    let app = pod.container("app");
    assert_eq!(rig.exit_of(&pod, "app").await, 4);
    if !rig.sees("signal") {
        return;
    }
    let of_app = |event: &aftertrace_model::Event| event.kind == aftertrace_model::Kind::ProcessKilled;
    let row = rig.until("its row", || case.events().into_iter().find(of_app)).await;
    assert_eq!(row.attributes["aftertrace.sender.container.id"], app.container.container_id.as_str());
    assert_eq!(row.attributes["aftertrace.sender.pod.uid"], pod.uid.as_str());
    assert_ne!(row.attributes["aftertrace.sender.pid"], app.pid);
}

pub(crate) async fn a_container_executes_twice_and_starts_once(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let pod = rig.run(once("exec", &["sh", "-c", "sleep 0.01; exec sh -c 'exit 7'"])).await;
    assert_eq!(rig.exit_of(&pod, "app").await, 7);
    case.lives(&pod).check().await;
}

pub(crate) async fn a_container_that_lives_for_fifty_milliseconds(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let mut pods = Vec::new();
    for n in 0..10 {
        pods.push(rig.create(once(&format!("brief-{n}"), &["sh", "-c", "sleep 0.05; exit 5"])));
    }
    for uid in &pods {
        rig.until("the end", || {
            let exits = rig.stage().truth().exits();
            exits.iter().any(|exit| &exit.container.pod_uid == uid && exit.exit_code == 5).then_some(())
        })
        .await;
        case.lives_of(uid);
    }
    case.check().await;
}

pub(crate) async fn a_pod_is_removed_within_fifty_milliseconds(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    for n in 0..10 {
        let name = format!("removed-{n}");
        let started = started(rig, once(&name, &["sleep", "3600"])).await;
        remove(rig, &name);
        gone(rig, &started).await;
        // The kubelet asks first; `sleep` does not hear it.
        case.lives_of(&started.container.pod_uid).signalled(&started, "SIGTERM", "ignored");
        case.signalled(&started, "SIGKILL", "delivered");
    }
    case.check().await;
}

pub(crate) async fn a_pod_is_removed_as_it_is_killed(rig: &Rig) {
    if !rig.tells_lives() {
        return;
    }
    let (mut case, gate) = (Case::begin(rig, KINDS), rig.gate("removed"));
    gate.open();
    for n in 0..10 {
        let name = format!("removed-kill-{n}");
        let started = started(rig, victim(&name, &["hog", gate.path(), MUCH], LIMIT)).await;
        rig.until("its death", || (!is_alive(started.pid)).then_some(())).await;
        remove(rig, &name);
        gone(rig, &started).await;
        rig.assert_counted(&started, 1);
        case.lives_of(&started.container.pod_uid).killed(&started, "pod");
    }
    case.check().await;
}

/// The API forgets a pod at once, whatever its kubelet does.
fn remove(rig: &Rig, name: &str) {
    rig.stage().cluster().remove(Resource::Pods, &ObjectKey::new("shop", name)).expect("the pod is there");
}

async fn started(rig: &Rig, pod: serde_json::Value) -> Started {
    let uid = rig.create(pod);
    rig.until("the start", || rig.starts_of(&uid).into_iter().next()).await
}

async fn gone(rig: &Rig, started: &Started) {
    let id = &started.container.container_id;
    rig.until("the end", || {
        let exits = rig.stage().truth().exits();
        exits.iter().any(|exit| &exit.container.container_id == id).then_some(())
    })
    .await;
}

/// Two containers, one after the other, whose first processes have the same id here.
pub(crate) async fn a_process_id_is_given_twice(rig: &Rig) {
    let mut case = Case::begin(rig, KINDS);
    let (gate, chooser) = (rig.gate("reused"), Chooser::start());
    gate.open();
    let mut lives: Vec<Running> = Vec::new();
    let mut wanted = 0;
    for n in 0..REUSES_TRIED {
        // Where another program took it, perhaps for long, the next one is tried.
        if n % 4 == 0 {
            chooser.rest();
        } else {
            chooser.choose(wanted);
        }
        let pod = killed(rig, &format!("reused-{n}"), &gate).await;
        let pid = pod.container("app").pid;
        let is_again = lives.iter().any(|earlier| earlier.container("app").pid == pid);
        wanted = if n % 4 == 0 { pid } else { wanted };
        case.lives(&pod).killed(pod.container("app"), "pod");
        lives.push(pod);
        if is_again {
            println!("process id {pid} was given again at try {n}");
            return case.check().await;
        }
    }
    println!("SKIPPED: others of this machine took each id first, {REUSES_TRIED} times");
    case.check().await;
}

/// A thread that makes the kernel give process ids from a chosen one on, for as long as others take some, too.
struct Chooser(Arc<AtomicI32>);

impl Chooser {
    fn start() -> Self {
        let last = Arc::new(AtomicI32::new(0));
        let chosen = Arc::downgrade(&last);
        std::thread::spawn(move || {
            while let Some(last) = chosen.upgrade() {
                let last = last.load(Ordering::Relaxed);
                if last > 0 {
                    std::fs::write("/proc/sys/kernel/ns_last_pid", last.to_string())
                        .expect("root may choose");
                }
                std::thread::yield_now();
            }
        });
        Self(last)
    }

    /// The third process or thread made from now on gets this id: a container is a shim, its thread, its init.
    fn choose(&self, pid: i32) {
        let is_free = |id: &i32| !std::path::Path::new(&format!("/proc/{id}")).exists();
        let second = (1..pid).rev().filter(is_free).nth(1).expect("two ids are free");
        self.0.store(second - 1, Ordering::Relaxed);
    }

    fn rest(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

async fn killed(rig: &Rig, name: &str, gate: &Gate) -> Running {
    let pod = rig.run(victim(name, &["hog", gate.path(), MUCH], LIMIT)).await;
    assert_eq!(rig.exit_of(&pod, "app").await, 137);
    rig.assert_counted(pod.container("app"), 1);
    pod
}
