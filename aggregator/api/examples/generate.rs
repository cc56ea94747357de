//! Writes the Rust code of the protobuf contract to `src/generated`, or with `--check` says whether it is current.
//!
//! The code is committed, so that a build needs no protobuf compiler.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use prost::Message as _;

fn main() -> ExitCode {
    let check = std::env::args().any(|a| a == "--check");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let out = std::env::temp_dir().join(format!("aftertrace-generate-{}", std::process::id()));
    std::fs::create_dir_all(&out).expect("the folder for temporary files is writable");
    generate(&root, &out);
    let mut stale = Vec::new();
    for name in ["aftertrace.v1.rs", "descriptor.bin"] {
        let new = std::fs::read(out.join(name)).expect("the generator wrote this file");
        if std::fs::read(committed.join(name)).is_ok_and(|old| old == new) {
            continue;
        }
        stale.push(name);
        if !check {
            std::fs::write(committed.join(name), new).expect("src/generated is writable");
        }
    }
    std::fs::remove_dir_all(&out).expect("the temporary folder is ours");
    match (check, stale.is_empty()) {
        (true, false) => {
            eprintln!("stale: {stale:?}; run `cargo run -p aftertrace-api --example generate`");
            ExitCode::FAILURE
        }
        (_, true) => {
            println!("generated code is current");
            ExitCode::SUCCESS
        }
        (false, false) => {
            println!("wrote {stale:?}");
            ExitCode::SUCCESS
        }
    }
}

fn generate(root: &Path, out: &Path) {
    let proto = root.join("proto");
    let files = ["event", "edge", "object", "gap", "ingest", "memory", "frame"]
        .map(|subject| proto.join(format!("aftertrace/v1/{subject}.proto")));
    let descriptors = match protox::compile(&files, [&proto]) {
        Ok(descriptors) => descriptors,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    };
    std::fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())
        .expect("the temporary folder is writable");
    tonic_prost_build::configure()
        .out_dir(out)
        .btree_map(".")
        .compile_fds(descriptors)
        .expect("the descriptors were checked by the compiler");
}
