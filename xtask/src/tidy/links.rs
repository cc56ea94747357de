//! Links from Markdown to files and headings of this repository lead somewhere.

use super::tree::{Finding, Source, Tree};

/// Finds links to nothing; links to other hosts are not followed.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, target) in links(file) {
            if let Some(problem) = problem(tree, file, target) {
                findings.push(file.at(number, format!("link `{target}`: {problem}")));
            }
        }
    }
    findings
}

/// The targets of `[text](target)` outside fenced code.
fn links(file: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in file.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (start, _) in line.match_indices("](") {
            if let Some((target, _)) = line[start + 2..].split_once(')') {
                found.push((number, target));
            }
        }
    }
    found
}

fn problem(tree: &Tree, file: &Source, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = resolve(&file.path, path) else { return Some("leads out of the repository") };
    if !tree.contains(&path) {
        return Some("no such file");
    }
    // A folder has no headings.
    let linked = tree.files.iter().find(|other| other.path == path)?;
    let is_there = heading.is_empty() || !path.ends_with(".md") || headings(linked).any(|h| h == heading);
    (!is_there).then_some("no such heading")
}

/// The path a link means, relative to the root.
fn resolve(from: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Headings as GitHub writes them in links: lower case, spaces to `-`, punctuation dropped.
fn headings(file: &Source) -> impl Iterator<Item = String> {
    file.lines().filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::tree::expect;

    /// Checks `docs/a.md` with this text beside some other files.
    fn found(text: &str, findings: &[&str]) {
        let other = "# One concept, one name\n";
        expect(check, &[("README.md", "# A\n"), ("docs/a.md", text), ("docs/adr/b.md", other)], findings);
    }

    #[test]
    fn links_that_lead_somewhere_are_accepted() {
        found("[r](../README.md) [b](adr/b.md) [f](adr/) [w](https://example.org/x)\n", &[]);
        found("# Here\n[h](#here) [o](adr/b.md#one-concept-one-name)\n", &[]);
    }

    #[test]
    fn links_to_nothing_are_found() {
        found("\n[x](adr/c.md)\n", &["docs/a.md:2: link `adr/c.md`: no such file"]);
        found("[x](../../up.md)\n", &["docs/a.md:1: link `../../up.md`: leads out of the repository"]);
        found("[x](adr/b.md#two)\n", &["docs/a.md:1: link `adr/b.md#two`: no such heading"]);
        found("[x](#there)\n", &["docs/a.md:1: link `#there`: no such heading"]);
    }

    #[test]
    fn code_is_no_link() {
        found("```\n[x](nowhere.md)\n```\n", &[]);
    }
}
