//! Probes: asking a container whether it is well, and counting the answers against thresholds.
//!
//! A probe has a period by definition (`periodSeconds`); its timer is the only clock in the agent that is not an event.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::time::{Instant, MissedTickBehavior};

mod ask;

use ask::Get;

/// Which of a container's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Http(Get),
    Tcp { address: SocketAddr },
    Grpc { address: SocketAddr, service: String },
    Exec { argv: Vec<String> },
}

/// A probe with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) question: Question,
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
}

/// A threshold was reached: the container is well, or is not and why. Said once for each change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Well,
    Unwell(String),
}

/// Counts answers until a threshold is reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    successes: u32,
    failures: u32,
}

/// Runs a command in the container and gives its exit code.
pub(crate) type RunInContainer = Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<i32, String>> + Send + Sync>;

/// A probe that cannot be performed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("probe port {0:?} names no port of the container")]
    Port(String),
    #[error("probe has no httpGet, tcpSocket, grpc or exec")]
    NoAction,
    #[error("probe host {0:?} must be an IP address")]
    Host(String),
}

// === impl Plan ===

impl Plan {
    /// What `probe` of `container` asks of the pod at `pod_ip`.
    pub(crate) fn new(probe: &Probe, container: &Container, pod_ip: IpAddr) -> Result<Self, PlanError> {
        let ports = container.ports.as_deref().unwrap_or_default();
        let at = |host: Option<&str>, number: &IntOrString| {
            let ip = match host.filter(|host| !host.is_empty()) {
                Some(host) => host.parse().map_err(|_| PlanError::Host(host.to_owned()))?,
                None => pod_ip,
            };
            Ok::<_, PlanError>(SocketAddr::new(ip, port(number, ports)?))
        };
        let question = if let Some(http) = &probe.http_get {
            let address = at(http.host.as_deref(), &http.port)?;
            let mut headers: Vec<_> =
                http.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect();
            let named = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("host"));
            let host = named.map_or_else(|| address.to_string(), |index| headers.remove(index).1);
            let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            let tls = http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
            Question::Http(Get { tls, address, host, path, headers })
        } else if let Some(tcp) = &probe.tcp_socket {
            Question::Tcp { address: at(tcp.host.as_deref(), &tcp.port)? }
        } else if let Some(grpc) = &probe.grpc {
            let address = at(None, &IntOrString::Int(grpc.port))?;
            Question::Grpc { address, service: grpc.service.clone().unwrap_or_default() }
        } else if let Some(exec) = &probe.exec {
            Question::Exec { argv: exec.command.clone().unwrap_or_default() }
        } else {
            return Err(PlanError::NoAction);
        };
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let count = |value: Option<i32>, default| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
        Ok(Self {
            question,
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            success_threshold: count(probe.success_threshold, 1).max(1),
            failure_threshold: count(probe.failure_threshold, 3).max(1),
        })
    }

    /// Asks again and again and reports each verdict that differs from the last, until `report` says false.
    ///
    /// While a readiness or startup probe has not succeeded for the first time it is asked more often than its period, in steps
    /// that double from 20 ms, so that a pod is ready when it is ready and not when a period ends.
    pub(crate) async fn watch(self, kind: Kind, run: RunInContainer, mut report: impl FnMut(Verdict) -> bool) {
        tokio::time::sleep(self.initial_delay).await;
        let mut tally = Tally::default();
        let mut last: Option<bool> = None;
        let eager = kind != Kind::Liveness;
        let mut step = Duration::from_millis(20);
        let mut next_counted = Instant::now();
        loop {
            let answer = self.ask(&run).await;
            let now = Instant::now();
            // Only answers at the probe's own period count as failures; early ones can only be good news.
            let counted = answer.is_ok() || now >= next_counted;
            if counted {
                next_counted = now + self.period;
                if let Some(verdict) = tally.count(&answer, self.success_threshold, self.failure_threshold) {
                    let well = verdict == Verdict::Well;
                    if last != Some(well) && !report(verdict) {
                        return;
                    }
                    last = Some(well);
                }
            }
            if eager && last != Some(true) && step < self.period {
                tokio::time::sleep(step).await;
                step *= 2;
            } else {
                let mut period = tokio::time::interval_at(now + self.period, self.period);
                period.set_missed_tick_behavior(MissedTickBehavior::Delay);
                period.tick().await;
            }
        }
    }

    /// Asks once.
    pub(crate) async fn ask(&self, run: &RunInContainer) -> Result<(), String> {
        let asked = async {
            match &self.question {
                Question::Http(get) => get.ask().await,
                Question::Tcp { address } => ask::tcp(*address).await,
                Question::Grpc { address, service } => ask::grpc(*address, service).await,
                Question::Exec { argv } => match run(argv.clone()).await? {
                    0 => Ok(()),
                    code => Err(format!("command {argv:?} exited with {code}")),
                },
            }
        };
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", self.timeout.as_secs())),
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Takes in one answer; a verdict when its threshold is reached.
    pub(crate) fn count(&mut self, answer: &Result<(), String>, success: u32, failure: u32) -> Option<Verdict> {
        match answer {
            Ok(()) => {
                self.failures = 0;
                self.successes = self.successes.saturating_add(1);
                (self.successes >= success).then_some(Verdict::Well)
            }
            Err(why) => {
                self.successes = 0;
                self.failures = self.failures.saturating_add(1);
                (self.failures >= failure).then(|| Verdict::Unwell(why.clone()))
            }
        }
    }
}

