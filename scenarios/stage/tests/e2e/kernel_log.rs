//! Kill times agree with the kernel's own log, once the offset of its clock is known.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aftertrace_stage::kubelet::Pace;
use aftertrace_stage::kubelet::clock;

use crate::rig::{PATIENCE, Rig, pod};

/// How far a stored kill may lie from the kernel's line about it, in microseconds.
const KILL_BOUND_US: i64 = 1_000;

/// Kills compared.
const KILLS: usize = 5;

/// How often the log is read.
const LOOK: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_times_agree_with_the_kernel_log() {
    let mut log = match KernelLog::open() {
        Ok(log) => log,
        Err(error) => {
            println!("SKIPPED: the kernel's log cannot be read and written: {error}");
            return;
        }
    };
    let Some(rig) = Rig::start(Pace::fast()).await else { return };
    let offset_us = log.offset_us();
    for n in 0..KILLS {
        let mut hog = pod(&format!("logged-{n}"), &["memhog", "64", "0", "16", "0"], "24Mi");
        hog["spec"]["restartPolicy"] = "Never".into();
        rig.stage().kubelet().run_pod(hog).expect("the pod is well formed");
    }
    let kills = rig
        .wait_for("the kills", async |rig| {
            let rows = rig.sql(
                "select pid, epoch_us(occurred_at) as at, epoch_us(latest) - epoch_us(earliest) as width \
                 from events where kind = 'oom_kill'",
            );
            rows.ok().filter(|rows| rows.len() >= KILLS)
        })
        .await;
    for kill in &kills {
        let pid = kill["pid"].as_u64().expect("a pid");
        let logged_us = log.find(&format!("Killed process {pid} (")) + offset_us;
        let stored_us = kill["at"].as_i64().expect("microseconds");
        assert!(
            (logged_us - stored_us).abs() <= KILL_BOUND_US,
            "process {pid}: stored {stored_us}, logged {logged_us}, {} us apart",
            logged_us - stored_us
        );
    }
    rig.stop().await;
}

struct Line {
    /// Microseconds of the log's own clock.
    clock_us: i64,
    text: String,
}

/// The log from the moment it was opened. One kill prints a hundred lines and the kernel overwrites old ones, so a
/// thread reads them as they come.
struct KernelLog {
    file: File,
    lines: Arc<Mutex<Vec<Line>>>,
    _stop: mpsc::Sender<()>,
}

impl KernelLog {
    /// Opens the log at its end.
    fn open() -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("flags are small");
        let mut file = File::options().read(true).write(true).custom_flags(flags).open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let (mut reader, shared) = (file.try_clone()?, Arc::clone(&lines));
        std::thread::spawn(move || {
            while stopped.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
                let new = read(&mut reader);
                shared.lock().expect("no reader panics").extend(new);
            }
        });
        Ok(Self { file, lines, _stop: stop })
    }

    /// Wall time minus the log's clock, from marks written into it: the median of five.
    fn offset_us(&mut self) -> i64 {
        let mut offsets: Vec<i64> = (0..5)
            .map(|n| {
                let mark = format!("aftertrace clock mark {} {n}", std::process::id());
                let before = clock::Instant::now();
                // Without the end of line the kernel waits for more of it and shows it with the next line only.
                self.file.write_all(format!("{mark}\n").as_bytes()).expect("the log takes a line");
                let after = clock::Instant::now();
                (before.wall_ns + after.wall_ns) / 2_000 - self.find(&mark)
            })
            .collect();
        offsets.sort_unstable();
        offsets[2]
    }

    /// The log's clock at the line that contains `text`, in microseconds; waits for the line.
    fn find(&self, text: &str) -> i64 {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.lines.lock().expect("the reader does not panic");
            if let Some(line) = lines.iter().find(|line| line.text.contains(text)) {
                return line.clock_us;
            }
            drop(lines);
            assert!(Instant::now() < end, "the kernel's log has no line with {text:?}");
            std::thread::sleep(LOOK);
        }
    }
}

/// The lines since the last call.
fn read(file: &mut File) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut record = [0_u8; 8_192];
    loop {
        match file.read(&mut record) {
            Ok(0) => return lines,
            Ok(size) => lines.extend(parse(&String::from_utf8_lossy(&record[..size]))),
            // EPIPE: lines were overwritten before they were read; the next read goes on after them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return lines,
            Err(error) => panic!("the kernel's log cannot be read: {error}"),
        }
    }
}

/// `6,1234,5678901,-;text`: level, sequence, microseconds, flags.
fn parse(record: &str) -> Option<Line> {
    let (head, text) = record.split_once(';')?;
    let clock_us = head.split(',').nth(2)?.parse().ok()?;
    Some(Line { clock_us, text: text.to_owned() })
}
