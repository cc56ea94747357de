//! The prototypes in the doc comments of the programs in the kernel, compared with the kernels themselves.
//!
//! Above each program that hooks a function or a raw tracepoint stands a line ``/// Prototype: `…` ``, or one
//! per range of versions: `Prototype until 6.8:`, `Prototype from 6.9:`, `Prototype from 6.9 until 6.15:`. A
//! kernel outside of all ranges is one that the program is not for. Ranges may overlap, because changes are
//! backported: of the prototypes that are said to hold in a kernel, one must.

mod btf;
mod prototype;

use std::fs;

use anyhow::{Context, Result};

use self::btf::Types;
use self::prototype::Prototype;
use super::tree::{Finding, Source, Tree};
use crate::setup::{self, Need};
use crate::vm_test;
use crate::workspace::Workspace;

/// Where the programs are.
const PROGRAMS: &str = "agent-ebpf/src/";

/// Where this machine's kernel offers its types.
const OWN_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// What is hooked, by the attribute of the program and its argument.
const HOOKS: &[(&str, &str, Hook)] = &[
    ("fentry", "function", Hook::Function),
    ("fexit", "function", Hook::Function),
    ("raw_tracepoint", "tracepoint", Hook::Tracepoint),
    ("btf_tracepoint", "function", Hook::Tracepoint),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Function,
    Tracepoint,
}

/// A kernel to compare with.
#[derive(Debug)]
struct Kernel {
    release: String,
    version: Version,
    types: Types,
}

/// Major and minor number, which order as versions do.
type Version = (u32, u32);

/// One program and what its document says about its hook.
#[derive(Debug)]
struct Program<'a> {
    source: &'a Source,
    line: usize,
    hook: Hook,
    name: String,
    documented: Vec<Documented>,
}

/// One prototype and the versions it is said to hold in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Documented {
    from: Option<Version>,
    until: Option<Version>,
    text: String,
}

/// Compares with every kernel of the matrix and this machine's own; says aloud which it has not.
pub(crate) fn check(workspace: &Workspace, tree: &Tree) -> Result<Vec<Finding>> {
    let kernels = kernels(workspace)?;
    let names: Vec<&str> = kernels.iter().map(|kernel| kernel.release.as_str()).collect();
    let programs = programs(tree);
    println!("tidy: {} hooks compared with Linux {}", programs.len(), names.join(", "));
    Ok(compare(&programs, &kernels))
}

fn kernels(workspace: &Workspace) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    match fs::read(OWN_TYPES) {
        Ok(bytes) => {
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            kernels.push(Kernel::new(release, &bytes)?);
        }
        Err(error) => println!("SKIPPED: this machine's kernel offers no types: {error}"),
    }
    let tools = setup::ensure(workspace, &[Need::Machine])?;
    let Some(machine) = &tools.machine else {
        let why = tools.absent.iter().map(|absent| absent.why.as_str()).collect::<Vec<_>>().join("; ");
        println!("SKIPPED: the kernels of the matrix: {why}");
        return Ok(kernels);
    };
    for (series, why) in &machine.absent {
        println!("SKIPPED: Linux {}: {why}", series.name());
    }
    for kernel in &machine.kernels {
        let types = vm_test::types(workspace, machine, kernel)?;
        kernels.push(Kernel::new(kernel.release.clone(), &types)?);
    }
    Ok(kernels)
}

impl Kernel {
    fn new(release: String, types: &[u8]) -> Result<Self> {
        let version = version(&release).with_context(|| format!("read the version of {release}"))?;
        let types = Types::parse(types).with_context(|| format!("read the types of Linux {release}"))?;
        Ok(Self { release, version, types })
    }
}

/// `6.12.117+deb12-cloud-amd64` is 6.12.
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The programs of all files, in order.
fn programs(tree: &Tree) -> Vec<Program<'_>> {
    let files = tree.rust().filter(|file| file.path.starts_with(PROGRAMS));
    files.flat_map(programs_of).collect()
}

/// Finds attributes that hook something, and the doc comment above each.
fn programs_of(source: &Source) -> Vec<Program<'_>> {
    let mut programs = Vec::new();
    let mut document: Vec<&str> = Vec::new();
    for (line, text) in source.lines() {
        let text = text.trim();
        if let Some(comment) = text.strip_prefix("///") {
            document.push(comment.trim());
        } else if let Some((hook, name)) = hooked(text) {
            let documented = documented(&std::mem::take(&mut document).join(" "));
            programs.push(Program { source, line, hook, name, documented });
        } else if !text.starts_with("#[") {
            document.clear();
        }
    }
    programs
}

/// `#[fentry(function = "oom_kill_process")]` hooks that function.
fn hooked(line: &str) -> Option<(Hook, String)> {
    let inner = line.strip_prefix("#[")?.strip_suffix(")]")?;
    let (attribute, arguments) = inner.split_once('(')?;
    let (_, argument, hook) = HOOKS.iter().find(|(name, _, _)| *name == attribute)?;
    let values = arguments.split(',').filter_map(|part| part.split_once('='));
    let (_, value) =
        values.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| key == argument)?;
    Some((*hook, value.trim_matches('"').to_owned()))
}

/// The prototypes of a doc comment that was joined into one line.
fn documented(document: &str) -> Vec<Documented> {
    let mut found = Vec::new();
    for part in document.split("Prototype").skip(1) {
        let Some((range, rest)) = part.split_once(':') else { continue };
        let words: Vec<&str> = range.split_whitespace().collect();
        let (from, until) = match words.as_slice() {
            [] => (None, None),
            ["from", from] => (version(from), None),
            ["until", until] => (None, version(until)),
            ["from", from, "until", until] => (version(from), version(until)),
            _ => continue,
        };
        if let Some(text) = rest.trim_start().strip_prefix('`').and_then(|rest| rest.split('`').next()) {
            found.push(Documented { from, until, text: text.to_owned() });
        }
    }
    found
}

