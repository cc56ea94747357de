//! The kernel's own type information → where a member of a structure lies.
//!
//! A small walker over BTF (`Documentation/bpf/btf.rst`), enough for offsets: it finds a structure by
//! name, follows a path of members, and enters anonymous structs and unions on the way, for that is where
//! newer kernels put members that older ones had at the top. It borrows the bytes it is given and keeps one
//! `u32` per type. It does not relocate, does not compare types, and never guesses: two structures of one
//! name that disagree are an error, and so is a bit field.

mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

pub use parse::BtfError;
use parse::{Kind, Type, TypeId};

/// How many modifiers (`const`, `typedef`, …) or nested anonymous members are followed before the type is
/// taken for a loop. The kernel's own limit on resolving is 32.
const MAX_DEPTH: u32 = 32;

/// A parsed BTF blob.
#[derive(Debug)]
pub struct Btf<'a> {
    bytes: parse::Sections<'a>,
    by_name: HashMap<&'a [u8], Vec<TypeId>>,
}

/// One step from a structure to a member's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'s> {
    /// The member of this name, in whatever anonymous struct or union it lies.
    Member(&'s str),
    /// The element of an array.
    Index(u32),
}

/// Where a path ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the beginning of the structure.
    pub offset: u32,
    /// Bytes that the member takes.
    pub size: u32,
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// There is no structure, or no definition, of that name.
    #[error("this kernel has no `{0}`")]
    NoSuchType(String),
    /// The structure has no such member.
    #[error("`{structure}` of this kernel has no member `{member}`")]
    NoSuchMember {
        /// The structure the path began at.
        structure: String,
        /// The member that was not found.
        member: String,
    },
    /// An index into something that is no array, or past its end.
    #[error("`{0}` of this kernel has no such element")]
    NoSuchElement(String),
    /// The member is a bit field, which has no offset in bytes.
    #[error("`{0}` of this kernel has the member as a bit field")]
    BitField(String),
    /// Several structures have this name and do not agree.
    #[error("this kernel has several `{0}` that differ")]
    Ambiguous(String),
}

/// What a function takes as one argument, as far as the agent needs to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A pointer to the structure of this name.
    PointerTo(String),
    /// An integer of so many bytes.
    Integer(u32),
    /// Anything else.
    Other,
}

impl<'a> Btf<'a> {
    /// Indexes a blob as the kernel gives it in `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// A header or type that is cut short or not understood, or the other byte order.
    pub fn parse(blob: &'a [u8]) -> Result<Self, BtfError> {
        let bytes = parse::Sections::parse(blob)?;
        let mut by_name: HashMap<&[u8], Vec<TypeId>> = HashMap::new();
        for id in bytes.ids() {
            let Some(found) = bytes.get(id) else { continue };
            let is_wanted = match found.kind {
                Kind::Struct | Kind::Union | Kind::Enum => true,
                Kind::Typedef => bytes.name(found.name).starts_with(b"btf_trace_"),
                _ => false,
            };
            if is_wanted && found.name != 0 {
                by_name.entry(bytes.name(found.name)).or_default().push(id);
            }
        }
        Ok(Self { bytes, by_name })
    }

    /// Follows `path` from the structure `structure`.
    ///
    /// # Errors
    /// See [`PathError`]; each says what this kernel lacks.
    pub fn place(&self, structure: &str, path: &[Step<'_>]) -> Result<Place, PathError> {
        let mut found: Option<Place> = None;
        let candidates = self.by_name.get(structure.as_bytes()).map_or(&[][..], Vec::as_slice);
        for &id in candidates {
            let place = self.place_from(structure, id, path)?;
            match found {
                Some(before) if before != place => return Err(PathError::Ambiguous(structure.to_owned())),
                _ => found = Some(place),
            }
        }
        found.ok_or_else(|| PathError::NoSuchType(structure.to_owned()))
    }

    /// The value of one enumerator, e.g. `memory_cgrp_id` of `cgroup_subsys_id`.
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let ids = self.by_name.get(enumeration.as_bytes())?;
        ids.iter().find_map(|&id| {
            let found = self.bytes.get(id).filter(|found| found.kind == Kind::Enum)?;
            let variant =
                self.bytes.enumerators(&found).find(|&(text, _)| self.bytes.name(text) == name.as_bytes())?;
            Some(variant.1)
        })
    }

