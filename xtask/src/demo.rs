//! `demo`: a real OOM kill and a real mount swap of this machine's kernel, answered as causal trees.
//!
//! It builds the release programs, sets up a place to play ([`place`]: the stage, or a cluster that this machine
//! is a node of), starts aggregator and agent ([`programs`]), makes the objects of both scenarios
//! ([`scenarios`]), asks `aft` until the answers are there, compares them with the kernel's own log
//! ([`kernel_log`]), and takes everything down again, also after Ctrl-C or a failure.

mod http;
mod kernel_log;
mod place;
mod programs;
mod scenarios;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use self::kernel_log::KernelLog;
use self::place::Place;
use self::programs::{DataDir, Programs};
use self::scenarios::Answer;
use crate::setup::{self, Need};
use crate::workspace::{Profile, TOOLS_DIR_ENV, Workspace};
use crate::{build, child, interrupt};

/// How long an answer may take. A guess: a kill on the stage is answered within seconds, on a busy cluster an
/// image is pulled first.
const ANSWER_BOUND: Duration = Duration::from_secs(180);

/// How often the demo asks again; soon enough for a person.
const ASK: Duration = Duration::from_millis(300);

/// Arguments of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Play on this cluster instead of the stage; this machine must be one of its nodes (needs kubectl)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Keep everything running after the answers, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Folder of programs that are built already
    #[arg(long, hide = true)]
    programs: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let programs = match &args.programs {
        Some(programs) => programs.clone(),
        None => {
            say("building the release programs (minutes the first time)");
            build::programs(workspace, Profile::Release)?
        }
    };
    let tools = setup::ensure(workspace, &[Need::DuckdbCli])?;
    if !rustix::process::geteuid().is_root() {
        return as_root(workspace, args, &programs);
    }
    let outcome = play(args, &programs, tools.duckdb_cli.as_deref());
    // The stage removes what it made; this is for what a killed stage left, of this run or another.
    let cleaned = child::output(Command::new(programs.join(place::STAGE)).arg("cleanup"));
    outcome?;
    cleaned.context("clean up after the stage")?;
    say("cgroups, mounts, processes and files of the demo are removed");
    Ok(ExitCode::SUCCESS)
}

/// Runs the same command through sudo: loading programs into the kernel needs root, building them does not.
fn as_root(workspace: &Workspace, args: &Args, programs: &Path) -> Result<ExitCode> {
    let this = std::env::current_exe().context("find this program")?;
    say("loading programs into the kernel needs root: going on with sudo");
    let mut sudo = Command::new("sudo");
    sudo.current_dir(&workspace.root).arg("env");
    for (name, value) in
        [("PATH", std::env::var_os("PATH")), (TOOLS_DIR_ENV, std::env::var_os(TOOLS_DIR_ENV))]
    {
        if let Some(value) = value {
            sudo.arg(format!("{name}={}", value.to_string_lossy()));
        }
    }
    sudo.arg(this).arg("demo").arg("--programs").arg(programs);
    if let Some(kubeconfig) = &args.kubeconfig {
        let kubeconfig = std::path::absolute(kubeconfig).context("resolve the kubeconfig's path")?;
        sudo.arg("--kubeconfig").arg(kubeconfig);
    }
    if args.keep {
        sudo.arg("--keep");
    }
    // In our process group and with our input: sudo may ask for a password.
    let status = sudo.status().context("start sudo; without it run this command as root")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(args: &Args, folder: &Path, duckdb: Option<&Path>) -> Result<()> {
    let data = DataDir::make()?;
    let kernel_log = KernelLog::open();
    let place = match &args.kubeconfig {
        Some(kubeconfig) => Place::cluster(kubeconfig)?,
        None => Place::stage(folder, &data)?,
    };
    say(&format!("playing on {place}"));
    // Declared last, so that it ends first: agent and aggregator before what they watch.
    let mut programs = Programs::start(folder, &place, &data)?;
    say("aggregator and agent are up");

    place.create(&scenarios::namespace())?;
    place.create(&scenarios::config_map())?;
    place.create(&scenarios::reader())?;
    place.create(&scenarios::victim(place.is_stage()))?;
    say("a container begins to take more memory than its limit");
    let kill = wait(&mut programs, "the kill", scenarios::ask_for_the_kill)?;
    show_kill(&programs, &kill, &kernel_log)?;
    wait(&mut programs, "the reader's start", scenarios::ask_for_the_reader)?;
    say("the ConfigMap that another container reads changes");
    place.change_config()?;
    let swap = wait(&mut programs, "the swap", scenarios::ask_for_the_swap)?;

    show_swap(&programs, &swap)?;
    query(&mut programs, duckdb)?;
    if args.keep {
        say("still running; Ctrl-C ends it. Ask it with:");
        println!("{}", programs.environment());
        while !interrupt::requested() {
            programs.check()?;
            std::thread::sleep(ASK);
        }
    }
    Ok(())
}

/// Asks until there is an answer; fails when a program ends, at the bound, and on Ctrl-C.
fn wait<T>(programs: &mut Programs, what: &str, ask: impl Fn(&Programs) -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        programs.check()?;
        if let Some(answer) = ask(programs)? {
            return Ok(answer);
        }
        if interrupt::requested() {
            bail!("interrupted");
        }
        if started.elapsed() > ANSWER_BOUND {
            bail!("no answer about {what} within {} s\n{}", ANSWER_BOUND.as_secs(), programs.last_words());
        }
        std::thread::sleep(ASK);
    }
}

