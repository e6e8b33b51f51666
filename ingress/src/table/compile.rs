//! From Kubernetes objects to a [`Table`]: a function of what the API holds, plus what must outlive a table (turns, endpoint health).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
        networking::v1::{Ingress, IngressBackend, IngressClass, IngressTLS},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use rustls::sign::CertifiedKey;

use super::{
    Backend, BackendId, BackendKey, Endpoint, HostIndex, HostPattern, HostRules, PathIndex, PathKind, PathRule,
    PortRef, Route, Routes, Table, Unavailable,
    backend::Turn,
    certificates::{self, Certificates},
};

/// What an IngressClass names to be served by this program.
pub const CONTROLLER: &str = "switchyard.dev/ingress";

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The objects a table is made from, by (namespace, name).
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Rules.
    pub ingresses: BTreeMap<Name, Arc<Ingress>>,
    /// Which rules are ours.
    pub classes: BTreeMap<Name, Arc<IngressClass>>,
    /// Ports of backends.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// Addresses of backends.
    pub slices: BTreeMap<Name, Arc<EndpointSlice>>,
    /// Certificates.
    pub secrets: BTreeMap<Name, Arc<Secret>>,
    /// What external names resolved to.
    pub external: BTreeMap<String, Vec<IpAddr>>,
}

/// (namespace, name); cluster objects have an empty namespace.
pub type Name = (String, String);

/// Compiles tables; remembers only what must outlive them.
#[derive(Debug, Default)]
pub struct Compiler {
    turns: HashMap<BackendKey, Arc<Turn>>,
    endpoints: HashMap<SocketAddr, Arc<Endpoint>>,
    routes: Arc<Routes>,
    certificates: Arc<Certificates>,
    keys: Vec<BackendKey>,
}

/// Rules gathered before they are indexed.
#[derive(Default)]
struct Draft {
    hosts: BTreeMap<HostPattern, (Vec<PathRule<Route>>, Option<Route>)>,
    default: Option<Route>,
    ids: HashMap<BackendKey, BackendId>,
    keys: Vec<BackendKey>,
    warnings: Vec<String>,
}

// === impl Compiler ===

impl Compiler {
    /// A whole new table.
    pub fn compile(&mut self, objects: &Objects) -> Table {
        let mut draft = Draft::default();
        let mut ours: Vec<&Arc<Ingress>> = objects.ingresses.values().filter(|i| objects.serves(i)).collect();
        // Oldest first: whoever was there before keeps a host and path that somebody else claims too.
        ours.sort_by_key(|i| (i.metadata.creation_timestamp.as_ref().map(|t| t.0), name(&i.metadata)));
        let mut served = Vec::new();
        let mut certificates = Vec::new();
        for ingress in ours {
            let label: Arc<str> = label(&ingress.metadata).into();
            draft.add(ingress, &label);
            draft.add_certificates(ingress, &label, objects, &mut certificates);
            served.push(label);
        }
        let hosts = draft
            .hosts
            .into_iter()
            .map(|(pattern, (paths, default))| (pattern, HostRules { paths: PathIndex::build(paths), default }));
        let routes =
            Routes { hosts: HostIndex::build(hosts), default: draft.default, warnings: draft.warnings, served };
        self.routes = Arc::new(routes);
        self.certificates = Arc::new(Certificates::build(certificates));
        self.keys = draft.keys;
        self.refresh(objects)
    }

