//! Reads the kernel's own type information (BTF): bytes in, offsets of structure members out. Pure.
//!
//! Only what the probe's layout needs: members by path, sizes, enumerators, functions. Bit fields are not supported:
//! their offsets are those of their byte. Format: Documentation/bpf/btf.rst.

use std::fmt;

/// Type information of one kernel, with an index of where each type begins.
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where the record of type `id` begins in `types`, at `id - 1`: id 0 is `void` and has none.
    records: Vec<u32>,
}

/// Why bytes are not BTF.
#[derive(Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its header says.
    Truncated,
    /// Does not begin with the magic number in this machine's byte order.
    Magic,
    /// A type of a kind that this reader does not know: a newer kernel. Its length is unknown, and so is what follows.
    UnknownKind(u32),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("truncated BTF"),
            Self::Magic => f.write_str("not BTF: wrong magic number"),
            Self::UnknownKind(kind) => write!(f, "BTF with a type of the unknown kind {kind}"),
        }
    }
}

impl std::error::Error for Malformed {}

const MAGIC: u16 = 0xeb9f;
/// The fields of `struct btf_header` that are read.
const HEADER: usize = 24;
/// `struct btf_type` without what follows it.
const RECORD: usize = 12;
/// Deeper nesting of anonymous members or modifiers than any kernel has: a bound for malformed input.
const MAX_DEPTH: u32 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Array,
    Composite,
    Enum,
    Function,
    Modifier,
    Pointer,
    Scalar,
    Other,
}

/// One type as it stands in the bytes.
#[derive(Clone, Copy)]
struct Record {
    kind: Kind,
    name: u32,
    /// Members or enumerators.
    count: usize,
    /// Offsets of members carry a bit-field size in their top byte.
    has_bit_fields: bool,
    /// Its size, or the id of the type it modifies.
    size_or_type: u32,
    /// Where its members begin.
    rest: usize,
}

impl<'a> Btf<'a> {
    /// Checks and indexes the bytes of `/sys/kernel/btf/vmlinux`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let magic =
            bytes.get(..2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or(Malformed::Truncated)?;
        if magic != MAGIC {
            return Err(Malformed::Magic);
        }
        if bytes.len() < HEADER {
            return Err(Malformed::Truncated);
        }
        let header_length = word(bytes, 4)? as usize;
        let section = |offset: usize| {
            let start = header_length.checked_add(word(bytes, offset)? as usize).ok_or(Malformed::Truncated)?;
            let end = start.checked_add(word(bytes, offset + 4)? as usize).ok_or(Malformed::Truncated)?;
            bytes.get(start..end).ok_or(Malformed::Truncated)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut records = Vec::new();
        let mut at = 0;
        while at < types.len() {
            records.push(at as u32);
            at += RECORD + rest_of(types, at)?;
        }
        if at == types.len() { Ok(Self { types, strings, records }) } else { Err(Malformed::Truncated) }
    }

    /// The byte offset of a member: `struct.member.member`. Anonymous structures and unions are looked through.
    pub fn offset(&self, path: &str) -> Option<u32> {
        let (root, members) = path.split_once('.')?;
        // Several types may share a name; the first that has the members is meant.
        self.named(Kind::Composite, root).find_map(|id| {
            let mut found = (0, id);
            for name in members.split('.') {
                let (offset, member) = self.member(found.1, name, 0)?;
                found = (found.0 + offset, member);
            }
            Some(found.0)
        })
    }

    /// The size in bytes of a structure or union.
    pub fn size_of(&self, name: &str) -> Option<u32> {
        self.named(Kind::Composite, name).next().and_then(|id| self.record(id)).map(|record| record.size_or_type)
    }

    /// The value of an enumerator, whatever its enumeration.
    pub fn enumerator(&self, name: &str) -> Option<u32> {
        self.ids().filter_map(|id| self.record(id)).filter(|record| record.kind == Kind::Enum).find_map(|record| {
            (0..record.count)
                .map(|i| record.rest + 8 * i)
                .find(|&at| self.is_named(self.word(at), name))
                .and_then(|at| self.word(at + 4))
        })
    }

    /// Whether the kernel has a function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.named(Kind::Function, name).next().is_some()
    }

