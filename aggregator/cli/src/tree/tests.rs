//! Whole trees as people see them, without colours, and the same in a narrow terminal.

use aftertrace_api::proto;

use super::{View, draw};
use crate::clock::{Style, fixed as clock};
use crate::fixture;

/// The tree without styles.
fn plain(answer: &proto::WhyResponse, width: Option<usize>) -> String {
    let styled = draw(answer, "pod/checkout-7d9 -n shop", &clock(), View { width, is_wide: false });
    anstream::adapter::strip_str(&styled).to_string()
}

#[track_caller]
fn check(answer: &proto::WhyResponse, expected: &str) {
    let actual = plain(answer, None);
    assert_eq!(actual, expected.trim_start_matches('\n'), "actual:\n{actual}");
}

#[test]
fn oom_chain() {
    check(
        &fixture::oom_chain(),
        "
P001 OOM kill: pod/checkout-7d9 -n shop, container app, node node1
times: 2026-11-20, UTC

10:52:01.807500  memory_pressure  app is at 97 % of 64.0 MiB
10:52:02.104512  └─ oom_episode  [memcg, level pod] the limit of pod checkout-7d9 fired (64.0 MiB)
                    │  inferred 0.80 · memory_pressure.oom_episode · +297.0 ms
                    │  container.id=2c3d4f330fa6…
10:52:02.104700     └─ oom_kill  [chosen, level pod] killed memhog (pid 4242) of container app  ◀ asked about
                       │  proven · oom_episode.oom_kill · +188 µs
                       │  cgroup_id=4711  episode_id=019a9e2b-4c00-8000-8000-000000000002
10:52:02               └─ container_terminated  app ended: OOMKilled, exit code 137
                          │  identified · oom_kill.container_terminated · within 895.3 ms
                          │  container.id=2c3d4f330fa6…  exit_code=137  k8s.pod.uid=u-1  killed_init=true  \
restart_count=0
10:52:04                  └─ container_waiting  app waits: CrashLoopBackOff
                             │  identified · container_terminated.container_waiting · +1.00 s to +3.00 s
                             │  effect.restart_count=0  k8s.container.name=app  k8s.pod.uid=u-1  \
restart_count=0
10:52:14                     └─ container_started  app started, restart 1
                                   identified · container_waiting.container_started · +9.00 s to +11.0 s
                                   effect.restart_count=1  k8s.container.name=app  k8s.pod.uid=u-1  \
restart_count=0

What usually helps:
  - raise the memory limit of the container whose level fired
  - look for what grew in the minute before the kill
  - let a vertical autoscaler recommend a request and a limit

as of 2026-11-20 10:52:16.000000 (WAL position 17)
",
    );
}

#[test]
fn swap_chain() {
    check(
        &fixture::swap_chain(),
        "
P003 ConfigMap mount swap: pod/checkout-7d9 -n shop, node node1
times: 2026-11-20, UTC

10:52:02.000000  config_changed  ConfigMap flags: flags.yaml changed
10:52:03.043700  └─ config_swapped  volume config shows flags anew  ◀ asked about
                       identified · config_changed.config_swapped · propagation 1043.7 ms
                       content=equal keyed hashes  key_id=acbbd8cf84852c02  object.uid=u-flags  \
resource_version=1207

What usually helps:
  - check that the application watches the directory, not the file
  - restart the workload if it read the file only at start

as of 2026-11-20 10:52:16.000000 (WAL position 17)
",
    );
}

#[test]
fn signal_chain() {
    check(
        &fixture::signal_chain(),
        "
P006 Killed by a signal: pod/checkout-7d9 -n shop, container app, node node1
times: 2026-11-20, UTC

10:52:02.000000  process_killed  [SIGKILL] kubelet (pid 812) sent SIGKILL to app's init (pid 4242)
10:52:02         ├─ container_terminated  app ended: Error, exit code 137  ◀ asked about
                 │     identified · process_killed.container_terminated · within 1.00 s
                 │     aftertrace.sender.command=kubelet  aftertrace.signal.number=9  \
container.id=2c3d4f330fa6…  exit_code=137  k8s.pod.uid=u-1  killed_init=true  restart_count=0
10:52:02.000900  └─ process_exited  app's init (pid 4242) ended by SIGKILL
                       proven · process_killed.process_exited · +900 µs
                       aftertrace.process.start_boot_ns=1000000000  process.exit.signal=9  process.pid=4242

What usually helps:
  - look at the sender: a kubelet or runtime ends containers for failed probes, evictions and deletions
  - let the program end on SIGTERM within its grace period if SIGKILL followed
  - look for a memory killer in user space (systemd-oomd and the like) if the sender is one

as of 2026-11-20 10:52:16.000000 (WAL position 17)
",
    );
}

