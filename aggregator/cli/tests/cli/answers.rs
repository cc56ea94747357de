//! What is asked, and what is printed for it.

use serde_json::Value;

use crate::fake::Fake;
use crate::{aft, aft_to, fixture, run};

#[test]
fn why_shows_the_chain_of_a_pod() {
    let fake = Fake::start();
    let (code, out, err) = run(aft_to(&fake).args(["why", "pod/checkout-7d9", "-n", "shop", "--utc"]));
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("P001 OOM kill: pod/checkout-7d9 -n shop"), "{out}");
    assert!(out.contains("10:52:02.104700     └─ oom_kill  [chosen, level pod] killed memhog"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours into a pipe: {out:?}");
    let asked = fake.asked().why.remove(0);
    assert_eq!((asked.namespace.as_str(), asked.pod.as_str(), asked.depth_max), ("shop", "checkout-7d9", 0));

    let (code, out, _) = run(aft_to(&fake).args(["--color", "always", "why", "pod/swapped", "--depth", "3"]));
    assert_eq!(code, 0);
    assert!(out.contains("propagation 1043.7 ms") && out.contains('\u{1b}'), "{out:?}");
    let asked = fake.asked().why.remove(1);
    assert_eq!((asked.namespace.as_str(), asked.depth_max), ("default", 3));
}

#[test]
fn why_takes_an_event_and_prints_json_and_dot() {
    let fake = Fake::start();
    let id = fixture::id(3).to_string();
    let (code, out, err) = run(aft_to(&fake).args(["why", &id, "-o", "json"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["anchor_id"], id.as_str());
    assert_eq!(value["events"].as_array().map(Vec::len), Some(6));
    assert_eq!(fake.asked().why[0].event_id, fixture::id(3).0.as_bytes());

    let (code, out, _) = run(aft_to(&fake).args(["why", &id, "-o", "dot"]));
    assert_eq!(code, 0);
    assert!(out.starts_with("digraph why {") && out.ends_with("}\n"), "{out}");
}

#[test]
fn nothing_found_is_exit_code_3_in_every_format() {
    let fake = Fake::start();
    for args in [
        &["why", "pod/quiet", "-n", "shop"][..],
        &["timeline", "pod/quiet", "-n", "shop"],
        &["history", "P001", "--pod", "quiet"],
        &["oom", "--pod", "quiet", "-n", "shop"],
        &["stale", "--pod", "quiet", "-n", "shop"],
        &["at", "10:03", "configmap/unknown", "-n", "shop"],
    ] {
        let (code, out, err) = run(aft_to(&fake).args(args));
        assert_eq!((code, err.as_str()), (3, ""), "{args:?}: {out}");
        assert!(out.contains("as of 2026-11-20 10:52:16.000000 (WAL position 17)"), "{args:?}: {out}");
        let (code, out, _) = run(aft_to(&fake).args(args).args(["-o", "json"]));
        assert_eq!(code, 3, "{args:?}");
        serde_json::from_str::<Value>(&out).expect("JSON, also for nothing");
    }
}

#[test]
fn timeline_asks_for_the_time_and_lists_the_facts() {
    let fake = Fake::start();
    let (code, out, err) = run(aft_to(&fake).args([
        "timeline",
        "-n",
        "shop",
        "--since",
        "2026-11-20T10:00:00Z",
        "--until",
        "2026-11-20 11:00",
        "--limit",
        "1",
        "--utc",
    ]));
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<&str> = out.lines().collect();
    assert!(rows[0].starts_with("TIME "), "{out}");
    assert!(rows[3].contains("oom_kill") && rows[3].contains("pod/checkout-7d9"), "{out}");
    assert!(out.contains("configmap/flags"), "a fact without a pod is of its object: {out}");
    assert!(out.contains("There were more"), "{out}");
    let (_, wide, _) = run(aft_to(&fake).args(["timeline", "-n", "shop", "-o", "wide"]));
    assert!(wide.contains("EVENT_ID") && wide.contains(&fixture::id(3).to_string()), "{wide}");
    let asked = fake.asked().timeline.remove(0);
    assert_eq!((asked.namespace.as_str(), asked.pod.as_str(), asked.limit), ("shop", "", 1));
    assert_eq!(asked.since_us, Some(1_795_168_800_000_000));
    assert_eq!(asked.until_us, Some(1_795_172_400_000_000));
}

#[test]
fn oom_lists_kills_by_decision() {
    let fake = Fake::start();
    let args = ["oom", "--level", "pod", "--role", "shared_mm", "--workload", "checkout", "--since", "2h"];
    let (code, out, err) = run(aft_to(&fake).args(args).arg("--utc"));
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" "), "3 kills by 2 decisions of the OOM killer", "{out}");
    assert_eq!(
        rows[3].join(" "),
        "2026-11-20 10:52:02.104700 shop/checkout-7d9 app chosen pod memhog (4242) 61.0 MiB writer (4240) yes"
    );
    assert_eq!(
        rows[4].join(" "),
        "2026-11-20 10:52:02.104900 shop/checkout-7d9 app └ group pod memhog (4243) 61.0 MiB writer (4240)",
        "{out}"
    );
    assert_eq!(rows[5][3..6].join(" "), "app chosen container");
    assert!(out.contains("ring_full, 12 lost"), "what is missing belongs to a list of kills: {out}");
    let asked = fake.asked().timeline.remove(0);
    assert_eq!((asked.namespace.as_str(), asked.workload.as_str()), ("", "checkout"), "every namespace");
    assert_eq!(asked.kinds, ["oom_kill"]);
    let attributes: Vec<_> = asked.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(attributes, ["aftertrace.oom.level=pod", "aftertrace.oom.role=shared_mm"]);
    assert!(asked.since_us.is_some() && asked.with_edges && !asked.standing);

    let (_, out, _) = run(aft_to(&fake).args(["oom", "--pod", "checkout-7d9", "-o", "json"]));
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["episodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(value["episodes"][0]["kills"][1]["attributes"]["aftertrace.oom.role"], "group");
    assert_eq!(value["episodes"][0]["episode_id"], fixture::id(2).to_string());
    assert_eq!(fake.asked().timeline[1].namespace, "default", "a pod's name needs a namespace");

    let (_, out, _) = run(aft_to(&fake).args(["oom", "-o", "wide"]));
    assert!(out.contains("EPISODE_ID") && out.contains(&fixture::id(31).to_string()), "{out}");
    let (code, _, err) = run(aft_to(&fake).args(["oom", "--level", "cluster"]));
    assert_eq!(code, 2);
    assert!(err.contains("kubepods"), "the levels are named: {err}");
}

#[test]
fn stale_lists_what_stands_with_its_swap() {
    let fake = Fake::start();
    let (code, out, err) = run(aft_to(&fake).args(["stale", "-n", "shop", "--utc"]));
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[1][..6].join(" "),
        "shop/checkout-7d9 sidecar deaf config 2026-11-20 10:52:03.043700",
        "{out}"
    );
    assert!(rows[1].join(" ").ends_with("reloader (4300)"), "{out}");
    assert_eq!(
        rows[2][..14].join(" "),
        "shop/checkout-7d9 sidecar not_reopened (never read) configmap/flags config flags.yaml, b and 1 more \
         2026-11-20 10:52:03.043700"
    );
    assert!(out.contains("not_reopened: the files were not opened") && !out.contains("subPath"), "{out}");
    let asked = fake.asked().timeline.remove(0);
    assert!(asked.standing && asked.with_edges && asked.kinds.is_empty() && asked.since_us.is_none());

    let (_, out, _) = run(aft_to(&fake).args(["stale", "-o", "json"]));
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["stale"][1]["event"]["reason"], "not_reopened");
    assert_eq!(value["stale"][1]["swaps"][0]["event_id"], fixture::id(8).to_string());
    assert_eq!(value["stale"][1]["swaps"][0]["occurred_at"], "2026-11-20T10:52:03.043700Z");
    let (_, out, _) = run(aft_to(&fake).args(["stale", "-o", "wide"]));
    assert!(out.contains("GENERATION") && out.contains("..2026_11_20_10_52_03.1"), "{out}");
}

