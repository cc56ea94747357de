//! Finds DuckDB's library and tells the linker where programs and tests look for it when they start.
//!
//! It builds nothing. With the feature `bundled` DuckDB is compiled into the program and nothing is looked for.

use std::path::{Path, PathBuf};

/// The library, as the tools are set up by `cargo xtask setup`.
const LIBRARY: &str = "libduckdb.so";

fn main() {
    println!("cargo:rerun-if-env-changed=DUCKDB_LIB_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_BUNDLED").is_some() {
        return;
    }
    let dir = std::env::var_os("DUCKDB_LIB_DIR").map(PathBuf::from);
    let found = dir.as_deref().and_then(|dir| std::path::absolute(dir.join(LIBRARY)).ok());
    let Some(library) = found.filter(|library| library.is_file()) else {
        let place = dir.map_or_else(|| "DUCKDB_LIB_DIR is not set".to_owned(), |d| d.display().to_string());
        println!(
            "cargo::error={LIBRARY} was not found ({place}): run `cargo xtask setup`, or build with \
             `--features bundled`, which compiles DuckDB and takes about an hour of processor time"
        );
        return;
    };
    println!("cargo:rerun-if-changed={}", library.display());
    let dir = library.parent().unwrap_or(Path::new("/"));
    // Shipped programs have the library beside them; in the tree it stays where it was set up.
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", dir.display());
}
