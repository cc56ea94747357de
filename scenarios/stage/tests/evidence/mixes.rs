//! Many kills and many swaps of all kinds at once: all of them told, each as what it was, and none besides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aftertrace_model::{Event, Kind};
use aftertrace_stage::kubelet::names::QosClass;
use aftertrace_stage::kubelet::truth::{Exited, Started};
use serde_json::{Value, json};

use crate::config::{self, Way, swap_of};
use crate::kills::{self, LIMIT, MUCH, alone, victim};
use crate::rig::{Gate, Rig, Running, number};
use crate::rows::Case;

/// How many kills are made, by default.
const KILLS: u32 = 200;

/// How many volumes are swapped, by default.
const SWAPS: u32 = 200;

/// A victim as a row tells it: role, level, and whether it was its container's init.
type Told = (&'static str, &'static str, bool);

/// Pods that die in one way, again and again.
struct Death {
    name: &'static str,
    pod: fn(&str, &Gate) -> Value,
    /// Its victims in each life, sorted.
    victims: &'static [Told],
    /// Kills that the kernel counts in each life.
    counted: std::ops::RangeInclusive<u64>,
    /// Whether it needs a kernel that kills groups.
    v2_only: bool,
}

const WAYS: &[Death] = &[
    Death {
        name: "init",
        pod: |name, gate| victim(name, &["hog", gate.path(), MUCH], LIMIT),
        victims: &[("chosen", "pod", true)],
        counted: 1..=2,
        v2_only: false,
    },
    Death {
        name: "own-limit",
        pod: |name, gate| {
            let mut pod = victim(name, &["hog", gate.path(), MUCH], LIMIT);
            let resources = json!({ "limits": { "memory": "128Mi" }, "requests": { "memory": "128Mi" } });
            let side = json!({ "name": "side", "command": ["sleep", "36000"], "resources": resources });
            pod["spec"]["containers"].as_array_mut().expect("a list").push(side);
            pod
        },
        victims: &[("chosen", "container", true)],
        counted: 1..=2,
        v2_only: false,
    },
    Death {
        name: "child",
        pod: |name, gate| alone(victim(name, &["family", "child", gate.path(), MUCH, "0", "--end"], LIMIT)),
        victims: &[("chosen", "pod", false)],
        counted: 1..=1,
        v2_only: false,
    },
    Death {
        name: "shared",
        pod: |name, gate| alone(victim(name, &["shared-mm", gate.path()], LIMIT)),
        // Which of the two is chosen is the kernel's choice.
        victims: &[("chosen", "pod", true), ("shared_mm", "pod", false)],
        counted: 1..=1,
        v2_only: false,
    },
    Death {
        name: "teardown",
        pod: |name, gate| alone(victim(name, &["family", "init", gate.path(), MUCH, "3"], LIMIT)),
        victims: &[("chosen", "pod", true)],
        counted: 1..=1,
        v2_only: false,
    },
    Death {
        name: "thread",
        pod: |name, gate| victim(name, &["leaderless", gate.path()], LIMIT),
        victims: &[("chosen", "pod", true)],
        counted: 1..=2,
        v2_only: false,
    },
    Death {
        name: "class",
        pod: |name, gate| {
            let mut pod = victim(name, &["hog", gate.path(), MUCH], LIMIT);
            pod["spec"]["containers"][0]["resources"] = json!({});
            pod
        },
        victims: &[("chosen", "qos", true)],
        counted: 1..=2,
        v2_only: false,
    },
    Death {
        name: "group",
        pod: |name, gate| victim(name, &["family", "child", gate.path(), MUCH, "2"], LIMIT),
        victims: &[
            ("chosen", "pod", false),
            ("group", "pod", false),
            ("group", "pod", false),
            ("group", "pod", true),
        ],
        counted: 2..=5,
        v2_only: true,
    },
];

/// Pods of each way; the class limit is for one.
fn pods_of(way: &Death) -> usize {
    if way.name == "class" { 1 } else { 2 }
}

