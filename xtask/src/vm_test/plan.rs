//! What a guest's first process is told to do, as the shell text that it runs.

use super::Variant;
use super::image::Contents;
use super::programs::Built;
use crate::test::BIN_DIR_ENV;
use crate::workspace::{Profile, Workspace};

/// Tells tests where their C programs are, because the guests have no compiler.
const C_PROGRAMS_ENV: &str = "AFTERTRACE_C_PROGRAMS";

/// What every plan begins with, and the files of these programs.
pub(crate) fn begin(workspace: &Workspace, variant: Variant, built: &[Built]) -> Contents {
    let bin_dir = quoted(&workspace.programs(Profile::Dev).to_string_lossy());
    let mut plan = format!("export TMPDIR=/tmp {BIN_DIR_ENV}={bin_dir}\n{}\n", variant.preparation());
    let mut files = Vec::new();
    for built in built {
        plan += &format!("mkdir -p {}\n", quoted(&built.folder.to_string_lossy()));
        files.push(built.executable.clone());
        files.extend(built.companions.iter().chain(&built.c_programs).cloned());
        let data = built.program.data.iter().filter_map(|path| workspace.root.join(path).canonicalize().ok());
        files.extend(data);
    }
    Contents { files, plan }
}

/// Runs the tests of each program that this variant has; `filter` replaces the variant's own.
pub(crate) fn tests(
    workspace: &Workspace,
    variant: Variant,
    built: &[Built],
    filter: Option<&str>,
) -> Contents {
    let mut contents = begin(workspace, variant, built);
    for built in built {
        let Some(own) = (built.program.filter)(variant) else { continue };
        contents.plan += &test(built, filter.as_ref().map_or(own, std::slice::from_ref));
    }
    contents
}

/// The lines that run one program as cargo would.
fn test(built: &Built, filter: &[&str]) -> String {
    let mut env: Vec<(&str, String)> =
        built.program.env.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    env.extend(built.c_programs.iter().map(|dir| (C_PROGRAMS_ENV, dir.to_string_lossy().into_owned())));
    let env: String = env.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect();
    let folder = quoted(&built.folder.to_string_lossy());
    let executable = quoted(&built.executable.to_string_lossy());
    let filter: String = filter.iter().map(|word| format!(" {}", quoted(word))).collect();
    format!("cd {folder} && run {} env {env}{executable} --show-output{filter}\n", built.program.name)
}

/// Runs one shell command.
pub(crate) fn exec(command: &str) -> String {
    format!("run exec /bin/sh -c {}\n", quoted(command))
}

/// Gives a shell on the console: cttyhack makes it the shell's terminal, so that Ctrl-C ends what runs in it.
pub(crate) const SHELL: &str = "setsid cttyhack /bin/sh -l < /dev/ttyS0 > /dev/ttyS0 2>&1\n";

/// Writes the kernel's types, as they are.
pub(crate) const TYPES: &str = "cat /sys/kernel/btf/vmlinux\n";

/// A word that the guest's shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::programs::Program;
    use super::*;

    static PROGRAM: Program = Program {
        name: "p",
        package: "p",
        programs_of: &[],
        c_sources: None,
        data: &["Cargo.toml", "absent"],
        env: &[("WORD", "it's $two \"words\"")],
        filter: |variant| (variant == Variant::Full).then_some(&[]),
    };

    fn built() -> Built {
        Built {
            program: &PROGRAM,
            executable: PathBuf::from("printf"),
            folder: PathBuf::from("/"),
            companions: vec![PathBuf::from("/companion")],
            c_programs: Some(PathBuf::from("/c programs")),
        }
    }

    /// What a shell makes of a program's lines, with `run` printing its words and the environment.
    fn run(lines: &str) -> String {
        let script = format!("run() {{ shift; for word in \"$@\"; do echo \"[$word]\"; done; }}\n{lines}");
        let output = Command::new("sh").args(["-c", &script]).output().expect("sh runs");
        String::from_utf8(output.stdout).expect("text")
    }

    #[test]
    fn every_word_reaches_the_program_as_it_is() {
        let words = run(&test(&built(), &["a filter", "b"]));
        let expected = "[env]\n[WORD=it's $two \"words\"]\n[AFTERTRACE_C_PROGRAMS=/c programs]\n[printf]\n\
                        [--show-output]\n[a filter]\n[b]\n";
        assert_eq!(words, expected);
    }

    #[test]
    fn a_command_with_quotes_survives_the_shell() {
        assert_eq!(run(&exec("echo 'a  b'")), "[/bin/sh]\n[-c]\n[echo 'a  b']\n");
    }

    #[test]
    fn a_variant_without_the_program_does_not_run_it() {
        let workspace = Workspace::locate().expect("the tests run in the workspace");
        let plan = |variant, filter| tests(&workspace, variant, &[built()], filter);
        assert!(plan(Variant::Full, None).plan.contains("run p "));
        assert!(!plan(Variant::NoBtf, Some("all")).plan.contains("run p "));
        let files =
            ["printf".into(), "/companion".into(), "/c programs".into(), workspace.root.join("Cargo.toml")];
        assert_eq!(plan(Variant::NoBtf, None).files, files);
    }
}
