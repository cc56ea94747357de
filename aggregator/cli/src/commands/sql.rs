//! `aft sql`: becomes the DuckDB command, on the catalog, read-only.
//!
//! The catalog holds views over files of the aggregator's disk, so it is of use only where those files are.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aftertrace_api::proto::StatusRequest;

use super::Context;
use crate::args::Format;
use crate::error::{Error, Outcome};
use crate::term::safe;

/// The environment variable that names the DuckDB command.
const DUCKDB_VARIABLE: &str = "AFT_DUCKDB";

/// How to get the version of the DuckDB command that the store is tested with.
const INSTALL: &str = "get version 1.5.6, for instance with `pip install duckdb-cli==1.5.6` or from \
                       https://github.com/duckdb/duckdb/releases/tag/v1.5.6, then put it into PATH or set \
                       AFT_DUCKDB to it";

/// Why the DuckDB command was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// There is no `duckdb`.
    #[error("there is no `duckdb` in PATH: {INSTALL}")]
    NoDuckdb,
    /// `AFT_DUCKDB` does not name one.
    #[error("{DUCKDB_VARIABLE} is {}, which is no file: {INSTALL}", path.display())]
    NamedDuckdb {
        /// The variable's value.
        path: PathBuf,
    },
    /// It could not be started.
    #[error("cannot start {}: {source}; check {DUCKDB_VARIABLE} and PATH", path.display())]
    Start {
        /// The command.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The catalog named on the command line is not there.
    #[error("cannot open the catalog {}: {source}; check --catalog and AFT_CATALOG, and that you may read the \
             aggregator's data directory", path.display())]
    Catalog {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no catalog yet.
    #[error("the aggregator has not published its catalog {path} yet; wait a second, then see `aft status`")]
    NotPublished {
        /// The path there, escaped.
        path: String,
    },
    /// The aggregator's catalog is not on this machine.
    #[error(
        "the catalog {path} lies on the aggregator's machine and cannot be opened here ({source}): run \
             `aft sql` there (on a cluster: kubectl exec -it deploy/aftertrace-aggregator -- aft sql), or pass \
             --catalog with the path where its data directory is mounted"
    )]
    Elsewhere {
        /// The path there, escaped.
        path: String,
        /// Why it cannot be opened here.
        source: io::Error,
    },
}

/// Opens the DuckDB command in place of this process; comes back only if that fails.
pub(crate) async fn run(
    context: &Context,
    catalog: Option<PathBuf>,
    query: &[String],
) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let duckdb = find_duckdb(env::var_os(DUCKDB_VARIABLE).as_deref(), env::var_os("PATH").as_deref())?;
    let catalog = match catalog {
        Some(path) => match std::fs::File::open(&path) {
            Ok(_) => path,
            Err(source) => return Err(SqlError::Catalog { path, source }.into()),
        },
        None => catalog_of_aggregator(context).await?,
    };
    let source = command(&duckdb, &catalog, query, context.global.output).exec();
    Err(SqlError::Start { path: duckdb, source }.into())
}

async fn catalog_of_aggregator(context: &Context) -> Result<PathBuf, Error> {
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.status(StatusRequest {}).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    if answer.published_at_us == 0 {
        return Err(SqlError::NotPublished { path: safe(&answer.catalog) }.into());
    }
    match std::fs::File::open(&answer.catalog) {
        Ok(_) => Ok(PathBuf::from(answer.catalog)),
        Err(source) => Err(SqlError::Elsewhere { path: safe(&answer.catalog), source }.into()),
    }
}

/// The query is given with `-c`, so that one that begins with a dash is no option.
fn command(duckdb: &Path, catalog: &Path, query: &[String], output: Format) -> Command {
    let mut command = Command::new(duckdb);
    command.arg("-readonly");
    if output == Format::Json {
        command.arg("-json");
    }
    if !query.is_empty() {
        command.arg("-c").arg(query.join(" "));
    }
    command.arg(catalog);
    command
}

/// `AFT_DUCKDB`, else the first `duckdb` in PATH.
fn find_duckdb(named: Option<&OsStr>, path: Option<&OsStr>) -> Result<PathBuf, SqlError> {
    if let Some(named) = named.filter(|n| !n.is_empty()) {
        let named = PathBuf::from(named);
        return if named.is_file() { Ok(named) } else { Err(SqlError::NamedDuckdb { path: named }) };
    }
    path.into_iter()
        .flat_map(env::split_paths)
        .map(|folder| folder.join("duckdb"))
        .find(|candidate| candidate.is_file())
        .ok_or(SqlError::NoDuckdb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_of_duckdb() {
        let built =
            command(Path::new("duckdb"), Path::new("/d/memory.duckdb"), &["-- x".into()], Format::Json);
        let args: Vec<_> = built.get_args().collect();
        assert_eq!(args, ["-readonly", "-json", "-c", "-- x", "/d/memory.duckdb"]);
        let prompt = command(Path::new("duckdb"), Path::new("/d/memory.duckdb"), &[], Format::Table);
        assert_eq!(prompt.get_args().collect::<Vec<_>>(), ["-readonly", "/d/memory.duckdb"]);
    }

    #[test]
    fn finds_duckdb_by_variable_then_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("duckdb");
        std::fs::write(&file, "").expect("a file");
        let path = env::join_paths([Path::new("/nonexistent"), folder.path()]).expect("a path");
        assert_eq!(find_duckdb(None, Some(&path)).expect("in PATH"), file);
        assert_eq!(find_duckdb(Some(file.as_os_str()), None).expect("named"), file);

        let missing = find_duckdb(Some(OsStr::new("/nonexistent/duckdb")), Some(&path)).expect_err("no file");
        assert!(missing.to_string().contains("/nonexistent/duckdb"), "{missing}");
        let none = find_duckdb(None, Some(OsStr::new("/nonexistent"))).expect_err("not in PATH");
        assert!(none.to_string().contains("pip install duckdb-cli==1.5.6"), "{none}");
    }
}
