//! The program itself: what it acknowledged outlives kill -9, and its errors name the remedy.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use aftertrace_api::proto;
use aftertrace_model::Kind;

use crate::harness::{CLUSTER, Client, event, eventually, items, now, timeline};

const ANY_PORT: &str = "127.0.0.1:0";

/// A running aggregator, killed when dropped.
struct Program {
    child: Child,
    data: PathBuf,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(data: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aftertrace-aggregator"));
    command.args(["--cluster", CLUSTER, "--listen", listen, "--no-watch", "--data"]).arg(data);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Program {
    async fn start(data: &Path) -> Self {
        // After kill -9 the address of the run before is still there.
        let _ = std::fs::remove_file(data.join("listen"));
        let child = command(data, ANY_PORT).stderr(Stdio::null()).spawn().expect("the program was built");
        let program = Self { child, data: data.to_owned() };
        eventually("the program serves", || async { data.join("listen").exists().then_some(()) }).await;
        program
    }

    fn client(&self) -> Client {
        let listen = std::fs::read_to_string(self.data.join("listen")).expect("it serves");
        Client { data: self.data.clone(), address: listen.trim().parse().expect("an address") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_kill_9_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = now();
    let mut sent = 0;
    for _ in 0..3 {
        let mut program = Program::start(dir.path()).await;
        let mut agent = program.client().agent("node1").await;
        // The agent sends its last batch again after each outage, as a resumed spool does.
        for sequence in sent..sent + 4 {
            agent.deliver(sequence, items(&[event(sequence, Kind::OomKill, "checkout", at)], &[])).await;
        }
        sent += 3;
        tokio::time::sleep(Duration::from_millis(300)).await;
        program.child.kill().expect("killed");
        program.child.wait().expect("ended");
    }
    let program = Program::start(dir.path()).await;
    let told =
        program.client().memory().await.timeline(timeline("checkout")).await.expect("known").into_inner();
    assert_eq!(told.events.len(), 10, "sequences 0 to 9, each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_leaves_no_address_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut program = Program::start(dir.path()).await;
    let pid = i32::try_from(program.child.id()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let status = program.child.wait().expect("ended");
    assert!(status.success(), "{status}");
    assert!(!dir.path().join("listen").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_be_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let program = Program::start(dir.path()).await;
    let told = |output: Output| {
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    let locked = told(command(dir.path(), ANY_PORT).output().expect("runs"));
    let pid = program.child.id().to_string();
    assert!(locked.contains("in use by process") && locked.contains(&pid), "{locked}");

    let other = tempfile::tempdir().expect("temporary directory");
    let address = program.client().address.to_string();
    let taken = told(command(other.path(), &address).output().expect("runs"));
    assert!(taken.contains("cannot listen on") && taken.contains(&address), "{taken}");

    let kubeconfig = told(
        Command::new(env!("CARGO_BIN_EXE_aftertrace-aggregator"))
            .args(["--cluster", CLUSTER, "--kubeconfig", "/nowhere", "--data"])
            .arg(other.path())
            .output()
            .expect("runs"),
    );
    assert!(kubeconfig.contains("/nowhere"), "{kubeconfig}");
    let status = program.client().memory().await.status(proto::StatusRequest {}).await.expect("unharmed");
    assert_eq!(status.into_inner().cluster, CLUSTER);
}
