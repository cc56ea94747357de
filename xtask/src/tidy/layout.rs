//! The packages, where they are, and who may import whom, compared with what cargo says.
//!
//! Imports point down: `agent` and `aggregator` never import each other, both rest on `api`, which rests on
//! `model`. A library that belongs to one floor is not used on another: the domain stays pure, the command
//! stays a client, and this package stays quick to build.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::tree::Finding;
use crate::child;
use crate::workspace::Workspace;

/// A package of the workspace and what it may import of the others, for itself and for its tests.
struct Floor {
    name: &'static str,
    path: &'static str,
    imports: &'static [&'static str],
    /// Beyond `imports`, for build scripts and tests.
    imports_of_tests: &'static [&'static str],
}

const API: &str = "aftertrace-api";
const MODEL: &str = "aftertrace-model";
const RECORDS: &str = "aftertrace-ebpf-common";
const STAGE: &str = "aftertrace-stage";

const FLOORS: &[Floor] = &[
    Floor { name: "aftertrace-ebpf", path: "agent-ebpf", imports: &[RECORDS], imports_of_tests: &[] },
    Floor { name: RECORDS, path: "agent-ebpf/common", imports: &[], imports_of_tests: &[] },
    Floor { name: MODEL, path: "aggregator/model", imports: &[], imports_of_tests: &[] },
    Floor { name: API, path: "aggregator/api", imports: &[MODEL], imports_of_tests: &[] },
    Floor {
        name: "aftertrace-agent",
        path: "agent",
        imports: &[API, MODEL, RECORDS],
        // The build script builds the programs in the kernel.
        imports_of_tests: &["aftertrace-ebpf", STAGE],
    },
    Floor {
        name: "aftertrace-aggregator",
        path: "aggregator",
        imports: &[API, MODEL],
        imports_of_tests: &[STAGE],
    },
    Floor { name: "aft", path: "aggregator/cli", imports: &[API, MODEL], imports_of_tests: &[] },
    Floor { name: STAGE, path: "scenarios/stage", imports: &[], imports_of_tests: &[API, MODEL] },
    Floor { name: "xtask", path: "xtask", imports: &[], imports_of_tests: &[] },
];

/// Libraries that belong to some packages only, tests included.
const RESERVED: &[(&str, &[&str])] = &[
    ("aya", &["aftertrace-agent"]),
    ("aya-ebpf", &["aftertrace-ebpf"]),
    ("duckdb", &["aftertrace-aggregator"]),
    ("arrow", &["aftertrace-aggregator"]),
    ("parquet", &["aftertrace-aggregator"]),
    ("kube", &["aftertrace-agent", "aftertrace-aggregator", STAGE]),
    ("tonic", &[API, "aftertrace-agent", "aftertrace-aggregator", "aft", STAGE]),
    ("tokio", &[API, "aftertrace-agent", "aftertrace-aggregator", "aft", STAGE]),
    ("anyhow", &["xtask", "aftertrace-agent", "aftertrace-aggregator", "aft", STAGE]),
];

/// A package as cargo describes it.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

/// One declared dependency.
#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none for the package itself.
    kind: Option<String>,
    /// There for packages of the workspace.
    path: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Asks cargo for the packages of the workspace; their manifests' paths are made relative to its root.
pub(crate) fn packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let text = child::output(workspace.cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("read what cargo says")?;
    let root = format!("{}/", workspace.root.display());
    let relative = |mut package: Package| {
        if let Some(path) = package.manifest_path.strip_prefix(&root) {
            package.manifest_path = path.to_owned();
        }
        package
    };
    Ok(metadata.packages.into_iter().map(relative).collect())
}

/// Finds packages that are not in the layout, not where it says, or import what they may not.
pub(crate) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for floor in FLOORS {
        if !packages.iter().any(|package| package.name == floor.name) {
            findings.push(Finding::about(floor.path, format!("package {} is missing", floor.name)));
        }
    }
    for package in packages {
        match FLOORS.iter().find(|floor| floor.name == package.name) {
            Some(floor) => check_package(package, floor, &mut findings),
            None => findings.push(Finding::about(
                &package.manifest_path,
                format!("package {} is not in the layout", package.name),
            )),
        }
    }
    findings
}

