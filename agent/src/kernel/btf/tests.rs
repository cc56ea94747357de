//! Built fragments, and the machine's own BTF where it has one.

use super::{Argument, Btf, BtfError, PathError, Place, Step::*};

/// Builds a blob: strings as they come up, types in order from number one.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        self.types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    /// A type's head and its tail.
    fn add(mut self, kind: u32, name: &str, count: u32, size_or_type: u32, tail: &[u32]) -> Self {
        let name = self.text(name);
        self.words(&[name, kind << 24 | count, size_or_type]);
        self.words(tail);
        self
    }

    /// A struct (4) or union (5) of (name, type, bit offset) members.
    fn record(mut self, kind: u32, name: &str, size: u32, members: &[(&str, u32, u32)]) -> Self {
        let members: Vec<u32> =
            members.iter().flat_map(|&(name, id, bits)| [self.text(name), id, bits]).collect();
        self.add(kind, name, (members.len() / 3) as u32, size, &members)
    }

    fn blob(self) -> Vec<u8> {
        let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
        let header = [0x0001_eb9f_u32, 24, 0, types, types, strings];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        blob.extend(self.types);
        blob.extend(self.strings);
        blob
    }
}

/// 1 int · 2 long · 3 long[4] · 4 anonymous union · 5 `outer` · 6 const · 7 typedef
fn sample() -> Vec<u8> {
    Builder::new()
        .add(1, "int", 0, 4, &[32])
        .add(1, "long", 0, 8, &[64])
        .add(3, "", 0, 0, &[2, 1, 4])
        .record(5, "", 32, &[("first", 1, 0), ("many", 3, 0)])
        .record(4, "outer", 48, &[("head", 6, 0), ("", 4, 64), ("last", 7, 320)])
        .add(10, "", 0, 2, &[])
        .add(8, "long_t", 0, 2, &[])
        .add(6, "colour", 2, 4, &[1, 7, 5, 9])
        .blob()
}

fn check(path: &[super::Step<'_>], expected: Result<Place, PathError>) {
    let blob = sample();
    assert_eq!(Btf::parse(&blob).unwrap().place("outer", path), expected, "{path:?}");
}

#[test]
fn members_are_found_through_anonymous_unions_typedefs_and_arrays() {
    check(&[Member("head")], Ok(Place { offset: 0, size: 8 }));
    check(&[Member("first")], Ok(Place { offset: 8, size: 4 }));
    check(&[Member("many")], Ok(Place { offset: 8, size: 32 }));
    check(&[Member("many"), Index(3)], Ok(Place { offset: 32, size: 8 }));
    check(&[Member("last")], Ok(Place { offset: 40, size: 8 }));
}

#[test]
fn what_is_not_there_is_named() {
    check(&[Member("many"), Index(4)], Err(PathError::NoSuchElement("outer".into())));
    check(&[Member("last"), Index(0)], Err(PathError::NoSuchElement("outer".into())));
    check(
        &[Member("gone")],
        Err(PathError::NoSuchMember { structure: "outer".into(), member: "gone".into() }),
    );
    let blob = sample();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(btf.place("inner", &[]), Err(PathError::NoSuchType("inner".into())));
    assert_eq!(btf.enumerator("colour", "blue"), None);
}

#[test]
fn two_structures_of_one_name_must_agree() {
    let twice = |second| {
        let int = Builder::new().add(1, "int", 0, 4, &[32]);
        int.record(4, "s", 8, &[("a", 1, 0)]).record(4, "s", 8, &[("a", 1, second)]).blob()
    };
    let same = twice(0);
    assert_eq!(Btf::parse(&same).unwrap().place("s", &[Member("a")]), Ok(Place { offset: 0, size: 4 }));
    let differ = twice(32);
    let place = Btf::parse(&differ).unwrap().place("s", &[Member("a")]);
    assert_eq!(place, Err(PathError::Ambiguous("s".into())));
}

#[test]
fn a_bit_field_has_no_offset() {
    // Kind flag set, width 3 in the upper byte of the member's offset.
    let mut builder = Builder::new().add(1, "int", 0, 4, &[32]);
    let (name, member) = (builder.text("bits"), builder.text("flag"));
    builder.words(&[name, 1 << 31 | 4 << 24 | 1, 4, member, 1, 3 << 24 | 8]);
    let blob = builder.blob();
    let place = Btf::parse(&blob).unwrap().place("bits", &[Member("flag")]);
    assert_eq!(place, Err(PathError::BitField("bits".into())));
}

#[test]
fn a_type_that_contains_itself_ends() {
    // 1: typedef of itself; 2: struct with an anonymous member of its own type.
    let blob = Builder::new().add(8, "loop", 0, 1, &[]).record(4, "s", 8, &[("", 2, 0), ("x", 1, 0)]).blob();
    let btf = Btf::parse(&blob).unwrap();
    assert_eq!(btf.place("s", &[Member("x")]), Ok(Place { offset: 0, size: 0 }));
    assert!(btf.place("s", &[Member("y")]).is_err());
}

#[test]
fn every_cut_of_a_blob_is_an_error_or_a_smaller_blob_but_never_a_panic() {
    let blob = sample();
    for length in 0..blob.len() {
        assert!(matches!(Btf::parse(&blob[..length]), Err(BtfError::Truncated(_))), "cut at {length}");
    }
    for at in 0..blob.len() {
        let mut broken = blob.clone();
        broken[at] ^= 0xff;
        if let Ok(btf) = Btf::parse(&broken) {
            let _ = btf.place("outer", &[Member("many"), Index(3)]);
            let _ = btf.enumerator("colour", "int");
        }
    }
    assert_eq!(Btf::parse(&[0xeb, 0x9f]).unwrap_err(), BtfError::ByteOrder);
    assert_eq!(Btf::parse(b"ELF").unwrap_err(), BtfError::NotBtf(0x4c45));
}

#[test]
fn this_kernel_is_understood() {
    let Ok(blob) = std::fs::read("/sys/kernel/btf/vmlinux") else {
        println!("SKIPPED: this kernel offers no BTF in /sys/kernel/btf/vmlinux");
        return;
    };
    let btf = Btf::parse(&blob).unwrap();
    // Facts of the ABI that no configuration changes.
    assert_eq!(btf.place("task_struct", &[Member("comm")]).unwrap().size, 16);
    assert_eq!(btf.place("list_head", &[Member("prev")]), Ok(Place { offset: 8, size: 8 }));
    assert_eq!(btf.enumerator("pid_type", "PIDTYPE_TGID"), Some(1));
    // In an anonymous struct since 4.20, in an anonymous struct of an anonymous struct on some.
    assert_eq!(btf.place("mm_struct", &[Member("total_vm")]).unwrap().size, 8);
    let arguments = btf.tracepoint_arguments("signal_generate").unwrap();
    assert_eq!(
        arguments,
        [
            Argument::Integer(4),
            Argument::PointerTo("kernel_siginfo".into()),
            Argument::PointerTo("task_struct".into()),
            Argument::Integer(4),
            Argument::Integer(4),
        ]
    );
    assert_eq!(btf.tracepoint_arguments("no_such_tracepoint"), None);
}
