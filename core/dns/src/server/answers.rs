//! Answers given before, as bytes: valid as long as no record has changed.

use std::collections::HashMap;

use super::wire::{HEADER, Plain};

/// Answers by question.
#[derive(Debug, Default)]
pub(super) struct Answers {
    generation: u64,
    young: Map,
    old: Map,
}

/// Answers to one question. Sets of several records are answered in several orders, in turn, so that clients that take the first
/// spread over all.
#[derive(Debug)]
struct Slot {
    variants: Vec<Box<[u8]>>,
    wanted: usize,
    turn: usize,
}

type Map = HashMap<Box<[u8]>, Slot, foldhash::fast::RandomState>;

/// Questions that are remembered twice over: when the young are that many, they are the old ones.
const QUESTIONS_MAX: usize = 4096;
/// Orders of one answer that are kept.
pub(super) const VARIANTS_MAX: usize = 8;
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
    /// Forgets everything if records have changed since.
    pub(super) fn at(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.young.clear();
            self.old.clear();
        }
    }

    /// Writes the answer with the asker's id, flags and spelling. If it has not been given before, in all its orders, says
    /// which order is next.
    pub(super) fn write(&mut self, key: &Key, query: &[u8], plain: &Plain<'_>, out: &mut Vec<u8>) -> Result<(), usize> {
        if !self.young.contains_key(key.as_slice())
            && let Some((key, slot)) = self.old.remove_entry(key.as_slice())
        {
            self.insert(key, slot);
        }
        let Some(slot) = self.young.get_mut(key.as_slice()) else { return Err(0) };
        if slot.variants.len() < slot.wanted {
            return Err(slot.variants.len());
        }
        slot.turn = (slot.turn + 1) % slot.variants.len();
        out.extend_from_slice(&slot.variants[slot.turn]);
        out[..2].copy_from_slice(&query[..2]);
        // RD and CD as asked.
        out[2] = out[2] & !1 | query[2] & 1;
        out[3] = out[3] & !0x10 | query[3] & 0x10;
        out[HEADER..HEADER + plain.question.len()].copy_from_slice(plain.question);
        Ok(())
    }

    /// Remembers an answer, one of `wanted` orders.
    pub(super) fn keep(&mut self, key: &Key, answer: &[u8], wanted: usize) {
        if let Some(slot) = self.young.get_mut(key.as_slice()) {
            slot.variants.push(answer.into());
        } else {
            let slot = Slot { variants: vec![answer.into()], wanted: wanted.clamp(1, VARIANTS_MAX), turn: 0 };
            self.insert(key.as_slice().into(), slot);
        }
    }

    fn insert(&mut self, key: Box<[u8]>, slot: Slot) {
        if self.young.len() >= QUESTIONS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, slot);
    }
}
