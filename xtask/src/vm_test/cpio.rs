//! Writes the `newc` archive that the kernel unpacks as its first root file system.
//!
//! The format is the kernel's own (Documentation/driver-api/early-userspace/buffer-format.rst): a header of
//! hexadecimal fields, the name, the data, each padded to four bytes, and an entry `TRAILER!!!` at the end.
//! Uncompressed: the guest would spend more time on unpacking than the host saves by writing less.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Type bits of a mode, as in `stat(2)`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// An archive being written. Folders above an entry are made by themselves, once each.
pub(crate) struct Archive<W> {
    out: W,
    /// Numbers the entries: the kernel takes equal numbers for hard links.
    entries: u32,
    /// Every path that is there already.
    paths: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// Starts an empty archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, paths: BTreeSet::new() }
    }

    /// Whether this path was written before.
    fn contains(&self, path: &Path) -> bool {
        self.paths.contains(relative(path))
    }

    /// Adds a folder and those above it.
    pub(crate) fn folder(&mut self, path: &Path) -> io::Result<()> {
        let path = relative(path);
        if path.as_os_str().is_empty() || self.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, FOLDER | 0o755, &[])
    }

    /// Adds a file with these permission bits. A path that is there already stays as it is.
    pub(crate) fn file(&mut self, path: &Path, permissions: u32, data: &[u8]) -> io::Result<()> {
        let path = relative(path);
        if self.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, FILE | permissions, data)
    }

    /// Writes the end and returns what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |parent| self.folder(parent))
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8]) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "larger than the format can say");
        let size = u32::try_from(data.len()).map_err(too_large)?;
        let name = path.as_os_str().as_bytes();
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        self.entries += 1;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let mut header = b"070701".to_vec();
        // inode, mode, uid, gid, links, time, size, device (2), of a special file (2), name, check sum.
        for field in [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            header.extend(format!("{field:08x}").bytes());
        }
        header.extend(name);
        header.push(0);
        pad(&mut header);
        self.out.write_all(&header)?;
        self.out.write_all(data)?;
        let padding = data.len().next_multiple_of(4) - data.len();
        self.out.write_all(&[0; 3][..padding])?;
        self.paths.insert(path.to_owned());
        Ok(())
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Names in the archive have no leading slash.
fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: name, mode and data of each entry, in order.
    fn entries(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701", "a header comes next");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).expect("hexadecimal");
                u32::from_str_radix(text, 16).expect("hexadecimal") as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).expect("a name");
            let start = (110 + name_size).next_multiple_of(4);
            let data = bytes[start..start + size].to_vec();
            bytes = &bytes[(start + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty(), "nothing follows the end");
                return entries;
            }
            entries.push((name, u32::try_from(mode).expect("a mode"), data));
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/bin/deep/tool"), 0o755, b"12345").expect("memory takes all");
        archive.folder(Path::new("/proc")).expect("memory takes all");
        archive.folder(Path::new("/bin")).expect("memory takes all");
        let found = entries(&archive.finish().expect("memory takes all"));
        let expected = [
            ("bin", 0o040_755, &b""[..]),
            ("bin/deep", 0o040_755, b""),
            ("bin/deep/tool", 0o100_755, b"12345"),
            ("proc", 0o040_755, b""),
        ];
        let expected = expected.map(|(name, mode, data)| (name.to_owned(), mode, data.to_vec()));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_first_of_two_files_of_a_name_stays() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("a"), 0o644, b"first").expect("memory takes all");
        archive.file(Path::new("/a"), 0o644, b"second").expect("memory takes all");
        let found = entries(&archive.finish().expect("memory takes all"));
        assert_eq!(found, [("a".to_owned(), 0o100_644, b"first".to_vec())]);
    }

    #[test]
    fn data_of_every_length_is_padded() {
        for length in 0..9 {
            let mut archive = Archive::new(Vec::new());
            archive.file(Path::new("f"), 0o600, &vec![7; length]).expect("memory takes all");
            archive.file(Path::new("g"), 0o600, b"behind").expect("memory takes all");
            let found = entries(&archive.finish().expect("memory takes all"));
            assert_eq!(found[0].2, vec![7; length]);
            assert_eq!(found[1].2, b"behind");
        }
    }
}
