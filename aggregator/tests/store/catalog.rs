//! The catalog, asked by the DuckDB CLI.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aftertrace_aggregator::writer::Facts;
use aftertrace_model::{Event, Kind};

use crate::facts::{ask, at, block_on, config, duckdb, edge, event, gap, oom, start, version};

/// Least number of questions asked while a load runs.
const QUESTIONS: usize = 100;

#[test]
fn answers_while_a_load_runs_are_prefixes() {
    let Some(duckdb) = duckdb() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, _reader) = start(dir.path());
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load = thread::spawn({
        let (writer, acknowledged, stop) = (writer.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
        move || {
            block_on(async {
                // Number n+1 is caused by number n; both come in one submission with the edge.
                for batch in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (mut events, mut edges) = (Vec::new(), Vec::new());
                    for n in batch * 50..(batch + 1) * 50 {
                        let make = |n: u64| event(Kind::OomKill, "pod-0", n, at(n.cast_signed() / 100));
                        edges.push(edge(&make(n), &make(n + 1)));
                        events.push(make(n));
                    }
                    writer.submit(Facts { events, edges, ..Facts::default() }).await.expect("accepted");
                    acknowledged.store((batch + 1) * 50, Ordering::Release);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            });
        }
    });
    let sql = "SELECT count(*), coalesce(max(boot_ns) + 1, 0), count(DISTINCT event_id), \
               (SELECT count(*) FROM edges) FROM events";
    let (mut last, mut different, mut questions) = (0, 0, 0);
    let deadline = Instant::now() + Duration::from_secs(60);
    // On a busy machine a catalog takes longer than a hundred questions: ask until there were several.
    while questions < QUESTIONS || different < 3 {
        let answer = ask(&duckdb, dir.path(), sql).unwrap_or_else(|e| panic!("question {questions}: {e}"));
        let numbers: Vec<u64> = answer.trim().split(',').map(|n| n.parse().expect("a number")).collect();
        let [events, end, distinct, edges] = numbers[..] else { panic!("{answer}") };
        assert_eq!((events, events, events), (end, distinct, edges), "one prefix, events and edges alike");
        assert!(events <= acknowledged.load(Ordering::Acquire) + 50, "nothing that was not submitted");
        assert!(events >= last, "answers do not go back");
        assert!(Instant::now() < deadline, "{different} answers: {:?}", writer.status());
        different += usize::from(events > last);
        last = events;
        questions += 1;
    }
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ended");
    block_on(writer.shutdown()).expect("flushed");
    let all = acknowledged.load(Ordering::Acquire);
    assert_eq!(
        ask(&duckdb, dir.path(), "SELECT count(*) FROM events").expect("answered").trim(),
        all.to_string()
    );
}

