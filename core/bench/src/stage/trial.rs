//! The life of a pod, once: what the API, the kernel of its node and a client on another node see of it, on one clock.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use super::watch::{Event, Watch};
use super::{Stage, manifests};
use crate::gauge::now;
use crate::load::{Change, Order, Reply, ports};
use crate::report::Trial;

/// What is asked for in a trial, as files.
struct Asked {
    /// A pod and its Service.
    pod: PathBuf,
    /// A policy that lets nothing reach that pod.
    policy: PathBuf,
    name: String,
    service: IpAddr,
}

/// What is heard of while trials are made.
pub(crate) struct News {
    pods: Watch,
    policies: Watch,
    /// The pod that stays.
    resident: String,
}

/// Places of the targets that are probed.
const POD: usize = 0;
const SERVICE: usize = 1;

// === impl Stage ===

impl Stage {
    /// Begins to listen, and asks for a pod that stays while trials are made: what pods of a namespace share (nsx: its segment) is
    /// not to come and go with each of them.
    pub(crate) fn listen(&mut self, number: usize) -> anyhow::Result<News> {
        let yard = &self.cluster.yard;
        let (pods, policies) = (Watch::start(yard, "pods")?, Watch::start(yard, "networkpolicies")?);
        let resident = manifests::resident_name(number);
        yard.apply(&format!("{resident}.yaml"), &manifests::resident(number)?)?;
        pods.until(&resident, "ready", |event| is_ready(event).then_some(()))?;
        Ok(News { pods, policies, resident })
    }

    /// The end of [`listen`](Self::listen): the pod that stayed goes, and is gone. Its node says so when it has nothing of it any
    /// more; what pods of a namespace share may stay.
    pub(crate) fn rest(&mut self, news: News) -> anyhow::Result<()> {
        self.cluster.yard.run(&["delete", "pod", &news.resident]).map(drop)
    }

    /// A pod is asked for, served, closed off, opened again and deleted. `number` counts all trials of the experiment.
    pub(crate) fn trial(&mut self, news: &News, number: usize) -> anyhow::Result<Trial> {
        let asked = self.asked(number)?;
        let lived = self.live(news, &asked);
        if lived.is_err() {
            self.clear(&asked);
        }
        lived
    }

    /// What a life that was cut short would leave to the next one. Who does not listen has said so already.
    fn clear(&mut self, asked: &Asked) {
        let _ = (self.follower.ask(&Order::Rest), self.far_node.ask(&Order::Observed));
        for file in [&asked.policy, &asked.pod] {
            let _ = self.cluster.yard.run(&["delete", "-f", &file.to_string_lossy(), "--no-wait"]);
        }
    }

