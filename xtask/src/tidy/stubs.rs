//! No unfinished code and no test that is switched off without a word.

use super::tree::{Finding, Tree};

/// What is found, and what to do instead. Split so that this file does not find itself.
const STUBS: &[(&str, &str)] = &[
    (concat!("todo", "!("), "finish it"),
    (concat!("unimplemented", "!("), "finish it"),
    (concat!("#[", "ignore]"), "a test that cannot run prints `SKIPPED: <why>` and returns"),
    (concat!("assert!(", "true)"), "a test that cannot fail asserts nothing"),
];

/// Finds stubs in Rust files.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (number, line) in file.lines() {
            for (stub, remedy) in STUBS {
                if line.contains(stub) {
                    findings.push(file.at(number, format!("`{stub}`: {remedy}")));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{STUBS, check};
    use crate::tidy::tree::expect;

    #[test]
    fn each_stub_is_found_on_its_line() {
        for (stub, remedy) in STUBS {
            let text = format!("//! A.\nfn a() {{ {stub} }}\n");
            expect(check, &[("a.rs", &text)], &[&format!("a.rs:2: `{stub}`: {remedy}")]);
        }
    }

    #[test]
    fn finished_code_is_accepted() {
        expect(check, &[("a.rs", "//! A.\nfn todo_list() { assert!(is_done()); }\n")], &[]);
    }
}
