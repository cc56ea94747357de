//! One process's environment, of which only the variables that are wanted stay.
//!
//! The process's directory is opened once and everything is read below it, so that what is read belongs to
//! one process even if its id is given to another; its start time says that it is the one that was meant.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};

use crate::kernel::Task;

/// Most bytes of an environment. The kernel takes 2 MiB of arguments and environment together by default;
/// what lies beyond this is not looked at.
const ENVIRON_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Most bytes of values that are kept for one process. A ConfigMap holds 1 MiB at most.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Nanoseconds in a clock tick of `/proc`, `USER_HZ` being 100 on every architecture of ours.
const TICK_NS: u64 = 10_000_000;

/// The field of `/proc/<pid>/stat` that tells the start, counted behind the command's name.
const START_FIELD: usize = 19;

/// Why an environment could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The process was gone, or another one has its id.
    #[error("the process ended before its environment could be read")]
    Gone,
    /// It may not be read.
    #[error("its environment may not be read; run the agent as root, or with CAP_SYS_PTRACE")]
    Refused(#[source] io::Error),
}

/// Values by variable. Not shown, not even for debugging.
#[derive(Default)]
pub(crate) struct Values(BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Values {
    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// All, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

/// Reads the environment of the process that `task` is of.
pub(super) fn environment(
    proc: &Path,
    task: &Task,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Values, ReadError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let path = proc.join(task.tgid.to_string());
    let process = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| sorted(error.into()))?;
    let is_meant = |stat: &str| match (start_ticks(stat), task.process_start_boot_ns) {
        (Some(ticks), Some(start)) => ticks == start / TICK_NS,
        _ => false,
    };
    let stat = |process: &OwnedFd| {
        let mut text = String::new();
        below(process, "stat")?.read_to_string(&mut text).map_err(sorted)?;
        if is_meant(&text) { Ok(()) } else { Err(ReadError::Gone) }
    };
    stat(&process)?;
    let mut bytes = Vec::new();
    below(&process, "environ")?.take(ENVIRON_BYTES_MAX).read_to_end(&mut bytes).map_err(sorted)?;
    stat(&process)?;
    let values = wanted(&bytes, is_wanted);
    // The rest of the environment is nobody's business.
    bytes.fill(0);
    Ok(values)
}

/// `NAME=value` pairs with NULs between; of two of a name the first, as `getenv` finds it.
fn wanted(environ: &[u8], is_wanted: impl Fn(&str) -> bool) -> Values {
    let mut values = BTreeMap::new();
    let mut kept = 0;
    for pair in environ.split(|byte| *byte == 0) {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let Ok(name) = str::from_utf8(&pair[..at]) else { continue };
        if values.contains_key(name) || !is_wanted(name) {
            continue;
        }
        let value = &pair[at + 1..];
        kept += value.len();
        if kept > KEPT_BYTES_MAX {
            break;
        }
        values.insert(name.to_owned(), value.to_vec());
    }
    Values(values)
}

/// The start time in clock ticks. The command's name may hold blanks and parentheses; nothing behind it does.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(START_FIELD)?.parse().ok()
}

fn below(process: &OwnedFd, name: &str) -> Result<File, ReadError> {
    let file = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.map(File::from).map_err(|error| sorted(error.into()))
}

fn sorted(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ReadError::Refused(error),
        // ENOENT for an id that is free, ESRCH for a process that went while it was read.
        _ => ReadError::Gone,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::lifetimes::tests::task;

    #[test]
    fn only_what_is_wanted_is_kept_and_of_two_the_first() {
        let environ = b"A=1\0B=x=y\0\xff=z\0A=2\0PATH=/bin\0NOVALUE\0C=\0";
        let values = wanted(environ, |name| name != "PATH");
        let found: Vec<_> = values.iter().collect();
        assert_eq!(found, [("A", &b"1"[..]), ("B", b"x=y"), ("C", b"")]);
        assert_eq!(format!("{values:?}"), r#"{"A", "B", "C"}"#, "values are not shown");
    }

    #[test]
    fn a_process_is_read_only_if_it_is_the_one_that_was_meant() {
        let mut child = Command::new("sleep")
            .arg("60")
            .env_clear()
            .env("KEY", "value")
            .stdout(Stdio::null())
            .spawn()
            .expect("a command of the base system starts");
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs");
        // Between fork and exec it is still ourselves.
        while !stat().contains("(sleep)") {
            std::thread::yield_now();
        }
        let ticks = start_ticks(&stat()).expect("the kernel tells it");
        let mut meant = task(child.id(), "sleep");
        meant.process_start_boot_ns = Some(ticks * TICK_NS + 5);
        let values = environment(Path::new("/proc"), &meant, |_| true).expect("it is ours");
        assert_eq!(values.get("KEY"), Some(&b"value"[..]));
        meant.process_start_boot_ns = Some((ticks - 1) * TICK_NS);
        let other = environment(Path::new("/proc"), &meant, |_| true);
        assert!(matches!(other, Err(ReadError::Gone)), "another process has its id: {other:?}");
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        meant.process_start_boot_ns = Some(ticks * TICK_NS);
        assert!(matches!(environment(Path::new("/proc"), &meant, |_| true), Err(ReadError::Gone)));
    }

    #[test]
    fn a_commands_name_may_look_like_the_line_it_stands_in() {
        let behind = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0";
        assert_eq!(start_ticks(&format!("12 (a) 1 2 3 (b) {behind}")), Some(777));
        assert_eq!(start_ticks("12 (a"), None);
    }
}
