//! Packets to the world outside take the node's address.

use ipnet::IpNet;
use switchyard_netstate::Object;
use switchyard_netstate::nft::{
    Base, Chain, ChainType, Expr, Family, Hook, Op, Operand, Policy, Rule, Statement, Table, TableRef, Verdict,
};

const TABLE: &str = "yard-masquerade";
/// Just after the source translation of Services (100), which decides first.
const PRIORITY: i32 = 105;

/// The table that masquerades packets from `pods` to anywhere but `inside`. Only the first packet of a connection comes here, so a
/// rule for each of a handful of prefixes is no price.
pub(super) fn table(pods: IpNet, inside: &[IpNet]) -> [Object; 2] {
    let (family, source, destination) = match pods {
        IpNet::V4(_) => (Family::Ip, Expr::IpSaddr, Expr::IpDaddr),
        IpNet::V6(_) => (Family::Ip6, Expr::Ip6Saddr, Expr::Ip6Daddr),
    };
    let table = TableRef::new(family, TABLE);
    let same_family = inside.iter().filter(|net| net.addr().is_ipv4() == pods.addr().is_ipv4());
    let mut rules: Vec<Rule> = same_family
        .map(|net| Rule(vec![prefix(destination.clone(), *net), Statement::Verdict(Verdict::Return)]))
        .collect();
    rules.push(Rule(vec![prefix(source, pods), Statement::Masquerade { fully_random: true }]));
    let base =
        Base { kind: ChainType::Nat, hook: Hook::Postrouting, priority: PRIORITY, policy: Policy::Accept, dev: None };
    let chain = Chain { table: table.clone(), name: "postrouting".into(), base: Some(base), rules };
    [Object::Table(Table { table }), Object::Chain(chain)]
}

fn prefix(left: Expr, net: IpNet) -> Statement {
    Statement::Match { left, op: Op::Eq, right: Operand::Prefix(net.trunc()) }
}
