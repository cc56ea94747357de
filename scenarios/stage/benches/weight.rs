//! What the agent weighs on a node of 100 pods: memory and processor time, idle and at 5,000 events a second.
//! Prints rows for `cargo xtask bench`.
//!
//! It is the program that `AFTERTRACE_AGENT` names, the static one as nodes run it, or else the one beside the
//! benches. The events are real swaps: links renamed onto `..data` in the pods' own volumes.

#[expect(dead_code, reason = "the rig serves tests too, which use more of it")]
#[path = "../tests/e2e/rig.rs"]
mod rig;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aftertrace_stage::kubelet::Pace;
use rig::{Rig, config_map, mounting_pod, pod};

/// Pods; half of them mount a ConfigMap.
const PODS: usize = 100;

/// Swaps a second.
const RATE: u32 = 5_000;

/// How long each of the two is measured.
const WINDOW: Duration = Duration::from_secs(20);

/// Swaps between two looks at the clock.
const BATCH: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure());
}

async fn measure() {
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    let size = std::fs::metadata(rig.agent_program()).expect("the agent was started").len();
    row("agent, size of the program", &format!("{:.1}", mib(size)), "MiB", "");
    rig.stage().cluster().apply(config_map("cfg", "start")).expect("the ConfigMap is well formed");
    for n in 0..PODS {
        let pod = if n % 2 == 0 {
            mounting_pod(&format!("reader-{n:03}"), "cfg")
        } else {
            pod(&format!("sleeper-{n:03}"), &["sleep", "3600"], "32Mi")
        };
        rig.stage().kubelet().run_pod(pod).expect("the pod is well formed");
    }
    rig.wait_for("the pods to run", async |rig| {
        rig.number("select count(*) from events where kind = 'container_started'")
            .filter(|n| *n >= PODS as u64)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = rig.agent_pid();
    let idle = cpu_percent(pid, tokio::time::sleep(WINDOW)).await;
    row("agent CPU, idle, 100 pods", &format!("{idle:.2}"), "% of a core", "0.1");
    weigh(pid, "idle, 100 pods");

    let stored = || rig.number("select count(*) from events where kind = 'config_swapped'").unwrap_or(0);
    let before = stored();
    let volumes = volumes(&rig.stage().kubelet_root().join("pods"));
    let start = Instant::now();
    let swapping = tokio::task::spawn_blocking(move || swap(&volumes));
    let busy = cpu_percent(pid, async { swapping.await.expect("no panic") }).await;
    let swaps = f64::from(RATE) * WINDOW.as_secs_f64();
    let reached = swaps / start.elapsed().as_secs_f64();
    weigh(pid, "at that rate");
    row(&format!("agent CPU at {reached:.0} swaps/s"), &format!("{busy:.1}"), "% of a core", "5");
    rig.wait_for("the rows to come to an end", async |rig| {
        let now = rig.number("select count(*) from events where kind = 'config_swapped'")?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        (rig.number("select count(*) from events where kind = 'config_swapped'")? == now).then_some(())
    })
    .await;
    let told = (stored() - before) as f64;
    row("of those swaps, told as events", &format!("{:.1}", told / swaps * 100.0), "%", "");
    let gaps = rig.sql("select component, reason, sum(count) as n from gaps group by all order by n desc");
    println!("gaps: {gaps:?}");
    weigh(pid, "after it");
    rig.stop().await;
}

/// The pods' volumes, each with two more generations to go to and fro between.
fn volumes(pods: &Path) -> Vec<PathBuf> {
    let pods = std::fs::read_dir(pods).expect("the kubelet has pods").flatten();
    let volumes = pods.map(|pod| pod.path().join("volumes/kubernetes.io~configmap/cfg"));
    let volumes: Vec<PathBuf> = volumes.filter(|volume| volume.is_dir()).collect();
    for volume in &volumes {
        for generation in GENERATIONS {
            std::fs::create_dir(volume.join(generation)).expect("the volume is the stage's");
            std::fs::write(volume.join(generation).join("app.conf"), generation).expect("it was just made");
        }
    }
    volumes
}

const GENERATIONS: [&str; 2] = ["..2026_01_01_00_00_00.1", "..2026_01_01_00_00_00.2"];

/// Swaps one volume after the other at [`RATE`].
fn swap(volumes: &[PathBuf]) {
    let start = Instant::now();
    let total = RATE as usize * usize::try_from(WINDOW.as_secs()).expect("small");
    for n in 0..total {
        let volume = &volumes[n % volumes.len()];
        let staged = volume.join("..data_tmp");
        symlink(GENERATIONS[n / volumes.len() % 2], &staged).expect("the volume is the stage's");
        std::fs::rename(&staged, volume.join("..data")).expect("the link was just made");
        if n % BATCH == 0 {
            let due = Duration::from_secs(1) * u32::try_from(n).expect("small") / RATE;
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
}

/// Percent of a core that a process took meanwhile, all its threads, by the scheduler's own count.
async fn cpu_percent(pid: u32, meanwhile: impl Future<Output = ()>) -> f64 {
    let (start, before) = (Instant::now(), cpu_ns(pid));
    meanwhile.await;
    (cpu_ns(pid) - before) as f64 / start.elapsed().as_nanos() as f64 * 100.0
}

fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the agent runs").flatten();
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

/// Resident memory: all of it, what of it is the process's own, and what lies in files that it shares.
fn weigh(pid: u32, when: &str) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent runs");
    for (field, name, target) in
        [("VmRSS:", "", "8"), ("RssAnon:", ", anonymous", ""), ("RssFile:", ", program and ring", "")]
    {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("every process has it");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        row(&format!("agent RSS{name}, {when}"), &format!("{:.1}", mib(kib * 1024)), "MiB", target);
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn row(what: &str, value: &str, unit: &str, target: &str) {
    println!("row\t{what}\t{value}\t{unit}\t{target}");
}
