//! Names of the attributes that rules, answers and the SQL macros read. Whoever writes one takes it from here.
//!
//! Attributes that are only shown have no name here; they follow OpenTelemetry where it has one.

use crate::Event;

/// Start of the process by the boot clock, nanoseconds: with the pid and the node its identity.
pub const PROCESS_START_BOOT_NS: &str = "aftertrace.process.start_boot_ns";
/// The process's `comm`, escaped.
pub const PROCESS_COMMAND: &str = "process.command";
/// Number of the signal that ended a process; absent where it ended by itself.
pub const EXIT_SIGNAL: &str = "process.exit.signal";

/// Boot clock at which the OOM killer's SIGKILL was sent, nanoseconds; never after the mark.
pub const OOM_SIGNAL_BOOT_NS: &str = "aftertrace.oom.signal_boot_ns";
/// What the victim was to the decision: `chosen`, `group` or `shared_mm`.
pub const OOM_ROLE: &str = "aftertrace.oom.role";
/// The level whose limit fired: `container`, `pod`, `qos`, `kubepods`, `node`, `cgroup` or `unknown`.
pub const OOM_LEVEL: &str = "aftertrace.oom.level";
/// Why the level is not known.
pub const OOM_LEVEL_UNKNOWN_BECAUSE: &str = "aftertrace.oom.level.unknown_because";
/// Whose limits made the OOM killer decide: `memcg`, `cpuset`, `mempolicy`, `none` or `unknown`.
pub const OOM_CONSTRAINT: &str = "aftertrace.oom.constraint";
/// `comm` of the process whose allocation failed, escaped.
pub const OOM_ALLOCATOR_COMMAND: &str = "aftertrace.oom.allocator.command";
/// Tgid of the process whose allocation failed.
pub const OOM_ALLOCATOR_PID: &str = "aftertrace.oom.allocator.pid";
/// Anonymous resident memory of the victim when it was killed.
pub const OOM_RSS_ANON_BYTES: &str = "aftertrace.oom.rss_anon_bytes";
/// Resident file pages of the victim.
pub const OOM_RSS_FILE_BYTES: &str = "aftertrace.oom.rss_file_bytes";
/// Resident shared memory of the victim.
pub const OOM_RSS_SHMEM_BYTES: &str = "aftertrace.oom.rss_shmem_bytes";

/// Why pressure is told: `run_up` of a kill, `near_limit` or `limit_hit`.
pub const PRESSURE_REASON: &str = "aftertrace.pressure.reason";

/// Number of the signal that was sent.
pub const SIGNAL_NUMBER: &str = "aftertrace.signal.number";
/// What the kernel did with it: [`SIGNAL_DELIVERED`], or `ignored` or `already_pending`, which ended nothing.
pub const SIGNAL_RESULT: &str = "aftertrace.signal.result";
/// The result of a signal that will be handled, or kills.
pub const SIGNAL_DELIVERED: &str = "delivered";
/// `comm` of the sender, escaped.
pub const SENDER_COMMAND: &str = "aftertrace.sender.command";
/// Tgid of the sender.
pub const SENDER_PID: &str = "aftertrace.sender.pid";

/// The volume's name in the pod spec, escaped.
pub const VOLUME_NAME: &str = "k8s.volume.name";
/// The generation that the swap brought, escaped. What a process holds instead is [`HELD_GENERATION`].
pub const VOLUME_GENERATION: &str = "aftertrace.volume.generation";
/// The removed generation that a process still holds.
pub const HELD_GENERATION: &str = "aftertrace.volume.held_generation";
/// Path within the volume of the file that was read.
pub const FILE: &str = "aftertrace.file";
/// Microseconds from the swap to the first open.
pub const READ_LATENCY_US: &str = "aftertrace.read.latency_us";
/// Seconds from the swap after which a volume counts as stale.
pub const STALE_AFTER_S: &str = "aftertrace.stale.after_s";
/// Paths within the volume of the files that were not opened again: a list of texts.
pub const STALE_FILES: &str = "aftertrace.stale.files";
/// Whether the container had opened one of those files before the swap; absent where that is not known.
pub const STALE_WAS_READ_BEFORE: &str = "aftertrace.stale.was_read_before";

/// A text attribute of an event.
#[must_use]
pub fn text<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event.attributes.get(name)?.as_str()
}

/// A number of an event that is neither negative nor broken.
#[must_use]
pub fn number(event: &Event, name: &str) -> Option<u64> {
    event.attributes.get(name)?.as_u64()
}

/// A list of texts of an event; what is no text in it is left out, and no list is an empty one.
#[must_use]
pub fn texts<'a>(event: &'a Event, name: &str) -> Vec<&'a str> {
    let list = event.attributes.get(name).and_then(|value| value.as_array());
    list.into_iter().flatten().filter_map(|value| value.as_str()).collect()
}
