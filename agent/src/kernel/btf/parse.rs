//! The bytes of BTF: header, types one after another, strings.
//!
//! Every read is bounds-checked. The types are walked once, which proves that each lies within its section;
//! reads after that only repeat checks that have held.

/// A type's number: its position in the type section, counted from one; zero is `void`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TypeId(pub(super) u32);

/// Why a blob is not BTF that this agent reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The blob does not begin as BTF does.
    #[error("this is no BTF: it begins with {0:#06x}")]
    NotBtf(u16),
    /// The blob is of the other byte order.
    #[error("this BTF is of the other byte order")]
    ByteOrder,
    /// The blob ends in the middle of something.
    #[error("this BTF ends early, in {0}")]
    Truncated(&'static str),
    /// A type of a kind this agent does not know, so that where the next begins is not known either.
    #[error("this BTF has a type of the unknown kind {0}")]
    UnknownKind(u8),
}

/// The first two bytes of BTF, in its own byte order.
const MAGIC: u16 = 0xeb9f;
/// Bytes of a type before what its kind adds.
const TYPE_BYTES: usize = 12;

/// What a type is, as far as the walker tells kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Pointer,
    Array,
    Struct,
    Union,
    Enum,
    Forward,
    Typedef,
    /// `const`, `volatile`, `restrict` or a type tag.
    Qualifier,
    /// A function's prototype.
    Function,
    /// Anything that no path passes through.
    Other,
}

/// One type's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// Offset of its name in the strings; 0 if it has none.
    pub(super) name: u32,
    /// Bytes of a value, or the type referred to, by kind.
    pub(super) size_or_type: u32,
    /// How many members, enumerators or parameters follow.
    count: u32,
    /// A flag whose meaning depends on the kind: in a struct, that members may be bit fields.
    flag: bool,
    /// Where what its kind adds begins, in the type section.
    tail: usize,
}

/// One member of a struct or union.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawMember {
    pub(super) name: u32,
    pub(super) id: TypeId,
    pub(super) bit_offset: u32,
    /// 0 unless it is a bit field.
    pub(super) bit_size: u32,
}

/// The two sections, and where each type begins.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where the type of number `index + 1` begins.
    starts: Vec<u32>,
}

impl<'a> Sections<'a> {
    /// Checks the header and walks the types once.
    pub(super) fn parse(blob: &'a [u8]) -> Result<Self, BtfError> {
        let header = BtfError::Truncated("its header");
        let magic = blob.first_chunk::<2>().map(|bytes| u16::from_le_bytes(*bytes)).ok_or(header.clone())?;
        if magic != MAGIC {
            return Err(if magic == MAGIC.swap_bytes() {
                BtfError::ByteOrder
            } else {
                BtfError::NotBtf(magic)
            });
        }
        let field = |at| word(blob, at).map(|value| value as usize).ok_or(header.clone());
        let body = blob.get(field(4)?..).ok_or(header.clone())?;
        let section = |offset: usize, length: usize, what| {
            let end = offset.checked_add(length).ok_or(BtfError::Truncated(what))?;
            body.get(offset..end).ok_or(BtfError::Truncated(what))
        };
        let types = section(field(8)?, field(12)?, "its types")?;
        let strings = section(field(16)?, field(20)?, "its strings")?;

        let mut starts = Vec::new();
        let mut at = 0;
        while at < types.len() {
            // BTF counts bytes in u32, so the cast of a position within it loses nothing.
            starts.push(at as u32);
            let info = word(types, at + 4).ok_or(BtfError::Truncated("a type"))?;
            at += TYPE_BYTES + tail_bytes(info)?;
            if at > types.len() {
                return Err(BtfError::Truncated("a type"));
            }
        }
        Ok(Self { types, strings, starts })
    }

    /// All types' numbers.
    pub(super) fn ids(&self) -> impl Iterator<Item = TypeId> {
        (1..=self.starts.len() as u32).map(TypeId)
    }

    /// The type of this number; nothing for `void` and for numbers past the end.
    pub(super) fn get(&self, id: TypeId) -> Option<Type> {
        let start = *self.starts.get((id.0 as usize).checked_sub(1)?)? as usize;
        let info = word(self.types, start + 4)?;
        Some(Type {
            kind: kind(info),
            name: word(self.types, start)?,
            size_or_type: word(self.types, start + 8)?,
            count: info & 0xffff,
            flag: info >> 31 == 1,
            tail: start + TYPE_BYTES,
        })
    }

    /// The string at an offset, without its NUL; empty if there is none.
    pub(super) fn name(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        tail.split(|&byte| byte == 0).next().unwrap_or(&[])
    }

    /// The members of a struct or union, in order.
    pub(super) fn members(&self, of: &Type) -> impl Iterator<Item = RawMember> {
        self.tail(of, 3).map(move |[name, id, offset]| {
            // With the flag set, the upper byte is a bit field's width.
            let (bit_offset, bit_size) =
                if of.flag { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            RawMember { name, id: TypeId(id), bit_offset, bit_size }
        })
    }

    /// The names and values of an enumeration, in order. A negative value comes as its two's complement.
    pub(super) fn enumerators(&self, of: &Type) -> impl Iterator<Item = (u32, u32)> {
        self.tail(of, 2).map(|[name, value, _]| (name, value))
    }

    /// The types of a prototype's parameters, in order.
    pub(super) fn parameters(&self, of: &Type) -> impl Iterator<Item = TypeId> {
        self.tail(of, 2).map(|[_, id, _]| TypeId(id))
    }

    /// An array's element type and element count.
    pub(super) fn array(&self, of: &Type) -> Option<(TypeId, u32)> {
        Some((TypeId(word(self.types, of.tail)?), word(self.types, of.tail + 8)?))
    }

    /// What follows a type, `words` words at a time, of which at most three are kept.
    fn tail(&self, of: &Type, words: usize) -> impl Iterator<Item = [u32; 3]> {
        let tail = of.tail;
        (0..of.count as usize).map_while(move |index| {
            let at = tail + index * words * 4;
            let third = if words > 2 { word(self.types, at + 8)? } else { 0 };
            Some([word(self.types, at)?, word(self.types, at + 4)?, third])
        })
    }
}

/// The little-endian word at a position.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

/// What a type's info word says it is (`include/uapi/linux/btf.h`).
fn kind(info: u32) -> Kind {
    match (info >> 24) & 0x1f {
        1 => Kind::Integer,
        2 => Kind::Pointer,
        3 => Kind::Array,
        4 => Kind::Struct,
        5 => Kind::Union,
        6 => Kind::Enum,
        7 => Kind::Forward,
        8 => Kind::Typedef,
        9..=11 | 18 => Kind::Qualifier,
        13 => Kind::Function,
        _ => Kind::Other,
    }
}

/// How many bytes follow a type's head.
fn tail_bytes(info: u32) -> Result<usize, BtfError> {
    let count = (info & 0xffff) as usize;
    match (info >> 24) & 0x1f {
        // An integer's encoding, a variable's linkage, a declaration tag's component.
        1 | 14 | 17 => Ok(4),
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => Ok(0),
        3 => Ok(12),
        // Struct, union, data section, 64-bit enumeration.
        4 | 5 | 15 | 19 => Ok(count * 12),
        // Enumeration, prototype.
        6 | 13 => Ok(count * 8),
        // The mask leaves five bits.
        unknown => Err(BtfError::UnknownKind(unknown as u8)),
    }
}
