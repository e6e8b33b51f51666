//! What counters in rules have counted.

use std::collections::BTreeMap;

use switchyard_netstate::Place;
use switchyard_netstate::nft::TableRef;

use crate::netlink::{Attributes, Family};
use crate::nft::message::{family, message};
use crate::places::io_error;
use crate::{Engine, Error, sys};

/// What a chain's counters have counted together since the chain was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Engine {
    /// Counters of all chains of a table that have any, by the chains' names. A table that is not there has none.
    pub fn counters(&mut self, place: &Place, table: &TableRef) -> Result<BTreeMap<String, Counters>, Error> {
        let failed = |source| io_error(place, "read counters", source);
        let connection = self.places.connection(place, Family::Netfilter, self.owner.protocol)?;
        let mut request = message(sys::NFT_MSG_GETRULE, 0, family(table.family));
        request.text(sys::NFTA_RULE_TABLE, &table.name);
        let mut found: BTreeMap<String, Counters> = BTreeMap::new();
        let fresh = std::cell::Cell::new(false);
        let outcome = connection.dump(
            &request,
            || fresh.set(true),
            |_, payload| {
                if fresh.take() {
                    found.clear();
                }
                let rule = Attributes::after(payload, 4);
                let Some(chain) = rule.text(sys::NFTA_RULE_CHAIN) else { return };
                if rule.text(sys::NFTA_RULE_TABLE).as_deref() != Some(&table.name) {
                    return;
                }
                for (_, expression) in rule.nest(sys::NFTA_RULE_EXPRESSIONS) {
                    let expression = Attributes(expression);
                    if expression.text(sys::NFTA_EXPR_NAME).as_deref() == Some("counter") {
                        let data = expression.nest(sys::NFTA_EXPR_DATA);
                        let number = |kind| {
                            let bytes = data.get(kind).and_then(|bytes| bytes.try_into().ok());
                            bytes.map_or(0, u64::from_be_bytes)
                        };
                        let counters = found.entry(chain.clone()).or_default();
                        counters.packets += number(sys::NFTA_COUNTER_PACKETS);
                        counters.bytes += number(sys::NFTA_COUNTER_BYTES);
                    }
                }
            },
        );
        match outcome.map_err(failed)? {
            Ok(()) => Ok(found),
            Err(refusal) if refusal.errno == libc::ENOENT => Ok(BTreeMap::new()),
            Err(refusal) => Err(failed(std::io::Error::from_raw_os_error(refusal.errno))),
        }
    }
}
