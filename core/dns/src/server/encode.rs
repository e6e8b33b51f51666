//! Answers as bytes, through hickory's encoder.

use hickory_proto::op::{Edns, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::server::Request;
use hickory_server::zone_handler::MessageResponseBuilder;

use super::wire::UDP_MAX;
use crate::index::Marks;

/// What to say.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) recursive: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
    /// Names that it is made of.
    pub(super) marks: Marks,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

fn is_cut(bytes: &[u8]) -> bool {
    bytes[2] & 0x02 != 0
}

/// Which of some orders is next, so that all of them come up equally often: also if only every other turn is theirs, as that of an
/// IPv4 address among questions for both kinds. Multiples of the golden ratio never fall into step with anything.
pub(super) fn spread(turn: usize, orders: usize) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let part = (turn as u64).wrapping_mul(GOLDEN) >> 32;
    ((part * orders as u64) >> 32) as usize
}

// === impl Reply ===

impl Reply {
    /// A code and nothing else.
    pub(super) fn code(code: ResponseCode, recursive: bool) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        let marks = Marks::default();
        Self { code, authoritative: false, recursive, answers, authorities, additionals, marks }
    }

    /// How many different orders there are: that of a chain of aliases stays, the set at its end may begin with each of its records.
    pub(super) fn orders(&self) -> usize {
        self.answers.len() - self.set()
    }

    /// The same, with the set beginning with another record.
    pub(super) fn turned(mut self, by: usize) -> Self {
        let set = self.set();
        self.answers[set..].rotate_left(by);
        self
    }

    /// Where the last set begins.
    fn set(&self) -> usize {
        let Some(last) = self.answers.last() else { return 0 };
        let is_of_it = |record: &&Record| record.record_type() == last.record_type() && record.name == last.name;
        self.answers.len() - self.answers.iter().rev().take_while(is_of_it).count()
    }

    /// As bytes. What does not fit a datagram is cut off and marked so; additional records are left out first, unmarked. Who speaks EDNS
    /// is answered in it, also where that takes an answer's place.
    pub(super) fn encode(&self, request: &Request, transport: Transport) -> Vec<u8> {
        let bytes = self.emit(request, transport, &self.answers, &self.additionals);
        if !is_cut(&bytes) {
            return bytes;
        }
        let bytes = self.emit(request, transport, &self.answers, &[]);
        let [answers, _, additionals] =
            [6, 8, 10].map(|at| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]])));
        if is_cut(&bytes) && request.edns.is_some() && additionals == 0 && answers > 0 {
            return self.emit(request, transport, &self.answers[..answers - 1], &[]);
        }
        bytes
    }

    fn emit(&self, request: &Request, transport: Transport, answers: &[Record], additionals: &[Record]) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = self.authoritative;
        metadata.recursion_available = self.recursive;
        metadata.response_code = self.code;
        metadata.truncation = answers.len() < self.answers.len();
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX).set_version(0).set_dnssec_ok(asked.flags().dnssec_ok);
            edns.set_rcode_high(self.code.high());
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response = builder.build(metadata, answers, &self.authorities, [], additionals);
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(match transport {
            Transport::Udp => request.max_payload().min(UDP_MAX),
            Transport::Tcp => u16::MAX,
        });
        match response.destructive_emit(&mut encoder) {
            Ok(_) => bytes,
            Err(error) => {
                tracing::debug!(%error, "an answer cannot be encoded");
                super::wire::refusal(request.as_slice(), ResponseCode::ServFail).to_vec()
            }
        }
    }
}
