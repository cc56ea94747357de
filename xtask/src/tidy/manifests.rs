//! Versions stand in the root manifest alone, and every package takes the workspace's lints.

use super::tree::{Finding, Source, Tree};

/// Finds dependencies with a version of their own and packages without the lints.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let members = tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    members.flat_map(check_manifest).collect()
}

fn check_manifest(manifest: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut section = "";
    let mut takes_lints = false;
    for (number, line) in manifest.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section == "lints" {
            takes_lints |= line == "workspace = true";
        } else if section.ends_with("dependencies") && line.contains('=') && !line.starts_with('#') {
            let from_workspace = line.contains("workspace = true");
            if !from_workspace {
                findings
                    .push(manifest.at(number, "put the version into the root's `[workspace.dependencies]`"));
            }
        }
    }
    if !takes_lints {
        findings.push(manifest.whole("take the workspace's lints: `[lints] workspace = true`"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::tree::expect;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn dependencies_of_the_workspace_are_accepted() {
        let deps =
            "[dependencies]\n# why\na.workspace = true\nb = { workspace = true, features = [\"c\"] }\n";
        expect(check, &[("a/Cargo.toml", &format!("{LINTS}{deps}[features]\nd = [\"b/d\"]\n"))], &[]);
    }

    #[test]
    fn a_version_of_its_own_is_found_in_every_section() {
        let message = "put the version into the root's `[workspace.dependencies]`";
        for section in
            ["dependencies", "dev-dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"]
        {
            let text = format!("{LINTS}[{section}]\na = \"1\"\n");
            expect(check, &[("a/Cargo.toml", &text)], &[&format!("a/Cargo.toml:4: {message}")]);
        }
    }

    #[test]
    fn a_package_without_the_lints_is_found() {
        let message = "take the workspace's lints: `[lints] workspace = true`";
        expect(
            check,
            &[("a/Cargo.toml", "[package]\nname = \"a\"\n")],
            &[&format!("a/Cargo.toml: {message}")],
        );
    }

    #[test]
    fn the_root_holds_the_versions() {
        expect(check, &[("Cargo.toml", "[workspace.dependencies]\na = \"1\"\n")], &[]);
    }
}
