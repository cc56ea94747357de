//! Decision records are numbered without gaps, and each has its three parts.

use super::tree::{Finding, Source, Tree};

const FOLDER: &str = "docs/adr/";
const PARTS: [&str; 3] = ["## Context", "## Decision", "## Consequences"];

/// Finds wrong numbers, titles and missing parts.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let records =
        tree.files.iter().filter(|file| file.path.starts_with(FOLDER) && file.path.ends_with(".md"));
    records.enumerate().flat_map(|(index, record)| check_record(record, index + 1)).collect()
}

fn check_record(record: &Source, number: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &record.path[FOLDER.len()..];
    if !name.starts_with(&format!("{number:04}-")) {
        findings
            .push(record.whole(format!("this is record {number:04}: name it `{number:04}-<subject>.md`")));
    }
    if !record.text.starts_with(&format!("# {number}. ")) {
        findings.push(record.at(1, format!("the title begins with `# {number}. `")));
    }
    for part in PARTS {
        if !record.text.lines().any(|line| line == part) {
            findings.push(record.whole(format!("`{part}` is missing")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::tree::expect;

    const FIRST: &str = "# 1. Files\n## Context\n## Decision\n## Consequences\n";

    #[test]
    fn records_in_order_are_accepted() {
        let second = FIRST.replace("# 1.", "# 2.");
        expect(check, &[("docs/adr/0001-files.md", FIRST), ("docs/adr/0002-tiers.md", &second)], &[]);
    }

    #[test]
    fn a_gap_or_a_number_used_twice_is_found() {
        let third = FIRST.replace("# 1.", "# 2.");
        let message = "this is record 0002: name it `0002-<subject>.md`";
        for name in ["docs/adr/0003-tiers.md", "docs/adr/0001-tiers.md"] {
            expect(
                check,
                &[("docs/adr/0001-files.md", FIRST), (name, &third)],
                &[&format!("{name}: {message}")],
            );
        }
    }

    #[test]
    fn a_wrong_title_and_a_missing_part_are_found() {
        expect(
            check,
            &[("docs/adr/0001-files.md", "# Files\n## Context\n## Decision\n")],
            &[
                "docs/adr/0001-files.md:1: the title begins with `# 1. `",
                "docs/adr/0001-files.md: `## Consequences` is missing",
            ],
        );
    }
}
