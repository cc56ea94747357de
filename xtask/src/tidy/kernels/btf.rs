//! A kernel's own type information → the prototypes of its functions and tracepoints, as C.
//!
//! Reads only what that takes of the format (Documentation/bpf/btf.rst). The agent has a walker of its own for
//! offsets; this package links no other of the workspace, and the two would share only the header.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

use super::prototype::{Prototype, canonical};

/// How many types are followed before one is taken for a loop: C needs a handful.
const MAX_DEPTH: u32 = 32;

// Kinds of types, from `include/uapi/linux/btf.h`.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// The functions and tracepoints of one kernel.
#[derive(Debug)]
pub(crate) struct Types {
    types: Vec<Type>,
    functions: HashMap<String, u32>,
    typedefs: HashMap<String, u32>,
}

#[derive(Debug, Default)]
struct Type {
    kind: u32,
    name: String,
    /// A size or another type, by kind.
    refers: u32,
    /// Of a prototype, its parameters' types.
    parameters: Vec<u32>,
}

impl Types {
    /// Reads the bytes of `/sys/kernel/btf/vmlinux`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.get(..2) != Some(&[0x9f, 0xeb]) {
            bail!("this is no BTF of a little-endian kernel");
        }
        let field = |at| word(bytes, at).map(|value| value as usize);
        let (body, types, types_length) = (field(4)?, field(8)?, field(12)?);
        let (strings, strings_length) = (field(16)?, field(20)?);
        let section = |start: usize, length: usize| {
            bytes.get(body + start..body + start + length).context("the BTF ends early")
        };
        let (section, strings) = (section(types, types_length)?, section(strings, strings_length)?);
        // Number 0 is `void`.
        let mut types = vec![Type { name: "void".to_owned(), ..Type::default() }];
        let mut at = 0;
        while at < section.len() {
            let (found, length) = read(section, at, strings)?;
            types.push(found);
            at += length;
        }
        let ids = |kind| {
            let of = move |(id, found): (usize, &Type)| {
                (found.kind == kind).then(|| Some((found.name.clone(), u32::try_from(id).ok()?)))?
            };
            types.iter().enumerate().filter_map(of).collect()
        };
        Ok(Self { functions: ids(FUNC), typedefs: ids(TYPEDEF), types })
    }

    /// A function of the kernel that was not inlined everywhere.
    pub(crate) fn function(&self, name: &str) -> Option<Prototype> {
        let function = self.get(*self.functions.get(name)?)?;
        let prototype = self.get(function.refers)?;
        let arguments = prototype.parameters.iter().map(|id| self.named(*id)).collect();
        Some(Prototype { returns: Some(self.named(prototype.refers)), arguments })
    }

    /// What a tracepoint passes to raw listeners; the first parameter of its type is its own.
    pub(crate) fn tracepoint(&self, name: &str) -> Option<Prototype> {
        let typedef = self.get(*self.typedefs.get(&format!("btf_trace_{name}"))?)?;
        let pointer = self.get(typedef.refers).filter(|found| found.kind == PTR)?;
        let prototype = self.get(pointer.refers).filter(|found| found.kind == FUNC_PROTO)?;
        let arguments = prototype.parameters.iter().skip(1).map(|id| self.named(*id)).collect();
        Some(Prototype { returns: None, arguments })
    }

    fn get(&self, id: u32) -> Option<&Type> {
        self.types.get(usize::try_from(id).ok()?)
    }

    /// A type as C writes it, without its parameter's name.
    fn named(&self, id: u32) -> String {
        canonical(&self.spelled(id, 0))
    }

    fn spelled(&self, id: u32, depth: u32) -> String {
        let Some(found) = self.get(id).filter(|_| depth < MAX_DEPTH) else { return "?".to_owned() };
        let inner = || self.spelled(found.refers, depth + 1);
        match found.kind {
            0 | INT | FLOAT | TYPEDEF => found.name.clone(),
            PTR => format!("{} *", inner()),
            STRUCT | FWD => format!("struct {}", found.name),
            UNION => format!("union {}", found.name),
            ENUM | ENUM64 => format!("enum {}", found.name),
            CONST if self.get(found.refers).is_some_and(|target| target.kind == PTR) => inner() + " const",
            CONST => format!("const {}", inner()),
            VOLATILE | RESTRICT | TYPE_TAG => inner(),
            FUNC_PROTO => "function".to_owned(),
            _ => "?".to_owned(),
        }
    }
}

