//! A Rust file past [`LINES_MAX`] lines has a second subject inside, or a reason in [`LONGER`].

use super::tree::{Finding, Tree};

/// From the style: most files want 100 to 300 lines, past this there is a reason.
const LINES_MAX: usize = 600;

/// Files that may be longer: path and reason.
const LONGER: &[(&str, &str)] = &[];

/// Finds long files, and reasons that nothing needs any more.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    check_against(tree, LONGER)
}

fn check_against(tree: &Tree, longer: &[(&str, &str)]) -> Vec<Finding> {
    let is_long = |text: &str| text.lines().count() > LINES_MAX;
    let is_listed = |path: &str| longer.iter().any(|(listed, _)| *listed == path);
    let long = tree.rust().filter(|file| is_long(&file.text) && !is_listed(&file.path)).map(|file| {
        file.whole(format!("{} lines: split it, or list it with a reason", file.text.lines().count()))
    });
    let stale = longer
        .iter()
        .filter(|(path, _)| !tree.rust().any(|file| file.path == *path && is_long(&file.text)))
        .map(|(path, _)| Finding::about(path, "is listed as long and is not: take it off the list"));
    long.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: usize, longer: &[(&str, &str)]) -> Vec<String> {
        let tree = Tree::of(&[("a.rs", &"//\n".repeat(lines))]);
        check_against(&tree, longer).iter().map(Finding::to_string).collect()
    }

    #[test]
    fn the_bound_itself_is_accepted() {
        assert!(found(LINES_MAX, &[]).is_empty());
    }

    #[test]
    fn one_line_more_is_found_unless_there_is_a_reason() {
        assert_eq!(found(LINES_MAX + 1, &[]), ["a.rs: 601 lines: split it, or list it with a reason"]);
        assert!(found(LINES_MAX + 1, &[("a.rs", "one table")]).is_empty());
    }

    #[test]
    fn a_reason_without_a_long_file_is_found() {
        let stale = ["a.rs: is listed as long and is not: take it off the list"];
        assert_eq!(found(10, &[("a.rs", "one table")]), stale);
    }
}