    fn live(&mut self, news: &News, asked: &Asked) -> anyhow::Result<Trial> {
        let name = asked.name.as_str();
        let before = self.things()?;
        let yard = self.cluster.yard.clone();
        let begun = now();
        yard.run(&["apply", "-f", &asked.pod.to_string_lossy()])?;
        let (mut created, mut scheduled) = (None, None);
        let (ready, address) = news.pods.until(name, "ready", |event| {
            created.get_or_insert(event.at);
            if event.object["spec"]["nodeName"].is_string() {
                scheduled.get_or_insert(event.at);
            }
            let address = event.object["status"]["podIP"].as_str()?.parse::<IpAddr>().ok()?;
            is_ready(event).then_some((event.at, address))
        })?;
        let (created, scheduled) = (created.unwrap_or(ready), scheduled.unwrap_or(ready));
        let targets = [address, asked.service].map(|address| SocketAddr::new(address, ports::UDP));
        done(self.follower.ask(&Order::Probe { targets: targets.to_vec() })?)?;
        let reached = self.turned(POD, true)?;
        let served = self.turned(SERVICE, true)?;
        // From here on the pod alone is asked, so that ports last longer.
        done(self.follower.ask(&Order::Probe { targets: targets[..1].to_vec() })?)?;
        self.turned(POD, true)?;
        let own: BTreeSet<String> = self.things()?.difference(&before).cloned().collect();
        ensure!(!own.is_empty(), "pod {name} has brought its node neither a device nor a route");

        yard.run(&["apply", "-f", &asked.policy.to_string_lossy()])?;
        let forbidden = news.policies.until(name, "there", |event| Some(event.at))?;
        let blocked = self.turned(POD, false)?;
        yard.run(&["delete", "-f", &asked.policy.to_string_lossy(), "--no-wait"])?;
        let allowed = news.policies.until(name, "gone", |event| Some(event.at))?;
        let passed = self.turned(POD, true)?;

        yard.run(&["delete", "-f", &asked.pod.to_string_lossy(), "--no-wait"])?;
        let leaving = |event: &Event| event.object["metadata"]["deletionTimestamp"].is_string().then_some(event.at);
        let deleted = news.pods.until(name, "being deleted", leaving)?;
        let gone = since(self.far_node.ask(&Order::Vanish { things: own.clone() })?)?;
        let silent = self.turned(POD, false)?;
        done(self.follower.ask(&Order::Rest)?)?;
        let attached = attached(&self.changes()?, &own).context("the pod's device came unseen")?;
        let between = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        Ok(Trial {
            block: 0,
            network: String::new(),
            attach: between(scheduled, attached),
            pod_ready: between(created, ready),
            endpoint: between(ready.max(reached), served),
            deny: between(forbidden, blocked),
            allow: between(allowed, passed),
            detach: between(deleted, gone.max(silent)),
            first_answer: between(begun, served),
        })
    }

    fn asked(&self, number: usize) -> anyhow::Result<Asked> {
        let name = manifests::trial_name(number);
        let yard = &self.cluster.yard;
        let pod = yard.write(&format!("{name}.yaml"), &manifests::trial(number)?)?;
        let policy = yard.write(&format!("{name}-policy.yaml"), &manifests::closed(number)?)?;
        Ok(Asked { pod, policy, name, service: manifests::trial_address(number) })
    }

    /// What the other node has; it is watched from now on.
    fn things(&mut self) -> anyhow::Result<BTreeSet<String>> {
        match self.far_node.ask(&Order::Observe)? {
            Reply::Things(things) => Ok(things),
            other => bail!("what there is was asked for, not {other:?}"),
        }
    }

    fn changes(&mut self) -> anyhow::Result<Vec<Change>> {
        match self.far_node.ask(&Order::Observed)? {
            Reply::Changes(changes) => Ok(changes),
            other => bail!("changes were asked for, not {other:?}"),
        }
    }

    fn turned(&mut self, target: usize, answers: bool) -> anyhow::Result<u64> {
        since(self.follower.ask(&Order::Await { target, answers })?)
    }
}

fn since(reply: Reply) -> anyhow::Result<u64> {
    match reply {
        Reply::Since(at) => Ok(at),
        other => bail!("a moment was asked for, not {other:?}"),
    }
}

fn done(reply: Reply) -> anyhow::Result<()> {
    match reply {
        Reply::Done => Ok(()),
        other => bail!("nothing was asked for but {other:?}"),
    }
}

fn is_ready(event: &Event) -> bool {
    let conditions = event.object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// When the last of these things had come.
fn attached(changes: &[Change], own: &BTreeSet<String>) -> Option<u64> {
    let of_own = |change: &&Change| change.came.iter().any(|thing| own.contains(thing));
    changes.iter().filter(of_own).map(|change| change.at).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_attached_when_the_last_of_its_things_has_come() {
        let change = |at, came: &str| Change { at, came: vec![came.to_owned()], went: Vec::new() };
        let changes = [change(1, "device p1"), change(3, "route r"), change(9, "device of another")];
        let own = BTreeSet::from(["device p1".to_owned(), "route r".to_owned()]);
        assert_eq!(attached(&changes, &own), Some(3));
        assert_eq!(attached(&changes[2..], &own), None);
    }
}
