//! Where the `aftertrace-stage` program is: the library starts it again as shim, init and workload.

use std::path::{Path, PathBuf};

/// File name of the program.
pub const NAME: &str = "aftertrace-stage";

/// Names the program's path where it cannot be found beside the running one.
pub const VARIABLE: &str = "AFTERTRACE_STAGE";

/// The program cannot be found.
#[derive(Debug, thiserror::Error)]
#[error("cannot find the program {NAME}: build it with `cargo build -p aftertrace-stage`, or set {VARIABLE}")]
pub struct NotFound;

/// Finds the program: by `AFTERTRACE_STAGE`, as the running one, or beside it (also from `target/*/deps`,
/// where test programs are).
///
/// # Errors
/// [`NotFound`].
pub fn locate() -> Result<PathBuf, NotFound> {
    // Containers start it from folders and roots of their own.
    let named = std::env::var_os(VARIABLE).map(|path| std::path::absolute(&path).unwrap_or(path.into()));
    let current = std::env::current_exe().ok();
    locate_from(named, current.as_deref())
}

fn locate_from(named: Option<PathBuf>, current: Option<&Path>) -> Result<PathBuf, NotFound> {
    let beside = current.into_iter().flat_map(|current| {
        let folders = current.ancestors().skip(1).take(2);
        folders.map(|folder| folder.join(NAME)).collect::<Vec<_>>()
    });
    named.into_iter().chain(beside).find(|path| path.is_file()).ok_or(NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_beside_programs_and_tests() {
        let target = tempfile::tempdir().unwrap();
        let program = target.path().join(NAME);
        std::fs::write(&program, "").unwrap();
        let find = |current: &str| locate_from(None, Some(&target.path().join(current))).ok();
        assert_eq!(find("xtask"), Some(program.clone()));
        assert_eq!(find("deps/test-0123"), Some(program.clone()));
        assert_eq!(find("a/b/c"), None);
        assert_eq!(locate_from(Some(program.clone()), None).ok(), Some(program));
    }
}
