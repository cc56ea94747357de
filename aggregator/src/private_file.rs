//! Files that only the owner may read: keys and tokens. They are made once, on the first start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A file of ours that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// `read` or `write`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Reads the file, or makes it with what `make` returns if there is none.
///
/// # Errors
/// [`FileError`] where it can neither be read nor written.
pub fn read_or_make(path: &Path, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let bytes = make();
            replace(path, &bytes, 0o600)?;
            Ok(bytes)
        }
        Err(source) => Err(FileError { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes the file aside, makes it durable and renames it into place, so that no reader sees half of it.
///
/// # Errors
/// [`FileError`] where any of that fails.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write(path, bytes, mode).map_err(|source| FileError { action: "write", path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let aside = path.with_extension("new");
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn is_made_once_and_for_the_owner_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("a/key");
        assert_eq!(read_or_make(&path, || b"one".to_vec()).expect("made"), b"one");
        assert_eq!(read_or_make(&path, || b"two".to_vec()).expect("read"), b"one");
        assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = read_or_make(Path::new("/proc/no/such"), Vec::new).expect_err("not writable");
        assert!(error.to_string().contains("/proc/no/such"), "{error}");
    }
}
