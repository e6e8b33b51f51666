//! ResourceQuota: a create that would exceed it is refused, `status.used` follows.
//!
//! What is used is counted from the stored objects, and from writes on their way to the store that the store does not have yet; so
//! no two writes share the last free place, and none is refused because of a write that failed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use switchyard_api::Amount;
use tokio::sync::Notify;

use super::Admission;
use super::limits;
use super::scope::{self, Traits};
use crate::meta;
use crate::registry::Part;
use crate::server::Inner;
use crate::status::{ApiError, Result};

/// Counts what namespaces use.
#[derive(Default, Clone)]
pub struct Quota(Arc<State>);

#[derive(Default)]
struct State {
    /// Writes on their way, by namespace.
    pending: Mutex<HashMap<String, Vec<Pending>>>,
    /// Namespaces whose quotas' status may be out of date.
    touched: Mutex<HashSet<String>>,
    wake: Notify,
}

struct Pending {
    id: u64,
    key: String,
    usage: Usage,
    /// What scopes look at; none for what is no pod.
    traits: Option<Traits>,
}

/// What a write will use; given back when dropped.
pub struct Charge {
    quota: Quota,
    namespace: String,
    id: u64,
}

type Usage = BTreeMap<String, Amount>;

// === impl Quota ===

impl Quota {
    /// Refuses an object that does not fit.
    pub fn charge(&self, admission: &Admission<'_>, object: &Value, old: Option<&Value>) -> Result<Option<Charge>> {
        let namespace = admission.namespace;
        let store = &admission.server.store;
        let (quotas, _) = store.list(&format!("core/resourcequotas/{namespace}/"));
        if quotas.is_empty() {
            return Ok(None);
        }
        let name = meta::name(object);
        let key = admission.kind.key(namespace, name);
        let usage = usage_of(&key, object);
        if usage.is_empty() {
            return Ok(None);
        }
        // An update that uses no more than before is always good.
        if let Some(old) = old {
            let before = usage_of(&key, old);
            if usage.iter().all(|(what, amount)| before.get(what).is_some_and(|before| amount <= before)) {
                return Ok(None);
            }
        }
        let mut all = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = all.entry(namespace.to_owned()).or_default();
        let traits = Traits::of(&key, object);
        for quota in quotas.iter().filter(|quota| scope::holds(&quota.value, traits.as_ref())) {
            let hard = hard(&quota.value);
            let concerned: Vec<&String> = usage.keys().filter(|what| hard.contains_key(*what)).collect();
            if admission.kind.is("", "Pod") && old.is_none() {
                let missing: Vec<&str> = hard
                    .keys()
                    .filter(|what| must_be_said(what) && !usage.contains_key(*what))
                    .map(String::as_str)
                    .collect();
                if !missing.is_empty() {
                    let why = format!("failed quota: {}: must specify {}", meta::name(&quota.value), missing.join(","));
                    return Err(ApiError::forbidden(admission.kind, name, why));
                }
            }
            if concerned.is_empty() {
                continue;
            }
            let used = usage_in(admission.server, namespace, &quota.value, Some(&key), pending);
            let over: Vec<&&String> = concerned
                .iter()
                .filter(|what| used.get(**what).copied().unwrap_or_default() + usage[**what] > hard[**what])
                .collect();
            if !over.is_empty() {
                let list = |amount: &dyn Fn(&str) -> Amount| -> String {
                    over.iter().map(|what| format!("{what}={}", amount(what))).collect::<Vec<_>>().join(",")
                };
                let why = format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    meta::name(&quota.value),
                    list(&|what| usage[what]),
                    list(&|what| used.get(what).copied().unwrap_or_default()),
                    list(&|what| hard[what]),
                );
                return Err(ApiError::forbidden(admission.kind, name, why));
            }
        }
        let id = uuid::Uuid::new_v4().as_u64_pair().0;
        pending.push(Pending { id, key, usage, traits });
        Ok(Some(Charge { quota: self.clone(), namespace: namespace.into(), id }))
    }

    /// Something in the namespace changed.
    pub fn touch(&self, namespace: &str) {
        if namespace.is_empty() {
            return;
        }
        self.0.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.into());
        self.0.wake.notify_one();
    }

    /// Keeps the status of quotas true from now on.
    pub fn keep(server: &Arc<Inner>) {
        let weak = Arc::downgrade(server);
        let (state, stop) = (server.quota.0.clone(), server.stop.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = state.wake.notified() => {}
                    () = stop.cancelled() => return,
                }
                let touched = std::mem::take(&mut *state.touched.lock().unwrap_or_else(PoisonError::into_inner));
                let Some(server) = weak.upgrade() else { return };
                for namespace in touched {
                    refresh(&server, &namespace).await;
                }
            }
        });
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut all = self.quota.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = all.get_mut(&self.namespace) {
            pending.retain(|other| other.id != self.id);
            if pending.is_empty() {
                all.remove(&self.namespace);
            }
        }
    }
}

