//! `aft sql` becomes the DuckDB command.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::fake::Fake;
use crate::{aft, aft_to, run};

/// A command that prints its arguments, one a line.
fn echo(folder: &Path) -> PathBuf {
    let path = folder.join("duckdb");
    std::fs::write(&path, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").expect("a script");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn opens_the_catalog_named_or_told() {
    let fake = Fake::start();
    let duckdb = echo(fake.folder.path());
    let catalog = fake.folder.path().join("memory.duckdb");
    std::fs::write(&catalog, "").expect("a file");
    let path = catalog.to_str().expect("UTF-8");

    let (code, out, err) = run(aft_to(&fake).env("AFT_DUCKDB", &duckdb).arg("sql"));
    assert_eq!((code, out, err.as_str()), (0, format!("-readonly\n{path}\n"), ""));
    let (code, out, _) = run(aft().env("AFT_DUCKDB", &duckdb).args([
        "-o",
        "json",
        "sql",
        "--catalog",
        path,
        "--",
        "select 1",
    ]));
    assert_eq!((code, out), (0, format!("-readonly\n-json\n-c\nselect 1\n{path}\n")));
}

#[test]
fn says_what_is_missing() {
    let fake = Fake::start();
    let (code, _, err) = run(aft().env("PATH", "/nonexistent").arg("sql"));
    assert_eq!(code, 1);
    assert!(err.contains("no `duckdb` in PATH") && err.contains("pip install duckdb-cli==1.5.6"), "{err}");

    let duckdb = echo(fake.folder.path());
    let (code, _, err) =
        run(aft().env("AFT_DUCKDB", &duckdb).args(["sql", "--catalog", "/nonexistent/m.duckdb"]));
    assert_eq!(code, 1);
    assert!(err.contains("/nonexistent/m.duckdb") && err.contains("AFT_CATALOG"), "{err}");

    // The service speaks of a catalog that is not here.
    let (code, _, err) = run(aft_to(&fake).env("AFT_DUCKDB", &duckdb).arg("sql"));
    assert_eq!(code, 1);
    assert!(err.contains("memory.duckdb") && err.contains("kubectl exec"), "{err}");
}

#[test]
fn asks_the_real_duckdb() {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/duckdb");
    if !tool.is_file() {
        println!("SKIPPED: {} is not there; `cargo xtask setup` brings it", tool.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let catalog = folder.path().join("memory.duckdb");
    let made = std::process::Command::new(&tool)
        .arg(&catalog)
        .args(["-c", "create view answer as select 42 as value"])
        .status()
        .expect("duckdb starts");
    assert!(made.success());
    let mut sql = aft();
    sql.env("AFT_DUCKDB", &tool).env("AFT_CATALOG", &catalog).args(["-o", "json", "sql"]);
    let (code, out, err) = run(sql.args(["select value from answer"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.trim(), r#"[{"value":42}]"#);

    let mut write = aft();
    write.env("AFT_DUCKDB", &tool).env("AFT_CATALOG", &catalog).arg("sql");
    let (code, _, err) = run(write.arg("create table t(x int)"));
    assert!(code != 0 && err.contains("read-only"), "the catalog cannot be written: {code} {err}");
}
