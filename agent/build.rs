//! Builds the programs in the kernel (`agent-ebpf`) for the bpf target and hands their ELF to `kernel::load`.
//!
//! They are built by the stable toolchain: `-Z build-std=core` is unlocked by `RUSTC_BOOTSTRAP=1`, for
//! that one build only. Both that variable and the linker's place must stand in this process's own
//! environment, and changing one's environment is unsafe in Rust 2024; so the script checks for the tools
//! and then runs itself once more with the environment it wants.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Set for the second run.
const IS_PREPARED: &str = "AFTERTRACE_EBPF_BUILD_IS_PREPARED";

fn main() -> ExitCode {
    let outcome = if env::var_os(IS_PREPARED).is_some() { build() } else { prepare() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={error:#}");
            ExitCode::FAILURE
        }
    }
}

/// First run: finds the tools, and runs this script again with them.
fn prepare() -> Result<()> {
    let workspace = workspace()?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", workspace.join("agent-ebpf").display());

    let tools = workspace.join("target/tools/bpf-linker/bin");
    let mut path = vec![tools.clone()];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    if !path.iter().any(|folder| folder.join("bpf-linker").is_file()) {
        bail!(
            "bpf-linker, which links the programs in the kernel, is neither in {} nor in PATH; \
             run `cargo xtask setup`, which brings it",
            tools.display()
        );
    }
    let library = sysroot()?.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !library.is_file() {
        bail!(
            "the toolchain lacks rust-src, from which `core` is built for the kernel ({} is missing); \
             run `cargo xtask setup`, which brings it",
            library.display()
        );
    }

    let output = Command::new(env::current_exe().context("find this build script")?)
        .env(IS_PREPARED, "1")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", env::join_paths(path).context("join PATH with bpf-linker's folder")?)
        .stderr(Stdio::inherit())
        .output()
        .context("run this build script again")?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if !(output.status.success() && is_progress(line)) {
            println!("{line}");
        }
    }
    if !output.status.success() {
        bail!("the programs in the kernel could not be built; what the compiler said stands above");
    }
    Ok(())
}

/// Whether a line is cargo's progress, which aya-build hands on as a warning like all that cargo says.
fn is_progress(line: &str) -> bool {
    const STEPS: &[&str] = &["Blocking ", "Compiling ", "Downloaded ", "Downloading ", "Finished "];
    let said = line.strip_prefix("cargo:warning=").map(str::trim_start);
    said.is_some_and(|said| STEPS.iter().any(|step| said.starts_with(step)))
}

/// Second run: builds. The result is `$OUT_DIR/aftertrace-ebpf`.
fn build() -> Result<()> {
    let root = workspace()?.join("agent-ebpf");
    let features: &[&str] =
        if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() { &["bpf", "log"] } else { &["bpf"] };
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let built = aya_build::build_ebpf(
        [aya_build::Package {
            name: "aftertrace-ebpf",
            root_dir: root.to_str().context("the workspace's path is not UTF-8")?,
            no_default_features: true,
            features,
        }],
        aya_build::Toolchain::Custom(&toolchain),
    );
    built.and_then(|()| strip())
}

/// Takes the programs' debug information off, two thirds of what the agent would carry and read at each start;
/// BTF, which the kernel takes, is made from it and stays. Where the toolchain has no tool for it, it stays too.
fn strip() -> Result<()> {
    let programs = Path::new(&env::var_os("OUT_DIR").context("OUT_DIR is not set")?).join("aftertrace-ebpf");
    let sysroot = sysroot()?;
    let host = env::var("HOST").context("HOST is not set")?;
    let tool = sysroot.join("lib/rustlib").join(host).join("bin/rust-objcopy");
    if tool.is_file() {
        let mut strip = Command::new(&tool);
        // The tool is linked with the compiler's own LLVM.
        strip.env("LD_LIBRARY_PATH", sysroot.join("lib")).arg("--strip-debug").arg(&programs);
        let status = strip.status().with_context(|| format!("run {}", tool.display()))?;
        if !status.success() {
            bail!("{} failed on {}: {status}", tool.display(), programs.display());
        }
    }
    Ok(())
}

/// The folder above this package.
fn workspace() -> Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    Ok(Path::new(&package).parent().context("the package lies in no workspace")?.to_path_buf())
}

/// Where the toolchain in use keeps its libraries.
fn sysroot() -> Result<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output =
        Command::new(rustc).args(["--print", "sysroot"]).output().context("ask rustc for its sysroot")?;
    let sysroot = String::from_utf8(output.stdout).context("read rustc's sysroot")?;
    Ok(PathBuf::from(sysroot.trim()))
}
