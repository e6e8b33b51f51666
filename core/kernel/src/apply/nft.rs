//! nftables: one transaction for each group, looked at again if the kernel knows better.

use std::collections::BTreeMap;

use switchyard_netstate::nft::{Table, TableRef};
use switchyard_netstate::{Change, Key, Object, Op, Place};

use super::Run;
use crate::Error;
use crate::netlink::Family;
use crate::nft::batch::{Context, Failure, Transaction, table_of};
use crate::places::io_error;
use crate::read::{Class, Truth, Verdict};

impl Run<'_> {
    pub(super) fn nft(&mut self, ops: &[&Op]) -> Result<(), Error> {
        let place = &ops[0].place;
        let mut anew = BTreeMap::new();
        for ((at, table), there) in &self.anew {
            if at == place {
                anew.insert(table.clone(), *there);
            }
        }
        for op in ops {
            if let Change::Replace(Object::Set(set), _) = &op.change {
                anew.entry(set.table.clone()).or_insert(true);
            }
        }
        let mut begun = false;
        let outcome = self.nft_as_it_is(place, ops, anew, &mut begun);
        if outcome.is_ok() || begun {
            self.done.extend(ops.iter().map(|op| (*op).clone()));
        }
        if outcome.is_err() && begun {
            // Nobody knows how much of it is there.
            self.disturbed.insert(place.clone());
        }
        outcome
    }

    fn nft_as_it_is(
        &mut self,
        place: &Place,
        ops: &[&Op],
        anew: BTreeMap<TableRef, bool>,
        begun: &mut bool,
    ) -> Result<(), Error> {
        match self.transact(place, ops, &anew, begun) {
            Err(Failure::Refused(_, refusal)) if [libc::ENOENT, libc::EEXIST, libc::EBUSY].contains(&refusal.errno) => {
                tracing::debug!(%place, %refusal, "nftables are not as remembered");
                let (left, anew) = self.nft_truth(place, ops, anew)?;
                let left: Vec<&Op> = left.iter().collect();
                let outcome = self.transact(place, &left, &anew, begun);
                outcome.map_err(|failure| self.nft_error(place, &left, failure))
            }
            outcome => outcome.map_err(|failure| self.nft_error(place, ops, failure)),
        }
    }

    fn transact(
        &mut self,
        place: &Place,
        ops: &[&Op],
        anew: &BTreeMap<TableRef, bool>,
        begun: &mut bool,
    ) -> Result<(), Failure> {
        let (view, owner) = (&self.view, self.owner);
        let set = |table: &TableRef, name: &str| view.set(place, table, name);
        let content = |table: &TableRef| view.content(place, table);
        let context = Context { owner, set: &set, content: &content, anew };
        let transaction = Transaction::of(ops, &context)?;
        let unusable = |error: Error| match error {
            Error::Io { source, .. } => Failure::Io(source),
            other => Failure::Io(std::io::Error::other(other.to_string())),
        };
        let connection = self.places.connection(place, Family::Netfilter, owner).map_err(unusable)?;
        let outcome = transaction.send(connection, begun);
        if matches!(outcome, Err(Failure::Io(_))) {
            self.places.reset(place);
        }
        outcome
    }

    /// What is left to do once one has looked: what is gone needs no removal, what is missing is made anew.
    fn nft_truth(
        &mut self,
        place: &Place,
        ops: &[&Op],
        mut anew: BTreeMap<TableRef, bool>,
    ) -> Result<(Vec<Op>, BTreeMap<TableRef, bool>), Error> {
        let truth = Truth::read(self.places, place, self.owner, &[Class::Nft])?;
        let set = |table: &TableRef, name: &str| self.view.set(place, table, name);
        let mut left = Vec::new();
        for op in ops {
            let object = op.object();
            let table = table_of(object).expect("only nftables objects come here");
            match truth.tables.get(table) {
                Some(found) if !found.owned => {
                    return Err(Error::Foreign {
                        place: place.clone(),
                        key: Box::new(Object::Table(Table { table: table.clone() }).key()),
                    });
                }
                None => {
                    let wanted = self.view.object(place, &Key::Table(table.clone())).is_some();
                    if wanted && !matches!(op.change, Change::Remove(_)) {
                        anew.insert(table.clone(), false);
                    } else {
                        anew.remove(table);
                    }
                    continue;
                }
                Some(_) => {}
            }
            let change = match (&op.change, truth.judge(object, self.owner, &set)) {
                (Change::Remove(_), Verdict::Missing) => continue,
                (Change::Remove(object), _) => Change::Remove(object.clone()),
                (_, Verdict::Missing) => Change::Add(object.clone()),
                (_, Verdict::Right { .. }) => continue,
                (_, Verdict::Wrong { found, .. }) => Change::Replace(*found, object.clone()),
            };
            left.push(Op { phase: op.phase, place: place.clone(), change });
        }
        Ok((left, anew))
    }

    fn nft_error(&self, place: &Place, ops: &[&Op], failure: Failure) -> Error {
        match failure {
            Failure::Malformed(number, reason) => {
                let key = ops.get(number).map_or_else(|| ops[0].object().key(), |op| op.object().key());
                Error::Invalid { place: place.clone(), key: Box::new(key), reason }
            }
            Failure::Refused(number, refusal) => match number.and_then(|number| ops.get(number)).or(ops.first()) {
                Some(op) => self.refused(op, refusal),
                None => io_error(place, "write nftables", std::io::Error::from_raw_os_error(refusal.errno)),
            },
            Failure::Io(source) => io_error(place, "write nftables", source),
        }
    }
}