/// Shown at once: the pod goes on crashing, and a later question is about its next kill.
fn show_kill(programs: &Programs, kill: &Answer, kernel_log: &Result<KernelLog>) -> Result<()> {
    show_why(programs, scenarios::VICTIM)?;
    let comparison = match kernel_log {
        Ok(log) => log.compare(kill),
        Err(error) => Err(anyhow!("{error:#}")),
    };
    match comparison {
        Ok(comparison) => println!("{comparison}\n"),
        Err(error) => println!("not compared with the kernel's log: {error:#}\n"),
    }
    Ok(())
}

fn show_swap(programs: &Programs, swap: &Answer) -> Result<()> {
    show_why(programs, scenarios::READER)?;
    if let Some(lag) = swap.lag_ms("config_changed", "config_swapped") {
        println!("from the change in the API to the swap on the node: {lag:.1} ms\n");
    }
    Ok(())
}

fn show_why(programs: &Programs, pod: &str) -> Result<()> {
    println!("\n$ aft why pod/{pod} -n {}\n", scenarios::NAMESPACE);
    programs.aft_shown(&["why", &format!("pod/{pod}"), "-n", scenarios::NAMESPACE])
}

/// One query with the ordinary DuckDB command, while the aggregator writes. Files are a second behind the API.
fn query(programs: &mut Programs, duckdb: Option<&Path>) -> Result<()> {
    let Some(duckdb) = duckdb else {
        say("the DuckDB command is not here, so its query is left out (see `cargo xtask setup`)");
        return Ok(());
    };
    wait(programs, "the swap in the catalog", |programs| {
        let rows = child::output(duckdb_in(programs, duckdb).arg(scenarios::SWAPS_IN_SQL))?;
        Ok(rows.contains("config_swapped").then_some(()))
    })?;
    println!("$ duckdb -readonly memory.duckdb \"{}\"", scenarios::EDGES_IN_SQL);
    print!("{}", child::output(duckdb_in(programs, duckdb).arg(scenarios::EDGES_IN_SQL))?);
    Ok(())
}

fn duckdb_in(programs: &Programs, duckdb: &Path) -> Command {
    let mut command = Command::new(duckdb);
    command.arg("-readonly").arg(programs.catalog());
    command
}

fn say(text: &str) {
    println!("demo: {text}");
}
