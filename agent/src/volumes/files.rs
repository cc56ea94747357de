//! Reads the files of one generation of a volume, within bounds. Contents stay in memory, and only until
//! they are hashed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;

use aftertrace_model::config::ObjectKey;

use super::path::DATA;

/// Most files of a volume that are hashed. A volume with more is watched all the same, without contents.
const FILES_MAX: usize = 256;

/// Most bytes of a volume that are hashed: a ConfigMap or Secret holds 1 MiB, a projected volume a few.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Deepest folder below a generation: `items` may name paths with slashes.
const DEPTH_MAX: usize = 8;

/// Path within the volume to contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Reads every regular file of a generation; `None` where there are more than the bounds allow.
///
/// # Errors
/// What the system said, such as that the generation is gone.
pub(crate) fn read(generation: &Path) -> io::Result<Option<Files>> {
    let mut files = Files::new();
    let mut bytes = 0;
    let is_whole = walk(generation, "", DEPTH_MAX, &mut files, &mut bytes)?;
    Ok(is_whole.then_some(files))
}

fn walk(dir: &Path, prefix: &str, depth: usize, files: &mut Files, bytes: &mut u64) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            if depth == 0 || !walk(&entry.path(), &format!("{path}/"), depth - 1, files, bytes)? {
                return Ok(false);
            }
        } else if kind.is_file() {
            let mut content = Vec::new();
            let room = BYTES_MAX - *bytes;
            std::fs::File::open(entry.path())?.take(room + 1).read_to_end(&mut content)?;
            *bytes += content.len() as u64;
            if *bytes > BYTES_MAX || files.len() == FILES_MAX {
                return Ok(false);
            }
            files.insert(path, content);
        }
    }
    Ok(true)
}

/// What a generation consists of, by inode number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Regular files, with their paths within the volume.
    pub(crate) files: HashMap<u64, String>,
    /// The generation's directory and the folders in it.
    pub(crate) folders: BTreeSet<u64>,
    /// The link that leads to it, if it could be looked at.
    pub(crate) link: Option<u64>,
}

impl Listing {
    /// Lists a generation; `None` where there is more than [`FILES_MAX`] or it lies too deep.
    ///
    /// # Errors
    /// What the system said, such as that the generation is gone.
    pub(crate) fn read(generation: &Path) -> io::Result<Option<Self>> {
        let mut listing = Self::default();
        listing.folders.insert(std::fs::metadata(generation)?.ino());
        let link = generation.parent().map(|root| std::fs::symlink_metadata(root.join(DATA)));
        listing.link = link.and_then(Result::ok).map(|meta| meta.ino());
        let is_whole = listing.walk(generation, "", DEPTH_MAX)?;
        Ok(is_whole.then_some(listing))
    }

    fn walk(&mut self, dir: &Path, prefix: &str, depth: usize) -> io::Result<bool> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            if self.files.len() + self.folders.len() >= FILES_MAX {
                return Ok(false);
            }
            if kind.is_dir() {
                self.folders.insert(entry.ino());
                if depth == 0 || !self.walk(&entry.path(), &format!("{path}/"), depth - 1)? {
                    return Ok(false);
                }
            } else if kind.is_file() {
                self.files.insert(entry.ino(), path);
            }
        }
        Ok(true)
    }

    /// Whether a watch on that inode is one on the generation or on the link to it.
    pub(crate) fn watches(&self, inode: u64) -> bool {
        self.has(inode) || self.link == Some(inode)
    }

    /// Whether an inode number is one of the generation's.
    pub(crate) fn has(&self, inode: u64) -> bool {
        self.folders.contains(&inode) || self.files.contains_key(&inode)
    }
}

/// Hashes of files under a key that lives as long as this process: only to tell which files changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digests(BTreeMap<String, String>);

impl Digests {
    /// Hashes each file.
    pub(crate) fn of(files: &Files, key: &ObjectKey) -> Self {
        Self(files.iter().map(|(path, content)| (path.clone(), key.hash(content))).collect())
    }

    /// Paths that came, went or changed from `before` to this.
    pub(crate) fn changed_since(&self, before: &Self) -> Vec<String> {
        let mut paths: Vec<String> = before.0.keys().filter(|p| !self.0.contains_key(*p)).cloned().collect();
        let differs = |(path, hash): &(&String, &String)| before.0.get(*path) != Some(*hash);
        paths.extend(self.0.iter().filter(differs).map(|(path, _)| path.clone()));
        paths.sort();
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_or_changed() {
        let key = ObjectKey::from_bytes([1; 32]);
        let files = |list: &[(&str, &str)]| {
            let files: Files = list.iter().map(|(p, c)| ((*p).to_owned(), c.as_bytes().to_vec())).collect();
            Digests::of(&files, &key)
        };
        let before = files(&[("gone", "1"), ("same", "2"), ("other", "3")]);
        let after = files(&[("came", "1"), ("same", "2"), ("other", "4")]);
        assert_eq!(after.changed_since(&before), ["came", "gone", "other"]);
        assert!(before.changed_since(&before).is_empty());
    }

    #[test]
    fn folders_are_walked_and_bounds_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("a")).expect("makes a folder");
        std::fs::write(dir.path().join("a/b.txt"), "x").expect("writes");
        std::fs::write(dir.path().join("top"), "y").expect("writes");
        let listing = Listing::read(dir.path()).expect("reads").expect("within bounds");
        let inode = std::fs::metadata(dir.path().join("a/b.txt")).expect("is there").ino();
        assert_eq!(listing.files.get(&inode).map(String::as_str), Some("a/b.txt"));
        assert_eq!((listing.files.len(), listing.folders.len()), (2, 2));
        let files = read(dir.path()).expect("reads").expect("within bounds");
        assert_eq!(files.keys().collect::<Vec<_>>(), ["a/b.txt", "top"]);
        for n in 0..FILES_MAX {
            std::fs::write(dir.path().join(format!("f{n}")), "").expect("writes");
        }
        assert!(read(dir.path()).expect("reads").is_none(), "too many files");
        assert!(Listing::read(dir.path()).expect("reads").is_none(), "too many files");
        assert!(read(&dir.path().join("absent")).is_err());
    }
}
