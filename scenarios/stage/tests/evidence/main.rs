//! Every case of kernel evidence: what really happens to processes and volumes against the rows of the agent.
//!
//! The stage's kubelet makes real cgroups, processes and volumes; the agent is the real program; a collector keeps
//! what it sends. Each case compares the exact rows, none more and none less, with what the case itself did and
//! with the kernel's own counters, never with another copy of the agent's logic. There is no store in it, so that
//! it runs in a small virtual machine as well. `AFTERTRACE_TEST_SLOWNESS` stretches the deadlines of an emulated
//! one, `AFTERTRACE_EVIDENCE_KILLS` and `AFTERTRACE_EVIDENCE_SWAPS` say how many the mixes make, and
//! `AFTERTRACE_EVIDENCE_CASE` picks cases by a part of their names.

mod collector;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod hostile;
mod kills;
mod mixes;
mod processes;
mod rig;
mod rows;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::kubelet::names::CgroupDriver;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use rig::Rig;

/// A case by its name.
type Case<'a> = (&'static str, LocalBoxFuture<'a, ()>);

/// Names functions of cases: `cases![rig: module::function, …]`.
macro_rules! cases {
    ($rig:expr => $($module:ident::$case:ident),+ $(,)?) => {
        vec![$((stringify!($case), $module::$case($rig).boxed_local())),+]
    };
}

/// Whether a case is picked.
fn is_wanted(name: &str) -> bool {
    std::env::var("AFTERTRACE_EVIDENCE_CASE").map_or(true, |part| name.contains(&part))
}

/// Runs cases one after the other; those that fail do not stop the others. Returns their names.
async fn run(rig: &Rig, cases: Vec<Case<'_>>) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, case) in cases.into_iter().filter(|(name, _)| is_wanted(name)) {
        let began = std::time::Instant::now();
        // A case that panicked holds nothing but its own rows.
        let ended = AssertUnwindSafe(case).catch_unwind().await;
        let outcome = if ended.is_ok() { "ok" } else { "FAILED" };
        println!("case {name} ... {outcome} ({:.1} s)", began.elapsed().as_secs_f32());
        if ended.is_err() {
            failed.push(name);
        }
        rig.clear().await;
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oom_kills() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Cgroupfs).await else { return };
    let cases = cases![&rig =>
        kills::pid_1_is_killed,
        kills::a_child_is_killed_while_pid_1_lives,
        kills::a_process_that_shares_the_memory_dies_with_it,
        kills::two_containers_are_killed_at_once,
        kills::a_containers_own_limit_fires,
        kills::a_pods_own_limit_fires,
        kills::a_class_limit_fires,
        kills::the_limit_of_all_pods_fires,
        kills::a_limit_above_all_pods_fires,
        kills::a_victim_that_is_already_exiting_is_no_kill,
        kills::a_pid_namespace_that_ends_beside_a_kill_makes_no_more_kills,
        kills::a_process_is_killed_where_it_was_moved_to,
        kills::a_second_thread_allocates_after_the_first_has_ended,
        kills::init_containers_and_sidecars_are_told_apart,
    ];
    let failed = run(&rig, cases).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_containers() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Cgroupfs).await else { return };
    let cases = cases![&rig =>
        hostile::another_pods_volume_is_forged,
        hostile::another_pods_cgroup_is_nested,
        hostile::a_limit_below_the_container_fires,
        hostile::a_name_is_full_of_control_characters,
    ];
    let failed = run(&rig, cases).await;
    rig.end_agent().await;
    let rejected = hostile::rejected_swaps(&rig);
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
    let forged = if is_wanted("another_pods_volume_is_forged") { 3 } else { 0 };
    assert!(rejected >= forged, "{forged} forged swaps, {rejected} told as rejected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lives_and_signals() {
    // The API learns of a start so late that most of these containers are never reported as running.
    let pace =
        Pace { start_shows: Duration::from_millis(300), relist: Duration::from_millis(300), ..Pace::fast() };
    let Some(rig) = Rig::start(pace, CgroupDriver::Cgroupfs).await else { return };
    let cases = cases![&rig =>
        processes::a_process_kills_a_container,
        processes::a_process_asks_a_container_to_end,
        processes::a_signal_that_the_kernel_drops_is_told_as_such,
        processes::a_process_of_the_container_itself_ends_it,
        processes::a_container_executes_twice_and_starts_once,
        processes::a_container_that_lives_for_fifty_milliseconds,
        processes::a_pod_is_removed_within_fifty_milliseconds,
        processes::a_pod_is_removed_as_it_is_killed,
    ];
    let failed = run(&rig, cases).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Cgroupfs).await else { return };
    let cases = cases![&rig =>
        config::each_way_to_follow_a_volume,
        config::what_is_no_configuration_is_no_swap_of_it,
        config::an_environment_keeps_what_it_was_given,
    ];
    let failed = run(&rig, cases).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_id_reuse() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Cgroupfs).await else { return };
    let failed = run(&rig, cases![&rig => processes::a_process_id_is_given_twice]).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_mixed() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Systemd).await else { return };
    let failed = run(&rig, cases![&rig => mixes::many_kills]).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_mixed() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Systemd).await else { return };
    let failed = run(&rig, cases![&rig => mixes::many_swaps]).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn cgroup_id_reuse() {
    println!(
        "SKIPPED: the kernel gives a cgroup's id a second time only after 2^31 others, and no test can hurry it; \
         an id is told of a cgroup that is gone in `oom_kills` and `lives_and_signals`"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_kill() {
    let Some(rig) = Rig::start(Pace::fast(), CgroupDriver::Systemd).await else { return };
    if !rig.is_v2() {
        println!("SKIPPED: memory is on cgroup v1 here, which kills no groups");
        return rig.stop().await;
    }
    let failed = run(&rig, cases![&rig => kills::a_group_is_killed]).await;
    rig.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}
