//! Nanoseconds of one run of each program, by the kernel's own count (`BPF_STATS_RUN_TIME`), which includes
//! reading the clock once per run.
//!
//! Whatever is attached is measured. The kernel gives sums only, and an interruption counts as running; so each
//! case is cut into pieces, of whose means a low one is taken. What the rest of the machine does meanwhile runs
//! the programs too and matches nothing; of a case in which they match, those runs are taken off at their price.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aftertrace_agent::kernel::Kernel;
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use tokio::sync::mpsc;

use crate::interval::low;
use crate::row;

/// Pieces of a case.
const PIECES: usize = 30;

/// Calls of each kind in a piece that match nothing.
const CALLS: usize = 1_000;

/// Processes started in a piece that match nothing.
const PROCESSES: usize = 20;

/// Renames onto `..data` in a piece.
const RENAMES: usize = 200;

/// The memory of a process that is to be killed, in bytes.
const KILL_LIMIT: &str = "8388608";

/// Runs of a piece below which its mean says little.
const RUNS_MIN: u64 = 20;

/// Runs and nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    runs: u64,
    ns: u64,
}

impl Cost {
    fn since(self, before: Self) -> Self {
        Self { runs: self.runs - before.runs, ns: self.ns - before.ns }
    }

    fn mean(self) -> f64 {
        self.ns as f64 / self.runs as f64
    }
}

/// By program.
type Costs = BTreeMap<String, Cost>;

/// By program, of each piece.
type Pieces = BTreeMap<String, Vec<Cost>>;

