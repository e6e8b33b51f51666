//! From a question to an answer, by RFC 1034 section 4.3.2 without delegations, and RFC 2308 for what is not there.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use super::{Counted, Index, Marks, Node};
use crate::{Data, TTL, Zone};

/// An answer from our own records.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// No error, or no such name.
    pub code: ResponseCode,
    /// The answer section. What is from one set stands together; chains of aliases are in order.
    pub answers: Vec<Record>,
    /// The start of authority, if there is nothing to answer.
    pub authorities: Vec<Record>,
    /// Addresses of hosts that the answer names.
    pub additionals: Vec<Record>,
    /// An alias led here, out of our zones: somebody else has to be asked.
    pub elsewhere: Option<Name>,
}

/// What came of a look-up.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// It is for us to say.
    Ours(Answer),
    /// The name is in none of our zones.
    Elsewhere,
}

/// Longest chain of aliases that is followed.
const ALIASES_MAX: usize = 8;
/// Most hosts whose addresses are added to an answer.
const ADDITIONALS_MAX: usize = 16;

// === impl Index ===

impl Index {
    /// Answers for a name, given in any case, and a type.
    pub fn answer(&self, name: &Name, wanted: RecordType) -> Found {
        self.answer_noting(name, wanted, &mut Marks::default())
    }

    /// The same, and says which names were looked at: the answer holds as long as none of them changes. A start of authority that comes
    /// with an absence is of when the absence was found.
    pub(crate) fn answer_noting(&self, name: &Name, wanted: RecordType, marks: &mut Marks) -> Found {
        let mut answer = Answer {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            elsewhere: None,
        };
        let mut name = name.clone();
        for hop in 0..ALIASES_MAX {
            let lower = LowerName::new(&name);
            let found = self.find(&lower, marks);
            let Some(zone) = self.zone_of(&lower) else {
                // Addresses outside of our own prefixes have names too, but whoever else is asked knows more of them.
                if let Some(Match::Data(data)) = found
                    && !data.is_empty()
                {
                    push(&mut answer.answers, &name, data, wanted);
                    return Found::Ours(answer);
                }
                if hop == 0 {
                    return Found::Elsewhere;
                }
                answer.elsewhere = Some(name);
                return Found::Ours(answer);
            };
            if wanted == RecordType::SOA && lower == zone.lower {
                *marks = Marks::ALL;
                answer.answers.push(zone.soa(self.serial()));
                return Found::Ours(answer);
            }
            let Some(found) = found else {
                // RFC 6604: the code speaks of the end of the chain.
                answer.code = ResponseCode::NXDomain;
                return Found::Ours(self.nothing(zone, answer));
            };
            let Match::Data(data) = found else { return Found::Ours(self.nothing(zone, answer)) };
            if wanted == RecordType::ANY && !data.is_empty() {
                // RFC 8482: nobody needs everything, and amplifiers want it.
                let refusal = HINFO::new("RFC8482".into(), String::new());
                answer.answers.push(Record::from_rdata(name, TTL, RData::HINFO(refusal)));
                return Found::Ours(answer);
            }
            if let Some(Data::Cname(target)) = alias(data).filter(|_| wanted != RecordType::CNAME) {
                push(&mut answer.answers, &name, data, RecordType::CNAME);
                name = target.clone();
                continue;
            }
            let before = answer.answers.len();
            push(&mut answer.answers, &name, data, wanted);
            if answer.answers.len() == before {
                return Found::Ours(self.nothing(zone, answer));
            }
            self.add_hosts(data, wanted, &mut answer.additionals, marks);
            return Found::Ours(answer);
        }
        answer.code = ResponseCode::ServFail;
        Found::Ours(answer)
    }

    /// The innermost zone around a name.
    fn zone_of(&self, name: &LowerName) -> Option<&Zone> {
        let around = self.zones.iter().filter(|zone| zone.lower.zone_of(name));
        around.max_by_key(|zone| zone.lower.num_labels())
    }

    fn find(&self, name: &LowerName, marks: &mut Marks) -> Option<Match<'_>> {
        self.changes.note(name, marks);
        if let Some(node) = self.names.get(name) {
            return Some(if node.data.is_empty() { Match::Bare } else { Match::Data(&node.data) });
        }
        let above = name.base_name();
        self.changes.note(&above, marks);
        let above: &Node = self.names.get(&above).filter(|above| !above.globs.is_empty())?;
        let plain: &Name = name;
        let label = plain.iter().next()?;
        above.globs.iter().find(|(glob, _)| glob.matches(label)).map(|(_, data)| Match::Data(data))
    }

    fn nothing(&self, zone: &Zone, mut answer: Answer) -> Answer {
        answer.authorities.push(zone.soa(self.serial()));
        answer
    }

    fn add_hosts(&self, data: &Counted, wanted: RecordType, additionals: &mut Vec<Record>, marks: &mut Marks) {
        let targets = data.keys().filter_map(|data| match data {
            Data::Srv { target, .. } if wanted == RecordType::SRV => Some(target),
            Data::Ns(target) if wanted == RecordType::NS => Some(target),
            _ => None,
        });
        let mut targets: Vec<_> = targets.collect();
        targets.sort_unstable();
        targets.dedup();
        for target in targets.into_iter().take(ADDITIONALS_MAX) {
            if let Some(Match::Data(data)) = self.find(&LowerName::new(target), marks) {
                push(additionals, target, data, RecordType::A);
                push(additionals, target, data, RecordType::AAAA);
            }
        }
    }
}

/// What a name led to.
enum Match<'a> {
    /// Records, of whatever type.
    Data(&'a Counted),
    /// There are names below it only.
    Bare,
}

fn alias(data: &Counted) -> Option<&Data> {
    data.keys().find(|data| matches!(data, Data::Cname(_)))
}

fn push(into: &mut Vec<Record>, name: &Name, data: &Counted, wanted: RecordType) {
    let matching = || data.keys().filter(|data| data.record_type() == wanted);
    // Only SRV has a weight: each host's part of a hundred.
    let weight = (100 / matching().count().max(1)).max(1) as u16;
    into.extend(matching().map(|data| Record::from_rdata(name.clone(), TTL, data.rdata(weight))));
}