pub(crate) async fn many_kills(rig: &Rig) {
    let wanted = number("AFTERTRACE_EVIDENCE_KILLS").unwrap_or(KILLS) as usize;
    let (case, gate) = (Case::begin(rig, kills::KINDS), rig.gate("mix"));
    rig.class_cgroup(QosClass::BestEffort).limit_memory(64 << 20).expect("nothing is used there yet");
    let mut deaths: BTreeMap<String, &Death> = BTreeMap::new();
    for way in WAYS.iter().filter(|way| rig.is_v2() || !way.v2_only) {
        for n in 0..pods_of(way) {
            let name = format!("{}-{n}", way.name);
            let mut pod = (way.pod)(&name, &gate);
            pod["spec"]["restartPolicy"] = json!("Aldeaths");
            deaths.insert(rig.create(pod), way);
        }
    }
    gate.open();
    let lives = || {
        let exits = rig.stage().truth().exits().into_iter();
        exits.filter(|exit| deaths.contains_key(&exit.container.pod_uid)).collect::<Vec<Exited>>()
    };
    let victims = |lives: &[Exited]| {
        lives.iter().map(|life| deaths[&life.container.pod_uid].victims.len()).sum::<usize>()
    };
    let mut made = 0;
    while made < wanted {
        let now = rig.until("more kills", || Some(victims(&lives())).filter(|now| *now > made)).await;
        made = now;
    }
    gate.close();
    // Those that have passed the gate die; the others wait there for their pods' deletion.
    let mut before = usize::MAX;
    while std::mem::replace(&mut before, lives().len()) != lives().len() {
        tokio::time::sleep(Duration::from_secs(2) * number("AFTERTRACE_TEST_SLOWNESS").unwrap_or(1)).await;
    }
    let lives = lives();
    let made = victims(&lives);
    rig.clear().await;
    rig.settle().await;
    let all = || {
        let rows = case.events().iter().filter(|event| event.kind == Kind::OomKill).count();
        (rows >= made).then_some(())
    };
    rig.within(crate::rig::patience(), all).await;
    rig.settle().await;
    compare(rig, &lives, &deaths, &case.events());
    println!(
        "{made} kills in {} lives of {} pods: each told once, as what it was",
        lives.len(),
        deaths.len()
    );
}

/// Compares life by life; and what is told of no life is too much.
fn compare(rig: &Rig, lives: &[Exited], deaths: &BTreeMap<String, &Death>, events: &[Event]) {
    let mut rows: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| matches!(event.kind, Kind::OomKill | Kind::OomEpisode)) {
        rows.entry(event.container_id.as_deref().unwrap_or("nobody")).or_default().push(event);
    }
    let mut wrong = Vec::new();
    for life in lives {
        let (name, way) = (&life.container, deaths[&life.container.pod_uid]);
        let of_life = rows.remove(name.container_id.as_str()).unwrap_or_default();
        let of_kind = |kind: Kind| of_life.iter().copied().filter(move |event| event.kind == kind);
        let mut told: Vec<(&str, &str, bool)> = of_kind(Kind::OomKill).map(told).collect();
        told.sort_unstable();
        let mut expected = way.victims.to_vec();
        if way.name == "shared" && told.first().is_some_and(|(_, _, is_init)| !is_init) {
            expected = vec![("chosen", "pod", false), ("shared_mm", "pod", true)];
        }
        let is_named = of_life.iter().all(|event| {
            let pod = event.pod.as_ref().map(|pod| (pod.uid.as_str(), pod.name.as_str()));
            pod == Some((name.pod_uid.as_str(), name.pod.as_str()))
                && event.container.as_deref() == Some(&name.container)
                && event.restart_count.map(i64::from) == Some(i64::from(name.restart_count))
        });
        let episodes: BTreeSet<_> = of_kind(Kind::OomEpisode).map(|event| event.event_id).collect();
        let of_kills: BTreeSet<_> = of_kind(Kind::OomKill).filter_map(|event| event.episode_id).collect();
        let one_decision = episodes.len() == 1 && episodes == of_kills;
        let counted = kills_of(rig, life);
        if way.name == "group" {
            // The end of the pid namespace may reach a sleeper before the OOM killer does.
            let sleepers = told.iter().filter(|told| **told == ("group", "pod", false)).count();
            expected.retain(|told| *told != ("group", "pod", false));
            expected.extend(std::iter::repeat_n(("group", "pod", false), sleepers.min(2)));
            expected.sort_unstable();
        }
        if told != expected || !is_named || !one_decision || !way.counted.contains(&counted) {
            wrong.push(format!(
                "{} {}#{}: told {told:?}, {} decisions, counted {counted}, named right: {is_named}",
                way.name,
                name.pod,
                name.restart_count,
                episodes.len()
            ));
        }
    }
    let invented: Vec<String> = rows.values().flatten().map(|event| crate::rows::line(event)).collect();
    assert!(
        wrong.is_empty() && invented.is_empty(),
        "{} of {} lives are wrong: {wrong:#?}\ninvented: {invented:#?}",
        wrong.len(),
        lives.len()
    );
}

