//! Components of the pinned Rust toolchain.

use std::process::Command;

use anyhow::{Result, bail};

use super::{on_path, say};
use crate::child;
use crate::workspace::Workspace;

/// A component and how to see that it is there.
pub(crate) struct Component {
    name: &'static str,
    is_there: fn(&Workspace) -> bool,
}

/// The source of `core`, which is built for the bpf target.
pub(crate) const RUST_SRC: Component = Component {
    name: "rust-src",
    is_there: |workspace| {
        child::output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(&workspace.root))
            .is_ok_and(|sysroot| {
                std::path::Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").exists()
            })
    },
};

/// The formatter.
pub(crate) const RUSTFMT: Component = Component {
    name: "rustfmt",
    is_there: |workspace| child::output(workspace.cargo().args(["fmt", "--version"])).is_ok(),
};

/// The linter.
pub(crate) const CLIPPY: Component = Component {
    name: "clippy",
    is_there: |workspace| child::output(workspace.cargo().args(["clippy", "--version"])).is_ok(),
};

/// Adds the component through rustup if the toolchain lacks it.
pub(crate) fn component(workspace: &Workspace, component: &Component) -> Result<()> {
    if (component.is_there)(workspace) {
        return Ok(());
    }
    let name = component.name;
    if !on_path("rustup") {
        bail!(
            "the Rust toolchain lacks {name} and rustup is not installed; install {name} the way Rust came"
        );
    }
    say(&format!("adding {name} with rustup"));
    child::run(Command::new("rustup").args(["component", "add", name]).current_dir(&workspace.root))?;
    if !(component.is_there)(workspace) {
        bail!("rustup added {name}, and the toolchain still lacks it");
    }
    Ok(())
}
