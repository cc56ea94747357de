//! Each reason is told from the others.

use std::sync::Arc;

use super::*;
use crate::testing::{at, event};
use aftertrace_api::proto;
use aftertrace_model::GapReason;
use uuid::Uuid;

fn status(subjects: &[(&str, &str, &[&str])]) -> proto::AgentStatus {
    let subject = |(name, tier, missing): &(&str, &str, &[&str])| proto::Subject {
        name: (*name).to_owned(),
        tier: (*tier).to_owned(),
        hooks: Vec::new(),
        missing: missing.iter().map(|m| (*m).to_owned()).collect(),
    };
    proto::AgentStatus { subjects: subjects.iter().map(subject).collect(), ..Default::default() }
}

fn check(anchor: &Event, agents: &Agents, watches: &[(&str, &str)], expected: &[&str]) {
    let watches = watches.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let told = because(anchor, &[], agents, &watches);
    for part in expected {
        assert!(told.contains(part), "{part:?} is not in {told:?}");
    }
}

fn ended(reason: &str, code: i32) -> Event {
    Event { reason: Some(reason.to_owned()), exit_code: Some(code), ..event(1, Kind::ContainerTerminated, 1) }
}

#[test]
fn exit_codes_tell_who_ended_it() {
    let agents = Agents::default();
    check(&ended("OOMKilled", 137), &agents, &[], &["no OOM kill of the kernel is recorded"]);
    check(&ended("OOMKilled", 0), &agents, &[], &["first process was not killed"]);
    check(&ended("Error", 137), &agents, &[], &["SIGKILL", "neither an OOM kill of the kernel nor a signal"]);
    check(&ended("Error", 143), &agents, &[], &["SIGTERM"]);
    check(&ended("Error", 1), &agents, &[], &["exit code 1"]);
}

#[test]
fn an_agent_that_cannot_see_is_named_with_what_it_lacks() {
    let agents = Arc::new(Agents::default());
    let anchor = ended("OOMKilled", 137);
    check(&anchor, &agents, &[], &["no agent of node node1 was heard"]);
    let connection = agents.connect("node1", "0.1.0", at(1)).expect("room");
    check(&anchor, &agents, &[], &["has not told what it sees"]);
    connection.heard(proto::AgentStatus::default(), at(1));
    check(&anchor, &agents, &[], &["does not watch OOM kills (oom_kill)", "does not watch signals (signal)"]);
    let none: &[&str] = &["tracefs is not mounted"];
    connection.heard(status(&[("oom_kill", "none", none), ("signal", "tracepoint", &["the sender"])]), at(1));
    check(
        &anchor,
        &agents,
        &[],
        &[
            "no hook for OOM kills (oom_kill): tracefs is not mounted",
            "of signals (signal, tier tracepoint) the agent of node node1 lacks: the sender",
        ],
    );
    connection.heard(status(&[("oom_kill", "tracepoint", &[]), ("signal", "tracing", &[])]), at(1));
    let told = because(&anchor, &[], &agents, &BTreeMap::new());
    assert!(!told.contains("agent"), "an agent that sees all is not blamed: {told}");
    drop(connection);
    check(&anchor, &agents, &[], &["is not connected"]);
}

#[test]
fn only_what_would_have_shown_a_cause_is_asked_for() {
    let agents = Arc::new(Agents::default());
    let connection = agents.connect("node1", "0.1.0", at(1)).expect("room");
    connection.heard(status(&[("swap", "none", &["tracefs is not mounted"])]), at(1));
    let stale = |reason: &str| Event { reason: Some(reason.to_owned()), ..event(1, Kind::ConfigStale, 1) };
    check(&stale("not_reopened"), &agents, &[], &["no hook for swaps of volumes (swap)", "is not recorded"]);
    check(&stale("sub_path"), &agents, &[], &["stale by its nature"]);
    check(
        &event(1, Kind::OomEpisode, 1),
        &agents,
        &[],
        &["no memory pressure of this container was seen", "does not watch memory near its limits"],
    );
    let by_signal = |signal: u64| {
        let mut exit = event(1, Kind::ProcessExited, 1);
        exit.attributes.insert(attribute::EXIT_SIGNAL.to_owned(), signal.into());
        exit
    };
    check(&by_signal(9), &agents, &[], &["signal 9", "(oom_kill)", "(signal)"]);
    let told = because(&by_signal(11), &[], &agents, &BTreeMap::new());
    assert!(told.contains("a fault of its own") && !told.contains("agent"), "{told}");
    let told = because(&ended("Error", 1), &[], &agents, &BTreeMap::new());
    assert!(!told.contains("agent"), "no kernel tells why a program exits: {told}");
    let told = because(&event(1, Kind::ProcessKilled, 1), &[], &agents, &BTreeMap::new());
    assert!(told.contains("where the record begins"), "{told}");
}

#[test]
fn a_swap_without_change_tells_of_the_watch() {
    let swap = event(1, Kind::ConfigSwapped, 1);
    let agents = Agents::default();
    check(&swap, &agents, &[], &["not watched"]);
    check(&swap, &agents, &[("configmaps", "down since x: refused")], &["is down since x: refused"]);
    check(&swap, &agents, &[("configmaps", "ok")], &["could not be hashed"]);
}

#[test]
fn overlapping_gaps_are_told_and_counted() {
    let gap = |n| Gap {
        gap_id: Uuid::from_u128(n),
        cluster: "c".to_owned(),
        node: None,
        component: "kernel/oom".to_owned(),
        reason: GapReason::RingFull,
        from: at(0),
        to: at(1),
        count: 1,
        detail: String::new(),
        recorded_at: None,
    };
    let gaps: Vec<_> = (0..5).map(gap).collect();
    let told = because(&ended("OOMKilled", 137), &gaps, &Agents::default(), &BTreeMap::new());
    assert!(told.contains("ring_full (kernel/oom)") && told.contains("and 2 more"), "{told}");
}
