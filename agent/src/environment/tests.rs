//! A real process's environment, told as the pod spec explains it.

use std::process::{Child, Command};

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;
use crate::kernel::InitPlace;
use crate::lifetimes::tests::task;

const UID: &str = "7c925680-6d5c-463d-b7a3-c322719af62a";
const ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

/// A process with an environment of the test's, ended when dropped.
struct Init(Child);

impl Init {
    fn with(variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sleep");
        let child = command.arg("60").env_clear().envs(variables.iter().copied()).spawn();
        let init = Self(child.expect("a command of the base system starts"));
        while !init.stat().contains("(sleep)") {
            std::thread::yield_now();
        }
        init
    }

    fn stat(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs")
    }

    fn exec(&self) -> Exec {
        let stat = self.stat();
        let (_, behind) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = behind.split_whitespace().nth(19).and_then(|t| t.parse().ok()).expect("a start");
        let mut task = task(self.0.id(), "sleep");
        task.process_start_boot_ns = Some(ticks * 10_000_000);
        Exec { boot_ns: 7, task, parent: None, place: InitPlace { memcg: 4, member: 4 }, executable: None }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn object(name: &str) -> MountedObject {
    MountedObject { kind: "ConfigMap", namespace: "n".into(), name: name.into() }
}

fn key(byte: u8) -> ObjectKey {
    ObjectKey::from_bytes([byte; 32])
}

/// A pod whose container takes one key of `single` and all of `whole`.
fn pod(has_status: bool) -> Pod {
    let status = json!({"containerStatuses": [{"name": "app", "restartCount": 1, "ready": true, "image": "",
        "imageID": "", "containerID": format!("containerd://{ID}")}]});
    let pod = json!({
        "metadata": {"uid": UID, "name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "app",
            "env": [{"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "single", "key": "mode"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef":
                    {"name": "single", "key": "gone", "optional": true}}}],
            "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "whole"}}]}]},
        "status": if has_status { status } else { json!({}) }});
    serde_json::from_value(pod).expect("a pod")
}

/// What the agent knows around the environments.
struct Bench {
    environments: Environments,
    pods: Pods,
    keys: HashMap<MountedObject, ObjectKey>,
}

impl Bench {
    fn started(init: &Init) -> Self {
        let mut environments = Environments::default();
        let (uid, id) = (CgroupUid::parse(UID).expect("a uid"), ContainerId::parse(ID).expect("an id"));
        assert!(environments.started(&init.exec(), (&uid, &id), at(0)).is_none());
        Self { environments, pods: Pods::default(), keys: HashMap::new() }
    }

    fn settle(&mut self, second: i64) -> Vec<Told> {
        let origin = Origin { cluster: "c".into(), node: "n".into() };
        let known = (&self.pods, &self.keys, Path::new("/proc"));
        self.environments.settle(&origin, known, at(second), |_| Occurrence::within(at(0), 1))
    }

    fn events(&mut self, second: i64) -> Vec<Event> {
        let told = self.settle(second).into_iter().flat_map(|told| match told {
            Told::Events(events) => events,
            other => panic!("{other:?}"),
        });
        told.collect()
    }
}

const GIVEN: &[(&str, &str)] = &[("MODE", "fast"), ("CFG_LEVEL", "3"), ("PATH", "/bin")];

#[test]
fn values_wait_for_name_and_keys_and_leave_as_hashes() {
    let init = Init::with(GIVEN);
    let mut bench = Bench::started(&init);
    assert!(bench.events(0).is_empty(), "the pod is not known");
    bench.pods.apply(&pod(false), at(0));
    assert!(bench.events(1).is_empty(), "which container it is, is not known");
    // The process ends and its environment with it; what is wanted of it was kept.
    drop(init);
    bench.pods.apply(&pod(true), at(1));
    bench.keys.insert(object("single"), key(1));
    assert!(bench.events(2).is_empty(), "a key is missing");
    bench.keys.insert(object("whole"), key(2));
    let events = bench.events(3);
    let [whole, single] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(
        (single.kind, single.container.as_deref(), single.restart_count),
        (Kind::ConfigInjected, Some("app"), Some(1))
    );
    assert_eq!(single.object.as_ref().map(|o| o.name.as_str()), Some("single"));
    let content = single.content.as_ref().expect("the key is known");
    assert_eq!(content, &key(1).content([("mode", &b"fast"[..])]));
    assert_eq!(single.attributes["aftertrace.env.names"], json!({"MODE": "mode"}));
    assert_eq!((&whole.content, &whole.attributes["aftertrace.env.names"]), (&None, &json!({})));
    assert_eq!(whole.attributes["aftertrace.env.candidates"], json!({"LEVEL": key(2).hash(b"3")}));
    let shown = format!("{events:?}");
    assert!(!shown.contains("fast") && !shown.contains("PATH"), "{shown}");
    assert!(bench.environments.is_empty());
}

#[test]
fn without_a_key_no_hash_and_no_value() {
    let init = Init::with(GIVEN);
    let mut bench = Bench::started(&init);
    bench.pods.apply(&pod(true), at(0));
    bench.keys.insert(object("whole"), key(2));
    assert!(bench.events(29).is_empty());
    let events = bench.events(30);
    let single = events.iter().find(|e| e.object.as_ref().is_some_and(|o| o.name == "single")).expect("told");
    assert_eq!(
        (&single.content, &single.attributes["aftertrace.content"]),
        (&None, &json!("hash unavailable"))
    );
    assert!(!format!("{events:?}").contains("fast"));
    assert!(bench.environments.is_empty());
}

#[test]
fn a_process_that_is_gone_is_said_and_one_that_takes_nothing_is_forgotten() {
    let init = Init::with(GIVEN);
    let mut bench = Bench::started(&init);
    drop(init);
    bench.pods.apply(&pod(true), at(0));
    bench.keys.extend([(object("single"), key(1)), (object("whole"), key(2))]);
    assert!(matches!(bench.settle(1).as_slice(), [Told::Unread(_)]));

    let init = Init::with(GIVEN);
    let mut bench = Bench::started(&init);
    let mut plain = pod(true);
    plain.spec.as_mut().expect("a spec").containers[0].env = None;
    plain.spec.as_mut().expect("a spec").containers[0].env_from = None;
    bench.pods.apply(&plain, at(0));
    assert!(bench.settle(1).is_empty() && bench.environments.is_empty());
}

#[test]
fn a_deleted_pod_has_said_its_last() {
    let init = Init::with(GIVEN);
    let mut bench = Bench::started(&init);
    bench.pods.apply(&pod(true), at(0));
    assert!(bench.events(1).is_empty());
    bench.pods.delete(UID, at(2));
    assert_eq!(bench.events(2).len(), 2);
}

#[test]
fn keys_of_what_waits_are_wanted_and_the_oldest_goes_when_there_is_no_room() {
    let init = Init::with(&[]);
    let mut bench = Bench::started(&init);
    bench.pods.apply(&pod(false), at(0));
    assert_eq!(bench.environments.objects(&bench.pods), [object("whole"), object("single")]);
    let (uid, id) = (CgroupUid::parse(UID).expect("a uid"), ContainerId::parse(ID).expect("an id"));
    for _ in 1..HELD_MAX {
        assert!(bench.environments.started(&init.exec(), (&uid, &id), at(0)).is_none());
    }
    assert!(matches!(bench.environments.started(&init.exec(), (&uid, &id), at(0)), Some(Told::LetGo)));
}
