//! From a decoded request to a reply.

use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::server::Request;

use super::encode::Reply;
use super::forward::{Forwarder, Turn};
use crate::{Answer, Found, Shared};

/// Knows our records and whom to ask about others.
#[derive(Debug)]
pub(super) struct Replier {
    pub(super) index: Shared,
    forwarder: Forwarder,
}

/// A reply, or what it takes to get one.
#[derive(Debug)]
pub(super) enum Decision {
    Now(Reply),
    Ask(Question),
}

/// What others have to be asked.
#[derive(Debug)]
pub(super) struct Question {
    name: Name,
    wanted: RecordType,
    /// What we know ourselves: the beginning of a chain of aliases.
    begun: Vec<Record>,
    /// Counts it against its client while it is under way.
    _turn: Turn,
}

// === impl Replier ===

impl Replier {
    pub(super) fn new(index: Shared, forwarder: Forwarder) -> Self {
        Self { index, forwarder }
    }

    /// Replies from what is here, or says what has to be asked.
    pub(super) fn decide(&self, request: &Request) -> Decision {
        let recursive = self.forwarder.is_there();
        let code = |code| Decision::Now(Reply::code(code, recursive));
        if request.metadata.op_code != OpCode::Query {
            return code(ResponseCode::NotImp);
        }
        if request.version() > 0 {
            return code(ResponseCode::BADVERS);
        }
        let [query] = request.queries.queries() else { return code(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN {
            return code(ResponseCode::Refused);
        }
        let (name, wanted) = (Name::from(query.name()), query.query_type());
        match wanted {
            // Nobody has a copy of these zones, so nobody needs to transfer one.
            RecordType::AXFR | RecordType::IXFR => return code(ResponseCode::Refused),
            RecordType::OPT | RecordType::ZERO | RecordType::TSIG => return code(ResponseCode::FormErr),
            _ => {}
        }
        let (name, begun) = match self.index.read().answer(&name, wanted) {
            Found::Ours(Answer { elsewhere: Some(name), answers, .. }) => (name, answers),
            Found::Ours(answer) => return Decision::Now(ours(answer, recursive)),
            Found::Elsewhere => (name, Vec::new()),
        };
        if !recursive || !request.metadata.recursion_desired {
            let code = if begun.is_empty() { ResponseCode::Refused } else { ResponseCode::NoError };
            let authoritative = !begun.is_empty();
            return Decision::Now(Reply { answers: begun, authoritative, ..Reply::code(code, recursive) });
        }
        match self.forwarder.turn(request.src().ip()) {
            Some(turn) => Decision::Ask(Question { name, wanted, begun, _turn: turn }),
            None => code(ResponseCode::ServFail),
        }
    }

    /// Asks.
    pub(super) async fn ask(&self, question: Question) -> Reply {
        let told = self.forwarder.ask(question.name.clone(), question.wanted).await;
        let mut reply = Reply::code(told.code, true);
        // The alias is ours, whatever it leads to.
        reply.authoritative = !question.begun.is_empty();
        reply.answers = question.begun;
        reply.answers.extend(told.answers);
        reply.authorities = told.authorities;
        reply
    }
}

fn ours(answer: Answer, recursive: bool) -> Reply {
    Reply {
        code: answer.code,
        authoritative: true,
        recursive,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: answer.additionals,
    }
}
