//! The kernel's own log, as a second witness for the time of a kill.
//!
//! Lines of `/dev/kmsg` carry another clock than `CLOCK_BOOTTIME`, which drifts against it. The difference is
//! estimated in the same run: we write a line between two readings of the boot clock, and find it in the log.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use rustix::time::{ClockId, clock_gettime};

use super::scenarios::Answer;

/// Longest record that `/dev/kmsg` returns; from the kernel, `CONSOLE_EXT_LOG_MAX`.
const RECORD_BYTES_MAX: usize = 8192;

/// How many lines we write. The kernel lets through ten in five seconds.
const SAMPLES: usize = 4;

/// The opened log.
pub(super) struct KernelLog {
    file: File,
}

/// One record: its time and its text.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    time_us: i64,
    text: String,
}

impl KernelLog {
    /// Opens the log at its end: what came before is not ours.
    pub(super) fn open() -> Result<Self> {
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nonblocking)
            .open("/dev/kmsg")
            .context("open /dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context("go to the end of /dev/kmsg")?;
        Ok(Self { file })
    }

    /// Compares the kill's time with the kernel's own line about it.
    pub(super) fn compare(&self, answer: &Answer) -> Result<String> {
        let kill = answer.event("oom_kill").context("the answer has no kill")?;
        let boot_ns = kill["boot_ns"].as_i64().context("the kill has no boot time")?;
        let pid = kill["pid"].as_i64().context("the kill has no pid")?;
        let mut samples = Vec::new();
        for number in 0..SAMPLES {
            let mark = format!("aftertrace demo: clock sample {} of {}", number, std::process::id());
            let before = boot_clock_us();
            // Without the end of line the kernel would wait for more of it, and not show it yet.
            (&self.file).write_all(format!("{mark}\n").as_bytes()).context("write to /dev/kmsg")?;
            samples.push((mark, before, boot_clock_us()));
        }
        let records = self.records()?;
        let offset_us = offset(&records, &samples).context("our own lines are not in the log")?;
        let Some(said_us) = kill_time(&records, pid) else {
            bail!("the log has no line about process {pid}")
        };
        let difference_us = said_us + offset_us - boot_ns / 1_000;
        Ok(format!(
            "the kernel's own log has the kill of process {pid} {:.3} ms {} (its clock is {:.3} ms off)",
            difference_us.abs() as f64 / 1_000.0,
            if difference_us < 0 { "earlier" } else { "later" },
            offset_us as f64 / 1_000.0
        ))
    }

    /// Everything since the log was opened.
    fn records(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut buffer = vec![0; RECORD_BYTES_MAX];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(0) => return Ok(records),
                Ok(length) => records.extend(parse(&String::from_utf8_lossy(&buffer[..length]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(records),
                // The ring went round before we read: go on with the oldest record there is.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => return Err(error).context("read /dev/kmsg"),
            }
        }
    }
}

/// `priority,sequence,time_us,flags[,…];text`, then lines of key and value.
fn parse(record: &str) -> Option<Record> {
    let (head, rest) = record.split_once(';')?;
    let time_us = head.split(',').nth(2)?.parse().ok()?;
    Some(Record { time_us, text: rest.lines().next().unwrap_or_default().to_owned() })
}

/// What to add to the log's clock to get the boot clock, by the sample that took the least time.
fn offset(records: &[Record], samples: &[(String, i64, i64)]) -> Option<i64> {
    let best = samples.iter().min_by_key(|(_, before, after)| after - before)?;
    let (mark, before, after) = best;
    let record = records.iter().find(|record| record.text == *mark)?;
    Some((before + after) / 2 - record.time_us)
}

/// When the log says that the process was killed, on the log's clock.
fn kill_time(records: &[Record], pid: i64) -> Option<i64> {
    let killed = format!("Killed process {pid} (");
    Some(records.iter().find(|record| record.text.contains(&killed))?.time_us)
}

fn boot_clock_us() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: &str = "3,2801,7304182955,-;Memory cgroup out of memory: Killed process 4242 (memhog) total-vm:1kB\n\
                        SUBSYSTEM=memory\n";

    #[test]
    fn a_record_has_its_time_and_its_first_line() {
        let record = parse(KILL).expect("a record");
        assert_eq!(record.time_us, 7_304_182_955);
        assert!(record.text.ends_with("total-vm:1kB"), "{record:?}");
        assert_eq!(parse("no record"), None);
        assert_eq!(parse("3,x;no time"), None);
    }

    #[test]
    fn the_kill_of_another_process_is_not_ours() {
        let records: Vec<Record> = parse(KILL).into_iter().collect();
        assert_eq!(kill_time(&records, 4242), Some(7_304_182_955));
        assert_eq!(kill_time(&records, 424), None);
    }

    #[test]
    fn the_quickest_sample_gives_the_offset() {
        let said = |text: &str, time_us| Record { time_us, text: text.to_owned() };
        let records = [said("slow", 100), said("quick", 200)];
        let samples = [("slow".to_owned(), 1_000, 1_900), ("quick".to_owned(), 2_000, 2_002)];
        assert_eq!(offset(&records, &samples), Some(1_801));
        assert_eq!(offset(&records[..1], &samples), None);
    }
}
