//! The tree names no path of one machine and no package registry: it must work on every machine.

use super::tree::{Finding, Source, Tree};

/// Folders that exist on one machine or for one user. Split so that this file does not find itself.
const FOLDERS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/tm", "p/x/"),
];

/// Hosts of package registries: where packages come from is the reader's configuration.
const HOSTS: &[&str] = &[
    concat!("registry.", "npmjs.org"),
    concat!("py", "pi.org/simple"),
    concat!("files.", "pythonhosted.org"),
    concat!("index.", "crates.io"),
    concat!("static.", "crates.io"),
    concat!("proxy.", "golang.org"),
];

/// The only source that the lock file may name: it is an identity, not a place to fetch from.
const LOCK_SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Finds such paths, hosts, and other sources in the lock file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        for (number, line) in file.lines() {
            check_line(file, number, line, &mut findings);
        }
    }
    findings
}

fn check_line(file: &Source, number: usize, line: &str, findings: &mut Vec<Finding>) {
    for folder in FOLDERS {
        if names_path(line, folder) {
            findings.push(file.at(number, format!("`{folder}…` is a path of one machine")));
        }
    }
    for host in HOSTS {
        if line.contains(host) {
            findings.push(file.at(number, format!("`{host}` is a package registry")));
        }
    }
    if file.path == "Cargo.lock"
        && let Some(source) = line.strip_prefix("source = ")
        && source.trim_matches('"') != LOCK_SOURCE
    {
        findings.push(file.at(number, format!("{source} is not the usual registry")));
    }
}

/// Whether the line has an absolute path below the folder: `a/home/b` and `$HOME` are none.
fn names_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        let after = line[start + folder.len()..].chars().next();
        !before.is_some_and(|c| c.is_alphanumeric() || "_.-}/".contains(c))
            && after.is_some_and(|c| c.is_ascii_alphabetic() || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tree::expect;

    #[test]
    fn a_path_of_one_machine_is_found() {
        for folder in FOLDERS {
            for text in [format!("dir = \"{folder}data\"\n"), format!("{folder}.cache\n")] {
                expect(
                    check,
                    &[("a.toml", &text)],
                    &[&format!("a.toml:1: `{folder}…` is a path of one machine")],
                );
            }
        }
    }

    #[test]
    fn paths_of_every_machine_are_accepted() {
        let text = concat!("/var/log/pods\n$HOME/ho", "me/a\ncgroup/ro", "ot/a\nhttps://a.org/ro", "ot/b\n");
        expect(check, &[("a.md", text)], &[]);
    }

    #[test]
    fn a_registry_is_found_outside_and_inside_the_lock_file() {
        let host = HOSTS[0];
        expect(
            check,
            &[("a", &format!("https://{host}/b"))],
            &[&format!("a:1: `{host}` is a package registry")],
        );
        let other = "source = \"registry+https://mirror.example/index\"";
        expect(
            check,
            &[("Cargo.lock", &format!("source = \"{LOCK_SOURCE}\"\n{other}\n"))],
            &["Cargo.lock:2: \"registry+https://mirror.example/index\" is not the usual registry"],
        );
    }
}