#[test]
fn what_became_of_a_swap() {
    let tree = plain(&fixture::reload_chain(), None);
    for line in [
        "10:52:03.090000     ├─ config_read  app (pid 4242) opened flags.yaml",
        "10:52:04.000000     ├─ config_watched  [deaf] reloader (pid 4300) watches a removed file of volume config",
        "10:52:33.043700     └─ config_stale  [not_reopened, after 30 s] sidecar did not open flags again  ◀ asked about",
        "proven · config_swapped.config_stale · +30.0 s",
    ] {
        assert!(tree.contains(line), "{line}:\n{tree}");
    }
}

#[test]
fn a_chain_is_named_by_the_anchors_it_has() {
    // A restart after an exit: joined by a rule of the OOM kill's pattern, and no OOM kill.
    let mut answer = fixture::oom_chain();
    answer.events.drain(..3);
    answer.edges.retain(|e| e.cause_kind.starts_with("container"));
    answer.anchor_id = answer.events[0].event_id.clone();
    let tree = plain(&answer, None);
    assert!(tree.starts_with("container_terminated: pod/checkout-7d9"), "{tree}");
}

#[test]
fn a_change_time_floored_to_its_second_bounds_the_propagation() {
    let mut answer = fixture::swap_chain();
    answer.events[0].latest_us = answer.events[0].earliest_us + 999_999;
    let tree = plain(&answer, None);
    assert!(tree.contains("propagation 1043.7 ms (43.7 ms to 1043.8 ms)"), "{tree}");
}

#[test]
fn no_cause_and_a_gap() {
    let mut answer = fixture::swap_chain();
    answer.events.remove(0);
    answer.edges.clear();
    answer.remediation.clear();
    answer.no_cause_because = "no change of ConfigMap flags is known that shows this content".into();
    answer.gaps = vec![
        fixture::gap(),
        proto::Gap {
            node: None,
            component: "aggregator/watch/configmaps".into(),
            count: 0,
            ..fixture::gap()
        },
    ];
    check(
        &answer,
        "
config_swapped: pod/checkout-7d9 -n shop, node node1
times: 2026-11-20, UTC

10:52:03.043700  config_swapped  volume config shows flags anew  ◀ asked about

No cause found, because no change of ConfigMap flags is known that shows this content

Missing evidence:
  - 2026-11-20 10:52:01.000000 to 2026-11-20 10:52:03.000000, node1 kernel/oom: ring_full, 12 lost: \
the ring buffer was full
  - 2026-11-20 10:52:01.000000 to 2026-11-20 10:52:03.000000, aggregator/watch/configmaps: ring_full, \
unknown how many: the ring buffer was full

as of 2026-11-20 10:52:16.000000 (WAL position 17)
",
    );
}

#[test]
fn an_empty_answer_says_so() {
    check(
        &proto::WhyResponse::default(),
        "
No cause found, because nothing is known about pod/checkout-7d9 -n shop

as of an empty memory: nothing was recorded yet
",
    );
}

