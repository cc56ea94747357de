//! Where this workspace and its tools are, and how cargo is called in it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Names another folder for the tools than `target/tools`; `setup` can be tried from nothing with it.
pub(crate) const TOOLS_DIR_ENV: &str = "AFTERTRACE_TOOLS_DIR";

/// The two folders every command starts from.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`; absolute.
    pub(crate) root: PathBuf,
    /// Where `setup` puts tools; absolute, perhaps absent.
    pub(crate) tools: PathBuf,
    /// Whether the tools are somewhere else than `.cargo/config.toml` says.
    pub(crate) tools_moved: bool,
}

impl Workspace {
    /// Finds the workspace: from cargo's own variable, or upwards from the current folder.
    pub(crate) fn locate() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => env::current_dir().context("read the current folder")?,
        };
        let Some(root) = start.ancestors().find(|dir| is_workspace_root(dir)) else {
            bail!("no workspace above {}; run this from the repository", start.display());
        };
        let default_tools = root.join("target/tools");
        let tools = match env::var_os(TOOLS_DIR_ENV) {
            Some(dir) => std::path::absolute(dir).context("resolve the tools folder")?,
            None => default_tools.clone(),
        };
        Ok(Self { root: root.to_owned(), tools_moved: tools != default_tools, tools })
    }

    /// The cargo that runs this program, called in the root of the workspace.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        command
    }

    /// The folder where cargo puts the programs of a profile.
    pub(crate) fn programs(&self, profile: Profile) -> PathBuf {
        self.target().join(match profile {
            Profile::Dev => "debug",
            Profile::Release => "release",
        })
    }

    /// The folder where cargo puts everything.
    pub(crate) fn target(&self) -> PathBuf {
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        self.root.join(target)
    }
}

/// The profiles that commands build with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; what tests run.
    Dev,
    /// What users run; what the demo and the benches measure.
    Release,
}

fn is_workspace_root(dir: &Path) -> bool {
    std::fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
}
