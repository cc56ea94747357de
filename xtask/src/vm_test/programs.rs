//! The test programs that run in the guests, and how they are built.
//!
//! To add one, write its row in [`PROGRAMS`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Variant;
use crate::child;
use crate::setup::Tools;
use crate::workspace::Workspace;

/// A test program, and what it needs in the guest.
#[derive(Debug)]
pub(crate) struct Program {
    /// The test target's name, and the program's in all output.
    pub(crate) name: &'static str,
    /// Its package.
    pub(crate) package: &'static str,
    /// Other packages whose programs it starts; these lie where cargo puts them.
    pub(crate) programs_of: &'static [&'static str],
    /// The folder with the sources of its C programs, from the root of the workspace: the guests have no
    /// compiler.
    pub(crate) c_sources: Option<&'static str>,
    /// Its environment, beside what cargo and `xtask test` set.
    pub(crate) env: &'static [(&'static str, &'static str)],
    /// Which of its tests run in a variant: those whose name contains one of the words, or all without words;
    /// `None` leaves the program out.
    pub(crate) filter: fn(Variant) -> Option<&'static [&'static str]>,
}

/// Every program, in the order in which they run.
pub(crate) const PROGRAMS: &[Program] = &[Program {
    name: "kernel",
    package: "aftertrace-agent",
    programs_of: &[],
    c_sources: Some("agent/tests/kernel/c"),
    env: &[],
    filter: |variant| match variant {
        Variant::Full => Some(&[]),
        // What depends on several processors: per-CPU counters, the ring's order, what runs side by side.
        Variant::OneCpu => Some(&["ring::", "oom::as_many", "oom::the_init", "rename::a_swap"]),
        Variant::Lockdown | Variant::NoBtf => Some(&["refused::"]),
    },
}];

/// A built test program.
#[derive(Debug)]
pub(crate) struct Built {
    /// Its row.
    pub(crate) program: &'static Program,
    /// The executable.
    pub(crate) executable: PathBuf,
    /// The folder of its package, which cargo makes the current folder of a test.
    pub(crate) folder: PathBuf,
    /// The programs of `programs_of`.
    pub(crate) companions: Vec<PathBuf>,
    /// Its C programs, each with its source beside it.
    pub(crate) c_programs: Option<PathBuf>,
}

/// A line of cargo's JSON that names an artefact; of the other lines only `reason` is read.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Builds the programs as `cargo test` of their packages alone would, so that nothing is compiled twice for
/// who works on one of them.
pub(crate) fn build(
    workspace: &Workspace,
    tools: &Tools,
    programs: &[&'static Program],
) -> Result<Vec<Built>> {
    let mut built = Vec::new();
    for program in programs {
        let mut build = workspace.cargo();
        build.args(["build", "--package", program.package, "--test", program.name]);
        if !program.programs_of.is_empty() {
            build.arg("--bins");
            build.args(program.programs_of.iter().flat_map(|package| ["--package", package]));
        }
        tools.configure(&mut build);
        built.extend(built_by(workspace, build, &[program])?);
    }
    Ok(built)
}

/// Finds the programs in a build of everything, as `test` has just made it.
pub(crate) fn find(workspace: &Workspace, mut build: Command) -> Result<Vec<Built>> {
    let programs: Vec<&'static Program> = PROGRAMS.iter().collect();
    build.arg("--quiet");
    built_by(workspace, build, &programs)
}

/// Runs a build and picks the programs' files out of what cargo says about it.
fn built_by(workspace: &Workspace, mut build: Command, programs: &[&'static Program]) -> Result<Vec<Built>> {
    build.args(["--message-format", "json-render-diagnostics"]);
    let mut messages = Vec::new();
    let mut unread = None;
    child::run_reading(&mut build, |line| match serde_json::from_str::<Message>(line) {
        Ok(message) => messages.push(message),
        Err(error) => unread = Some(error),
    })?;
    if let Some(error) = unread {
        return Err(error).context("read what cargo says about a build");
    }
    programs.iter().map(|program| pick(workspace, &messages, program)).collect()
}

fn pick(workspace: &Workspace, messages: &[Message], program: &'static Program) -> Result<Built> {
    let artefacts = || messages.iter().filter(|message| message.reason == "compiler-artifact");
    let is = |message: &Message, name: &str, kind: &str| {
        message
            .target
            .as_ref()
            .is_some_and(|target| target.name == name && target.kind.iter().any(|found| found == kind))
    };
    let test = artefacts().find(|message| is(message, program.name, "test"));
    let Some((executable, manifest)) =
        test.and_then(|test| test.executable.clone().zip(test.manifest_path.clone()))
    else {
        bail!("cargo built no test program {} of {}", program.name, program.package);
    };
    let companion = |name: &&str| {
        artefacts()
            .find(|message| is(message, name, "bin"))
            .and_then(|message| message.executable.clone())
            .with_context(|| format!("cargo built no program {name}"))
    };
    let companions = program.programs_of.iter().map(companion).collect::<Result<_>>()?;
    let folder = manifest.parent().unwrap_or(Path::new("/")).to_owned();
    let c_programs = program.c_sources.map(|sources| compile(workspace, sources)).transpose()?;
    Ok(Built { program, executable, folder, companions, c_programs })
}

/// Compiles each C source of a folder, and puts it beside its program.
fn compile(workspace: &Workspace, sources: &str) -> Result<PathBuf> {
    let to = workspace.root.join("target/vm/c").join(sources);
    fs::create_dir_all(&to).with_context(|| format!("make {}", to.display()))?;
    let sources = workspace.root.join(sources);
    for entry in fs::read_dir(&sources).with_context(|| format!("list {}", sources.display()))? {
        let source = entry.with_context(|| format!("list {}", sources.display()))?.path();
        let name = source.file_name().context("a file of a folder has a name")?;
        let copy = to.join(name);
        fs::copy(&source, &copy).with_context(|| format!("copy {}", source.display()))?;
        child::run(Command::new("cc").arg("-O1").arg("-o").arg(copy.with_extension("")).arg(&copy))?;
    }
    Ok(to)
}