    /// The rules of the last [`Compiler::compile`] with the endpoints of now: enough when only Services, slices or names changed.
    pub fn refresh(&mut self, objects: &Objects) -> Table {
        let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for ((namespace, _), slice) in &objects.slices {
            if let Some(service) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_LABEL)) {
                slices.entry((namespace, service)).or_default().push(slice);
            }
        }
        let mut turns = HashMap::with_capacity(self.keys.len());
        let mut endpoints = HashMap::new();
        let mut backends = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let turn = self.turns.get(key).cloned().unwrap_or_default();
            turns.insert(key.clone(), Arc::clone(&turn));
            let of_service = slices.get(&(key.namespace.as_str(), key.service.as_str())).map_or(&[][..], Vec::as_slice);
            let (addresses, unavailable) = match resolve(key, objects, of_service) {
                Ok(addresses) => (addresses, None),
                Err(why) => (Vec::new(), Some(why)),
            };
            let ready = addresses.into_iter().map(|address| {
                let known =
                    || self.endpoints.get(&address).cloned().unwrap_or_else(|| Arc::new(Endpoint::new(address)));
                Arc::clone(endpoints.entry(address).or_insert_with(known))
            });
            backends.push(Arc::new(Backend::new(key.clone(), ready.collect(), unavailable, turn)));
        }
        self.turns = turns;
        self.endpoints = endpoints;
        Table {
            routes: Arc::clone(&self.routes),
            certificates: Arc::clone(&self.certificates),
            backends,
            generation: 0,
        }
    }
}

// === impl Objects ===

impl Objects {
    /// Whether an Ingress is ours: its class names our controller, or it names none and ours is the default.
    pub fn serves(&self, ingress: &Ingress) -> bool {
        let spec = ingress.spec.as_ref();
        let field = spec.and_then(|s| s.ingress_class_name.as_deref());
        let legacy = annotation(&ingress.metadata, CLASS_ANNOTATION);
        let class = match (field, legacy) {
            (Some(field), Some(legacy)) if field != legacy => return false,
            (Some(class), _) | (None, Some(class)) => class,
            (None, None) => {
                return self
                    .classes
                    .values()
                    .any(|c| is_ours(c) && annotation(&c.metadata, DEFAULT_CLASS_ANNOTATION) == Some("true"));
            }
        };
        self.classes.get(&(String::new(), class.to_owned())).is_some_and(|c| is_ours(c))
    }

    /// Names of `ExternalName` Services, to be resolved.
    pub fn external_names(&self) -> impl Iterator<Item = &str> {
        self.services.values().filter_map(|s| external_name(s))
    }
}

// === impl Draft ===

impl Draft {
    fn add(&mut self, ingress: &Ingress, label: &Arc<str>) {
        let Some(spec) = &ingress.spec else { return };
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let default = spec.default_backend.as_ref().map(|backend| self.route(namespace, backend, label));
        if let Some(route) = &default {
            self.default.get_or_insert_with(|| route.clone());
        }
        for rule in spec.rules.iter().flatten() {
            let pattern = match HostPattern::parse(rule.host.as_deref().unwrap_or_default()) {
                Ok(pattern) => pattern,
                Err(error) => {
                    self.warnings.push(format!("ingress {label}: {error}"));
                    continue;
                }
            };
            let mut paths = Vec::new();
            for path in rule.http.iter().flat_map(|http| &http.paths) {
                let text = path.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
                if !text.starts_with('/') {
                    self.warnings.push(format!("ingress {label}: path {text:?} does not start with '/'"));
                    continue;
                }
                let kind = if path.path_type == "Exact" { PathKind::Exact } else { PathKind::Prefix };
                paths.push(PathRule { kind, path: text.into(), value: self.route(namespace, &path.backend, label) });
            }
            let host = self.hosts.entry(pattern).or_default();
            host.0.extend(paths);
            if host.1.is_none() {
                host.1.clone_from(&default);
            }
        }
    }

    fn add_certificates(
        &mut self,
        ingress: &Ingress,
        label: &Arc<str>,
        objects: &Objects,
        certificates: &mut Vec<(HostPattern, Arc<CertifiedKey>)>,
    ) {
        let namespace = ingress.metadata.namespace.clone().unwrap_or_default();
        for tls in ingress.spec.iter().flat_map(|s| s.tls.iter().flatten()) {
            let Some(name) = &tls.secret_name else { continue };
            let secret = objects.secrets.get(&(namespace.clone(), name.clone()));
            let certificate = secret.ok_or_else(|| "does not exist".to_owned()).and_then(|s| certificates::read(s));
            match certificate {
                Ok(certificate) => {
                    for host in tls_hosts(ingress, tls) {
                        match HostPattern::parse(host) {
                            Ok(host) => certificates.push((host, Arc::clone(&certificate))),
                            Err(error) => self.warnings.push(format!("ingress {label}: TLS {error}")),
                        }
                    }
                }
                Err(why) => self.warnings.push(format!("ingress {label}: secret {name} {why}")),
            }
        }
    }

