//! One record each, and what is told of it.

use serde_json::json;

use super::*;
use aftertrace_model::Timestamp;

pub(crate) fn task(tgid: u32, comm: &str) -> Task {
    Task {
        tid: tgid,
        tgid,
        ns_tgid: Some(1),
        uid: Some(0),
        start_boot_ns: Some(1_000 + u64::from(tgid)),
        process_start_boot_ns: Some(u64::from(tgid)),
        comm: Some(comm.to_owned()),
    }
}

pub(crate) fn exec(member: u64) -> Exec {
    Exec {
        boot_ns: 10,
        task: task(44, "app"),
        parent: Some(task(40, "containerd-shim")),
        place: InitPlace { memcg: member, member },
        executable: Some("/bin/app".to_owned()),
    }
}

pub(crate) fn exit(member: u64, signal: Option<u32>, code: Option<u32>) -> InitExit {
    InitExit { boot_ns: 30, task: task(44, "app"), place: InitPlace { memcg: member, member }, signal, code }
}

pub(crate) fn signal(member: u64, number: u32) -> Signal {
    Signal {
        boot_ns: 20,
        target: task(44, "app"),
        place: InitPlace { memcg: member, member },
        sender: task(7, "ku\u{1b}[2Jbelet"),
        sender_memcg: Some(99),
        sender_place: None,
        sender_levels: vec!["kubelet.service".to_owned(), "system.slice".to_owned()],
        signal: number,
        result: SignalResult::Delivered,
        by: SignalBy::Kill,
        is_group: true,
        untold: 0,
    }
}

fn told(fact: &Lifetime, sender: Option<&Cgroup>) -> Event {
    let origin = Origin { cluster: "c".into(), node: "n".into() };
    event(&origin, fact, sender, Occurrence::within(Timestamp::from_micros(0), 1))
}

#[test]
fn an_end_has_the_code_that_a_shell_would_show() {
    let check = |signal, code, expected, severity| {
        let event = told(&Lifetime::Exited(exit(5, signal, code)), None);
        assert_eq!((event.exit_code, event.severity), (expected, severity));
        assert_eq!(event.attributes[attribute::PROCESS_START_BOOT_NS], 44);
    };
    check(Some(9), None, Some(137), Severity::Warning);
    check(None, Some(0), Some(0), Severity::Info);
    check(None, Some(7), Some(7), Severity::Warning);
    check(None, None, None, Severity::Warning);
}

#[test]
fn a_signal_names_its_sender_and_is_harmless_to_a_terminal() {
    let fact = Lifetime::Signalled(Box::new(signal(5, 15)));
    let event = told(&fact, None);
    assert_eq!(
        (event.kind, event.reason.as_deref(), event.pid),
        (Kind::ProcessKilled, Some("SIGTERM"), Some(44))
    );
    assert_eq!(event.attributes["aftertrace.sender.cgroup"], json!("/system.slice/kubelet.service"));
    assert_eq!(event.attributes[attribute::SENDER_COMMAND], "ku\\x1b[2Jbelet");
    assert!(!event.attributes.contains_key("aftertrace.sender.pod.uid"));
    assert_eq!(
        summary(&fact, "the init of container c of n/p"),
        "app (pid 44), the init of container c of n/p, was sent SIGTERM by ku\\x1b[2Jbelet (pid 7)"
    );
}

#[test]
fn what_the_kernel_did_with_a_signal_is_said() {
    let mut ignored = signal(5, 15);
    ignored.result = SignalResult::Ignored;
    ignored.untold = 3;
    ignored.sender_levels = ["d", "c", "b", "a"].map(str::to_owned).to_vec();
    let event = told(&Lifetime::Signalled(Box::new(ignored)), None);
    assert_eq!(event.attributes[attribute::SIGNAL_RESULT], "ignored");
    assert_eq!(event.attributes["aftertrace.signal.untold"], 3);
    assert_eq!(event.attributes["aftertrace.sender.cgroup"], "…/a/b/c/d", "there may be more above");
}
