//! What an interruption of the watch costs, and that it is counted.

use aftertrace_model::Gap;

use super::*;
use crate::draft::Origin;

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn error() -> watcher::Error {
    watcher::Error::NoResourceVersion
}

/// `f` an error, `l` a complete list, `e` an event, at the seconds 1, 2, 3…; the gaps as `reason from-to`.
fn check(trace: &str, expected: &[&str], health_after: &str) {
    let ledger = Ledger::default();
    let (health, held) = watch::channel("not listed yet".to_owned());
    let mut outage = Outage::default();
    for (second, what) in (1..).zip(trace.chars()) {
        match what {
            'f' => outage.failed(&error(), at(second), &health, &ledger),
            'l' => outage.listed(at(second), &health, &ledger),
            _ => outage.resumed(at(second), &health, &ledger),
        }
    }
    let origin = Origin { cluster: "c".into(), node: "n".into() };
    let shown = |g: &Gap| {
        let second = |t: Timestamp| t.as_micros() / 1_000_000;
        format!("{} {}-{}", g.reason, second(g.from), second(g.to))
    };
    let gaps: Vec<String> = ledger.drain(&origin, at(99), true).iter().map(shown).collect();
    assert_eq!(gaps, expected, "{trace}");
    let held = held.borrow().clone();
    assert!(held.starts_with(health_after), "{trace}: {held}");
}

#[test]
fn interruptions_are_counted_from_their_first_error() {
    check("leee", &[], "ok");
    check("leffe", &["watch_down 3-5"], "ok");
    check("leff", &["watch_down 3-4"], "down: ");
    check("ffle", &["watch_down 1-3"], "ok");
}

#[test]
fn a_new_list_leaves_what_was_between_unknown() {
    check("leel", &["watch_relisted 3-4"], "ok");
    check("leeffl", &["watch_down 4-6", "watch_relisted 3-6"], "ok");
}

#[test]
fn an_error_tells_its_causes_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer: inner")]
    struct Outer(#[source] Inner);
    #[derive(Debug, thiserror::Error)]
    #[error("inner")]
    struct Inner(#[source] std::io::Error);
    let error = Outer(Inner(std::io::Error::other("root")));
    assert_eq!(chain(&error), "outer: inner: root");
}
