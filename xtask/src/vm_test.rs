//! `vm-test`: boots the kernels of the matrix under qemu and runs the kernel's tests in them.
//!
//! The tests are the same programs that `cargo test` runs on this machine; only the kernel differs. Without
//! qemu, apt or an x86-64 processor nothing runs, and every machine of the matrix counts as skipped.

mod cpio;
mod guest;
mod image;
mod matrix;
mod plan;
mod programs;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::guest::{Guest, Line};
use self::matrix::Variant;
use self::programs::{Built, PROGRAMS, Program};
use crate::setup::{self, Machine, Need, Series, Tools};
use crate::test::Report;
use crate::workspace::Workspace;

/// How long one machine may run. A guess: several times what the slowest takes, so that only a hang meets it.
const MACHINE_BOUND: Duration = Duration::from_secs(8 * 60);

/// How many machines run at once: an emulated machine takes one thread, and a CI runner has two cores. Tests
/// have deadlines, so more would not be faster, only less sure.
const SIDE_BY_SIDE: usize = 2;

/// Arguments of `vm-test`.
#[derive(clap::Args, Default)]
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
    let Some(machine) = &tools.machine else {
        let mut report = Report::default();
        skip(&tools, args, &mut report);
        print!("{}", report.render());
        // Who wants to do something by hand has failed; who wants to test is told that nothing was tested.
        return Ok(if args.by_hand() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    };
    let mut guests = guests(workspace, machine);
    guests.retain(|guest| args.wants_machine(guest.kernel.series, guest.variant));
    let mut programs: Vec<&'static Program> = PROGRAMS.iter().filter(|program| args.wants(program)).collect();
    if guests.is_empty() {
        programs.clear();
    }
    let built = programs::build(workspace, &tools, &programs)?;
    if args.by_hand() {
        let Some(guest) = guests.first() else { bail!("no machine of the matrix is chosen") };
        return by_hand(workspace, guest, &built, args);
    }
    let mut report = Report::default();
    skip(&tools, args, &mut report);
    test_all(&guests, &built, args, &mut report);
    print!("{}", report.render());
    Ok(if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots the whole matrix for `test`, which has just built everything with `build`.
pub(crate) fn run_all(
    workspace: &Workspace,
    tools: &Tools,
    build: Command,
    report: &mut Report,
) -> Result<()> {
    let args = Args::default();
    skip(tools, &args, report);
    let Some(machine) = tools.machine.as_ref().filter(|machine| !machine.kernels.is_empty()) else {
        return Ok(());
    };
    let built = programs::find(workspace, build)?;
    test_all(&guests(workspace, machine), &built, &args, report);
    Ok(())
}

impl Args {
    fn by_hand(&self) -> bool {
        self.shell || self.exec.is_some()
    }

    /// Without a choice a run by hand needs no test program, and a run of tests needs all.
    fn wants(&self, program: &Program) -> bool {
        if self.programs.is_empty() {
            !self.by_hand()
        } else {
            self.programs.iter().any(|name| name == program.name)
        }
    }

    /// Emulation unless told otherwise: where `/dev/kvm` is offered inside a virtual machine it may not run a
    /// stock kernel, and emulation boots in three seconds. On one thread: until qemu 8.1 a processor may run code
    /// that another has just patched, and a kernel that attaches fentry programs patches itself all the time
    /// ("Oops: int3").
    fn accelerator(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg,thread=single" }
    }

    fn wants_machine(&self, series: Series, variant: Variant) -> bool {
        (self.series.is_empty() || self.series.contains(&series))
            && (self.variants.is_empty() || self.variants.contains(&variant))
    }
}

/// Every machine of the matrix.
fn guests<'a>(workspace: &'a Workspace, machine: &'a Machine) -> Vec<Guest<'a>> {
    let of = |kernel: &'a setup::Kernel| {
        let variants = Variant::of(kernel.series).iter();
        variants.map(move |variant| Guest { workspace, machine, kernel, variant: *variant })
    };
    machine.kernels.iter().flat_map(of).collect()
}

/// Boots one machine for a person.
fn by_hand(workspace: &Workspace, guest: &Guest<'_>, built: &[Built], args: &Args) -> Result<ExitCode> {
    let mut contents = plan::begin(workspace, guest.variant, built);
    for path in &args.put {
        contents.files.push(std::path::absolute(path)?);
    }
    for built in built {
        println!("vm-test: {} is {}", built.program.name, built.executable.display());
    }
    let Some(command) = &args.exec else {
        println!("vm-test: {}; `exit` ends it, Ctrl-A X kills it", guest.name());
        contents.plan += plan::SHELL;
        guest.shell(&contents, args.accelerator())?;
        return Ok(ExitCode::SUCCESS);
    };
    contents.plan += &plan::exec(command);
    let mut code = 0;
    guest.run(&contents, args.accelerator(), MACHINE_BOUND, |line| match line {
        Line::Begin(_) => {}
        Line::Output(text) => println!("{text}"),
        Line::End(_, end) => code = end,
    })?;
    println!("vm-test: {} ended with {code}", guest.name());
    Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Boots machines side by side, and adds what their tests gave in the order of the matrix.
fn test_all(guests: &[Guest<'_>], built: &[Built], args: &Args, report: &mut Report) {
    let next = Mutex::new(guests.iter().enumerate());
    let take = || next.lock().map_or(None, |mut next| next.next());
    let work = || {
        let mut reports = Vec::new();
        while let Some((place, guest)) = take() {
            reports.push((place, test(guest, guests.len() > 1, built, args)));
        }
        reports
    };
    let mut reports: Vec<(usize, Report)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..SIDE_BY_SIDE.min(guests.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker has no reason to panic"))
            .collect()
    });
    reports.sort_by_key(|(place, _)| *place);
    for (_, of_guest) in reports {
        report.add(of_guest);
    }
}

/// Boots one machine and runs its programs' tests; with others beside it, each line says whose it is.
fn test(guest: &Guest<'_>, beside_others: bool, built: &[Built], args: &Args) -> Report {
    let started = Instant::now();
    let name = guest.name();
    println!("vm-test: {name}");
    let before = if beside_others { format!("{}: ", guest.short_name()) } else { String::new() };
    let mut report = Report::default();
    let contents = plan::tests(guest.workspace, guest.variant, built, args.filter.as_deref());
    let ended = guest.run(&contents, args.accelerator(), MACHINE_BOUND, |line| match line {
        Line::Begin(program) => report.begin(format!("{program} on {name}")),
        Line::Output(text) => {
            if report.feed(text) && !text.is_empty() {
                println!("{before}{text}");
            }
        }
        Line::End(_, code) => report.finish(code),
    });
    if let Err(error) = ended {
        report.broke(format!("{error:#}"));
    }
    println!("vm-test: {name} ran {} s", started.elapsed().as_secs());
    report
}

/// A kernel's own type information, from its own mouth: it is kept, so that each kernel is asked once.
pub(crate) fn types(workspace: &Workspace, machine: &Machine, kernel: &setup::Kernel) -> Result<Vec<u8>> {
    let kept = kernel.btf();
    if let Ok(types) = fs::read(&kept) {
        return Ok(types);
    }
    let guest = Guest { workspace, machine, kernel, variant: Variant::Full };
    let types = guest.output(plan::TYPES, Args::default().accelerator(), MACHINE_BOUND)?;
    fs::write(&kept, &types).with_context(|| format!("write {}", kept.display()))?;
    Ok(types)
}

/// Says which machines of the matrix cannot run, and counts them.
fn skip(tools: &Tools, args: &Args, report: &mut Report) {
    let absent: Vec<(Series, &str)> = match &tools.machine {
        Some(machine) => machine.absent.iter().map(|(series, why)| (*series, why.as_str())).collect(),
        None => {
            let absent = tools.absent.iter().find(|absent| absent.what == setup::MACHINE);
            let why = absent.map_or("no virtual machine was asked for", |absent| absent.why.as_str());
            Series::ALL.map(|series| (series, why)).to_vec()
        }
    };
    for (series, why) in absent {
        for variant in Variant::of(series).iter().filter(|variant| args.wants_machine(series, **variant)) {
            println!("SKIPPED: Linux {}, {} was not booted: {why}", series.name(), variant.name());
            report.skip("vm-test", format!("Linux {}, {}", series.name(), variant.name()), why);
        }
    }
}
