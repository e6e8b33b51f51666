//! What is true of every answer, whatever was asked. The fuzz target and the tests come in here.

use hickory_proto::op::Message;
use switchyard_dns::{Answering, Shared};

const HEADER: usize = 12;
/// Largest datagram, and largest answer over a connection.
const DATAGRAM_MAX: usize = 1232;
const MESSAGE_MAX: usize = 65535;

/// Sends bytes, as a datagram twice (the second answer comes from memory) and over a connection.
pub(crate) fn harmless(records: &Shared, bytes: &[u8]) {
    let mut answering = Answering::new(records.clone());
    let (mut first, mut again) = (Vec::new(), Vec::new());
    answering.datagram(bytes, &mut first);
    answering.datagram(bytes, &mut again);
    let message = answering.message(bytes).unwrap_or_default();
    let dropped = bytes.len() < HEADER || bytes[2] & 0x80 != 0;
    for (answer, most) in [(&first, DATAGRAM_MAX), (&again, DATAGRAM_MAX), (&message, MESSAGE_MAX)] {
        assert_eq!(answer.is_empty(), dropped, "{bytes:02x?}: {answer:02x?}");
        if !dropped {
            sound(bytes, answer, most);
        }
    }
    // Sets come in another order, and with that a little shorter or longer; all else stays.
    assert_eq!(code(&first), code(&again), "{bytes:02x?}");
}

fn sound(bytes: &[u8], answer: &[u8], most: usize) {
    assert!((HEADER..=most).contains(&answer.len()), "{bytes:02x?}: {} bytes", answer.len());
    assert_eq!(answer[..2], bytes[..2], "the asker's id: {bytes:02x?}: {answer:02x?}");
    assert_eq!(answer[2] & 0xf8, 0x80 | bytes[2] & 0x78, "an answer to this operation: {bytes:02x?}: {answer:02x?}");
    // A refusal is a header that counts nothing.
    if answer.len() == HEADER {
        assert_eq!(answer[4..], [0; 8], "{bytes:02x?}: {answer:02x?}");
        return;
    }
    let told = Message::from_vec(answer).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}: {answer:02x?}"));
    let asked = Message::from_vec(bytes).unwrap_or_else(|error| panic!("{error}, and yet answered: {bytes:02x?}"));
    assert_eq!(told.queries, asked.queries, "{bytes:02x?}");
}

fn code(answer: &[u8]) -> Option<u8> {
    answer.get(3).map(|flags| flags & 0x0f)
}