    fn route(&mut self, namespace: &str, backend: &IngressBackend, label: &Arc<str>) -> Route {
        let (service, port) = match &backend.service {
            Some(service) => {
                let port = service.port.as_ref();
                let number = port.and_then(|p| p.number).and_then(|n| u16::try_from(n).ok());
                let named = port.and_then(|p| p.name.clone()).map(PortRef::Name);
                (service.name.clone(), named.or(number.map(PortRef::Number)).unwrap_or(PortRef::Number(0)))
            }
            None => {
                self.warnings.push(format!("ingress {label}: a backend that is not a Service answers 503"));
                (String::new(), PortRef::Number(0))
            }
        };
        let key = BackendKey { namespace: namespace.to_owned(), service, port };
        let next = self.keys.len() as BackendId;
        let id = *self.ids.entry(key.clone()).or_insert(next);
        if id == next {
            self.keys.push(key);
        }
        Route { backend: id, ingress: Arc::clone(label) }
    }
}

/// What a certificate is for: the hosts it is given for, else those of the Ingress's rules, else any.
fn tls_hosts<'a>(ingress: &'a Ingress, tls: &'a IngressTLS) -> Vec<&'a str> {
    let said: Vec<&str> = tls.hosts.iter().flatten().map(String::as_str).collect();
    if !said.is_empty() {
        return said;
    }
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    let of_rules: Vec<&str> = rules.map(|rule| rule.host.as_deref().unwrap_or_default()).collect();
    if of_rules.is_empty() { vec![""] } else { of_rules }
}

/// Ready addresses of one backend, sorted.
fn resolve(key: &BackendKey, objects: &Objects, slices: &[&EndpointSlice]) -> Result<Vec<SocketAddr>, Unavailable> {
    if key.service.is_empty() {
        return Err(Unavailable::NotAService);
    }
    let name = (key.namespace.clone(), key.service.clone());
    let service = objects.services.get(&name).ok_or(Unavailable::NoService)?;
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let port = ports.iter().find(|p| match &key.port {
        PortRef::Number(number) => p.port == i32::from(*number),
        PortRef::Name(wanted) => p.name.as_deref() == Some(wanted),
    });
    let mut addresses = Vec::new();
    if let Some(external) = external_name(service) {
        let number = match (port, &key.port) {
            (Some(port), _) => u16::try_from(port.port).map_err(|_| Unavailable::NoPort)?,
            (None, PortRef::Number(number)) => *number,
            (None, PortRef::Name(_)) => return Err(Unavailable::NoPort),
        };
        let resolved = objects.external.get(external).map(Vec::as_slice).unwrap_or_default();
        addresses.extend(resolved.iter().map(|ip| SocketAddr::new(*ip, number)));
        if addresses.is_empty() {
            return Err(Unavailable::Unresolved(external.to_owned()));
        }
    } else {
        let port_name = port.ok_or(Unavailable::NoPort)?.name.as_deref().unwrap_or_default();
        for slice in slices {
            let number = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port_name);
            let Some(number) = number.and_then(|p| p.port).and_then(|n| u16::try_from(n).ok()) else { continue };
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref();
                let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
                let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
                if ready && !terminating {
                    let ips = endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
                    addresses.extend(ips.map(|ip| SocketAddr::new(ip, number)));
                }
            }
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() { Err(Unavailable::NoReadyEndpoints) } else { Ok(addresses) }
}

fn is_ours(class: &IngressClass) -> bool {
    class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER)
}

fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") { spec.external_name.as_deref() } else { None }
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// An object's place in [`Objects`].
pub(crate) fn name(meta: &ObjectMeta) -> Name {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn label(meta: &ObjectMeta) -> String {
    let (namespace, name) = name(meta);
    format!("{namespace}/{name}")
}