fn check_package(package: &Package, floor: &Floor, findings: &mut Vec<Finding>) {
    let manifest = &package.manifest_path;
    if *manifest != format!("{}/Cargo.toml", floor.path) {
        findings.push(Finding::about(manifest, format!("package {} belongs in {}", floor.name, floor.path)));
    }
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        if dependency.path.is_some() && !may_import(floor, dependency) {
            findings.push(Finding::about(manifest, format!("{} may not import {name}", floor.name)));
        }
        let reserved = RESERVED.iter().find(|(library, _)| *library == name);
        if let Some((_, users)) = reserved
            && !users.contains(&floor.name)
        {
            findings.push(Finding::about(manifest, format!("{name} is not for {}", floor.name)));
        }
    }
}

fn may_import(floor: &Floor, dependency: &Dependency) -> bool {
    let name = dependency.name.as_str();
    let in_test = dependency.kind.is_some();
    floor.imports.contains(&name) || (in_test && floor.imports_of_tests.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout itself, with no imports.
    fn layout() -> Vec<Package> {
        let package = |floor: &Floor| Package {
            name: floor.name.to_owned(),
            manifest_path: format!("{}/Cargo.toml", floor.path),
            dependencies: Vec::new(),
        };
        FLOORS.iter().map(package).collect()
    }

    /// The findings when `package` depends on `dependency`: `@` marks a package of the workspace.
    fn found(package: &str, dependency: &str, kind: Option<&str>) -> Vec<String> {
        let mut packages = layout();
        let package = packages.iter_mut().find(|p| p.name == package).expect("a package of the layout");
        package.dependencies.push(Dependency {
            name: dependency.trim_start_matches('@').to_owned(),
            kind: kind.map(str::to_owned),
            path: dependency.starts_with('@').then(|| "somewhere".to_owned()),
        });
        check(&packages).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn the_layout_is_accepted() {
        assert_eq!(check(&layout()), []);
    }

    #[test]
    fn imports_point_down() {
        assert!(found("aftertrace-agent", "@aftertrace-api", None).is_empty());
        assert!(found("aftertrace-agent", "@aftertrace-stage", Some("dev")).is_empty());
        assert!(found("aftertrace-aggregator", "duckdb", None).is_empty());
    }

    #[test]
    fn imports_across_or_up_are_found() {
        let cases = [
            ("aftertrace-agent", "@aftertrace-aggregator", None),
            ("aftertrace-aggregator", "@aftertrace-agent", None),
            ("aftertrace-aggregator", "@aftertrace-agent", Some("dev")),
            ("aftertrace-model", "@aftertrace-api", None),
            ("aftertrace-agent", "@aftertrace-stage", None),
            ("aft", "@aftertrace-aggregator", None),
            ("xtask", "@aftertrace-stage", None),
        ];
        for (package, dependency, kind) in cases {
            let imported = dependency.trim_start_matches('@');
            let findings = found(package, dependency, kind);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].ends_with(&format!("{package} may not import {imported}")), "{findings:?}");
        }
    }

    #[test]
    fn a_library_of_another_floor_is_found() {
        for (package, library) in [("aftertrace-model", "tokio"), ("aft", "duckdb"), ("xtask", "kube")] {
            let findings = found(package, library, None);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].ends_with(&format!("{library} is not for {package}")), "{findings:?}");
        }
    }

    #[test]
    fn a_missing_a_new_and_a_moved_package_are_found() {
        let mut packages = layout();
        packages[0].name = "aftertrace-other".to_owned();
        packages[1].manifest_path = "common/Cargo.toml".to_owned();
        let findings: Vec<String> = check(&packages).iter().map(Finding::to_string).collect();
        assert_eq!(
            findings,
            [
                "agent-ebpf: package aftertrace-ebpf is missing",
                "agent-ebpf/Cargo.toml: package aftertrace-other is not in the layout",
                "common/Cargo.toml: package aftertrace-ebpf-common belongs in agent-ebpf/common",
            ]
        );
    }
}