fn told(event: &Event) -> (&str, &str, bool) {
    let text = |name: &str| event.attributes.get(name).and_then(Value::as_str).unwrap_or("-");
    (text("aftertrace.oom.role"), text("aftertrace.oom.level"), event.container_init == Some(true))
}

fn kills_of(rig: &Rig, life: &Exited) -> u64 {
    let started = Started { container: life.container.clone(), pid: 0, at: life.at };
    rig.kills_of(&started)
}

/// Consumers of volumes and environments; those that follow a volume reopen their file at each swap.
const CONSUMERS: &[(&str, Way, &str)] = &[
    ("map-1", Way::ConfigMap, "reopen"),
    ("map-2", Way::ConfigMap, "reopen"),
    ("nested", Way::Nested, "reopen"),
    ("secret-1", Way::Secret, "reopen"),
    ("secret-2", Way::Secret, "reopen"),
    ("projected-1", Way::Projected, "reopen"),
    ("projected-2", Way::Projected, "reopen"),
    ("part", Way::SubPath, "once"),
    ("variable", Way::Env, ""),
];

pub(crate) async fn many_swaps(rig: &Rig) {
    let wanted = number("AFTERTRACE_EVIDENCE_SWAPS").unwrap_or(SWAPS) as usize;
    let mut case = Case::begin(rig, config::KINDS);
    let mut pods: Vec<(Way, Running)> = Vec::new();
    for (name, way, how) in CONSUMERS {
        rig.apply(way.object(name, "0"));
        let path = way.path();
        let command = ["victim", "read", how, &path];
        let command: &[&str] = if *way == Way::Env { &["sleep", "36000"] } else { &command };
        pods.push((*way, rig.run(way.pod(name, command)).await));
    }
    for (_, pod) in pods.iter().filter(|(way, _)| *way != Way::Env) {
        rig.ready(pod, "app", 1).await;
    }
    config::long_ago(rig).await;
    let volumes = pods.iter().filter(|(way, _)| *way != Way::Env).count();
    let rounds = wanted.div_ceil(volumes);
    for round in 1..=rounds {
        let value = round.to_string();
        for (way, pod) in &pods {
            rig.apply(way.object(&pod.name, &value));
        }
        for (way, pod) in pods.iter().filter(|(way, _)| *way != Way::Env) {
            let swap = swap_of(rig, pod, round).await;
            case.row(way.swap_row(&swap, &value));
            if *way == Way::SubPath {
                if rig.sees("config_read") {
                    case.row(way.stale_row(pod, &swap, "sub_path"));
                }
                continue;
            }
            let line = format!("read {value}");
            rig.until(&format!("{} to read {value}", pod.name), || {
                rig.log_of(pod, "app").lines().any(|l| l == line).then_some(())
            })
            .await;
            if rig.sees("config_read") {
                case.row(way.read_row(pod, &swap, &value));
            }
            if rig.tier("config_notify") == "tracing" {
                case.row(way.notify_row(pod, &swap));
            }
        }
        // A swap that the next one overtakes before the agent has looked at it is told as a rejection.
        rig.settle().await;
    }
    for (way, pod) in pods.iter().filter(|(way, _)| *way == Way::Env) {
        if rig.tells_lives() {
            case.row(way.injected_row(pod, "0"));
        }
    }
    rig.become_stale().await;
    case.check().await;
    println!(
        "{} swaps of {volumes} volumes: each told once, with its content and its reader",
        rounds * volumes
    );
}
