//! One message in, one answer out, whatever socket it came by.

use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use hickory_net::xfer::Protocol;
use hickory_proto::op::ResponseCode;
use hickory_server::server::Request;

use super::answers::{Answers, Key, Made, VARIANTS_MAX};
use super::encode::{Transport, spread};
use super::forward::Forwarder;
use super::reply::{Decision, Question, Replier};
use super::supervise::reason;
use super::wire::{self, Look};
use crate::Shared;

/// Answers messages without a socket, from its own records only: the path of every message, for whoever measures or attacks it.
#[derive(Debug)]
pub struct Answering {
    replier: Replier,
    given: Answers,
}

/// A request that others have to be asked about before it can be answered.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) question: Question,
}

/// What came of a datagram.
pub(super) enum Outcome {
    /// An answer was written, or nothing, if it gets none.
    Written,
    /// Others have to be asked first.
    Ask(Box<Asked>),
    /// Its answer is that there is none.
    Panicked,
}

/// Who asks when nobody does.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Answers a datagram. If that panics, it is told so, and nobody else notices.
pub(super) fn datagram(
    replier: &Replier,
    given: &mut Answers,
    query: &[u8],
    from: SocketAddr,
    out: &mut Vec<u8>,
) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| write(replier, given, query, from, out))) {
        Ok(None) => Outcome::Written,
        Ok(Some(asked)) => Outcome::Ask(asked),
        Err(panic) => {
            tracing::error!(panic = reason(&*panic), %from, ?query, "a message that cannot be answered");
            // They may be halfway to something.
            *given = Answers::default();
            out.clear();
            out.extend_from_slice(&wire::refusal(query, ResponseCode::ServFail));
            Outcome::Panicked
        }
    }
}

/// Writes the answer to a datagram; nothing if it gets none. Gives what has to be asked first.
fn write(
    replier: &Replier,
    given: &mut Answers,
    query: &[u8],
    from: SocketAddr,
    out: &mut Vec<u8>,
) -> Option<Box<Asked>> {
    let (key, turn) = match wire::look(query) {
        Look::Drop => return None,
        Look::Refuse(code) => {
            out.extend_from_slice(&wire::refusal(query, code));
            return None;
        }
        Look::Plain(plain) => {
            let key = Key::of(&plain);
            match given.write(&key, query, &plain, out) {
                Ok(()) => return None,
                Err(turn) => (Some(key), turn),
            }
        }
        Look::Decode => (None, None),
    };
    let Ok(request) = Request::from_bytes(query.to_vec(), from, Protocol::Udp) else {
        out.extend_from_slice(&wire::refusal(query, ResponseCode::FormErr));
        return None;
    };
    match replier.decide(&request) {
        Decision::Now(reply) => {
            let turn = turn.unwrap_or_else(|| replier.turn());
            let made = Made { orders: reply.orders(), turn, marks: reply.marks };
            *out = reply.turned(order(&made)).encode(&request, Transport::Udp);
            if let Some(key) = key {
                given.keep(&key, out, made);
            }
            None
        }
        Decision::Once(reply) => {
            *out = reply.encode(&request, Transport::Udp);
            None
        }
        Decision::Ask(question) => Some(Box::new(Asked { request, question })),
    }
}

/// The answer to a message of a connection, none if it gets none; or what has to be asked first.
pub(super) fn message(replier: &Replier, query: &[u8], from: SocketAddr) -> Result<Option<Vec<u8>>, Box<Asked>> {
    match wire::look(query) {
        Look::Drop => return Ok(None),
        Look::Refuse(code) => return Ok(Some(wire::refusal(query, code).into())),
        Look::Plain(_) | Look::Decode => {}
    }
    let Ok(request) = Request::from_bytes(query.to_vec(), from, Protocol::Tcp) else {
        return Ok(Some(wire::refusal(query, ResponseCode::FormErr).into()));
    };
    match replier.decide(&request) {
        Decision::Now(reply) | Decision::Once(reply) => {
            let by = spread(replier.turn(), reply.orders());
            Ok(Some(reply.turned(by).encode(&request, Transport::Tcp)))
        }
        Decision::Ask(question) => Err(Box::new(Asked { request, question })),
    }
}

/// All orders one after another if all are kept, and else those that are far from each other, as fewer are kept at a time.
fn order(made: &Made) -> usize {
    if made.orders <= VARIANTS_MAX { made.turn % made.orders.max(1) } else { spread(made.turn, made.orders) }
}

// === impl Answering ===

impl Answering {
    /// Answers from these records; other names are refused.
    pub fn new(index: Shared) -> Self {
        Self { replier: Replier::new(index, Forwarder::nobody()), given: Answers::default() }
    }

    /// Writes what a datagram is answered in place of what is in `out`; nothing if it is dropped.
    pub fn datagram(&mut self, query: &[u8], out: &mut Vec<u8>) {
        out.clear();
        self.given.at(self.replier.index.read().changes());
        let asked = write(&self.replier, &mut self.given, query, NOBODY, out);
        debug_assert!(asked.is_none(), "there is nobody to ask");
    }

    /// What a message of a connection is answered; none: the connection is closed.
    pub fn message(&self, query: &[u8]) -> Option<Vec<u8>> {
        message(&self.replier, query, NOBODY).unwrap_or_else(|_| unreachable!("there is nobody to ask"))
    }
}