/// Measures; the records are read and thrown away.
pub(crate) async fn measure(kernel: Kernel) {
    let _stats = match enable_stats(Stats::RunTime) {
        Ok(stats) => stats,
        Err(error) => return println!("SKIPPED: the kernel keeps no statistics of programs: {error}"),
    };
    let Kernel { attached, drain, .. } = kernel;
    let (sender, mut records) = mpsc::channel(256);
    let draining = tokio::spawn(drain.run(sender));
    let reading = tokio::spawn(async move { while records.recv().await.is_some() {} });
    let folder = std::env::temp_dir().join(format!("aftertrace-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");

    let quiet = pieces(&folder, match_nothing).await;
    let mut prices: BTreeMap<String, f64> = BTreeMap::new();
    for (program, costs) in &quiet {
        let means = costs.iter().filter(|cost| cost.runs >= RUNS_MIN).map(|cost| cost.mean());
        let mut means: Vec<f64> = means.collect();
        if means.len() < PIECES / 2 {
            continue;
        }
        let price = low(&mut means);
        row(&format!("{program}, not matching"), &format!("{price:.0}"), "ns/run", "50");
        prices.insert(program.clone(), price);
    }
    let swaps = pieces(&folder, rename_onto_data).await;
    matching(&prices, &swaps, RENAMES, &["rename"], "rename onto ..data");
    if let Some(cgroup) = limited_cgroup() {
        let kills = pieces(&cgroup, kill).await;
        let of_kill = ["mark_victim", "signal_generate", "oom_kill_process", "sched_process_ex"];
        matching(&prices, &kills, 1, &of_kill, "OOM kill");
        // They run for every reclaim, so that there is no case in which they match nothing.
        matching(&BTreeMap::new(), &kills, 1, &["reclaim"], "reclaim");
        remove(&cgroup);
    }
    fs::remove_dir_all(&folder).expect("the folder is ours");
    drop(attached);
    draining.abort();
    reading.abort();
}

/// Prints what one matching run costs, for programs that ran at least once for each of `count` matches of a
/// piece; those without a price match in every run.
fn matching(prices: &BTreeMap<String, f64>, pieces: &Pieces, count: usize, programs: &[&str], case: &str) {
    for (program, costs) in pieces.iter().filter(|(name, _)| programs.iter().any(|part| name.contains(part)))
    {
        let of_piece = |cost: &Cost| match prices.get(program) {
            Some(price) => (cost.ns as f64 - price * (cost.runs - count as u64) as f64) / count as f64,
            None => cost.mean(),
        };
        let mut means: Vec<f64> = costs
            .iter()
            .filter(|cost| cost.runs >= count as u64)
            .map(of_piece)
            .filter(|ns| *ns > 0.0)
            .collect();
        if means.len() >= PIECES / 2 {
            row(&format!("{program}, {case}"), &format!("{:.0}", low(&mut means)), "ns/run", "1000");
        }
    }
}

/// What the programs cost in each piece.
async fn pieces(folder: &Path, run: fn(&Path)) -> Pieces {
    let mut pieces = Pieces::new();
    for _ in 0..PIECES {
        let before = costs();
        let folder: PathBuf = folder.to_owned();
        tokio::task::spawn_blocking(move || run(&folder)).await.expect("no panic");
        for (program, cost) in difference(&before, &costs()) {
            pieces.entry(program).or_default().push(cost);
        }
    }
    pieces
}

fn match_nothing(folder: &Path) {
    let file = folder.join("plain");
    fs::write(&file, "").expect("the folder is ours");
    let own = rustix::process::getpid();
    for _ in 0..CALLS {
        fs::rename(&file, &file).expect("the file is ours");
        drop(fs::File::open(&file).expect("the file is ours"));
        // It changes nothing of a process that runs.
        rustix::process::kill_process(own, rustix::process::Signal::CONT).expect("the process is ours");
    }
    for _ in 0..PROCESSES {
        Command::new("/bin/true").status().expect("a program of the base system starts");
    }
}

fn rename_onto_data(folder: &Path) {
    let data = folder.join("..data");
    fs::write(&data, "").expect("the folder is ours");
    for n in 0..RENAMES {
        fs::rename(&data, &data).expect("the file is ours");
        if n % 32 == 0 {
            // So that the ring never fills.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A memory cgroup in which everything that grows is killed; `None` where none can be made.
fn limited_cgroup() -> Option<PathBuf> {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let (root, limit) = if v1.join("memory.limit_in_bytes").exists() {
        (v1, "memory.limit_in_bytes")
    } else {
        (Path::new("/sys/fs/cgroup"), "memory.max")
    };
    let cgroup = root.join(format!("aftertrace-bench-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&cgroup).and_then(|()| fs::write(cgroup.join(limit), KILL_LIMIT)) {
        println!("SKIPPED: no memory cgroup can be limited at {}: {error}", cgroup.display());
        return None;
    }
    // Swap would let the victim go on. Not every kernel accounts it.
    drop(fs::write(cgroup.join("memory.swap.max"), "0"));
    Some(cgroup)
}

/// Has the kernel kill one process in that cgroup.
fn kill(cgroup: &Path) {
    let script = format!("echo $$ > {}/cgroup.procs; exec tail /dev/zero", cgroup.display());
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().expect("a program of the base system starts");
}

fn remove(cgroup: &Path) {
    for _ in 0..100 {
        if fs::remove_dir(cgroup).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{} is left behind", cgroup.display());
}

/// What this process's programs have cost so far.
fn costs() -> Costs {
    let mut names = BTreeMap::new();
    for program in loaded_programs().flatten() {
        let (Some(name), Ok(fd)) = (program.name_as_str(), program.fd()) else { continue };
        if let Some((id, _)) = fdinfo(&fd.as_fd().as_raw_fd().to_string()) {
            names.insert(id, name.to_owned());
        }
    }
    let fds = fs::read_dir("/proc/self/fdinfo").expect("/proc is mounted").flatten();
    let mine: BTreeMap<u32, Cost> = fds.filter_map(|fd| fdinfo(fd.file_name().to_str()?)).collect();
    mine.into_iter().filter_map(|(id, cost)| Some((names.get(&id)?.clone(), cost))).collect()
}

/// A program's id and cost, if the descriptor is one of a program.
fn fdinfo(fd: &str) -> Option<(u32, Cost)> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    let id = u32::try_from(field("prog_id")?).ok()?;
    Some((id, Cost { runs: field("run_cnt")?, ns: field("run_time_ns")? }))
}

fn difference(before: &Costs, after: &Costs) -> Costs {
    let since = |(name, cost): (&String, &Cost)| {
        (name.clone(), cost.since(before.get(name).copied().unwrap_or_default()))
    };
    after.iter().map(since).collect()
}
