//! Records built by hand, whole, cut and bent.

use aftertrace_ebpf_common::limits::{CGROUP_NAME_BYTES, MAX_MEMCG_LEVELS};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;

const PAGE: u64 = 4096;

fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

fn raw_task(tid: u32) -> raw::Task {
    raw::Task {
        start_boot_ns: 7,
        process_start_boot_ns: 6,
        tid,
        tgid: 41,
        ns_tgid: 1,
        uid: 1000,
        comm: text("worker"),
    }
}

fn raw_level(name: &str, limit_pages: u64) -> raw::MemcgLevel {
    raw::MemcgLevel {
        name: text(name),
        limit_pages,
        usage_pages: 3,
        oom_kill_events: 1,
        ..raw::MemcgLevel::new_zeroed()
    }
}

fn raw_kill() -> raw::OomKill {
    let mut kill = raw::OomKill::new_zeroed();
    kill.header = raw::Header { kind: kind::OOM_KILL, size: size_of::<raw::OomKill>() as u32, boot_ns: 100 };
    kill.signal_boot_ns = 90;
    kill.victim = raw_task(42);
    kill.allocator = raw_task(43);
    kill.allocator_memcg = ABSENT_U64;
    kill.victim_parent_memcg = 5;
    kill.rss_anon_pages = 2;
    kill.rss_file_pages = (-5_i64) as u64;
    kill.rss_shmem_pages = ABSENT_U64;
    kill.oom_score_adj = -997;
    kill.role = oom_role::MARKED;
    kill.level_count = 2;
    kill.levels[0] = raw_level("pod1", 16);
    kill.levels[1] = raw_level("", i64::MAX as u64 / PAGE);
    kill.levels[1].under_oom = ABSENT_U32;
    kill
}

fn raw_rename(result: i64, new_path: &str) -> raw::Rename {
    let mut rename = raw::Rename::new_zeroed();
    rename.header = raw::Header { kind: kind::RENAME, size: size_of::<raw::Rename>() as u32, boot_ns: 100 };
    rename.writer = raw_task(42);
    rename.result = result;
    rename.call = rename_call::RENAMEAT;
    (rename.old_dfd, rename.new_dfd) = (-100, 5);
    rename.old_path = text("/v/..data_tmp");
    rename.new_path = text(new_path);
    rename
}

fn raw_exit(wait_status: u32) -> raw::Exit {
    let header = raw::Header { kind: kind::EXIT, size: size_of::<raw::Exit>() as u32, boot_ns: 100 };
    raw::Exit { header, task: raw_task(42), kill_boot_ns: 90, wait_status, role: oom_role::MARKED }
}

fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    Decoder::new(PAGE).decode(bytes)
}

fn decode_kill(raw: &raw::OomKill) -> OomKill {
    match decode(raw.as_bytes()) {
        Ok(Record::OomKill(kill)) => *kill,
        other => panic!("not a kill: {other:?}"),
    }
}

#[test]
fn a_kill_has_bytes_for_pages_and_absence_for_what_was_not_told() {
    let kill = decode_kill(&raw_kill());
    assert_eq!((kill.boot_ns, kill.signal_boot_ns, kill.role), (100, 90, OomRole::Marked));
    assert_eq!((kill.victim.tid, kill.victim.tgid, kill.allocator.tid), (42, 41, 43));
    assert_eq!((kill.victim.ns_tgid, kill.victim.uid), (Some(1), Some(1000)));
    assert_eq!(kill.victim.comm.as_deref(), Some("worker"));
    assert_eq!((kill.allocator_memcg, kill.victim_parent_memcg), (None, Some(5)));
    assert_eq!(kill.rss_anon_bytes, Some(2 * PAGE));
    assert_eq!(kill.rss_file_bytes, Some(0), "a counter below zero is zero, as in the kernel log");
    assert_eq!(kill.rss_shmem_bytes, None);
    assert_eq!(kill.oom_score_adj, Some(-997));

    let [pod, root] = kill.levels.as_slice() else { panic!("{:?}", kill.levels) };
    assert_eq!(pod.name.as_deref(), Some("pod1"));
    assert_eq!((pod.usage_bytes, pod.limit), (Some(3 * PAGE), Some(Limit::Bytes(16 * PAGE))));
    assert_eq!((pod.oom_kill_events, pod.under_oom, pod.name_truncated), (Some(1), Some(false), false));
    assert_eq!((root.name.as_deref(), root.limit, root.under_oom), (None, Some(Limit::Unlimited), None));
}