async fn refresh(server: &Inner, namespace: &str) {
    let table = server.kinds.now();
    let kind = table.find("", "resourcequotas").expect("quotas are built in");
    let (quotas, _) = server.store.list(&kind.prefix_of(Some(namespace)));
    for quota in quotas {
        let write = crate::registry::Write::by_server(server, kind, namespace);
        let changed = write.change(meta::name(&quota.value), Part::Status, |old| {
            let used = usage_in(server, namespace, old, None, &[]);
            let used: BTreeMap<String, String> = hard(old)
                .into_keys()
                .map(|what| {
                    let amount = used.get(&what).copied().unwrap_or_default().to_string();
                    (what, amount)
                })
                .collect();
            let mut new = old.clone();
            new["status"] = json!({"hard": old.pointer("/spec/hard").cloned().unwrap_or_default(), "used": used});
            Ok(new)
        });
        if let Err(error) = changed.await
            && error.code != 404
        {
            tracing::warn!(error = error.message, namespace, "quota status not written");
        }
    }
}

fn hard(quota: &Value) -> BTreeMap<String, Amount> {
    let map = meta::map(quota, "/spec/hard").into_iter().flatten();
    map.filter_map(|(what, amount)| Some((what.clone(), limits::amount(amount)?))).collect()
}

/// What objects use of what the quota limits: stored ones, and pending ones that are not among these. `except` is the key of an
/// object about to be replaced.
fn usage_in(server: &Inner, namespace: &str, quota: &Value, except: Option<&str>, pending: &[Pending]) -> Usage {
    let mut used = Usage::new();
    let wanted = hard(quota);
    // One that is stored while this looks is either listed or still here.
    let in_scope = pending.iter().filter(|other| scope::holds(quota, other.traits.as_ref()));
    let mut waiting: BTreeMap<&str, &Usage> = in_scope.map(|other| (&*other.key, &other.usage)).collect();
    waiting.retain(|key, _| Some(*key) != except);
    let table = server.kinds.now();
    // Versions of one kind are views of the same objects.
    let prefixes: BTreeSet<&str> =
        table.all().filter(|kind| kind.namespaced && counts(kind, &wanted)).map(|kind| kind.prefix.as_str()).collect();
    for prefix in prefixes {
        for entry in server.store.list(&format!("{prefix}{namespace}/")).0 {
            waiting.remove(&*entry.key);
            let traits = Traits::of(&entry.key, &entry.value);
            if Some(&*entry.key) != except && scope::holds(quota, traits.as_ref()) {
                add(&mut used, &usage_of(&entry.key, &entry.value));
            }
        }
    }
    waiting.values().for_each(|usage| add(&mut used, usage));
    used
}

fn counts(kind: &crate::kinds::Kind, hard: &BTreeMap<String, Amount>) -> bool {
    kind.view != crate::kinds::View::Events
        && hard.keys().any(|what| {
            *what == format!("count/{}", kind.resource())
                || *what == kind.plural
                || kind.is("", "Pod") && is_compute(what)
                || kind.is("", "Service") && what.starts_with("services.")
        })
}

/// What pods ask for: any resource a node may have.
fn is_compute(what: &str) -> bool {
    let asked = what.starts_with("requests.") || what.starts_with("limits.") || what.starts_with("hugepages-");
    asked || matches!(what, "cpu" | "memory" | "ephemeral-storage")
}

/// What a pod under such a quota must ask for. Other resources it uses none of when it says nothing.
fn must_be_said(what: &str) -> bool {
    matches!(what, "cpu" | "memory" | "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory")
}

/// What one object uses. Pods that have ended only count as objects.
fn usage_of(key: &str, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let mut parts = key.split('/');
    let (group, plural) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let resource = if group == "core" { plural.to_owned() } else { format!("{plural}.{group}") };
    usage.insert(format!("count/{resource}"), Amount::ONE);
    if group != "core" {
        return usage;
    }
    match plural {
        "pods" if meta::has_ended(object) => {}
        "pods" => {
            usage.insert("pods".into(), Amount::ONE);
            for (what, amount) in limits::pod_totals(object) {
                if let Some(plain) = what.strip_prefix("requests.") {
                    usage.insert(plain.into(), amount);
                }
                usage.insert(what, amount);
            }
        }
        "services" => {
            usage.insert("services".into(), Amount::ONE);
            let ports = meta::list(object, "/spec/ports").len();
            match meta::text(object, "/spec/type") {
                "NodePort" => drop(usage.insert("services.nodeports".into(), Amount::of(ports))),
                "LoadBalancer" => {
                    usage.insert("services.loadbalancers".into(), Amount::ONE);
                    usage.insert("services.nodeports".into(), Amount::of(ports));
                }
                _ => {}
            }
        }
        "configmaps" | "secrets" | "resourcequotas" => drop(usage.insert(plural.into(), Amount::ONE)),
        _ => {}
    }
    usage
}

fn add(to: &mut Usage, more: &Usage) {
    for (what, amount) in more {
        let sum = to.entry(what.clone()).or_default();
        *sum = *sum + *amount;
    }
}
