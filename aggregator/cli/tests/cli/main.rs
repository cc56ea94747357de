//! The built command against a service in this process: what it asks, what it prints, how it exits.

#[path = "../../src/fixture.rs"]
mod fixture;

mod fake;

mod answers;
mod failures;
mod sql;

use std::process::{Command, Output};

use fake::Fake;

/// The command without anything of the caller's environment that would change it.
fn aft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aft"));
    for name in ["AFT_SERVER", "AFT_CA", "AFT_TOKEN_FILE", "AFT_NAMESPACE", "AFT_CATALOG", "AFT_DUCKDB"] {
        command.env_remove(name);
    }
    command.env("TZ", "UTC");
    command
}

/// The command, told where the service is.
fn aft_to(fake: &Fake) -> Command {
    let mut command = aft();
    command.env("AFT_SERVER", &fake.server).env("AFT_CA", &fake.ca).env("AFT_TOKEN_FILE", &fake.token_file);
    command
}

/// Runs it; returns exit code, standard output and standard error.
#[track_caller]
fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}
