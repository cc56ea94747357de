//! Text from kernels, containers and clusters is hostile to terminals and models until it went through here.

use std::fmt::Write as _;

/// Replaces control characters, and characters that reorder or hide text, by visible escapes.
///
/// Shape: one line. `\u{1b}` becomes `\x1b`, a newline `\n`, a bidirectional override `\u{202e}`.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() && u32::from(c) < 0x100 => {
                write!(out, "\\x{:02x}", u32::from(c)).expect("writing to a String does not fail");
            }
            c if c.is_control() || is_invisible(c) => {
                write!(out, "\\u{{{:x}}}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => out.push(c),
        }
    }
    out
}

/// Kernel bytes up to the first NUL as escaped text; bytes that are no UTF-8 become U+FFFD.
#[must_use]
pub fn from_kernel(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    escape(&String::from_utf8_lossy(&bytes[..end]))
}

/// Zero-width, bidirectional and tag characters, which show nothing and change what is read.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0x00ad | 0x061c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_unseen() {
        assert_eq!(escape("ok é 漢"), "ok é 漢");
        assert_eq!(escape("a\x1b[31mb\n"), "a\\x1b[31mb\\n");
        assert_eq!(escape("a\u{202e}b\u{200b}"), "a\\u{202e}b\\u{200b}");
        assert_eq!(escape("\u{9b}x"), "\\x9bx");
    }

    #[test]
    fn kernel_bytes_end_at_nul() {
        assert_eq!(from_kernel(b"memhog\0junk"), "memhog");
        assert_eq!(from_kernel(b"\xff\x07"), "\u{fffd}\\x07");
    }
}