#[test]
fn history_counts_by_workload() {
    let fake = Fake::start();
    let args = ["history", "p001", "--workload", "shop/checkout", "-n", "other"];
    let (code, out, err) = run(aft_to(&fake).args(args));
    assert_eq!((code, err.as_str()), (0, ""));
    for text in ["P001 OOM kill: 3 times", "Deployment/checkout", "1 of 3 are listed", "ring_full, 12 lost"] {
        assert!(out.contains(text), "{text}: {out}");
    }
    let asked = fake.asked().history.remove(0);
    assert_eq!((asked.pattern.as_str(), asked.namespace.as_str()), ("P001", "shop"));
    assert_eq!((asked.workload.as_str(), asked.since_us), ("checkout", None));

    run(aft_to(&fake).args(["history", "P001"]));
    assert_eq!(fake.asked().history[1].namespace, "", "without a namespace all are asked about");
}

#[test]
fn at_shows_the_state_and_what_changed() {
    let fake = Fake::start();
    let args = ["at", "2026-11-20T10:52:30Z", "po/checkout-7d9", "-n", "shop", "--utc"];
    let (code, out, err) = run(aft_to(&fake).args(args));
    assert_eq!((code, err.as_str()), (0, ""));
    for text in [
        "pod/checkout-7d9 -n shop at 2026-11-20 10:52:30.000000",
        "version 1311 of uid u-1, from 2026-11-20 10:52:02.000000, until 2026-11-20 10:53:02.000000",
        "   spec.nodeName",
        "*  status.containerStatuses[0].restartCount  1",
    ] {
        assert!(out.contains(text), "{text}: {out}");
    }
    let asked = fake.asked().state_at.remove(0);
    assert_eq!((asked.kind.as_str(), asked.name.as_str()), ("Pod", "checkout-7d9"));
    assert_eq!(asked.at_us, Some(fixture::T + 28_000_000));
}

