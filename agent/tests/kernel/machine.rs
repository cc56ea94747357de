//! What the tests need of the machine: the loaded programs, and memory cgroups of their own.

use std::{
    fs,
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use aftertrace_agent::kernel::{
    Attached, FoundCgroup, Kernel, KernelConfig, KubeletCgroups, LoadError, Losses, PodCgroups, Record,
    Stalls, Subject, Tier, WatchedVolumes,
};
use tokio::sync::mpsc;

/// How long a record that must come may take on a busy machine. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The loaded programs and what they have said so far.
pub(crate) struct Observer {
    attached: Attached,
    pub(crate) losses: Losses,
    pub(crate) stalls: Stalls,
    /// What there was of the kubelet's cgroups at the start.
    pub(crate) found: Vec<FoundCgroup>,
    pub(crate) pod_cgroups: PodCgroups,
    pub(crate) volumes: WatchedVolumes,
    records: mpsc::Receiver<Record>,
}

impl Observer {
    /// Loads the programs, or says why this machine cannot. Needs a runtime.
    pub(crate) fn start(config: &KernelConfig, subject: Subject) -> Option<Self> {
        let kernel = match Kernel::load(config) {
            Ok(kernel) => kernel,
            Err(error @ (LoadError::NotPermitted(_) | LoadError::NoBtf { .. })) => {
                println!("SKIPPED: {error}");
                return None;
            }
            Err(error) => panic!("{error}: {error:?}"),
        };
        let Kernel { attached, drain, losses, pod_cgroups, found_cgroups: found, stalls, volumes } = kernel;
        let status = attached
            .subjects()
            .iter()
            .find(|status| status.subject == subject)
            .expect("every subject has one");
        if status.tier.is_none() {
            let why: Vec<String> = status
                .missing_hooks
                .iter()
                .map(|missing| format!("{}: {}", missing.hook, missing.error))
                .collect();
            assert!(!why.iter().any(|why| why.contains("verifier")), "{why:?}");
            println!("SKIPPED: {subject} cannot be observed here: {why:?}");
            return None;
        }
        let (sender, records) = mpsc::channel(1024);
        tokio::spawn(async move { drain.run(sender).await.expect("the runtime has I/O enabled") });
        Some(Self { attached, losses, found, pod_cgroups, stalls, volumes, records })
    }

    /// How a subject is observed.
    pub(crate) fn tier(&self, subject: Subject) -> Option<Tier> {
        self.attached.subjects().iter().find(|status| status.subject == subject)?.tier
    }

    /// The first record that `pick` takes; those before it that it does not take are other processes'.
    pub(crate) async fn next<T>(&mut self, mut pick: impl FnMut(Record) -> Option<T>) -> T {
        let wait = async {
            loop {
                let record = self.records.recv().await.expect("the drain runs as long as the observer");
                if let Some(picked) = pick(record) {
                    return picked;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(picked) => picked,
            Err(_) => panic!("the record does not come; lost meanwhile: {:?}", self.losses.take()),
        }
    }
}

/// A memory cgroup under a name of the tests', removed when dropped.
pub(crate) struct Cgroup {
    path: PathBuf,
    is_v1: bool,
}

impl Cgroup {
    /// Makes a cgroup at the root of the memory hierarchy, or says why this machine cannot.
    pub(crate) fn make(name: &str) -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let (root, is_v1) = if v1.join("memory.limit_in_bytes").exists() { (v1, true) } else { (v2, false) };
        if !is_v1 {
            let _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
        }
        let cgroup =
            Self { path: root.join(format!("aftertrace-test-{}-{name}", std::process::id())), is_v1 };
        if let Err(error) = fs::create_dir(&cgroup.path) {
            println!("SKIPPED: no memory cgroup can be made at {}: {error}", cgroup.path.display());
            return None;
        }
        Some(cgroup)
    }

    /// The kernel's side of an agent whose kubelet has this cgroup as its root.
    pub(crate) fn kubelet(&self) -> KernelConfig {
        let mount = self.path.parent().expect("a cgroup of the tests lies in a mount");
        let kubelet_cgroups = Some(KubeletCgroups::new(mount, &self.name()));
        KernelConfig { kubelet_cgroups, ..KernelConfig::default() }
    }

    /// Makes a cgroup inside this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        if !self.is_v1 {
            fs::write(self.path.join("cgroup.subtree_control"), "+memory").expect("the parent has no tasks");
        }
        let child = Self { path: self.path.join(name), is_v1: self.is_v1 };
        fs::create_dir(&child.path).expect("the parent was made by this test");
        child
    }

    pub(crate) fn limit(&self, bytes: u64) {
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.path.join(file), bytes.to_string()).expect("the limit is not below what is used");
        // Swap would let the victim go on. Not every kernel accounts it.
        let _ = if self.is_v1 {
            fs::write(self.path.join("memory.memsw.limit_in_bytes"), bytes.to_string())
        } else {
            fs::write(self.path.join("memory.swap.max"), "0")
        };
    }

    /// Sets a limit that may be below what is used; false where the kernel refuses that.
    pub(crate) fn try_limit(&self, bytes: u64) -> bool {
        let file = if self.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(self.path.join(file), bytes.to_string()).is_ok()
    }

    /// Memory charged.
    pub(crate) fn usage(&self) -> u64 {
        let file = if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" };
        let text = fs::read_to_string(self.path.join(file)).expect("every memory cgroup has it");
        text.trim().parse().expect("a size is a number")
    }

    /// Has all its tasks killed together, or says that this kernel's hierarchy cannot.
    pub(crate) fn kill_as_group(&self) -> bool {
        let written = fs::write(self.path.join("memory.oom.group"), "1");
        if let Err(error) = &written {
            println!("SKIPPED: there is no memory.oom.group here: {error}");
        }
        written.is_ok()
    }

    /// The kernel's own count of the kills in this very cgroup.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events.local" };
        let text = fs::read_to_string(self.path.join(file)).expect("every memory cgroup has it");
        let value =
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("the kernel counts kills");
        value.trim().parse().expect("a count is a number")
    }

    /// The directory's inode number, which is its kernfs id.
    pub(crate) fn id(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(&self.path).expect("the directory was made by this test").ino()
    }

    /// The file by which processes enter.
    pub(crate) fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().expect("a cgroup's path ends in its name").to_string_lossy().into_owned()
    }

    /// Runs a shell in this cgroup that waits for one line before it goes on with `script`.
    pub(crate) fn shell(&self, script: &str) -> Held {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("read line; {script}")]);
        self.hold(command)
    }

    /// Runs a command in this cgroup; it must read a line from its input before it does anything.
    pub(crate) fn hold(&self, mut command: Command) -> Held {
        let child = command
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a command of the base system starts");
        fs::write(self.procs(), child.id().to_string()).expect("the process still waits");
        Held { child }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Exiting tasks leave a moment after they are reaped.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{} is left behind", self.path.display());
    }
}

