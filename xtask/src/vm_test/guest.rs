//! One virtual machine: its command, its run, and what its second serial port says.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::image::{self, Contents};
use super::matrix::Variant;
use crate::child;
use crate::setup::{Kernel, Machine, QEMU};
use crate::workspace::Workspace;

/// The guest's memory. The image lies in it twice while it is unpacked; tests take some 100 MiB.
const MEMORY: &str = "2G";

/// How much of the console is shown when a machine ends badly: a panic with its backtrace.
const CONSOLE_TAIL: usize = 60;

/// What the guest writes last.
const DONE: &str = "\n@@ done\n";

/// A machine that has not booted yet.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) machine: &'a Machine,
    pub(crate) kernel: &'a Kernel,
    pub(crate) variant: Variant,
}

/// A line from the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A program begins.
    Begin(&'a str),
    /// What it wrote.
    Output(&'a str),
    /// It ended with this exit code.
    End(&'a str, i32),
}

impl Guest<'_> {
    /// How reports call it.
    pub(crate) fn name(&self) -> String {
        format!("Linux {}, {}", self.kernel.release, self.variant.name())
    }

    /// How it is called before each line of its output.
    pub(crate) fn short_name(&self) -> String {
        format!("{} {}", self.kernel.series.name(), self.variant.slug())
    }

    /// Boots it, gives each line of its programs to `line`, and waits until it powers off. A machine that
    /// panics, hangs or stops early is an error with the end of its console.
    pub(crate) fn run(
        &self,
        contents: &Contents,
        accelerator: &str,
        bound: Duration,
        mut line: impl FnMut(Line<'_>),
    ) -> Result<()> {
        let _lock = self.lock()?;
        let mut qemu = self.command(contents, accelerator)?;
        let console = self.attach_console(&mut qemu)?;
        qemu.args(["-serial", "stdio"]);
        let mut done = false;
        let ended = child::run_lines(&mut qemu, bound, |text| match parse(text) {
            Parsed::Line(parsed) => line(parsed),
            Parsed::Done => done = true,
            Parsed::Nothing => {}
        });
        match ended {
            Ok(status) if done && status.success() => Ok(()),
            Ok(status) => self.stopped_early(&console, &format!("{QEMU}: {status}")),
            Err(error) => self.stopped_early(&console, &format!("{error:#}")),
        }
    }

    /// Boots it, and returns the bytes that its plan wrote.
    pub(crate) fn output(&self, plan: &str, accelerator: &str, bound: Duration) -> Result<Vec<u8>> {
        let contents = Contents { files: Vec::new(), plan: plan.to_owned() };
        let _lock = self.lock()?;
        let mut qemu = self.command(&contents, accelerator)?;
        let console = self.attach_console(&mut qemu)?;
        let results = self.folder()?.join("results");
        qemu.arg("-serial").arg(format!("file:{}", results.display()));
        let ended = child::run_lines(&mut qemu, bound, |_| {});
        let output = fs::read(&results).with_context(|| format!("read {}", results.display()))?;
        match (ended, output.strip_suffix(DONE.as_bytes())) {
            (Ok(_), Some(output)) => Ok(output.to_owned()),
            (Ok(status), None) => self.stopped_early(&console, &format!("{QEMU}: {status}")),
            (Err(error), _) => self.stopped_early(&console, &format!("{error:#}")),
        }
    }

    /// The console is the first serial port; returns its file.
    fn attach_console(&self, qemu: &mut Command) -> Result<PathBuf> {
        let console = self.folder()?.join("console.log");
        fs::write(&console, "").with_context(|| format!("clear {}", console.display()))?;
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        Ok(console)
    }

    fn stopped_early<T>(&self, console: &Path, why: &str) -> Result<T> {
        let text = fs::read(console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n    ");
        bail!(
            "{} stopped before its plan was done ({why}); the end of {}:\n    {tail}",
            self.name(),
            console.display()
        );
    }

    /// Boots it with its console on this terminal and a shell instead of the plan's programs.
    pub(crate) fn shell(&self, contents: &Contents, accelerator: &str) -> Result<()> {
        let _lock = self.lock()?;
        let mut qemu = self.command(contents, accelerator)?;
        qemu.args(["-serial", "mon:stdio", "-serial", "null"]);
        let status = qemu.status().with_context(|| format!("start {QEMU}"))?;
        if !status.success() {
            bail!("{QEMU} failed: {status}");
        }
        Ok(())
    }

    /// Two runs of one machine would write over each other's image; the second waits. The lock ends with the
    /// file.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.folder()?.join("lock")).context("open a machine's lock")?;
        lock.lock().context("lock a machine")?;
        Ok(lock)
    }

    fn folder(&self) -> Result<PathBuf> {
        let name = format!("{}-{}", self.kernel.series.name(), self.variant.slug());
        let dir = self.workspace.root.join("target/vm").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(dir)
    }

    fn command(&self, contents: &Contents, accelerator: &str) -> Result<Command> {
        let image = self.folder()?.join("initramfs");
        image::write(&image, &self.machine.busybox, contents)?;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        qemu.args(["-accel", accelerator, "-cpu", "max"]);
        qemu.args(["-m", MEMORY, "-smp", &self.variant.cpus().to_string()]);
        // Without a virtual disk or network there is no driver to load. Error messages and panics reach the
        // console; the OOM killer's tables, which are warnings, would cost seconds on a serial port.
        let options = ["console=ttyS0 loglevel=4 panic=-1 oops=panic", self.variant.boot_options()].join(" ");
        qemu.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(&image).arg("-append").arg(options);
        Ok(qemu)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    Line(Line<'a>),
    Done,
    Nothing,
}

/// Reads a line of the second serial port. The guest puts an empty line before each `@@`, because a program
/// may end without a line end.
fn parse(text: &str) -> Parsed<'_> {
    let Some(control) = text.strip_prefix("@@ ") else { return Parsed::Line(Line::Output(text)) };
    match control.split(' ').collect::<Vec<_>>().as_slice() {
        ["begin", name] => Parsed::Line(Line::Begin(name)),
        ["end", name, code] => match code.parse() {
            Ok(code) => Parsed::Line(Line::End(name, code)),
            Err(_) => Parsed::Line(Line::Output(text)),
        },
        ["done"] => Parsed::Done,
        _ => Parsed::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_lines_are_told_from_output() {
        let line = Parsed::Line;
        assert_eq!(parse("@@ begin kernel"), line(Line::Begin("kernel")));
        assert_eq!(parse("@@ end kernel 101"), line(Line::End("kernel", 101)));
        assert_eq!(parse("@@ done"), Parsed::Done);
        assert_eq!(parse("test a ... ok"), line(Line::Output("test a ... ok")));
        assert_eq!(parse(" @@ done"), line(Line::Output(" @@ done")));
        assert_eq!(parse("@@ end kernel x"), line(Line::Output("@@ end kernel x")));
    }
}