#[test]
fn status_is_an_answer_however_bad_the_news() {
    let fake = Fake::start();
    let (code, out, err) = run(aft_to(&fake).args(["status"]));
    assert_eq!((code, err.as_str()), (0, ""));
    for text in [
        "cluster demo, aggregator 0.1.0, 50.0 MiB",
        "Degraded:\n  - node1 sees no volume swaps: mount tracefs",
        "no tracefs: mount it at /sys/kernel/tracing",
        "raw_tracepoint/mark_victim",
        "What is not seen, and where:\n  - volume_swap (none) on node1: no tracefs",
        "pods: forbidden",
        "rows: edges 17, events 42",
        "WAL frames not in segments yet: 2",
    ] {
        assert!(out.contains(text), "{text}: {out}");
    }
    let (_, out, _) = run(aft_to(&fake).args(["status", "-o", "json"]));
    let value: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(value["agents"][0]["subjects"][0]["tier"], "tracepoint");
}

#[test]
fn completion_and_plugin_name() {
    let (code, out, _) = run(aft().args(["completion", "bash"]));
    assert_eq!(code, 0);
    assert!(out.contains("complete -F _aft"), "{out}");

    let folder = tempfile::tempdir().expect("a folder");
    let plugin = folder.path().join("kubectl-aft");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_aft"), &plugin).expect("a link");
    let (code, out, _) = run(std::process::Command::new(plugin).arg("--help"));
    assert_eq!(code, 0);
    assert!(out.contains("Usage: kubectl aft"), "{out}");
}
