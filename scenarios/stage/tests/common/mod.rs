//! What the tests around real programs share: programs that end with the test, and the objects they are shown.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

/// A program that is killed when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts a prepared command.
    pub(crate) fn start(mut command: Command) -> Self {
        Self(command.spawn().expect("the program was built"))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command that runs the built program `name`, whose output is appended to `<name>.log` in `folder`.
pub(crate) fn program(name: &str, folder: &Path) -> Command {
    let path = program_path(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test`, which builds it", path.display());
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join(format!("{name}.log")))
        .expect("the run's folder is writable");
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
    command
}

/// The last lines that the program `name` logged in `folder`.
pub(crate) fn tail_of_log(name: &str, folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(15).collect();
    format!("-- {name}\n{}\n", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
}

/// A built program: by a variable of its own (`AFTERTRACE_AGENT`), as `cargo xtask test` says, or beside this
/// test.
pub(crate) fn program_path(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(name.replace('-', "_").to_uppercase()) {
        return path.into();
    }
    let folder = std::env::var_os("AFTERTRACE_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("a running program has a path");
            test.ancestors().nth(2).expect("tests are in target/<profile>/deps").to_owned()
        },
        PathBuf::from,
    );
    folder.join(name)
}

/// A pod of one container.
pub(crate) fn pod(name: &str, command: &[&str], memory_limit: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "app",
                "image": "k8s.local/app:1.0",
                "command": command,
                "resources": {
                    "limits": { "memory": memory_limit },
                    "requests": { "memory": memory_limit },
                },
            }],
        },
    })
}

/// A pod that mounts a ConfigMap and follows its one file.
pub(crate) fn mounting_pod(name: &str, config_map: &str) -> Value {
    let mut pod = pod(name, &["watch-config", "/etc/app/app.conf"], "32Mi");
    pod["spec"]["volumes"] = json!([{ "name": "cfg", "configMap": { "name": config_map } }]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "cfg", "mountPath": "/etc/app" }]);
    pod
}

/// A ConfigMap with one key.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "shop" },
        "data": { "app.conf": value },
    })
}
