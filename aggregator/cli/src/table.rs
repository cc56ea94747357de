//! Tables without lines, as kubectl prints them. Every cell is made safe here.

use comfy_table::{ContentArrangement, Table, presets};

use crate::term::safe;

/// Rows beneath a header in capitals; cells are wrapped where the terminal's `width` asks for it.
pub(crate) fn table(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: Option<usize>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    match width.and_then(|w| u16::try_from(w).ok()) {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| safe(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_are_safe() {
        let rows = [["a", "bb"], ["ccc", "d\u{1b}[2J"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(table(&["ONE", "TWO"], rows, None), "ONE  TWO\na    bb\nccc  d\\x1b[2J\n");
    }

    #[test]
    fn long_cells_are_wrapped_to_the_width() {
        let text = table(&["A", "B"], [vec!["x".to_owned(), "word ".repeat(20)]], Some(40));
        assert!(text.lines().count() > 2 && text.lines().all(|l| l.chars().count() <= 40), "{text}");
    }
}
