use serde_json::json;

use super::*;

fn spec(json: Value) -> SecurityPolicySpec {
    serde_json::from_value(json).unwrap()
}

fn nobody(_: &str) -> Option<&'static GroupSpec> {
    None
}

fn shape(policy: &Policy) -> (&str, Direction, usize, usize) {
    (&policy.name, policy.rules[0].direction, policy.subjects.len(), policy.rules[0].peers.len())
}

#[test]
fn a_rule_is_judged_at_both_ends_where_there_are_pods() {
    let pods = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
    let block = json!({"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.9/32"]}});
    let spec = spec(json!({"tier": "Environment", "rules": [
        {"name": "both", "sources": [pods("a")], "destinations": [pods("b"), pods("c")], "action": "Allow",
         "ports": [{"port": 80}, {"protocol": "UDP", "port": 1, "endPort": 9}, {"port": "web"}]},
        {"name": "out", "sources": [pods("a")], "destinations": [block], "action": "Reject"},
        {"name": "all", "action": "Drop"},
    ]}));
    let translated = spec.translate("p", nobody).unwrap();
    assert_eq!(
        translated.policies.iter().map(shape).collect::<Vec<_>>(),
        [
            ("securitypolicy/p 0000 out", Direction::Egress, 1, 2),
            ("securitypolicy/p 0000 in", Direction::Ingress, 2, 1),
            ("securitypolicy/p 0001 out", Direction::Egress, 1, 1),
            ("securitypolicy/p 0002 out", Direction::Egress, 1, 0),
            ("securitypolicy/p 0002 in", Direction::Ingress, 1, 0),
        ]
    );
    let first = &translated.policies[0];
    assert_eq!((first.tier, first.priority, first.rules[0].ports.len()), (Tier::Environment, 100, 3));
    assert_eq!(first.rules[0].counter.as_deref(), Some("p/both/out"));
    assert_eq!(translated.policies[2].rules[0].action, Action::Reject);
}

#[test]
fn groups_are_looked_up_and_one_that_is_missing_means_nobody() {
    let web: GroupSpec = serde_json::from_value(json!({"members": [
        {"podSelector": {"matchLabels": {"app": "web"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}},
    ]}))
    .unwrap();
    let spec = spec(json!({"tier": "Emergency", "priority": 7, "rules": [
        {"name": "known", "sources": [{"group": "web"}], "action": "Drop"},
        {"name": "unknown", "sources": [{"group": "gone"}], "action": "Drop"},
    ]}));
    let translated = spec.translate("p", |name| (name == "web").then_some(&web)).unwrap();
    assert_eq!(translated.missing, BTreeSet::from(["gone".to_owned()]));
    assert_eq!(
        translated.policies.iter().map(shape).collect::<Vec<_>>(),
        [
            ("securitypolicy/p 0000 out", Direction::Egress, 1, 0),
            ("securitypolicy/p 0000 in", Direction::Ingress, 1, 2)
        ],
        "a rule for nobody is not one for everybody"
    );
}

#[test]
fn policies_of_one_priority_are_in_the_order_of_their_names() {
    let spec = spec(json!({"tier": "Environment", "rules": [{"name": "all", "action": "Drop"}]}));
    let names = ["shop", "shop-2", "shop.eu", "shops"];
    let models: Vec<String> =
        names.iter().flat_map(|name| spec.translate(name, nobody).unwrap().policies).map(|one| one.name).collect();
    let in_order: BTreeSet<String> = models.iter().cloned().collect();
    let of = |name: &String| name.split('/').nth(1).unwrap().split([' ', '/']).next().unwrap().to_owned();
    assert_eq!(in_order.iter().map(of).collect::<Vec<_>>(), models.iter().map(of).collect::<Vec<_>>());
}

#[test]
fn bad_input_gives_one_clear_error() {
    let rule = |rule: Value| json!({"tier": "Application", "rules": [rule]});
    let party = |party: Value| rule(json!({"name": "r", "action": "Drop", "sources": [party]}));
    for (json, words) in [
        (json!({"tier": "Application", "priority": 70000}), "priority: 70000 given, expected a number from 0 to 65535"),
        (rule(json!({"name": "R", "action": "Drop"})), "rules[0].name: \"R\" given"),
        (party(json!({})), "rules[0].sources[0]: nothing given, expected a podSelector"),
        (party(json!({"group": "g", "podSelector": {}})), "sources[0]: a group and something else given"),
        (party(json!({"group": ""})), "sources[0].group: \"\" given, expected the name of a Group"),
        (
            party(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
            "expected either selectors or an ipBlock",
        ),
        (party(json!({"ipBlock": {"cidr": "10/8"}})), "sources[0].ipBlock.cidr: 10/8 given, expected a prefix"),
        (
            party(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}})),
            "ipBlock.except[0]: 11.0.0.0/9 given, expected a part of the cidr",
        ),
        (
            rule(json!({"name": "r", "action": "Drop", "ports": [{"port": 0}]})),
            "rules[0].ports[0].port: 0 given, expected a number from 1 to 65535",
        ),
        (
            json!({"tier": "Application", "rules": [{"name": "r", "action": "Drop"}, {"name": "r", "action": "Drop"}]}),
            "rules[1].name: r given, expected a name that no other rule of the policy has",
        ),
    ] {
        let error = spec(json.clone()).check().unwrap_err().to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
    for (json, words) in [
        (json!({"tier": "Normal"}), "unknown variant `Normal`, expected one of `Emergency`"),
        (rule(json!({"name": "r", "action": "Deny"})), "unknown variant `Deny`, expected one of `Allow`"),
        (party(json!({"labels": {}})), "unknown field `labels`, expected one of `group`"),
    ] {
        let error = serde_json::from_value::<SecurityPolicySpec>(json).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let many = GroupSpec { members: vec![Member::default(); 101] };
    assert_eq!(many.check().unwrap_err().to_string(), "members: 101 entries given, expected at most 100");
}
