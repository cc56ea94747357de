//! tracefs: mounted if need be, and the formats of system-call tracepoints read from it.
//!
//! Raw tracepoints need no tracefs; only the rename subject does. The mount is left in place: other
//! tracing programs expect it there, and systemd makes the same one.

use std::{fs, path::Path};

use aftertrace_ebpf_common::config::{NO_OFFSET, RenameFormat};
use rustix::io::Errno;
use tracing::info;

use super::record::{OpenCall, RenameCall};

/// Where tracefs belongs; the loader looks in the same two places.
const MOUNT_POINT: &str = "/sys/kernel/tracing";
/// Where it is seen on systems that mount only debugfs.
const DEBUGFS_POINT: &str = "/sys/kernel/debug/tracing";

/// Why there are no tracepoint formats to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TracefsError {
    /// It is not mounted, and the agent was told not to, or is not allowed to, mount it.
    #[error(
        "tracefs is not mounted at {MOUNT_POINT} and could not be; mount it \
         (`mount -t tracefs tracefs {MOUNT_POINT}`), or give the agent CAP_SYS_ADMIN"
    )]
    NotMounted(#[source] Errno),
    /// The kernel has no tracepoint of that name; some system calls do not exist everywhere.
    #[error("this kernel has no tracepoint {0}")]
    NoSuchTracepoint(String),
    /// A tracepoint's format could not be read.
    #[error("the format of tracepoint {tracepoint} could not be read; run as root")]
    Unreadable {
        /// `category/name`.
        tracepoint: String,
        /// What the file system said.
        #[source]
        source: Errno,
    },
    /// A system call's format lacks what is read from it.
    #[error("this kernel's tracepoints of {call} have no `{field}`; report this with the kernel's version")]
    NoSuchField {
        /// The system call.
        call: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// A mounted tracefs.
#[derive(Clone, Copy, Debug)]
pub struct Tracefs {
    root: &'static str,
}

/// Where a field lies in a tracepoint's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPlace {
    /// Bytes from the beginning of the context.
    pub offset: u32,
    /// Bytes that the field takes.
    pub size: u32,
}

impl Tracefs {
    /// Finds tracefs, mounting it at its place if `may_mount` and it is nowhere.
    ///
    /// # Errors
    /// [`TracefsError::NotMounted`] if that leaves none.
    pub fn open(may_mount: bool) -> Result<Self, TracefsError> {
        if let Some(root) = [MOUNT_POINT, DEBUGFS_POINT].into_iter().find(|root| is_tracefs(root)) {
            return Ok(Self { root });
        }
        if !may_mount {
            return Err(TracefsError::NotMounted(Errno::NOENT));
        }
        use rustix::mount::{MountFlags, mount};
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("tracefs", MOUNT_POINT, "tracefs", flags, None).map_err(TracefsError::NotMounted)?;
        info!(path = MOUNT_POINT, "mounted tracefs, which was mounted nowhere");
        Ok(Self { root: MOUNT_POINT })
    }

    /// The text of a tracepoint's `format` file.
    ///
    /// # Errors
    /// The tracepoint does not exist, or may not be read.
    pub fn format(&self, category: &str, name: &str) -> Result<String, TracefsError> {
        let path = Path::new(self.root).join("events").join(category).join(name).join("format");
        fs::read_to_string(path).map_err(|source| {
            let tracepoint = format!("{category}/{name}");
            match Errno::from_io_error(&source).unwrap_or(Errno::IO) {
                Errno::NOENT => TracefsError::NoSuchTracepoint(tracepoint),
                source => TracefsError::Unreadable { tracepoint, source },
            }
        })
    }
}

/// True if tracefs is visible there.
fn is_tracefs(root: &str) -> bool {
    Path::new(root).join("events/header_page").exists()
}

/// Finds a field in a `format` text; nothing if it has none of that name.
///
/// A field's line is `field:const char * newname; offset:24; size:8; signed:0;`, with tabs for spaces.
#[must_use]
pub fn field(format: &str, name: &str) -> Option<FieldPlace> {
    format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declaration = parts.next()?.strip_prefix("field:")?;
        let declared = declaration.rsplit(|c: char| c.is_whitespace() || c == '*').next()?;
        if declared.split('[').next()? != name {
            return None;
        }
        let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
        let size = parts.next()?.strip_prefix("size:")?.parse().ok()?;
        Some(FieldPlace { offset, size })
    })
}

/// The formats of the system calls whose tracepoints are used; or why one has none.
pub(super) struct CallFormats {
    /// By [`RenameCall`].
    renames: [Result<RenameFormat, TracefsError>; 3],
    /// By [`OpenCall`]: where `ret` lies at the exit.
    opens: [Result<u32, TracefsError>; 3],
    /// Of `inotify_add_watch`: where `fd` lies at the entry, and `ret` at the exit.
    add_watch: Result<(u32, u32), TracefsError>,
}