/// A process that waits to be let go; killed and reaped when dropped.
pub(crate) struct Held {
    child: Child,
}

impl Held {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go, and waits for its end.
    pub(crate) fn run(&mut self) -> ExitStatus {
        self.release();
        self.child.wait().expect("the child is ours")
    }

    pub(crate) fn release(&mut self) {
        let mut input = self.child.stdin.take().expect("it is let go once");
        input.write_all(b"go\n").expect("the process waits for its line");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell script that allocates until something stops it: `tail` keeps an endless line.
pub(crate) const HOG: &str = "exec tail /dev/zero";

/// Names a folder of C programs with their sources beside them, for a machine without a compiler.
const C_PROGRAMS_ENV: &str = "AFTERTRACE_C_PROGRAMS";

/// Builds a program from C, for what Rust's standard library offers no safe way to do; or says why this
/// machine cannot.
pub(crate) fn compile(folder: &Path, source: &str) -> Option<PathBuf> {
    if let Some(programs) = std::env::var_os(C_PROGRAMS_ENV) {
        return Some(compiled(Path::new(&programs), source));
    }
    let (file, program) = (folder.join("program.c"), folder.join("program"));
    fs::write(&file, source).expect("the folder is the test's own");
    match Command::new("cc").arg("-O1").arg("-o").arg(&program).arg(&file).status() {
        Ok(status) => {
            assert!(status.success(), "the program is ours and compiles");
            Some(program)
        }
        Err(error) => {
            println!("SKIPPED: there is no C compiler: {error}");
            None
        }
    }
}

/// The program whose source is this very text.
fn compiled(programs: &Path, source: &str) -> PathBuf {
    let entries = fs::read_dir(programs).expect("the folder was named by who built the programs");
    entries
        .map(|entry| entry.expect("the folder can be read").path())
        .find(|file| fs::read_to_string(file).is_ok_and(|text| text == source))
        .expect("every source of these tests lies in their folder `c`, and was compiled from there")
        .with_extension("")
}
