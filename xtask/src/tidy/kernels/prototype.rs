//! C prototypes as documents and kernels write them, in one spelling.

use std::fmt;

/// What a function takes and returns, each type in its [`canonical`] spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prototype {
    /// None for a tracepoint.
    pub(crate) returns: Option<String>,
    /// In order; none for `(void)`.
    pub(crate) arguments: Vec<String>,
}

impl Prototype {
    /// Reads `void f(struct a *b, int c)` or, of a tracepoint, `f(struct a *b, int c)`; returns it with the
    /// function's name. Parameters have names.
    pub(crate) fn parse(text: &str) -> Option<(String, Self)> {
        let (head, arguments) = text.trim().strip_suffix(')')?.split_once('(')?;
        let (returns, name) = split_name(head)?;
        let arguments = match arguments.trim() {
            "" | "void" => Vec::new(),
            list => list.split(',').map(|one| Some(canonical(&split_name(one)?.0))).collect::<Option<_>>()?,
        };
        let returns = (!returns.trim().is_empty()).then(|| canonical(&returns));
        Some((name, Self { returns, arguments }))
    }
}

impl fmt::Display for Prototype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(returns) = &self.returns {
            write!(f, "{returns} ")?;
        }
        write!(f, "({})", self.arguments.join(", "))
    }
}

/// Splits a declaration into its type and the name at its end.
fn split_name(declaration: &str) -> Option<(String, String)> {
    let declaration = declaration.trim();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let start = declaration.rfind(|c| !is_word(c)).map_or(0, |at| at + 1);
    let (kind, name) = declaration.split_at(start);
    let is_declaration = declaration.chars().all(|c| is_word(c) || c == ' ' || c == '*');
    (is_declaration && !name.is_empty()).then(|| (kind.to_owned(), name.to_owned()))
}

/// Words that the compiler gives no type to.
const ADDRESS_SPACES: &[&str] = &["__user", "__rcu", "__percpu", "__iomem"];

/// Words of which C allows several orders and omissions.
const INTEGERS: &[&str] = &["char", "int", "long", "short", "signed", "unsigned"];

/// One spelling of a type: words and stars apart, integers in alphabetical order with their `int`.
pub(crate) fn canonical(text: &str) -> String {
    let spaced = text.replace('*', " * ");
    let (mut integers, mut words) = (Vec::new(), Vec::new());
    let mut place = 0;
    for word in spaced.split_whitespace().filter(|word| !ADDRESS_SPACES.contains(word)) {
        if INTEGERS.contains(&word) {
            if integers.is_empty() {
                place = words.len();
            }
            integers.push(word);
        } else {
            words.push(word);
        }
    }
    if !integers.is_empty() {
        if !integers.contains(&"char") && !integers.contains(&"int") {
            integers.push("int");
        }
        integers.sort_unstable();
        words.splice(place..place, integers);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prototypes_are_read_with_and_without_a_return_type() {
        let cases = [
            ("void f(struct a *b, const char *message)", "f void (struct a *, const char *)"),
            ("mark_victim(int pid)", "mark_victim (int)"),
            ("bool g(void)", "g bool ()"),
            (
                "struct file *h(const char __user *name,  unsigned long flags)",
                "h struct file * (const char *, int long unsigned)",
            ),
            ("int vfs_rename(struct renamedata * rd)", "vfs_rename int (struct renamedata *)"),
        ];
        for (text, expected) in cases {
            let (name, prototype) = Prototype::parse(text).expect(text);
            assert_eq!(format!("{name} {prototype}"), expected);
        }
    }

    #[test]
    fn what_is_no_prototype_is_none() {
        for text in ["", "f", "void f(int", "f(int (*callback)(void))", "(int a)", "f(int a,)"] {
            assert_eq!(Prototype::parse(text), None, "{text}");
        }
    }

    #[test]
    fn integers_have_one_spelling() {
        for text in ["unsigned long", "long unsigned int", "unsigned long int"] {
            assert_eq!(canonical(text), "int long unsigned");
        }
        assert_eq!(canonical("const unsigned char*"), "const char unsigned *");
    }
}
