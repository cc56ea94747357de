//! kill -9 at any moment: what was acknowledged is there, once.
//!
//! The victim is this test in a process of its own, told by a variable to write until it is killed. It prints
//! each event's number after its acknowledgement.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use aftertrace_aggregator::writer::Facts;
use aftertrace_model::{Event, Kind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::facts::{at, block_on, config, edge, event, everything, start};

const DIR: &str = "AFTERTRACE_TEST_VICTIM_DIR";
const FIRST: &str = "AFTERTRACE_TEST_VICTIM_FIRST";

/// How often the victim is killed.
const KILLS: usize = 25;

/// Number `n` of the victim's story: each event is caused by the one before it, as its edge says; every tenth is
/// a swap without one, whose cause the engine finds.
fn fact(n: u64) -> Event {
    let when = at(n.cast_signed());
    match n % 10 {
        8 => config(Kind::ConfigChanged, "pod-0", n, when),
        9 => config(Kind::ConfigSwapped, "pod-0", n, when),
        _ => event(Kind::OomKill, "pod-0", n, when),
    }
}

fn is_swap(n: u64) -> bool {
    n % 10 == 9
}

/// Writes until it is killed.
fn be_the_victim(dir: &OsStr) -> ! {
    let first: u64 = std::env::var(FIRST).expect("given").parse().expect("a number");
    let (writer, _reader) = start(Path::new(dir));
    block_on(async {
        for n in first.. {
            let (before, this) = (fact(n.saturating_sub(1)), fact(n));
            let edges = if is_swap(n) { Vec::new() } else { vec![edge(&before, &this)] };
            // Every third is sent twice: the second time within the same group as the next.
            let facts = Facts { events: vec![this], edges, ..Facts::default() };
            if n % 3 == 0 {
                let (a, b) = tokio::join!(writer.submit(facts.clone()), writer.submit(facts));
                assert_eq!(a.expect("accepted").events + b.expect("accepted").events, 1);
            } else {
                writer.submit(facts).await.expect("accepted");
            }
            let mut out = std::io::stdout();
            writeln!(out, "ack {n}").and_then(|()| out.flush()).expect("the parent reads");
        }
    });
    unreachable!("the numbers do not end before the kill")
}

#[test]
fn kill_anywhere() {
    if let Some(dir) = std::env::var_os(DIR) {
        be_the_victim(&dir);
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut random = StdRng::seed_from_u64(9);
    let mut acknowledged: BTreeSet<u64> = BTreeSet::new();
    for round in 0..KILLS {
        let first = acknowledged.last().map_or(1, |n| n + 1);
        let mut victim = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "kill::kill_anywhere", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(victim.stdout.take().expect("piped")).lines();
        // Some are killed while they start, most while they write, flush or publish.
        if round % 5 != 4 {
            let n = lines.by_ref().map_while(Result::ok).find_map(|line| number(&line));
            acknowledged.extend(n);
        }
        thread::sleep(Duration::from_millis(
            random.random_range(0..if round % 3 == 0 { 1_300 } else { 120 }),
        ));
        victim.kill().expect("SIGKILL");
        victim.wait().expect("reaped");
        acknowledged.extend(lines.map_while(Result::ok).filter_map(|line| number(&line)));
    }
    assert!(acknowledged.len() > KILLS, "the victims wrote something");

    let (writer, reader) = start(dir.path());
    block_on(writer.shutdown()).expect("flushed");
    let (events, edges, ..) = everything(&reader);
    let stored: Vec<u64> = events.iter().map(|e| e.boot_ns.expect("set")).collect();
    let once: BTreeSet<u64> = stored.iter().copied().collect();
    assert_eq!(once.len(), stored.len(), "no event is there twice");
    assert_eq!(acknowledged.difference(&once).collect::<Vec<_>>(), Vec::<&u64>::new(), "none is lost");
    assert_eq!(reader.counts()["events"], stored.len() as u64);
    for n in &acknowledged {
        let this = fact(*n);
        let causes: Vec<_> = edges.iter().filter(|e| e.effect_id == this.event_id).collect();
        assert_eq!(causes.len(), 1, "the cause of event {n}");
        assert_eq!(causes[0].pattern, if is_swap(*n) { "P003" } else { "P001" });
    }
}

fn number(line: &str) -> Option<u64> {
    line.trim().rsplit_once("ack ").and_then(|(_, n)| n.parse().ok())
}
