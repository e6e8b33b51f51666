//! The first look at a message: nothing is allocated, nothing is followed.

use hickory_proto::op::ResponseCode;

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// Largest query taken. A question has at most 259 bytes; the rest is for EDNS options and padding.
pub(super) const QUERY_MAX: usize = 2048;
/// Largest UDP answer, whatever the client says it can take: fragments get lost, and amplifiers want them (DNS flag day 2020).
pub(super) const UDP_MAX: u16 = 1232;
/// Largest UDP answer for a client that says nothing (RFC 1035).
const UDP_PLAIN: u16 = 512;
const NAME_MAX: usize = 255;
const OPT: u16 = 41;

/// What to do with a message.
#[derive(Debug, PartialEq)]
pub(super) enum Look<'a> {
    /// A question like most.
    Plain(Plain<'a>),
    /// To be decoded in full.
    Decode,
    /// To be answered with a code and nothing else.
    Refuse(ResponseCode),
    /// To be dropped: shorter than a header, or an answer (answering answers makes loops).
    Drop,
}

/// One question of class IN, with EDNS version 0 or without.
#[derive(Debug, PartialEq)]
pub(super) struct Plain<'a> {
    /// Name, type and class, as sent.
    pub(super) question: &'a [u8],
    /// Largest answer over UDP, and whether EDNS is spoken, and whether DNSSEC was asked for.
    pub(super) limit: u16,
    pub(super) edns: bool,
    pub(super) dnssec_ok: bool,
}

/// Looks at a message.
pub(super) fn look(message: &[u8]) -> Look<'_> {
    if message.len() < HEADER || message[2] & 0x80 != 0 {
        return Look::Drop;
    }
    let count = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (questions, answers, authorities, additionals) = (count(4), count(6), count(8), count(10));
    if (message[2] >> 3) & 0x0f != 0 {
        return Look::Refuse(ResponseCode::NotImp);
    }
    // RFC 9619: one question. A query has no answers; IXFR alone brings an authority; OPT and a signature at most come besides.
    if questions != 1 || answers != 0 || authorities > 1 || additionals > 2 || message.len() > QUERY_MAX {
        return Look::Refuse(ResponseCode::FormErr);
    }
    let end = match question_end(message) {
        Ok(end) => end,
        Err(look) => return look,
    };
    if authorities != 0 || additionals > 1 || message[2] & 0x02 != 0 {
        return Look::Decode;
    }
    let question = &message[HEADER..end];
    if question[question.len() - 2..] != [0, 1] {
        return Look::Decode;
    }
    let rest = &message[end..];
    let plain = Plain { question, limit: UDP_PLAIN, edns: false, dnssec_ok: false };
    match (additionals, rest) {
        (0, []) => Look::Plain(plain),
        // Root, OPT, size, extended code 0, version 0, flags, length of options.
        (1, [0, kind1, kind2, size1, size2, 0, 0, flags, _, length1, length2, options @ ..])
            if u16::from_be_bytes([*kind1, *kind2]) == OPT
                && usize::from(u16::from_be_bytes([*length1, *length2])) == options.len() =>
        {
            let limit = u16::from_be_bytes([*size1, *size2]).clamp(UDP_PLAIN, UDP_MAX);
            Look::Plain(Plain { limit, edns: true, dnssec_ok: flags & 0x80 != 0, ..plain })
        }
        _ => Look::Decode,
    }
}

/// Where the question ends, if its name is written out in full; or what to do instead.
fn question_end(message: &[u8]) -> Result<usize, Look<'static>> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at).ok_or(Look::Decode)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => at += length,
            // Compression points backwards, and before the question there is only the header: a name that is another one in the
            // answer, whose header differs.
            0xc0.. => return Err(Look::Refuse(ResponseCode::FormErr)),
            _ => return Err(Look::Decode),
        }
        if at - HEADER >= NAME_MAX {
            return Err(Look::Decode);
        }
    }
    let end = at + 4;
    if end <= message.len() { Ok(end) } else { Err(Look::Decode) }
}

/// A code and nothing else, for a message of which only the header was read.
pub(super) fn refusal(message: &[u8], code: ResponseCode) -> [u8; HEADER] {
    let mut answer = [0; HEADER];
    answer[..2].copy_from_slice(&message[..2]);
    // QR, the opcode and RD as they came.
    answer[2] = 0x80 | message[2] & 0x79;
    answer[3] = code.low() & 0x0f;
    answer
}
