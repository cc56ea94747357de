//! `vm-test`: boots the kernels of the matrix under qemu and runs the kernel's tests in them.
//!
//! The tests are the same programs that `cargo test` runs on this machine; only the kernel differs. Without
//! qemu, apt or an x86-64 processor nothing runs and every machine of the matrix counts as skipped.

mod cpio;
mod guest;
mod image;
mod matrix;
mod programs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::guest::{Guest, Line};
use self::image::Contents;
use self::matrix::Variant;
use self::programs::{Built, PROGRAMS, Program};
use crate::setup::{self, Need, Series, Tools};
use crate::test::{BIN_DIR_ENV, Report};
use crate::workspace::{Profile, Workspace};

/// How long one machine may run. A guess: several times what the slowest takes, so that only a hang meets it.
const MACHINE_BOUND: Duration = Duration::from_secs(5 * 60);

/// Tells tests where their C programs are, because the guests have no compiler.
const C_PROGRAMS_ENV: &str = "AFTERTRACE_C_PROGRAMS";

/// Arguments of `vm-test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only kernels of these series; default all
    #[arg(value_name = "KERNEL")]
    series: Vec<Series>,
    /// Only these variants; default all of the series
    #[arg(long = "variant", value_name = "NAME")]
    variants: Vec<Variant>,
    /// Only these test programs
    #[arg(long = "program", value_name = "NAME",
          value_parser = clap::builder::PossibleValuesParser::new(PROGRAMS.iter().map(|program| program.name)))]
    programs: Vec<String>,
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Run this shell command instead of the tests; the test programs lie where the host has them
    #[arg(long, value_name = "COMMAND", conflicts_with = "shell")]
    exec: Option<String>,
    /// Give a shell in the guest instead of running the tests; leave it with `exit`
    #[arg(long)]
    shell: bool,
    /// Also put this file or folder into the guest, at its own absolute path
    #[arg(long = "put", value_name = "PATH")]
    put: Vec<PathBuf>,
    /// Use the processor's own virtualisation instead of emulation
    #[arg(long)]
    kvm: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let tools = setup::ensure(workspace, &[Need::Kernel, Need::Machine])?;
    let by_hand = args.shell || args.exec.is_some();
    let wanted = |program: &&Program| {
        if args.programs.is_empty() {
            !by_hand
        } else {
            args.programs.iter().any(|name| name == program.name)
        }
    };
    let programs: Vec<&'static Program> = PROGRAMS.iter().filter(wanted).collect();
    let mut report = Report::default();
    let Some(machine) = &tools.machine else {
        skip(&tools, &mut report);
        if by_hand {
            bail!("{}", report.render());
        }
        print!("{}", report.render());
        return Ok(ExitCode::SUCCESS);
    };
    let built = programs::build(workspace, &tools, &programs)?;
    let guests = machine
        .kernels
        .iter()
        .filter(|kernel| args.series.is_empty() || args.series.contains(&kernel.series));
    let guests = guests.flat_map(|kernel| {
        let variants = Variant::of(kernel.series)
            .iter()
            .filter(|variant| args.variants.is_empty() || args.variants.contains(variant));
        variants.map(|variant| Guest::new(workspace, machine, kernel, *variant, args.kvm))
    });
    let mut guests: Vec<Guest<'_>> = guests.collect();
    if by_hand {
        guests.truncate(1);
        let Some(guest) = guests.pop() else { bail!("no machine of the matrix is chosen") };
        return hand(workspace, &guest, &built, args);
    }
    for guest in guests {
        test(workspace, &guest, &built, args.filter.as_deref(), &mut report);
    }
    print!("{}", report.render());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots one machine for a person.
