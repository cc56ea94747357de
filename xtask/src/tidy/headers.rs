//! Every Rust file begins with `//!`: what it turns into what, and where it stands.

use super::tree::{Finding, Tree};

/// Finds files that begin with anything else.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| file.whole("begin with `//!`: what this module does and where it stands"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::tree::expect;

    #[test]
    fn a_header_is_accepted() {
        expect(check, &[("a.rs", "//! Turns a into b.\nmod a;\n")], &[]);
    }

    #[test]
    fn anything_else_first_is_found() {
        let message = "begin with `//!`: what this module does and where it stands";
        for text in ["mod a;\n", "// Not a header.\n", "", "\n//! Too late.\n"] {
            expect(check, &[("a.rs", text)], &[&format!("a.rs: {message}")]);
        }
    }

    #[test]
    fn generated_code_and_other_files_have_none() {
        expect(check, &[("api/src/generated/v1.rs", "struct A;"), ("a.md", "# A")], &[]);
    }
}
