//! The guest's whole root: busybox, the test programs with their libraries where the host has them, a plan.
//!
//! Programs keep their paths, so that whatever a build wrote into them about their own package still holds.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::child;

/// The first process of the guest.
const GUEST: &str = include_str!("guest.sh");

/// Where file systems are mounted before anything else could make their folders.
const FOLDERS: &[&str] = &["/proc", "/sys", "/dev"];

/// What programs look up about users and names.
const TEXTS: &[(&str, &str)] = &[
    ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("/etc/group", "root:x:0:\n"),
    ("/etc/hosts", "127.0.0.1 localhost guest\n"),
];

/// Programs of the host that tests use with options that busybox lacks, or under their own `comm`; the shell
/// because busybox's runs its own applets whatever the path says.
const HOST_PROGRAMS: &[(&str, &str)] = &[
    ("sh", "/bin"),
    ("nsenter", "/usr/bin"),
    ("setpriv", "/usr/bin"),
    ("sleep", "/usr/bin"),
    ("tail", "/usr/bin"),
    ("unshare", "/usr/bin"),
];

/// What a guest gets beside its base programs.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Files and folders of the host; programs bring their libraries with them.
    pub(crate) files: Vec<PathBuf>,
    /// The shell text that the first process runs.
    pub(crate) plan: String,
}

/// Writes the archive.
pub(crate) fn write(path: &Path, busybox: &Path, contents: &Contents) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut image = Image { archive: Archive::new(BufWriter::new(file)), libraries: BTreeSet::new() };
    for folder in FOLDERS {
        image.archive.folder(Path::new(folder))?;
    }
    image.archive.file(Path::new("/init"), 0o755, GUEST.as_bytes())?;
    image.archive.file(Path::new("/plan"), 0o644, contents.plan.as_bytes())?;
    image.archive.file(Path::new("/bin/busybox"), 0o755, &fs::read(busybox).context("read busybox")?)?;
    for (path, text) in TEXTS {
        image.archive.file(Path::new(path), 0o644, text.as_bytes())?;
    }
    for (name, folder) in HOST_PROGRAMS {
        image.add_host_program(name, Path::new(folder))?;
    }
    for path in &contents.files {
        image.add(path)?;
    }
    for library in std::mem::take(&mut image.libraries) {
        image.add_file(&library)?;
    }
    image.archive.finish().with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

struct Image {
    archive: Archive<BufWriter<File>>,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// Adds a file with the libraries it needs, or a folder with all that is in it.
    fn add(&mut self, path: &Path) -> Result<()> {
        if path.is_dir() {
            self.archive.folder(path)?;
            for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
                self.add(&entry.with_context(|| format!("list {}", path.display()))?.path())?;
            }
            return Ok(());
        }
        self.add_file(path)?;
        if is_program(path)? {
            self.libraries.extend(libraries(path)?);
        }
        Ok(())
    }

    /// Adds a program of the host's path to a folder of the guest's.
    fn add_host_program(&mut self, name: &str, folder: &Path) -> Result<()> {
        let path = env::var_os("PATH").unwrap_or_default();
        let Some(found) = env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
        else {
            bail!("{name} is not on the path, and the guests need it");
        };
        let data = fs::read(&found).with_context(|| format!("read {}", found.display()))?;
        self.libraries.extend(libraries(&found)?);
        Ok(self.archive.file(&folder.join(name), 0o755, &data)?)
    }

    /// Adds one file, links followed: the guest has no second name of it.
    fn add_file(&mut self, path: &Path) -> Result<()> {
        let read = || -> std::io::Result<(u32, Vec<u8>)> {
            Ok((fs::metadata(path)?.permissions().mode() & 0o7777, fs::read(path)?))
        };
        let (mode, data) = read().with_context(|| format!("read {}", path.display()))?;
        self.archive.file(path, mode, &data).with_context(|| format!("pack {}", path.display()))
    }
}

fn is_program(path: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let file = File::open(path).and_then(|mut file| file.read(&mut magic));
    let read = file.with_context(|| format!("read {}", path.display()))?;
    Ok(read == magic.len() && magic == *b"\x7fELF")
}

/// The libraries of a program, as the dynamic linker itself finds them; none if it is static.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // ldd fails for what is not dynamic, and so does a program whose architecture is another.
    let Ok(text) = child::output(Command::new("ldd").arg(program)) else { return Ok(Vec::new()) };
    parse_libraries(&text).with_context(|| format!("find the libraries of {}", program.display()))
}

/// Reads lines `name => path (address)` and `path (address)`.
fn parse_libraries(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix("=> not found") {
            bail!("{}is not on this machine", name);
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_both_shapes_of_line() {
        let text = "\tlinux-vdso.so.1 (0x00007f40)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f40)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f40)\n\tstatically linked\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_libraries(text).expect("all are found"), expected.map(PathBuf::from));
    }

    #[test]
    fn a_library_that_is_missing_is_an_error_with_its_name() {
        let error = parse_libraries("\tlibduckdb.so => not found\n").expect_err("it is missing");
        assert!(error.to_string().contains("libduckdb.so"), "{error}");
    }

    #[test]
    fn a_folder_is_packed_with_what_is_in_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let data = dir.path().join("data/deep");
        fs::create_dir_all(&data).expect("make folders");
        fs::write(data.join("file"), "content").expect("write a file");
        fs::write(dir.path().join("busybox"), "a shell").expect("write a file");
        let contents = Contents { files: vec![dir.path().join("data")], plan: "true".to_owned() };
        let image = dir.path().join("image");
        write(&image, &dir.path().join("busybox"), &contents).expect("written");
        let text = String::from_utf8_lossy(&fs::read(&image).expect("read it back")).into_owned();
        for part in ["data/deep/file", "content", "a shell", "TRAILER!!!"] {
            assert!(text.contains(part), "{part}");
        }
    }
}
