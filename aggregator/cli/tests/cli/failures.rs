//! Every failure names the thing and the remedy, and exits with its code.

use std::net::TcpListener;
use std::process::Command;

use crate::fake::Fake;
use crate::{aft, aft_to, run};

#[track_caller]
fn check(command: &mut Command, code: i32, expected: &[&str]) {
    let (actual, out, err) = run(command);
    assert_eq!(actual, code, "{err}");
    assert_eq!(out, "", "a failure prints no answer");
    for text in expected {
        assert!(err.contains(text), "{text:?} is missing: {err}");
    }
    assert!(!err.contains('\u{1b}'), "nothing hostile: {err:?}");
}

#[test]
fn wrong_usage_is_2() {
    check(aft().args(["why", "checkout"]), 2, &["checkout", "pod/checkout-7d9"]);
    check(aft().args(["timeline", "--limit", "0"]), 2, &["--limit"]);
    check(aft().args(["history"]), 2, &["PATTERN"]);
    check(aft().args(["timeline", "-o", "dot"]), 2, &["aft why", "-o table"]);
    check(aft().args(["status", "-o", "yaml"]), 2, &["yaml", "json"]);
}

#[test]
fn a_malformed_time_is_named_before_anything_is_asked() {
    check(aft().args(["at", "10:99", "pod/x"]), 2, &["\"10:99\"", "2h ago"]);
    check(aft().args(["timeline", "--since", "yesterday"]), 2, &["\"yesterday\"", "RFC 3339"]);
}

#[test]
fn address_and_files() {
    let fake = Fake::start();
    check(aft().arg("status"), 2, &["https://127.0.0.1:7443", "--ca", "AFT_CA", "tls/ca.crt"]);
    check(
        aft_to(&fake).args(["status", "--server", "http://localhost:1"]),
        2,
        &["http://localhost:1", "TLS"],
    );
    check(aft_to(&fake).args(["status", "--server", "https://"]), 2, &["https://HOST:PORT"]);
    check(aft_to(&fake).args(["status", "--ca", "/nonexistent/ca.crt"]), 1, &["/nonexistent/ca.crt", "--ca"]);
    let token = fake.token_file.to_str().expect("UTF-8");
    check(aft_to(&fake).args(["status", "--ca", token]), 1, &[token, "no certificate"]);
    check(
        aft_to(&fake).args(["status", "--token-file", "/nonexistent/t"]),
        1,
        &["/nonexistent/t", "--token-file"],
    );
    let empty = fake.folder.path().join("empty");
    std::fs::write(&empty, "\n").expect("a file");
    check(aft_to(&fake).arg("status").arg("--token-file").arg(&empty), 1, &["has no token"]);
}

#[test]
fn nobody_listens() {
    let fake = Fake::start();
    // The port was free a moment ago, and nothing of ours listens on it.
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let server = format!("https://{free}");
    check(aft_to(&fake).args(["status", "--server", &server]), 1, &[&server, "refused", "port-forward"]);
}

#[test]
fn another_certificate_than_expected() {
    let fake = Fake::start();
    let other = Fake::start();
    let ca = other.ca.to_str().expect("UTF-8");
    check(aft_to(&fake).args(["status", "--ca", ca]), 1, &[&fake.server, ca, "vouches for", "--ca"]);
}

#[test]
fn an_address_that_the_certificate_does_not_name() {
    let fake = Fake::start();
    let server = fake.server.replace("localhost", "127.0.0.1");
    check(
        aft_to(&fake).args(["status", "--server", &server]),
        1,
        &[&server, "vouches for", "names with --server"],
    );
}

#[test]
fn tokens() {
    let fake = Fake::start();
    let mut without = aft_to(&fake);
    check(
        without.env_remove("AFT_TOKEN_FILE").arg("status"),
        1,
        &[&fake.server, "--token-file", "AFT_TOKEN_FILE"],
    );
    let wrong = fake.folder.path().join("wrong");
    std::fs::write(&wrong, "stale").expect("a file");
    let wrong = wrong.to_str().expect("UTF-8");
    check(aft_to(&fake).args(["status", "--token-file", wrong]), 1, &[wrong, "current reader token"]);
}

#[test]
fn what_the_aggregator_refuses() {
    let fake = Fake::start();
    check(aft_to(&fake).args(["why", "pod/forbidden"]), 1, &["namespace shop is not yours", "administrator"]);
    check(aft_to(&fake).args(["history", "P999"]), 2, &["there is no pattern P999"]);
    check(aft_to(&fake).args(["why", "pod/missing\u{1b}"]), 3, &["not found", "missing\\x1b[31m"]);
}