fn hand(workspace: &Workspace, guest: &Guest<'_>, built: &[Built], args: &Args) -> Result<ExitCode> {
    let mut contents = contents(workspace, guest, built);
    contents.files.extend(absolute(&args.put)?);
    for built in built {
        println!("vm-test: {} is {}", built.program.name, built.executable.display());
    }
    if args.shell {
        println!("vm-test: {}; `exit` ends it, Ctrl-A X kills it", guest.name());
        // cttyhack makes the console the shell's terminal, so that Ctrl-C ends what runs in it.
        contents.plan += "setsid cttyhack /bin/sh -l < /dev/ttyS0 > /dev/ttyS0 2>&1\n";
        guest.shell(&contents)?;
        return Ok(ExitCode::SUCCESS);
    }
    let command = args.exec.as_deref().unwrap_or_default();
    contents.plan += &format!("run exec /bin/sh -c {}\n", quoted(command));
    let mut code = 0;
    guest.run(&contents, MACHINE_BOUND, |line| match line {
        Line::Begin(_) => {}
        Line::Output(text) => println!("{text}"),
        Line::End(_, end) => code = end,
    })?;
    println!("vm-test: {} ended with {code}", guest.name());
    Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots one machine and runs its programs.
fn test(
    workspace: &Workspace,
    guest: &Guest<'_>,
    built: &[Built],
    filter: Option<&str>,
    report: &mut Report,
) {
    let started = Instant::now();
    println!("vm-test: {}", guest.name());
    let mut contents = contents(workspace, guest, built);
    for built in built {
        let Some(own_filter) = (built.program.filter)(guest.variant) else { continue };
        let filter = filter.unwrap_or(own_filter);
        let own = built.program.env.iter().map(|(name, value)| format!("{name}={} ", quoted(value)));
        let c_programs = built
            .c_programs
            .iter()
            .map(|dir| format!("{C_PROGRAMS_ENV}={} ", quoted(&dir.to_string_lossy())));
        let env = own.chain(c_programs);
        contents.plan += &format!(
            "cd {} && run {} env {}{} --show-output {}\n",
            quoted(&built.folder.to_string_lossy()),
            built.program.name,
            env.collect::<String>(),
            quoted(&built.executable.to_string_lossy()),
            if filter.is_empty() { String::new() } else { quoted(filter) },
        );
    }
    let ended = guest.run(&contents, MACHINE_BOUND, |line| match line {
        Line::Begin(name) => report.begin(format!("{name} on {}", guest.name())),
        Line::Output(text) => {
            if report.feed(text) && !text.is_empty() {
                println!("{text}");
            }
        }
        Line::End(name, code) => report.finish(name, code),
    });
    if let Err(error) = ended {
        report.broke(format!("{error:#}"));
    }
    println!("vm-test: {} ran {} s", guest.name(), started.elapsed().as_secs());
}

/// What every plan begins with, and the files it needs.
fn contents(workspace: &Workspace, guest: &Guest<'_>, built: &[Built]) -> Contents {
    let programs = workspace.programs(Profile::Dev);
    let mut plan = format!(
        "export TMPDIR=/tmp {BIN_DIR_ENV}={}\n{}\n",
        quoted(&programs.to_string_lossy()),
        guest.variant.preparation()
    );
    let mut files = Vec::new();
    for built in built {
        plan += &format!("mkdir -p {}\n", quoted(&built.folder.to_string_lossy()));
        files.push(built.executable.clone());
        files.extend(built.companions.iter().chain(&built.c_programs).cloned());
    }
    Contents { files, plan }
}

fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    Ok(paths.iter().map(std::path::absolute).collect::<std::io::Result<_>>()?)
}

/// A word that the guest's shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Says that nothing of the matrix can run, and counts it.
fn skip(tools: &Tools, report: &mut Report) {
    let absent = tools.absent.iter().find(|absent| absent.what == setup::MACHINE);
    let why = absent.map_or("no virtual machine was asked for", |absent| absent.why.as_str());
    println!("SKIPPED: no kernel of the matrix was booted: {why}");
    for series in Series::ALL {
        for variant in Variant::of(series) {
            report.skip("vm-test", format!("Linux {}, {}", series.name(), variant.name()), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_survive_the_shell() {
        let word = "it's \"a\" $word";
        let output =
            std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
        assert_eq!(output.expect("sh runs").stdout, word.as_bytes());
    }
}
