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
    /// Files and folders it reads, from the root of the workspace; those that are not there are left out, and
    /// the test says so.
    pub(crate) data: &'static [&'static str],
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
    data: &[],
    env: &[],
    filter: |variant| match variant {
        // All but the overload of the ring, which emulated processors do not get through in time.
        Variant::Full => Some(&["notify::", "oom::", "processes::", "reads::", "refused::", "rename::"]),
        // What depends on several processors: per-CPU counters, what runs side by side.
        Variant::OneCpu => Some(&["oom::as_many", "oom::the_init", "rename::a_swap"]),
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
    package_id: Option<String>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    /// Whether it is built with the test harness: of a program, its unit tests and not itself.
    test: bool,
}

impl Message {
    fn is(&self, package: &str, target: &str, kind: &str) -> bool {
        self.reason == "compiler-artifact"
            && self.package_id.as_deref().is_some_and(|id| package_of(id) == Some(package))
            && self.target.as_ref().is_some_and(|found| found.name == target && found.kind == [kind])
            && self.profile.as_ref().is_some_and(|profile| profile.test == (kind == "test"))
    }
}

/// The name in a package id: `path+file:///a/agent#aftertrace-agent@0.1.0`, or `path+file:///a/xtask#0.1.0` of
/// a package that is called as its folder.
fn package_of(id: &str) -> Option<&str> {
    let (path, version) = id.split_once('#')?;
    version.split_once('@').map(|(name, _)| name).or_else(|| path.rsplit('/').next())
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
    let test = messages.iter().find(|message| message.is(program.package, program.name, "test"));
    let Some((executable, manifest)) =
        test.and_then(|test| test.executable.clone().zip(test.manifest_path.clone()))
    else {
        bail!("cargo built no test program {} of {}", program.name, program.package);
    };
    // A package's program has the package's name.
    let companion = |name: &&str| {
        messages
            .iter()
            .find(|message| message.is(name, name, "bin"))
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

#[cfg(test)]
mod tests {
    use super::*;

    static PROGRAM: Program = Program {
        name: "evidence",
        package: "aftertrace-stage",
        programs_of: &["aftertrace-agent"],
        c_sources: None,
        data: &[],
        env: &[],
        filter: |_| Some(&[]),
    };

    /// A line as cargo writes it, shortened.
    fn artefact(package: &str, target: &str, kind: &str, test: bool, executable: &str) -> Message {
        let line = format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/{package}","manifest_path":"/w/x/Cargo.toml",
            "target":{{"kind":["{kind}"],"crate_types":["bin"],"name":"{target}","test":true}},
            "profile":{{"opt_level":"0","test":{test}}},"features":[],"executable":"{executable}","fresh":true}}"#
        );
        serde_json::from_str(&line).expect("well formed")
    }

    #[test]
    fn the_test_and_the_program_are_told_from_others_of_their_name() {
        let workspace = Workspace::locate().expect("the tests run in the workspace");
        let finished = r#"{"reason":"build-finished","success":true}"#;
        let mut messages = vec![
            serde_json::from_str(finished).expect("well formed"),
            artefact("aggregator#aftertrace-aggregator@0.1.0", "evidence", "test", true, "/other"),
            artefact("agent#aftertrace-agent@0.1.0", "aftertrace-agent", "bin", true, "/unit-tests"),
            artefact("agent#aftertrace-agent@0.1.0", "aftertrace-agent", "bin", false, "/agent"),
            artefact("aftertrace-stage#0.1.0", "evidence", "bench", false, "/bench"),
            artefact("aftertrace-stage#0.1.0", "evidence", "test", true, "/evidence"),
        ];
        let built = pick(&workspace, &messages, &PROGRAM).expect("all is there");
        assert_eq!((built.executable, built.companions), ("/evidence".into(), vec!["/agent".into()]));
        assert_eq!(built.folder, Path::new("/w/x"));
        messages.pop();
        let error = pick(&workspace, &messages, &PROGRAM).expect_err("there is no such test");
        assert!(error.to_string().contains("no test program evidence"), "{error}");
    }
}
