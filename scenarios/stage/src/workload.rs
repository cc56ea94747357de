//! Programs that containers of the scenarios run: what their images would bring on a real cluster.
//!
//! The kubelet puts a folder of links named as these programs before each container's `PATH`; a link's name
//! decides what this program does, so a victim's `comm` in the kernel is `memhog` and not the stage's.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// Names of the links, and of the hidden subcommands that do the same.
pub const PROGRAMS: [&str; 4] = ["memhog", "child-oom", "watch-config", "victim"];

/// How often `watch-config` looks at its file.
const LOOK: Duration = Duration::from_millis(200);

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Workload {
    /// Allocate and touch memory step by step, then hold it.
    #[command(hide = true)]
    Memhog {
        /// How much, in MiB.
        mib: usize,
        /// How long to hold it, in seconds.
        #[arg(default_value_t = 3_600)]
        hold_seconds: u64,
        /// How much at a time, in MiB.
        #[arg(default_value_t = 8)]
        step_mib: usize,
        /// Pause between two steps, in milliseconds.
        #[arg(default_value_t = 20)]
        pause_ms: u64,
    },
    /// Let a child allocate memory, live on when it is killed, and end well.
    #[command(hide = true)]
    ChildOom {
        /// How much the child allocates, in MiB.
        mib: usize,
        /// How long to live on, in seconds.
        #[arg(default_value_t = 1)]
        hold_seconds: u64,
    },
    /// Read a file again and again, and print it when it changes.
    #[command(hide = true)]
    WatchConfig {
        /// The file.
        path: PathBuf,
    },
    /// Do nothing for ever: a pod's sandbox.
    #[command(hide = true)]
    Pause,
}

/// Does what the program does.
///
/// # Errors
/// Standard output is closed, or a child cannot be started.
pub fn run(workload: &Workload) -> anyhow::Result<()> {
    match workload {
        Workload::Memhog { mib, hold_seconds, step_mib, pause_ms } => {
            memhog(*mib, (*step_mib).max(1), Duration::from_millis(*pause_ms))?;
            say(&format!("holding {hold_seconds} s"))?;
            std::thread::sleep(Duration::from_secs(*hold_seconds));
            Ok(())
        }
        Workload::ChildOom { mib, hold_seconds } => {
            let program = std::env::current_exe().context("cannot find this program")?;
            let child = std::process::Command::new(program).args(["memhog", &mib.to_string(), "0"]).status();
            say(&format!("child: {}", child.context("cannot start the child")?))?;
            std::thread::sleep(Duration::from_secs(*hold_seconds));
            Ok(())
        }
        Workload::WatchConfig { path } => {
            let mut shown = None;
            loop {
                let content = std::fs::read_to_string(path).map_err(|error| error.to_string());
                if shown.as_ref() != Some(&content) {
                    let line = content.clone().unwrap_or_else(|error| format!("unreadable: {error}"));
                    say(&line.replace('\n', " "))?;
                    shown = Some(content);
                }
                std::thread::sleep(LOOK);
            }
        }
        Workload::Pause => loop {
            std::thread::park();
        },
    }
}

fn memhog(mib: usize, step_mib: usize, pause: Duration) -> anyhow::Result<()> {
    say(&format!("memhog pid={} target={mib} MiB", std::process::id()))?;
    let mut held = Vec::new();
    let mut allocated = 0;
    while allocated < mib {
        let step = step_mib.min(mib - allocated);
        // A byte that is not zero makes the allocator write every page.
        held.push(vec![1_u8; step << 20]);
        allocated += step;
        say(&format!("allocated {allocated} MiB"))?;
        std::thread::sleep(pause);
    }
    // The caller holds the memory until the process ends.
    std::mem::forget(std::hint::black_box(held));
    Ok(())
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to standard output")
}