    /// What a tracepoint passes its raw listeners, by its `btf_trace_<name>` typedef; without the first
    /// argument, which is the tracepoint's own.
    #[must_use]
    pub fn tracepoint_arguments(&self, name: &str) -> Option<Vec<Argument>> {
        let typedef = format!("btf_trace_{name}");
        let id = *self.by_name.get(typedef.as_bytes())?.first()?;
        let pointer = self.resolve(id)?;
        let function = self.resolve(TypeId(pointer.size_or_type))?;
        if pointer.kind != Kind::Pointer || function.kind != Kind::Function {
            return None;
        }
        Some(self.bytes.parameters(&function).skip(1).map(|id| self.argument(id)).collect())
    }

    /// What one argument is, through typedefs and qualifiers.
    fn argument(&self, id: TypeId) -> Argument {
        let Some(found) = self.resolve(id) else { return Argument::Other };
        match found.kind {
            Kind::Integer => Argument::Integer(found.size_or_type),
            Kind::Pointer => match self.resolve(TypeId(found.size_or_type)) {
                Some(target) if matches!(target.kind, Kind::Struct | Kind::Forward) => {
                    Argument::PointerTo(String::from_utf8_lossy(self.bytes.name(target.name)).into_owned())
                }
                _ => Argument::Other,
            },
            _ => Argument::Other,
        }
    }

    /// Follows `path` from the type `id`.
    fn place_from(&self, structure: &str, id: TypeId, path: &[Step<'_>]) -> Result<Place, PathError> {
        let mut place = Place { offset: 0, size: self.size(id).unwrap_or(0) };
        let mut at = id;
        for step in path {
            let (offset, next) = match *step {
                Step::Member(member) => {
                    let missing = || PathError::NoSuchMember {
                        structure: structure.to_owned(),
                        member: member.to_owned(),
                    };
                    let found = self.member(at, member.as_bytes(), 0).ok_or_else(missing)?;
                    let bits = found.bits.ok_or_else(|| PathError::BitField(structure.to_owned()))?;
                    (bits / 8, found.id)
                }
                Step::Index(index) => {
                    self.element(at, index).ok_or_else(|| PathError::NoSuchElement(structure.to_owned()))?
                }
            };
            // A kernel structure is far below 4 GiB; saturating keeps a malformed blob from panicking.
            place = Place { offset: place.offset.saturating_add(offset), size: self.size(next).unwrap_or(0) };
            at = next;
        }
        Ok(place)
    }

    /// Finds a member by name in a struct or union, entering those that have no name.
    fn member(&self, id: TypeId, name: &[u8], depth: u32) -> Option<Member> {
        let parent = self.resolve(id).filter(|_| depth < MAX_DEPTH)?;
        if !matches!(parent.kind, Kind::Struct | Kind::Union) {
            return None;
        }
        self.bytes.members(&parent).find_map(|member| {
            let bits = (member.bit_size == 0 && member.bit_offset % 8 == 0).then_some(member.bit_offset);
            match member.name {
                0 => {
                    let inner = self.member(member.id, name, depth + 1)?;
                    Some(Member { bits: bits.zip(inner.bits).map(|(outer, inner)| outer + inner), ..inner })
                }
                text => (self.bytes.name(text) == name).then_some(Member { id: member.id, bits }),
            }
        })
    }

    /// The byte offset and the type of one element of an array. An array of no elements is a flexible one.
    fn element(&self, id: TypeId, index: u32) -> Option<(u32, TypeId)> {
        let array = self.resolve(id).filter(|found| found.kind == Kind::Array)?;
        let (element, count) = self.bytes.array(&array)?;
        if count != 0 && index >= count {
            return None;
        }
        Some((index.checked_mul(self.size(element)?)?, element))
    }

    /// The bytes a value of the type takes.
    fn size(&self, id: TypeId) -> Option<u32> {
        let found = self.resolve(id)?;
        match found.kind {
            Kind::Integer | Kind::Struct | Kind::Union | Kind::Enum => Some(found.size_or_type),
            // The agent's targets, x86-64 and arm64, have pointers of eight bytes.
            Kind::Pointer => Some(8),
            Kind::Array => {
                let (element, count) = self.bytes.array(&found)?;
                self.size(element)?.checked_mul(count)
            }
            _ => None,
        }
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, mut id: TypeId) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let found = self.bytes.get(id)?;
            match found.kind {
                Kind::Typedef | Kind::Qualifier => id = TypeId(found.size_or_type),
                _ => return Some(found),
            }
        }
        None
    }
}

/// A member that was found: its type, and its place in bits unless it is a bit field.
#[derive(Clone, Copy)]
struct Member {
    id: TypeId,
    bits: Option<u32>,
}
