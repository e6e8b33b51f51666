//! Who holds an entrance that several Services ask for.
//!
//! Anybody who may write a Service may name any address in `externalIPs`, so two may want packets of the same address, protocol and
//! port. One can have them: a Service at its own address inside the cluster, else the oldest, else the first by namespace and
//! name. The others do without that entrance, and the next of them gets it when its holder gives it up. Everybody who sees the same
//! Services comes to the same answer, in whatever order they were heard of.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::frontend::{Entrance, Frontend};

/// A Service's namespace and name.
pub type ServiceId = (String, String);

/// Entrances that a Service asks for and another one holds, with the holder.
pub type Taken = BTreeMap<Entrance, ServiceId>;

/// What all Services ask for. Cost follows the change: a Service's own entrances, and those who ask for the same.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    by_service: BTreeMap<ServiceId, BTreeMap<Entrance, Claim>>,
    by_entrance: BTreeMap<Entrance, BTreeSet<Claim>>,
}

/// One Service's wish for one entrance; the least one holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    from_outside: bool,
    created: Option<Time>,
    service: ServiceId,
}

// === impl Claims ===

impl Claims {
    /// Takes in what a Service asks for now, `None` if it is gone. Gives the others for whom that changes who holds what.
    pub fn update(&mut self, id: &ServiceId, service: Option<&Service>) -> BTreeSet<ServiceId> {
        let new = service.map(|service| claims(id, service)).unwrap_or_default();
        let old = match new.is_empty() {
            true => self.by_service.remove(id),
            false => self.by_service.insert(id.clone(), new.clone()),
        };
        let old = old.unwrap_or_default();
        let mut touched = BTreeSet::new();
        for entrance in old.keys().chain(new.keys()).filter(|entrance| old.get(*entrance) != new.get(*entrance)) {
            let claimants = self.by_entrance.entry(*entrance).or_default();
            let before = claimants.first().cloned();
            if let Some(claim) = old.get(entrance) {
                claimants.remove(claim);
            }
            claimants.extend(new.get(entrance).cloned());
            let after = claimants.first();
            // All who wait are told, as they may say who holds it.
            if before.as_ref() != after {
                touched.extend(claimants.iter().map(|claim| claim.service.clone()));
            }
            if claimants.is_empty() {
                self.by_entrance.remove(entrance);
            }
        }
        touched.remove(id);
        touched
    }

    /// The entrances that a Service asks for in vain.
    pub fn taken(&self, id: &ServiceId) -> Taken {
        let claims = self.by_service.get(id).into_iter().flat_map(BTreeMap::keys);
        let held_by = |entrance: &Entrance| self.by_entrance.get(entrance)?.first().map(|claim| &claim.service);
        claims
            .filter_map(|entrance| Some((*entrance, held_by(entrance)?.clone())))
            .filter(|(_, holder)| holder != id)
            .collect()
    }
}

fn claims(id: &ServiceId, service: &Service) -> BTreeMap<Entrance, Claim> {
    let Some(frontend) = Frontend::of(service) else { return BTreeMap::new() };
    let claim = |from_outside| Claim {
        from_outside,
        created: service.metadata.creation_timestamp.clone(),
        service: id.clone(),
    };
    let mut claims = BTreeMap::new();
    for port in &frontend.ports {
        let outside = frontend.external_ips.iter().chain(&frontend.load_balancer_ips);
        claims.extend(outside.map(|ip| (port.at(*ip), claim(true))));
        claims.extend(port.on_nodes().map(|entrance| (entrance, claim(true))));
        claims.insert(port.at(frontend.cluster_ip), claim(false));
    }
    claims
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::web;

    /// A Service at an address inside the cluster, TCP port 80, with addresses from outside; `age` in seconds of a minute.
    fn service(age: u32, cluster_ip: &str, external_ips: &[&str]) -> Service {
        let mut service = web(json!({"clusterIP": cluster_ip, "externalIPs": external_ips}));
        service.metadata.creation_timestamp =
            Some(serde_json::from_value(json!(format!("2026-01-01T00:00:{:02}Z", 59 - age))).unwrap());
        service
    }

    fn id(name: &str) -> ServiceId {
        ("default".into(), name.into())
    }

    fn taken(claims: &Claims, name: &str) -> Vec<String> {
        claims.taken(&id(name)).iter().map(|(entrance, (_, holder))| format!("{entrance} {holder}")).collect()
    }

    #[test]
    fn the_oldest_holds_an_address_and_the_next_follows_it() {
        let mut claims = Claims::default();
        assert!(claims.update(&id("young"), Some(&service(1, "10.96.0.2", &["192.0.2.1"]))).is_empty());
        let touched = claims.update(&id("old"), Some(&service(9, "10.96.0.1", &["192.0.2.1"])));
        assert_eq!(touched, [id("young")].into(), "the address has gone to the older one");
        assert!(claims.update(&id("middle"), Some(&service(5, "10.96.0.3", &["192.0.2.1"]))).is_empty());
        assert_eq!(taken(&claims, "young"), ["192.0.2.1:80/tcp old"]);
        assert_eq!(taken(&claims, "middle"), ["192.0.2.1:80/tcp old"]);
        assert!(taken(&claims, "old").is_empty());
        assert_eq!(claims.update(&id("old"), None), [id("middle"), id("young")].into());
        assert!(taken(&claims, "middle").is_empty());
        assert_eq!(taken(&claims, "young"), ["192.0.2.1:80/tcp middle"]);
    }

    #[test]
    fn of_the_same_age_the_first_by_name_holds_it_whoever_came_first() {
        for order in [["a", "b"], ["b", "a"]] {
            let mut claims = Claims::default();
            for name in order {
                claims.update(&id(name), Some(&service(1, &format!("10.96.0.{}", name.len()), &["192.0.2.1"])));
            }
            assert!(taken(&claims, "b").contains(&"192.0.2.1:80/tcp a".to_owned()), "{order:?}");
        }
    }

    #[test]
    fn nobody_takes_an_address_inside_the_cluster_from_its_service() {
        let mut claims = Claims::default();
        claims.update(&id("thief"), Some(&service(9, "10.96.0.2", &["10.96.0.1"])));
        assert_eq!(claims.update(&id("web"), Some(&service(1, "10.96.0.1", &[]))), [id("thief")].into());
        assert_eq!(taken(&claims, "thief"), ["10.96.0.1:80/tcp web"]);
    }

    #[test]
    fn other_ports_and_protocols_are_nobodys_business() {
        let mut claims = Claims::default();
        claims.update(&id("a"), Some(&service(9, "10.96.0.1", &["192.0.2.1"])));
        for port in [json!({"port": 81}), json!({"port": 80, "protocol": "UDP"})] {
            let other = web(json!({"clusterIP": "10.96.0.2", "externalIPs": ["192.0.2.1"], "ports": [port]}));
            assert!(claims.update(&id("b"), Some(&other)).is_empty());
            assert!(taken(&claims, "b").is_empty());
        }
    }

    #[test]
    fn what_does_not_change_touches_nobody() {
        let mut claims = Claims::default();
        claims.update(&id("a"), Some(&service(9, "10.96.0.1", &["192.0.2.1"])));
        claims.update(&id("b"), Some(&service(1, "10.96.0.2", &["192.0.2.1"])));
        assert!(claims.update(&id("a"), Some(&service(9, "10.96.0.1", &["192.0.2.1"]))).is_empty());
        assert!(claims.update(&id("b"), None).is_empty());
        assert!(claims.by_entrance.values().all(|claimants| claimants.len() == 1));
    }
}