impl CallFormats {
    /// Reads all of them. That a call does not exist is no failure of the others.
    pub(super) fn read(may_mount: bool) -> Self {
        let tracefs = Tracefs::open(may_mount);
        let renames =
            RenameCall::ALL.map(|call| tracefs.clone().and_then(|tracefs| rename_format(tracefs, call)));
        let opens =
            OpenCall::ALL.map(|call| tracefs.clone().and_then(|tracefs| returned(tracefs, call.as_str())));
        let add_watch = tracefs.and_then(|tracefs| {
            const CALL: &str = "inotify_add_watch";
            let enter = tracefs.format("syscalls", &format!("sys_enter_{CALL}"))?;
            let descriptor = field(&enter, "fd").filter(|field| field.size == 8);
            let missing = TracefsError::NoSuchField { call: CALL, field: "fd" };
            Ok((descriptor.ok_or(missing)?.offset, returned(tracefs, CALL)?))
        });
        Self { renames, opens, add_watch }
    }

    /// What the programs are told of the rename calls.
    pub(super) fn renames(&self) -> [RenameFormat; 3] {
        self.renames.each_ref().map(|format| format.as_ref().copied().unwrap_or(RenameFormat::NONE))
    }

    /// What they are told of the open calls.
    pub(super) fn opens(&self) -> [u32; 3] {
        self.opens.each_ref().map(|place| place.as_ref().copied().unwrap_or(NO_OFFSET))
    }

    /// What they are told of `inotify_add_watch`: places of `fd` and `ret`.
    pub(super) fn add_watch(&self) -> (u32, u32) {
        self.add_watch.clone().unwrap_or((NO_OFFSET, NO_OFFSET))
    }

    /// Whether the formats that a hook of that label needs are known.
    pub(super) fn check(&self, label: &str) -> Result<(), TracefsError> {
        let is_of = |call: &str| label.starts_with("tp:") && label.ends_with(&format!("_{call}"));
        if let Some(call) = RenameCall::ALL.into_iter().find(|call| is_of(call.as_str())) {
            return self.renames[call as usize].as_ref().map(drop).map_err(Clone::clone);
        }
        if is_of("inotify_add_watch") {
            return self.add_watch.as_ref().map(drop).map_err(Clone::clone);
        }
        if let Some(call) = OpenCall::ALL.into_iter().find(|call| is_of(call.as_str())) {
            return self.opens[call as usize].as_ref().map(drop).map_err(Clone::clone);
        }
        Ok(())
    }
}

/// Where a call's result lies at its exit.
fn returned(tracefs: Tracefs, call: &'static str) -> Result<u32, TracefsError> {
    let exit = tracefs.format("syscalls", &format!("sys_exit_{call}"))?;
    let ret = field(&exit, "ret").filter(|field| field.size == 8);
    ret.map(|field| field.offset).ok_or(TracefsError::NoSuchField { call, field: "ret" })
}

/// One call's format, entry and exit.
fn rename_format(tracefs: Tracefs, call: RenameCall) -> Result<RenameFormat, TracefsError> {
    let enter = tracefs.format("syscalls", &format!("sys_enter_{}", call.as_str()))?;
    let exit = tracefs.format("syscalls", &format!("sys_exit_{}", call.as_str()))?;
    // Arguments stand in eight bytes each, whatever their type; the programs read from their low end.
    let place =
        |text: &str, name| field(text, name).filter(|field| field.size == 8).map(|field| field.offset);
    let needed = |text: &str, name: &'static str| {
        place(text, name).ok_or(TracefsError::NoSuchField { call: call.as_str(), field: name })
    };
    Ok(RenameFormat {
        old_name: needed(&enter, "oldname")?,
        new_name: needed(&enter, "newname")?,
        old_dfd: place(&enter, "olddfd").unwrap_or(NO_OFFSET),
        new_dfd: place(&enter, "newdfd").unwrap_or(NO_OFFSET),
        flags: place(&enter, "flags").unwrap_or(NO_OFFSET),
        ret: needed(&exit, "ret")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{FieldPlace, field};

    const FORMAT: &str = "name: sys_enter_renameat\nID: 870\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:const char * oldname;\toffset:24;\tsize:8;\tsigned:0;\n\
        \tfield:const char *newname;\toffset:40;\tsize:8;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:48;\tsize:16;\tsigned:0;\n\
        \tfield:int broken;\toffset:x;\tsize:4;\tsigned:1;\n\
        \nprint fmt: \"oldname: 0x%08lx\", ((unsigned long)(REC->oldname))\n";

    fn check(name: &str, expected: Option<(u32, u32)>) {
        assert_eq!(field(FORMAT, name), expected.map(|(offset, size)| FieldPlace { offset, size }), "{name}");
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        check("oldname", Some((24, 8)));
        check("newname", Some((40, 8)));
        check("comm", Some((48, 16)));
        check("__syscall_nr", Some((8, 4)));
        check("name", None);
        check("ret", None);
        check("broken", None);
    }
}