#[test]
fn a_second_cause_and_a_cause_that_is_no_longer_stored() {
    let mut answer = fixture::oom_chain();
    // A second kill of the same episode, whose own event is gone.
    let kill = answer.edges.iter().find(|e| e.rule_id == "oom_kill.container_terminated").expect("an edge");
    let mut second = kill.clone();
    second.cause_id = fixture::id(20).0.as_bytes().to_vec();
    second.cause_occurred_at_us = fixture::T + 104_650;
    second.cause_summary = "killed child (pid 4243)".into();
    answer.edges.push(second);
    let tree = plain(&answer, None);
    let kill_line = "10:52:02.104650  oom_kill  killed child (pid 4243) (no longer stored)";
    assert!(tree.contains(kill_line), "{tree}");
    let also = "also caused by killed child (pid 4243): identified · oom_kill.container_terminated";
    assert!(tree.contains(also), "{tree}");
    assert_eq!(tree.matches("container_terminated  app ended").count(), 1, "{tree}");
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let hostile = "x\u{1b}[2J\u{202e}\n\u{9b}1m";
    let mut answer = fixture::oom_chain();
    answer.no_cause_because = hostile.into();
    answer.remediation = vec![hostile.into()];
    answer.gaps = vec![proto::Gap {
        node: Some(hostile.into()),
        component: hostile.into(),
        reason: hostile.into(),
        detail: hostile.into(),
        ..fixture::gap()
    }];
    for e in &mut answer.events {
        (e.kind, e.summary, e.severity) = (hostile.into(), hostile.into(), hostile.into());
        (e.node, e.container) = (Some(hostile.into()), Some(hostile.into()));
        e.pod = Some(proto::Pod { namespace: hostile.into(), name: hostile.into(), uid: hostile.into() });
    }
    for e in &mut answer.edges {
        (e.pattern, e.rule_id, e.grade) = (hostile.into(), hostile.into(), hostile.into());
        e.evidence = [(hostile.to_owned(), hostile.to_owned())].into();
    }
    for width in [None, Some(60)] {
        let text = draw(&answer, hostile, &clock(), View { width, is_wide: true });
        let text = anstream::adapter::strip_str(&text).to_string();
        let bad = text
            .chars()
            .find(|c| *c != '\n' && aftertrace_model::text::escape(&c.to_string()) != c.to_string());
        assert_eq!(bad, None, "{text:?}");
        assert!(text.contains("\\x1b[2J"), "{text}");
    }
    // A newline of the text must not look like a line of ours.
    assert!(plain(&answer, None).contains("\\n"));
}

#[test]
fn fits_a_narrow_terminal() {
    for width in [60, 80] {
        let tree = plain(&fixture::oom_chain(), Some(width));
        let widest = tree.lines().map(|l| l.chars().count()).max();
        assert!(widest <= Some(width), "{widest:?} columns of {width}:\n{tree}");
        for word in [
            "chosen,",
            "killed",
            "memhog",
            "◀",
            "CrashLoopBackOff",
            "oom_kill.container_terminated",
            "+297.0 ms",
        ] {
            assert!(tree.contains(word), "{word} was lost:\n{tree}");
        }
    }
}

#[test]
fn a_deep_chain_ends_and_stays_in_the_terminal() {
    let template = fixture::oom_chain();
    let mut answer = proto::WhyResponse::default();
    let id = |n: u32| [[0; 12].as_slice(), &n.to_be_bytes()].concat();
    for n in 0..5_000_u32 {
        answer.events.push(proto::Event {
            event_id: id(n),
            occurred_at_us: fixture::T + i64::from(n),
            ..template.events[0].clone()
        });
        if n > 0 {
            answer.edges.push(proto::Edge {
                cause_id: id(n - 1),
                effect_id: id(n),
                ..template.edges[0].clone()
            });
        }
    }
    let tree = plain(&answer, Some(100));
    assert_eq!(tree.matches("app is at 97 %").count(), 5_000);
}

#[test]
fn ages_and_days() {
    let mut clock = clock();
    clock.style = Style::Relative;
    let styled = draw(&fixture::oom_chain(), "", &clock, View::default());
    let tree = anstream::adapter::strip_str(&styled).to_string();
    assert!(tree.contains("\n9m59s ago  └─ oom_episode"), "{tree}");
    assert!(!tree.contains("times:"), "{tree}");

    let mut answer = fixture::oom_chain();
    answer.events[0].occurred_at_us -= 86_400_000_000;
    let tree = plain(&answer, None);
    assert!(tree.contains("\n2026-11-19 10:52:01.807500  memory_pressure"), "{tree}");
    assert!(tree.contains("\n2026-11-20 10:52:02         "), "{tree}");
}

#[test]
fn a_wide_tree_has_the_ids() {
    let text = draw(&fixture::oom_chain(), "", &clock(), View { width: None, is_wide: true });
    assert!(text.contains(&format!("event_id={}", fixture::id(3))), "{text}");
    assert!(text.contains(fixture::CONTAINER_ID), "{text}");
}

#[test]
fn styles_are_in_the_text_for_the_terminal() {
    let text = draw(&fixture::oom_chain(), "", &clock(), View::default());
    assert!(text.contains("\u{1b}["), "{text}");
}
