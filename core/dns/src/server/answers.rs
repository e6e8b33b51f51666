//! Answers given before, as bytes: valid as long as no name that they were made of has changed.

use std::collections::HashMap;

use super::wire::{HEADER, Plain};
use crate::index::{Changes, Marks};

/// Answers by question.
#[derive(Debug, Default)]
pub(super) struct Answers {
    changes: Changes,
    young: Map,
    old: Map,
    /// Bytes of the young ones.
    bytes: usize,
}

/// How an answer was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// How many orders it has.
    pub(super) orders: usize,
    /// Which of them it was made in, counted on and on.
    pub(super) turn: usize,
    /// Names that it was made of.
    pub(super) marks: Marks,
}

/// Answers to one question. Sets of several records are answered in several orders, in turn, so that clients that take the first
/// spread over all.
#[derive(Debug)]
struct Slot {
    variants: Vec<Box<[u8]>>,
    last: Made,
    /// How often the variants were given.
    given: usize,
    /// The change up to which they are known to hold.
    held: u64,
}

type Map = HashMap<Box<[u8]>, Slot, foldhash::fast::RandomState>;

/// Questions, and bytes of their answers, that are remembered twice over: when the young are that many, they are the old ones.
const QUESTIONS_MAX: usize = 4096;
const BYTES_MAX: usize = 4 << 20;
/// Orders of one answer that are kept.
pub(super) const VARIANTS_MAX: usize = 8;
/// Orders that are not all kept make room for others when each has been given as often: long enough that making them costs little, short
/// enough that nobody is first for long.
const GIVEN_MAX: usize = 8;
/// Largest key: a question, the limit, flags.
const KEY_MAX: usize = 300;

/// A key on the stack.
pub(super) struct Key {
    bytes: [u8; KEY_MAX],
    length: usize,
}

// === impl Key ===

impl Key {
    /// The question in lower case, and what else the answer depends on. A question is at most 259 bytes long.
    pub(super) fn of(plain: &Plain<'_>) -> Self {
        let mut key = Self { bytes: [0; KEY_MAX], length: plain.question.len() + 3 };
        let (question, rest) = key.bytes.split_at_mut(plain.question.len());
        question.copy_from_slice(plain.question);
        // Type and class too, where no byte of a common type is a letter; a type that is means another key, never another answer.
        let name = question.len() - 4;
        question[..name].make_ascii_lowercase();
        rest[..2].copy_from_slice(&plain.limit.to_be_bytes());
        rest[2] = u8::from(plain.edns) | u8::from(plain.dnssec_ok) << 1;
        key
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

// === impl Answers ===

impl Answers {
    /// Answers hold as far as nothing has changed that they were made of.
    pub(super) fn at(&mut self, changes: &Changes) {
        if self.changes.generation != changes.generation {
            self.changes.clone_from(changes);
        }
    }

    /// Writes the answer with the asker's id, flags and spelling. If it has to be made: in which turn, if any turn has been.
    pub(super) fn write(
        &mut self,
        key: &Key,
        query: &[u8],
        plain: &Plain<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Option<usize>> {
        if !self.young.contains_key(key.as_slice())
            && let Some((key, slot)) = self.old.remove_entry(key.as_slice())
        {
            self.insert(key, slot);
        }
        let Some(slot) = self.young.get_mut(key.as_slice()) else { return Err(None) };
        if slot.is_over() || self.changes.touched(&slot.last.marks, slot.held) {
            self.bytes -= slot.bytes();
            slot.variants.clear();
            slot.given = 0;
        }
        slot.held = self.changes.generation;
        if slot.variants.len() < slot.last.orders.clamp(1, VARIANTS_MAX) {
            return Err(Some(slot.last.turn.wrapping_add(1)));
        }
        out.extend_from_slice(&slot.variants[slot.given % slot.variants.len()]);
        slot.given += 1;
        out[..2].copy_from_slice(&query[..2]);
        // RD and CD as asked.
        out[2] = out[2] & !1 | query[2] & 1;
        out[3] = out[3] & !0x10 | query[3] & 0x10;
        out[HEADER..HEADER + plain.question.len()].copy_from_slice(plain.question);
        Ok(())
    }

    /// Remembers an answer that was just made.
    pub(super) fn keep(&mut self, key: &Key, answer: &[u8], made: Made) {
        self.make_room();
        if let Some(slot) = self.young.get_mut(key.as_slice()) {
            slot.variants.push(answer.into());
            slot.last = made;
            self.bytes += answer.len();
        } else {
            let slot = Slot { variants: vec![answer.into()], last: made, given: 0, held: self.changes.generation };
            self.insert(key.as_slice().into(), slot);
        }
    }

    fn insert(&mut self, key: Box<[u8]>, slot: Slot) {
        self.make_room();
        self.bytes += slot.bytes();
        self.young.insert(key, slot);
    }

    fn make_room(&mut self) {
        if self.young.len() >= QUESTIONS_MAX || self.bytes >= BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }
}

// === impl Slot ===

impl Slot {
    /// Whether other orders get their turn.
    fn is_over(&self) -> bool {
        self.last.orders > VARIANTS_MAX && self.given >= GIVEN_MAX * VARIANTS_MAX
    }

    fn bytes(&self) -> usize {
        self.variants.iter().map(|variant| variant.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::wire::{Look, look};

    /// Some thousands of questions, each answered at length, in as many orders as are kept.
    #[test]
    fn memory_is_bounded_however_much_is_asked() {
        let mut answers = Answers::default();
        let answer = [0; 1232];
        for round in 0..=VARIANTS_MAX {
            for number in 0..6000u16 {
                let mut query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x02ab\x04test\0\0\x01\0\x01".to_vec();
                query[HEADER + 1..HEADER + 3].copy_from_slice(&(number | 0x8080).to_be_bytes());
                let Look::Plain(plain) = look(&query) else { panic!("a plain question") };
                let key = Key::of(&plain);
                let mut out = Vec::new();
                if let Err(turn) = answers.write(&key, &query, &plain, &mut out) {
                    let made = Made { orders: 100, turn: turn.unwrap_or(round), marks: Marks::default() };
                    answers.keep(&key, &answer, made);
                }
            }
            let held = |map: &Map| map.values().map(Slot::bytes).sum::<usize>();
            let held = held(&answers.young) + held(&answers.old);
            assert!(held <= 2 * (BYTES_MAX + answer.len() * VARIANTS_MAX), "{held} bytes");
            assert!(answers.young.len() + answers.old.len() <= 2 * QUESTIONS_MAX);
        }
    }
}
