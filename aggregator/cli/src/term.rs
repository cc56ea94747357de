//! The terminal: how wide it is, whether it takes colour, and text made safe and fitted to it.

use std::io::{self, IsTerminal as _, Write as _};

use aftertrace_model::text;
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::args::Color;

/// Narrowest width that text is fitted to; below that a line is longer than the terminal, but legible.
pub(crate) const WIDTH_MIN: usize = 40;

/// The no-break space, which holds words together until [`wrap`] is done.
const NO_BREAK: &str = "\u{a0}";

/// What is less important: guides, rules, evidence.
pub(crate) const DIM: Style = Style::new().dimmed();
/// Headings and kinds of facts.
pub(crate) const BOLD: Style = Style::new().bold();
/// Failures.
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
/// Precursors and what is inferred or missing.
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
/// What is proven, or well.
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
/// What is identified.
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();

/// Standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    choice: ColorChoice,
    /// Columns of the terminal; `None` where it is none, and text is then not fitted.
    pub(crate) width: Option<usize>,
}

impl Screen {
    /// Looks at standard output; `COLUMNS` wins over what the terminal says.
    pub(crate) fn new(color: Color) -> Self {
        let choice = match color {
            Color::Auto => AutoStream::choice(&io::stdout()),
            Color::Always => ColorChoice::Always,
            Color::Never => ColorChoice::Never,
        };
        let asked = std::env::var("COLUMNS").ok().and_then(|c| c.parse::<usize>().ok()).filter(|c| *c > 0);
        let stdout = io::stdout();
        let told = || rustix::termios::tcgetwinsize(&stdout).ok().map(|s| usize::from(s.ws_col));
        let width = stdout.is_terminal().then(|| asked.or_else(told)).flatten().filter(|w| *w > 0);
        Self { choice, width: width.map(|w| w.max(WIDTH_MIN)) }
    }

    /// Prints a styled text; the styles go where the terminal does not take them.
    ///
    /// # Errors
    /// Those of writing to standard output. A reader that closed its end (`| head`) is none.
    pub(crate) fn print(self, styled: &str) -> io::Result<()> {
        let mut out = AutoStream::new(io::stdout().lock(), self.choice);
        match out.write_all(styled.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// A text in a style.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Text from outside, as one line without anything that steers a terminal.
pub(crate) fn safe(text: &str) -> String {
    text::escape(text)
}

/// Breaks a text into lines of at most `width` columns, between words where that is possible. Without a width
/// there is one line. There is always at least one. A no-break space holds words together and becomes a space.
pub(crate) fn wrap(text: &str, width: Option<usize>) -> Vec<String> {
    let Some(width) = width else { return vec![finished(text)] };
    let width = width.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let room = width.saturating_sub(line.width() + 1);
        if !line.is_empty() && word.width() <= room {
            line.push(' ');
            line.push_str(word);
            continue;
        }
        if !line.is_empty() {
            lines.push(finished(&std::mem::take(&mut line)));
        }
        for c in word.chars() {
            if !line.is_empty() && line.width() + c.width().unwrap_or(0) > width {
                lines.push(finished(&std::mem::take(&mut line)));
            }
            line.push(c);
        }
    }
    lines.push(finished(&line));
    lines
}

/// Holds the words of a text together when it is wrapped.
pub(crate) fn unbroken(text: &str) -> String {
    text.replace(' ', NO_BREAK)
}

fn finished(line: &str) -> String {
    line.trim_end().replace(NO_BREAK, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_between_words_and_within_long_ones() {
        assert_eq!(wrap("a bc def", Some(4)), ["a bc", "def"]);
        assert_eq!(wrap("abcdefgh ij", Some(3)), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("漢字 漢", Some(5)), ["漢字", "漢"], "a wide character takes two columns");
        assert_eq!(wrap(&format!("a {}", unbroken("b c")), Some(4)), ["a", "b c"]);
        assert_eq!(wrap("a b", None), ["a b"]);
        assert_eq!(wrap("", Some(9)), [""]);
    }
}
