//! Headers, names and user data of nf_tables messages.

use switchyard_netstate::nft::{Family, TableRef};

use crate::netlink::Message;
use crate::sys;

/// A number for NFPROTO_*.
pub(crate) fn family(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Arp => 3,
        Family::Netdev => 5,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

/// The family with this number.
pub(crate) fn family_of(number: u8) -> Option<Family> {
    [Family::Inet, Family::Ip, Family::Arp, Family::Netdev, Family::Bridge, Family::Ip6]
        .into_iter()
        .find(|one| family(*one) == number)
}

/// A message of the nf_tables subsystem. `number` is a [`family`], or 0 for all.
pub(crate) fn message(kind: u16, flags: u16, number: u8) -> Message {
    Message::new(sys::NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &[number, sys::NFNETLINK_V0, 0, 0])
}

/// The begin or end of a transaction.
pub(crate) fn bracket(kind: u16) -> Message {
    let [high, low] = sys::NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Message::new(kind, sys::NLM_F_REQUEST, &[0, sys::NFNETLINK_V0, high, low])
}

/// Makes a table that carries its owner.
pub(crate) fn new_table(table: &TableRef, owner: u8) -> Message {
    let mut message = message(sys::NFT_MSG_NEWTABLE, sys::NLM_F_CREATE | sys::NLM_F_EXCL, family(table.family));
    message
        .text(sys::NFTA_TABLE_NAME, &table.name)
        .be32(sys::NFTA_TABLE_FLAGS, 0)
        .attr(sys::NFTA_TABLE_USERDATA, &user_data(COMMENT, owner_tag(owner).as_bytes()));
    message
}

/// Takes a table and all that is in it away.
pub(crate) fn delete_table(table: &TableRef) -> Message {
    let mut message = message(sys::NFT_MSG_DELTABLE, 0, family(table.family));
    message.text(sys::NFTA_TABLE_NAME, &table.name);
    message
}

/// What the comment of a table of this owner says.
pub(crate) fn owner_tag(owner: u8) -> String {
    format!("switchyard {owner}\0")
}

/// The user data type that nft(8) shows as a comment.
pub(crate) const COMMENT: u8 = 0;
/// A user data type that nft(8) passes over: a rule's digest.
pub(crate) const DIGEST: u8 = 0x59;

/// One entry of user data: type, length, value.
pub(crate) fn user_data(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).expect("our entries are short")];
    bytes.extend_from_slice(value);
    bytes
}

/// The value of the first entry of this type.
pub(crate) fn user_entry(mut bytes: &[u8], kind: u8) -> Option<&[u8]> {
    while let [found, length, rest @ ..] = bytes {
        let value = rest.get(..usize::from(*length))?;
        if *found == kind {
            return Some(value);
        }
        bytes = &rest[value.len()..];
    }
    None
}