#[test]
fn macros_answer_through_the_cli() {
    let Some(duckdb) = duckdb() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, _reader) = start(dir.path());
    let mut facts = oom("web", 0, at(0));
    facts.events.push(config(Kind::ConfigChanged, "mounter", 50, at(100)));
    facts.events.push(config(Kind::ConfigSwapped, "mounter", 51, at(140)));
    facts.objects =
        vec![version("a", 9, at(0), false), version("a", 10, at(60), false), version("a", 10, at(90), true)];
    facts.gaps = vec![gap(1, at(0), at(9))];
    let kill = facts.events[2].event_id;
    for (n, result) in [(80, "delivered"), (81, "ignored")] {
        let mut signal = event(Kind::ProcessKilled, "signalled", n, at(200));
        signal.attributes.insert("aftertrace.signal.result".to_owned(), result.into());
        facts.events.push(signal);
    }
    // One volume was not opened again; the other was, later.
    for (n, pod) in [(60, "stuck"), (70, "job")] {
        let of_volume = |kind, n, second| {
            let mut fact = config(kind, pod, n, at(second));
            fact.attributes.insert("k8s.volume.name".to_owned(), "flags".into());
            Event { reason: Some("not_reopened".to_owned()), ..fact }
        };
        let (swap, stale) =
            (of_volume(Kind::ConfigSwapped, n, 140), of_volume(Kind::ConfigStale, n + 1, 170));
        facts.edges.push(edge(&swap, &stale));
        facts.events.extend([swap, stale]);
        if pod == "job" {
            facts.events.push(of_volume(Kind::ConfigRead, n + 2, 180));
        }
    }
    block_on(async {
        writer.submit(facts).await.expect("accepted");
        writer.shutdown().await.expect("flushed");
    });
    let check = |sql: &str, expected: &str| {
        assert_eq!(ask(&duckdb, dir.path(), sql).unwrap_or_else(|e| e), expected, "{sql}");
    };
    check(
        &format!("SELECT depth, kind, grade, confidence FROM causal_chain('{kill}')"),
        "-2,memory_pressure,inferred,0.8\n-1,oom_episode,identified,\n0,oom_kill,,\n\
         1,container_terminated,identified,\n2,container_waiting,identified,\n",
    );
    check(
        "SELECT depth, kind, lag_us FROM why('shop', 'web')",
        "-3,memory_pressure,800000\n-2,oom_episode,1000\n-1,oom_kill,99000\n0,container_terminated,\n\
         1,container_waiting,1000000\n",
    );
    check(
        "SELECT depth, kind, grade FROM why('shop', 'mounter')",
        "-1,config_changed,inferred\n0,config_swapped,\n",
    );
    check("SELECT count(*) FROM why('shop', 'nobody')", "0\n");
    check("SELECT pod, workload FROM history('p001')", "web,checkout\n");
    check("SELECT count(*) FROM history('P006')", "1\n");
    check("SELECT kind FROM timeline('shop', 'mounter')", "config_changed\nconfig_swapped\n");
    check("SELECT pod, container_init, role, rss_bytes FROM oom_kills()", "web,true,,0\n");
    check(
        "SELECT pod, reason, volume, swapped_at FROM stale_configs()",
        "stuck,not_reopened,flags,2026-11-20 10:54:22\n",
    );
    check(&format!("SELECT count(*) FROM oom_kills(since := '{}')", "2026-11-21"), "0\n");
    check(
        "SELECT state FROM state_at('configmap', 'shop', 'a', '2026-11-20 10:52:30')",
        "\"{\"\"number\"\":9}\"\n",
    );
    check(
        "SELECT resource_version, deleted FROM state_at('ConfigMap', 'shop', 'a', '2026-11-20 10:52:01')",
        "",
    );
    check(
        "SELECT resource_version, deleted, valid_to IS NULL FROM state_at('ConfigMap', 'shop', 'a', '2027-01-01')",
        "10,true,true\n",
    );
    check("SELECT reason, \"count\" FROM gaps", "ring_full,3\n");
    check(
        "SELECT id, \"name\", remediation[1] <> '' FROM patterns ORDER BY id LIMIT 1",
        "P001,OOM kill,true\n",
    );
    check(
        "SELECT typeof(event_id), typeof(occurred_at), typeof(cgroup_id) FROM events LIMIT 1",
        "UUID,TIMESTAMP,UBIGINT\n",
    );
    check("SELECT count(*) FROM duckdb_views() WHERE NOT internal AND comment IS NULL", "0\n");
    check(
        "SELECT string_agg(c.table_name || '.' || c.column_name, ' ') FROM duckdb_columns() c \
         WHERE NOT c.internal AND c.comment IS NULL",
        "\n",
    );
    check(
        "SELECT count(*) FROM duckdb_functions() WHERE function_type = 'table_macro' AND NOT internal AND comment IS NULL",
        "0\n",
    );
    check("SELECT attributes->>'sequence' FROM events WHERE kind = 'oom_kill'", "2\n");
}

#[test]
fn the_catalog_is_read_only_and_has_no_log_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("memory.duckdb.wal"), "stale").expect("written");
    let (writer, _reader) = start(dir.path());
    let catalog = dir.path().join("memory.duckdb");
    let mode = std::fs::metadata(&catalog).expect("published at start").permissions().mode();
    assert_eq!(mode & 0o777, 0o444);
    assert!(!dir.path().join("memory.duckdb.wal").exists());
    block_on(writer.shutdown()).expect("stopped");
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("listed")
        .map(|e| e.expect("read").file_name().into_string().expect("plain"))
        .collect();
    assert!(names.iter().all(|n| !n.contains(".new")), "nothing is left beside it: {names:?}");
}
