//! Files are what their pin says, or they are not there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Whether the file has the pinned SHA-256. A stamp beside it (hash, size, modification time) saves hashing
/// again what has not been touched.
pub(crate) fn is_pinned(file: &Path, sha256: &str) -> Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let stamp = stamp_of(file);
    let fresh = stamp_text(file, sha256)?;
    if fs::read_to_string(&stamp).is_ok_and(|old| old == fresh) {
        return Ok(true);
    }
    if hash::<Sha256>(file)? != sha256 {
        return Ok(false);
    }
    fs::write(&stamp, fresh).with_context(|| format!("write {}", stamp.display()))?;
    Ok(true)
}

/// Fails unless the file has this hash.
pub(crate) fn require<D: Digest>(file: &Path, hex: &str) -> Result<()> {
    let found = hash::<D>(file)?;
    if found != hex {
        bail!("{} has hash {found}, not the pinned {hex}", file.display());
    }
    Ok(())
}

/// A digest as a sink for bytes.
struct Hasher<D>(D);

impl<D: Digest> io::Write for Hasher<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash<D: Digest>(file: &Path) -> Result<String> {
    let mut source = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut hasher = Hasher(D::new());
    io::copy(&mut source, &mut hasher).with_context(|| format!("read {}", file.display()))?;
    Ok(hasher.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn stamp_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".stamp");
    PathBuf::from(name)
}

fn stamp_text(file: &Path, sha256: &str) -> Result<String> {
    let metadata = file.metadata().with_context(|| format!("look at {}", file.display()))?;
    Ok(format!("{sha256} {} {}.{:09}\n", metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use sha2::Sha512;

    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn file_with(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("tool");
        fs::write(&file, text).expect("write the file");
        (dir, file)
    }

    #[test]
    fn the_pinned_file_is_accepted_and_stamped() {
        let (_dir, file) = file_with("abc");
        assert!(is_pinned(&file, ABC).expect("readable"));
        assert!(stamp_of(&file).exists());
        assert!(is_pinned(&file, ABC).expect("readable"), "the stamp says the same");
    }

    #[test]
    fn another_file_is_refused_in_spite_of_a_stamp() {
        let (_dir, file) = file_with("abc");
        assert!(is_pinned(&file, ABC).expect("readable"));
        fs::write(&file, "abcd").expect("tamper with the file");
        assert!(!is_pinned(&file, ABC).expect("readable"));
    }

    #[test]
    fn a_new_pin_is_not_met_by_the_old_stamp() {
        let (_dir, file) = file_with("abc");
        assert!(is_pinned(&file, ABC).expect("readable"));
        assert!(!is_pinned(&file, &ABC.replace('b', "c")).expect("readable"));
    }

    #[test]
    fn an_absent_file_is_not_pinned() {
        let (dir, _file) = file_with("abc");
        assert!(!is_pinned(&dir.path().join("absent"), ABC).expect("absence is no error"));
    }

    #[test]
    fn a_wrong_package_is_an_error_with_both_hashes() {
        let (_dir, file) = file_with("abc");
        require::<Sha256>(&file, ABC).expect("the right hash");
        let error = require::<Sha512>(&file, ABC).expect_err("SHA-512 is another hash").to_string();
        assert!(error.contains(ABC) && error.contains("ddaf35a193617aba"), "{error}");
    }
}