#[test]
fn a_name_that_fills_its_place_may_have_been_longer() {
    let mut raw = raw_kill();
    raw.levels[0].name = [b'a'; CGROUP_NAME_BYTES];
    raw.levels[0].name[CGROUP_NAME_BYTES - 1] = 0;
    let kill = decode_kill(&raw);
    assert!(kill.levels[0].name_truncated);
    assert_eq!(kill.levels[0].name.as_ref().map(String::len), Some(CGROUP_NAME_BYTES - 1));
}

#[test]
fn a_sharer_names_the_marked_process() {
    let mut raw = raw_kill();
    (raw.role, raw.marked_tgid) = (oom_role::SHARED_MM, 77);
    assert_eq!(decode_kill(&raw).role, OomRole::SharedMm { marked_tgid: 77 });
}

#[test]
fn renames_have_results_and_directories() {
    let check = |result, expected| match decode(raw_rename(result, "/v/..data").as_bytes()) {
        Ok(Record::Rename(rename)) => {
            assert_eq!(rename.result, expected);
            assert_eq!((rename.old_dfd, rename.new_dfd), (None, Some(5)));
            assert_eq!(rename.new_path, PathBuf::from("/v/..data"));
            assert_eq!(rename.call, RenameCall::Renameat);
        }
        other => panic!("not a rename: {other:?}"),
    };
    check(0, Ok(()));
    check(-2, Err(2));
}

#[test]
fn an_exit_is_by_signal_or_by_code() {
    let check = |status, expected| match decode(raw_exit(status).as_bytes()) {
        Ok(Record::Exit(exit)) => assert_eq!((exit.signal, exit.code), expected, "{status:#x}"),
        other => panic!("not an exit: {other:?}"),
    };
    check(9, (Some(9), None));
    check(0x80 | 6, (Some(6), None));
    check(3 << 8, (None, Some(3)));
    check(0, (None, Some(0)));
    check(ABSENT_U32, (None, None));
}

#[test]
fn what_is_bent_is_refused_by_name() {
    let check = |bytes: &[u8], expected| assert_eq!(decode(bytes), Err(expected));
    check(raw_rename(0, "/v/other").as_bytes(), DecodeError::NotData);
    check(raw_rename(1, "/v/..data").as_bytes(), DecodeError::Unknown("result"));

    let mut kill = raw_kill();
    kill.level_count = MAX_MEMCG_LEVELS as u32 + 1;
    check(kill.as_bytes(), DecodeError::Unknown("level count"));
    let mut kill = raw_kill();
    kill.victim.tgid = ABSENT_U32;
    check(kill.as_bytes(), DecodeError::NoIdentity);
    let mut kill = raw_kill();
    kill.role = 9;
    check(kill.as_bytes(), DecodeError::Unknown("role"));
    let mut kill = raw_kill();
    kill.header.kind = 99;
    check(kill.as_bytes(), DecodeError::Kind(99));
    let mut kill = raw_kill();
    kill.header.size -= 8;
    let stated = kill.header.size;
    check(kill.as_bytes(), DecodeError::Size { kind: kind::OOM_KILL, stated });
}

#[test]
fn a_record_cut_anywhere_is_refused() {
    let kill = raw_kill();
    let bytes = kill.as_bytes();
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_err(), "cut at {length}");
    }
}