/// Reads the type at a place; returns it with the bytes it takes.
fn read(section: &[u8], at: usize, strings: &[u8]) -> Result<(Type, usize)> {
    let info = word(section, at + 4)?;
    let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
    let tail = match kind {
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
        INT | VAR | DECL_TAG => 4,
        ARRAY => 12,
        STRUCT | UNION | DATASEC | ENUM64 => count * 12,
        ENUM | FUNC_PROTO => count * 8,
        unknown => bail!("the BTF has a type of the unknown kind {unknown}"),
    };
    let parameters = match kind {
        FUNC_PROTO => (0..count).map(|index| word(section, at + 16 + index * 8)).collect::<Result<_>>()?,
        _ => Vec::new(),
    };
    let name = strings.get(word(section, at)? as usize..).context("a name is outside of the strings")?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    Ok((Type { kind, name, refers: word(section, at + 8)?, parameters }, 12 + tail))
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()).context("the BTF ends early")?;
    Ok(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes BTF: each type is its kind, count, name, reference, and the words behind it; names in words are
    /// not needed.
    pub(crate) fn blob(types: &[(u32, u32, &str, u32, &[u32])]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut section = Vec::new();
        for (kind, count, name, refers, tail) in types {
            let at = u32::try_from(strings.len()).expect("a short test");
            strings.extend(name.bytes().chain([0]));
            for word in [at, kind << 24 | count, *refers].iter().chain(*tail) {
                section.extend(word.to_le_bytes());
            }
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a short test");
        let mut blob = vec![0x9f, 0xeb, 1, 0];
        for word in [24, 0, length(&section), length(&section), length(&strings)] {
            blob.extend(u32::to_le_bytes(word));
        }
        [blob, section, strings].concat()
    }

    /// `void kill_process(struct oom_control *, const char *)` and the tracepoint `mark_victim`.
    pub(crate) fn kernel() -> Types {
        let blob = blob(&[
            (STRUCT, 1, "oom_control", 8, &[0, 4, 0]),
            (PTR, 0, "", 1, &[]),
            (INT, 0, "char", 1, &[8]),
            (INT, 0, "long unsigned int", 8, &[64]),
            (CONST, 0, "", 3, &[]),
            (PTR, 0, "", 5, &[]),
            (FUNC_PROTO, 2, "", 0, &[0, 2, 0, 6]),
            (FUNC, 1, "kill_process", 7, &[]),
            (PTR, 0, "", 0, &[]),
            (FUNC_PROTO, 3, "", 0, &[0, 9, 0, 2, 0, 4]),
            (PTR, 0, "", 10, &[]),
            (TYPEDEF, 0, "btf_trace_mark_victim", 11, &[]),
        ]);
        Types::parse(&blob).expect("well formed")
    }

    #[test]
    fn a_function_and_a_tracepoint_are_spelled_as_c() {
        let function = kernel().function("kill_process").expect("it is there");
        assert_eq!(function.to_string(), "void (struct oom_control *, const char *)");
        let tracepoint = kernel().tracepoint("mark_victim").expect("it is there");
        assert_eq!(tracepoint.to_string(), "(struct oom_control *, int long unsigned)");
        assert!(kernel().function("mark_victim").is_none());
        assert!(kernel().tracepoint("kill_process").is_none());
    }

    #[test]
    fn bytes_that_are_no_whole_btf_are_an_error() {
        let whole = blob(&[(FUNC_PROTO, 1, "", 0, &[0, 0])]);
        Types::parse(&whole).expect("well formed");
        for length in 0..whole.len() {
            Types::parse(&whole[..length]).expect_err("cut short");
        }
        Types::parse(&blob(&[(31, 0, "", 0, &[])])).expect_err("an unknown kind");
    }

    #[test]
    fn a_type_that_is_made_of_itself_ends() {
        let types = Types::parse(&blob(&[
            (CONST, 0, "", 1, &[]),
            (FUNC_PROTO, 0, "", 1, &[]),
            (FUNC, 0, "f", 2, &[]),
        ]));
        let function = types.expect("well formed").function("f").expect("it is there");
        assert!(function.to_string().contains('?'));
    }
}