/// Finds programs without a prototype, and prototypes that a kernel contradicts.
fn compare(programs: &[Program<'_>], kernels: &[Kernel]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for program in programs {
        let finding = |message: String| program.source.at(program.line, message);
        if program.documented.is_empty() {
            let message = format!("{} has no line ``Prototype: `…` `` in its doc comment", program.name);
            findings.push(finding(message));
        }
        for kernel in kernels {
            let held = program.documented.iter().filter(|one| one.holds_in(kernel.version));
            let disagreements: Result<Vec<String>, ()> =
                held.map(|documented| documented.agrees(program, kernel).err().ok_or(())).collect();
            // An error here is an agreement, and one is enough.
            findings.extend(disagreements.into_iter().flatten().map(finding));
        }
    }
    findings
}

impl Documented {
    fn holds_in(&self, version: Version) -> bool {
        self.from.is_none_or(|from| from <= version) && self.until.is_none_or(|until| version <= until)
    }

    fn agrees(&self, program: &Program<'_>, kernel: &Kernel) -> Result<(), String> {
        let Some((name, said)) = Prototype::parse(&self.text) else {
            return Err(format!("`{}` is no prototype with names for its arguments", self.text));
        };
        if name != program.name {
            return Err(format!("the prototype is of {name}, and the hook is {}", program.name));
        }
        let (kind, found) = match program.hook {
            Hook::Function => ("function", kernel.types.function(&name)),
            Hook::Tracepoint => ("tracepoint", kernel.types.tracepoint(&name)),
        };
        match found {
            None => Err(format!("Linux {} has no {kind} {name}", kernel.release)),
            Some(found) if found != said => {
                Err(format!("{name} of Linux {} is `{found}`, not `{said}`", kernel.release))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings about one file of programs, on a played kernel 6.9.
    fn found(text: &str) -> Vec<String> {
        let tree = Tree::of(&[("agent-ebpf/src/a.rs", text)]);
        let kernel = Kernel { release: "6.9.0".to_owned(), version: (6, 9), types: btf::tests::kernel() };
        compare(&programs(&tree), &[kernel]).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn what_the_kernel_has_is_accepted() {
        let text = "/// Kills.\n/// Prototype: `void kill_process(struct oom_control *oc,\n\
                    /// const char *message)`, since 4.19.\n#[fexit(function = \"kill_process\")]\n\
                    /// Prototype until 6.8: `mark_victim(int pid)`\n\
                    /// Prototype: `mark_victim(struct oom_control *oc, unsigned long uid)`\n\
                    #[expect(dead_code)]\n#[raw_tracepoint(tracepoint = \"mark_victim\")]\n";
        assert_eq!(found(text), [] as [String; 0]);
    }

    #[test]
    fn a_hook_without_a_prototype_is_found() {
        let text = "/// Prototype: `void f(int a)`\nfn other() {}\n#[fentry(function = \"kill_process\")]\n";
        let expected =
            "agent-ebpf/src/a.rs:3: kill_process has no line ``Prototype: `…` `` in its doc comment";
        assert_eq!(found(text), [expected]);
    }

    #[test]
    fn what_the_kernel_contradicts_is_found() {
        let cases = [
            (
                "void kill_process(struct oom_control *oc)",
                "kill_process of Linux 6.9.0 is `void (struct oom_control *, const char *)`, not `void (struct oom_control *)`",
            ),
            (
                "int kill_process(struct oom_control *oc, const char *m)",
                "kill_process of Linux 6.9.0 is `void (struct oom_control *, const char *)`, not `int (struct oom_control *, const char *)`",
            ),
            ("void other(int a)", "the prototype is of other, and the hook is kill_process"),
            ("nothing", "`nothing` is no prototype with names for its arguments"),
        ];
        for (prototype, expected) in cases {
            let text = format!("/// Prototype: `{prototype}`\n#[fentry(function = \"kill_process\")]\n");
            assert_eq!(found(&text), [format!("agent-ebpf/src/a.rs:2: {expected}")]);
        }
    }

    #[test]
    fn one_of_several_prototypes_is_enough_and_none_is_not() {
        let text = |last| {
            format!(
                "/// Prototype until 6.9: `mark_victim(int pid)`\n/// Prototype: `mark_victim({last})`\n\
                 #[raw_tracepoint(tracepoint = \"mark_victim\")]\n"
            )
        };
        assert!(found(&text("struct oom_control *oc, unsigned long uid")).is_empty());
        assert_eq!(found(&text("struct oom_control *oc")).len(), 2);
    }

    #[test]
    fn a_hook_that_the_kernel_lacks_is_found_where_it_should_be_there() {
        let text =
            |range| format!("/// Prototype{range}: `void gone(int a)`\n#[fentry(function = \"gone\")]\n");
        assert_eq!(found(&text("")), ["agent-ebpf/src/a.rs:2: Linux 6.9.0 has no function gone"]);
        assert_eq!(found(&text(" until 6.9")).len(), 1);
        assert!(found(&text(" from 6.10")).is_empty());
        assert!(found(&text(" until 6.8")).is_empty());
        assert!(found(&text(" from 5.8 until 6.1")).is_empty());
    }

    #[test]
    fn other_files_are_not_read() {
        let tree = Tree::of(&[("agent/src/a.rs", "#[fentry(function = \"f\")]\n")]);
        assert!(programs(&tree).is_empty());
    }
}
