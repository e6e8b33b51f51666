//! Which names changed when, so that answers that have nothing to do with a change stay known.
//!
//! A name has one of a few marks, by its hash, and a mark says when a name that has it changed last. An answer depends on the marks of all
//! names that were looked at for it, found or not. Names that share a mark cost a look-up too many, never a wrong answer.

use std::hash::BuildHasher as _;

use hickory_proto::rr::LowerName;

/// When something changed last, by mark.
#[derive(Clone, Debug)]
pub(crate) struct Changes {
    /// Counts changes.
    pub(crate) generation: u64,
    last: Box<[u64; MARKS]>,
    hasher: foldhash::fast::FixedState,
}

/// Some marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks([u64; MARKS / 64]);

/// A change of an endpoint marks some five names, and an answer looks at some two, so one answer in thirty is made again in vain.
const MARKS: usize = 256;

// === impl Marks ===

impl Marks {
    /// Any change counts.
    pub(crate) const ALL: Self = Self([u64::MAX; MARKS / 64]);
}

// === impl Changes ===

impl Changes {
    /// This name is not what it was, as of this generation.
    pub(super) fn mark(&mut self, name: &LowerName) {
        let mark = self.mark_of(name);
        self.last[mark] = self.generation;
    }

    /// Adds a name's mark to others.
    pub(super) fn note(&self, name: &LowerName, marks: &mut Marks) {
        let mark = self.mark_of(name);
        marks.0[mark / 64] |= 1 << (mark % 64);
    }

    /// Whether anything with one of the marks changed after a generation.
    pub(crate) fn touched(&self, marks: &Marks, since: u64) -> bool {
        let bits = |(word, bits): (usize, &u64)| {
            let bits = *bits;
            (0..64).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 64 + bit)
        };
        since < self.generation && marks.0.iter().enumerate().flat_map(bits).any(|mark| self.last[mark] > since)
    }

    fn mark_of(&self, name: &LowerName) -> usize {
        self.hasher.hash_one(name) as usize % MARKS
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self { generation: 0, last: Box::new([0; MARKS]), hasher: foldhash::fast::FixedState::default() }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use crate::{Data, Entry, Found, Index, Unit, Zone};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_labels(text.split('.').map(str::as_bytes)).unwrap()
    }

    fn data(text: &str) -> Data {
        text.parse::<std::net::IpAddr>().map_or_else(|_| Data::Cname(name(text)), Data::from)
    }

    /// An answer without the serial, which changes with everything.
    fn answer(index: &Index, asked: &str, marks: &mut Marks) -> Found {
        let mut found = index.answer_noting(&name(asked), RecordType::A, marks);
        if let Found::Ours(answer) = &mut found {
            answer.authorities.clear();
        }
        found
    }

    /// Units say things at random: whenever an answer is not what it was, one of its names was marked; and most changes mark few.
    #[test]
    fn an_answer_changes_only_with_its_names() {
        const ROUNDS: usize = 1500;
        let names = ["a.z", "b.a.z", "c.b.a.z", "x*.z", "x*y.z", "x1.z", "e.z", "f.z", "out.y"];
        let values = ["10.0.0.1", "10.0.0.2", "a.z", "e.z", "x2.z", "www.elsewhere"];
        let asked = ["a.z", "b.a.z", "c.b.a.z", "x1.z", "x2.z", "x2y.z", "e.z", "f.z", "q.z", "out.y", "z"];
        let mut index = Index::new(vec![Zone::new(name("z"), name("ns.z"))]);
        let mut state = 0x5eed_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let (mut kept, mut differed) = (0, 0);
        for _ in 0..ROUNDS {
            let before: Vec<_> = asked
                .map(|asked| {
                    let mut marks = Marks::default();
                    (answer(&index, asked, &mut marks), marks)
                })
                .into();
            let generation = index.changes().generation;
            let entry = |random: &mut dyn FnMut(usize) -> usize| {
                let name = name(names[random(names.len())]);
                if random(8) == 0 { Entry::bare(&name) } else { Entry::new(&name, data(values[random(values.len())])) }
            };
            let entries = (0..random(4)).map(|_| entry(&mut random)).collect();
            index.set(Unit::new("Test", "", random(6).to_string()), entries);
            for (asked, (before, marks)) in asked.iter().zip(&before) {
                let after = answer(&index, asked, &mut Marks::default());
                let touched = index.changes().touched(marks, generation);
                assert!(touched || after == *before, "{asked}: {before:?}, then {after:?}");
                kept += usize::from(!touched);
                differed += usize::from(after != *before);
            }
        }
        assert!(differed > ROUNDS / 5, "{differed} differed");
        assert!(kept > ROUNDS * asked.len() / 2, "{kept} kept");
    }

    #[test]
    fn what_units_say_is_counted_however_often_it_changes() {
        let mut index = Index::new(vec![Zone::new(name("z"), name("ns.z"))]);
        let empty = index.len();
        let entries = |hosts: &[u8]| -> Vec<Entry> {
            hosts
                .iter()
                .flat_map(|host| {
                    [Entry::new(&name("s.z"), data(&format!("10.0.0.{host}"))), Entry::bare(&name("h.s.z"))]
                })
                .collect()
        };
        let unit = |number: u8| Unit::new("Test", "", number.to_string());
        // Twice the same, moved, other order, fewer.
        for hosts in [&[1, 2, 3, 3][..], &[3, 2, 1], &[0, 3, 9, 2, 1], &[9], &[9]] {
            index.set(unit(1), entries(hosts));
            index.set(unit(2), entries(&[9]));
            let Found::Ours(answer) = index.answer(&name("s.z"), RecordType::A) else { panic!("ours") };
            let mut expected: Vec<u8> = [hosts, &[9]].concat();
            expected.sort_unstable();
            expected.dedup();
            let got: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(got, expected.iter().map(|host| format!("10.0.0.{host}")).collect::<Vec<_>>());
        }
        index.set(unit(1), Vec::new());
        index.set(unit(2), Vec::new());
        assert_eq!(index.len(), empty);
    }
}
