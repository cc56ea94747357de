//! Plain text tables for a terminal or a log.

/// Lays rows out in columns; the last column is not padded. The first row is the heading.
pub(crate) fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        push_row(&mut text, row, &widths);
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            push_row(&mut text, &rules, &widths);
        }
    }
    text
}

fn push_row(text: &mut String, row: &[String], widths: &[usize]) {
    let padded: Vec<String> =
        row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
    text.push_str(padded.join("  ").trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn aligns_columns() {
        let rows = [vec!["check".into(), "result".into()], vec!["a".into(), "passed".into()]];
        assert_eq!(render(&rows), "check  result\n-----  ------\na      passed\n");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(render(&[]), "");
    }
}