/// A port by number, or by its name in the container.
pub(crate) fn port(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, PlanError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match ports.iter().find(|port| port.name.as_deref() == Some(name)) {
            Some(port) => Some(port.container_port),
            None => name.parse().ok(),
        },
    };
    let said = || match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| PlanError::Port(said()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(probe: serde_json::Value) -> Result<Plan, PlanError> {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})).unwrap();
        Plan::new(&serde_json::from_value(probe).unwrap(), &container, "10.40.1.2".parse().unwrap())
    }

    #[test]
    fn ports_are_found_by_name_and_defaults_are_the_fields_own() {
        let plan = plan(json!({"httpGet": {"port": "web", "path": "healthz"}})).unwrap();
        let Question::Http(get) = &plan.question else { panic!("{plan:?}") };
        assert_eq!((get.address.to_string().as_str(), get.path.as_str()), ("10.40.1.2:8080", "/healthz"));
        assert!(!get.tls);
        assert_eq!((plan.period.as_secs(), plan.timeout.as_secs(), plan.failure_threshold), (10, 1, 3));
    }

    #[test]
    fn schemes_and_services_are_heeded() {
        let https = plan(json!({"httpGet": {"port": 443, "scheme": "HTTPS"}})).unwrap().question;
        assert!(matches!(https, Question::Http(Get { tls: true, .. })), "{https:?}");
        let grpc = plan(json!({"grpc": {"port": 50051, "service": "web"}})).unwrap().question;
        assert_eq!(grpc, Question::Grpc { address: "10.40.1.2:50051".parse().unwrap(), service: "web".into() });
    }

    #[test]
    fn a_probe_that_cannot_be_performed_is_refused() {
        assert_eq!(plan(json!({"tcpSocket": {"port": "nope"}})), Err(PlanError::Port("nope".into())));
        assert_eq!(plan(json!({"tcpSocket": {"port": 70000}})), Err(PlanError::Port("70000".into())));
        assert_eq!(plan(json!({})), Err(PlanError::NoAction));
    }

    #[test]
    fn thresholds_count_consecutive_answers() {
        let (well, ill) = (Ok(()), Err("no".to_owned()));
        let mut tally = Tally::default();
        let mut say = |answer: &Result<(), String>| tally.count(answer, 1, 3);
        assert_eq!([say(&ill), say(&ill), say(&well), say(&ill), say(&ill)][2], Some(Verdict::Well));
        assert_eq!(say(&ill), Some(Verdict::Unwell("no".into())));
    }
}
