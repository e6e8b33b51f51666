//! From a decoded request to a reply.

use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::server::Request;

use super::encode::{Reply, spread};
use super::forward::{Forwarder, Turn};
use crate::index::Marks;
use crate::{Answer, Found, Shared};

/// Knows our records and whom to ask about others.
#[derive(Debug)]
pub(super) struct Replier {
    pub(super) index: Shared,
    forwarder: Forwarder,
    turn: AtomicUsize,
}

/// A reply, or what it takes to get one.
#[derive(Debug)]
pub(super) enum Decision {
    Now(Reply),
    /// The same question may be replied to otherwise the next time, without any change: to somebody else, or later.
    Once(Reply),
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
        Self { index, forwarder, turn: AtomicUsize::new(0) }
    }

    /// The next turn of all answers.
    pub(super) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
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
        #[cfg(test)]
        super::tests::panic_if_fatal(&name);
        match wanted {
            // Nobody has a copy of these zones, so nobody needs to transfer one.
            RecordType::AXFR | RecordType::IXFR => return code(ResponseCode::Refused),
            RecordType::OPT | RecordType::ZERO | RecordType::TSIG => return code(ResponseCode::FormErr),
            _ => {}
        }
        let mut marks = Marks::default();
        let (name, begun) = match self.index.read().answer_noting(&name, wanted, &mut marks) {
            Found::Ours(Answer { elsewhere: Some(name), answers, .. }) => (name, answers),
            Found::Ours(answer) => return Decision::Now(ours(answer, recursive, marks)),
            Found::Elsewhere => (name, Vec::new()),
        };
        if !recursive || !request.metadata.recursion_desired {
            let code = if begun.is_empty() { ResponseCode::Refused } else { ResponseCode::NoError };
            let authoritative = !begun.is_empty();
            // Who desires recursion is told more, if there is somebody to ask.
            let decision = if recursive { Decision::Once } else { Decision::Now };
            return decision(Reply { answers: begun, authoritative, marks, ..Reply::code(code, recursive) });
        }
        match self.forwarder.turn(request.src().ip()) {
            Some(turn) => Decision::Ask(Question { name, wanted, begun, _turn: turn }),
            None => Decision::Once(Reply::code(ResponseCode::ServFail, recursive)),
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
        let by = spread(self.turn(), reply.orders());
        reply.turned(by)
    }
}

fn ours(answer: Answer, recursive: bool, marks: Marks) -> Reply {
    Reply {
        code: answer.code,
        authoritative: true,
        recursive,
        answers: answer.answers,
        authorities: answer.authorities,
        additionals: answer.additionals,
        marks,
    }
}