    /// Whether a tracepoint exists: each has a typedef of its handler.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.named(Kind::Modifier, &format!("btf_trace_{name}")).next().is_some()
    }

    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let record = self.record(self.unmodified(id)?)?;
        if record.kind != Kind::Composite || depth > MAX_DEPTH {
            return None;
        }
        for at in (0..record.count).map(|i| record.rest + 12 * i) {
            let (member, of, bits) = (self.word(at)?, self.word(at + 4)?, self.word(at + 8)?);
            let offset = if record.has_bit_fields { bits & 0xff_ffff } else { bits } / 8;
            if self.is_named(Some(member), name) {
                return Some((offset, of));
            }
            if self.is_named(Some(member), "")
                && let Some((inner, found)) = self.member(of, name, depth + 1)
            {
                return Some((offset + inner, found));
            }
        }
        None
    }

    /// Without typedef, const, volatile and the like.
    fn unmodified(&self, mut id: u32) -> Option<u32> {
        for _ in 0..MAX_DEPTH {
            let record = self.record(id)?;
            if record.kind != Kind::Modifier {
                return Some(id);
            }
            id = record.size_or_type;
        }
        None
    }

    fn ids(&self) -> impl Iterator<Item = u32> {
        1..=self.records.len() as u32
    }

    fn named<'n>(&'n self, kind: Kind, name: &'n str) -> impl Iterator<Item = u32> + 'n {
        self.ids().filter(move |&id| {
            self.record(id).is_some_and(|record| record.kind == kind && self.is_named(Some(record.name), name))
        })
    }

    fn is_named(&self, offset: Option<u32>, name: &str) -> bool {
        let Some(tail) = offset.and_then(|offset| self.strings.get(offset as usize..)) else {
            return false;
        };
        tail.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn record(&self, id: u32) -> Option<Record> {
        let at = *self.records.get((id as usize).checked_sub(1)?)? as usize;
        let information = self.word(at + 4)?;
        let kind = match information >> 24 & 31 {
            2 => Kind::Pointer,
            3 => Kind::Array,
            4 | 5 => Kind::Composite,
            6 => Kind::Enum,
            8..=11 | 18 => Kind::Modifier,
            12 => Kind::Function,
            1 | 16 => Kind::Scalar,
            _ => Kind::Other,
        };
        Some(Record {
            kind,
            name: self.word(at)?,
            count: (information & 0xffff) as usize,
            has_bit_fields: information >> 31 == 1,
            size_or_type: self.word(at + 8)?,
            rest: at + RECORD,
        })
    }

    fn word(&self, at: usize) -> Option<u32> {
        word(self.types, at).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or(Malformed::Truncated)
}

/// Bytes that follow the fixed part of the type at `at`, by its kind.
fn rest_of(types: &[u8], at: usize) -> Result<usize, Malformed> {
    let information = word(types, at + 4)?;
    let count = (information & 0xffff) as usize;
    Ok(match information >> 24 & 31 {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => 12 * count,
        6 | 13 => 8 * count,
        kind => return Err(Malformed::UnknownKind(kind)),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    /// Writes BTF as the kernel does, as far as the tests need it.
    #[derive(Default)]
    struct Sample {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    const STRUCT: u32 = 4;
    const UNION: u32 = 5;
    const BIT_FIELDS: u32 = 1 << 31;

    impl Sample {
        fn string(&mut self, text: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(text.bytes().chain([0]));
            at
        }

        fn words(&mut self, words: &[u32]) {
            self.types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }

        fn simple(&mut self, kind: u32, name: &str, size_or_type: u32) -> u32 {
            let name = self.string(name);
            self.words(&[name, kind << 24, size_or_type]);
            self.count += 1;
            self.count
        }

        fn int(&mut self, name: &str) -> u32 {
            let id = self.simple(1, name, 4);
            self.words(&[32]);
            id
        }

        fn composite(&mut self, kind: u32, name: &str, size: u32, flags: u32, members: &[(&str, u32, u32)]) -> u32 {
            let name = self.string(name);
            let members: Vec<[u32; 3]> =
                members.iter().map(|(name, id, bits)| [self.string(name), *id, *bits]).collect();
            self.words(&[name, kind << 24 | flags | members.len() as u32, size]);
            members.iter().for_each(|member| self.words(member));
            self.count += 1;
            self.count
        }

        fn enumeration(&mut self, values: &[(&str, u32)]) {
            let values: Vec<[u32; 2]> = values.iter().map(|(name, value)| [self.string(name), *value]).collect();
            self.words(&[0, 6 << 24 | values.len() as u32, 4]);
            values.iter().for_each(|value| self.words(value));
            self.count += 1;
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            bytes.extend([24, 0, types, types, strings].iter().flat_map(|word: &u32| word.to_ne_bytes()));
            bytes.extend(&self.types);
            bytes.extend(&self.strings);
            bytes
        }
    }

    fn sample() -> Vec<u8> {
        let mut btf = Sample::default();
        let int = btf.int("int");
        let inner = btf.composite(STRUCT, "inner", 8, 0, &[("a", int, 0), ("b", int, 32)]);
        let typedef = btf.simple(8, "inner_t", inner);
        let constant = btf.simple(10, "", typedef);
        let anonymous = btf.composite(UNION, "", 8, 0, &[("left", int, 0), ("right", constant, 0)]);
        // A forward-like namesake without the members, as the kernel has for several names.
        btf.composite(STRUCT, "outer", 0, 0, &[]);
        btf.composite(
            STRUCT,
            "outer",
            32,
            0,
            &[("first", int, 0), ("", anonymous, 64), ("inner", constant, 128), ("last", int, 192)],
        );
        btf.composite(STRUCT, "flags", 8, BIT_FIELDS, &[("low", int, 3 << 24), ("word", int, 32)]);
        btf.enumeration(&[("ONE", 1), ("FOUR", 4)]);
        btf.simple(12, "a_function", 0);
        btf.simple(8, "btf_trace_mark_victim", int);
        btf.bytes()
    }

    #[test]
    fn members_are_found_through_typedefs_anonymous_unions_and_namesakes() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        let rows = [
            ("inner.b", Some(4)),
            ("outer.first", Some(0)),
            ("outer.left", Some(8)),
            ("outer.right.b", Some(12)),
            ("outer.inner.b", Some(20)),
            ("outer.last", Some(24)),
            ("flags.word", Some(4)),
            ("outer.absent", None),
            ("outer.first.deeper", None),
            ("absent.first", None),
            ("outer", None),
            ("outer.las", None),
            ("oute.last", None),
        ];
        for (path, expected) in rows {
            assert_eq!(btf.offset(path), expected, "{path}");
        }
    }

    #[test]
    fn sizes_enumerators_functions_and_tracepoints_are_found() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.size_of("inner"), Some(8));
        assert_eq!(btf.size_of("int"), None);
        assert_eq!(btf.enumerator("FOUR"), Some(4));
        assert_eq!(btf.enumerator("FIVE"), None);
        assert!(btf.has_function("a_function") && !btf.has_function("int"));
        assert!(btf.has_tracepoint("mark_victim") && !btf.has_tracepoint("signal_generate"));
    }

    #[test]
    fn bytes_that_are_not_btf_are_refused_and_never_panic() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..length]).is_err(), "cut to {length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            if let Ok(btf) = Btf::parse(&damaged) {
                btf.offset("outer.right.b");
                btf.enumerator("FOUR");
            }
        }
        assert_eq!(Btf::parse(b"\x7fELF").err(), Some(Malformed::Magic));
        let mut unknown = Sample::default();
        unknown.simple(25, "", 0);
        assert_eq!(Btf::parse(&unknown.bytes()).err(), Some(Malformed::UnknownKind(25)));
    }
}
