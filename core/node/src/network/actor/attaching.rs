//! Pods, to the network and from it.

use std::path::PathBuf;

use switchyard_kernel::Netns;
use switchyard_netstate::Place;
use switchyard_plugin::PodFacts;

use super::Actor;
use crate::network::question::{Question, pod_unit};
use crate::network::{AttachError, Units};

// === impl Actor ===

impl Actor {
    pub(super) async fn attach(&mut self, pod: PodFacts, netns: PathBuf) -> Result<(), AttachError> {
        let (Some((_, plugin)), Some(node)) = (self.plugin.clone(), self.node.clone()) else {
            let why = self.state.borrow().status.error.clone();
            let why = why.unwrap_or_else(|| "no network is active yet".into());
            return Err(AttachError(format!("the node's network is not ready: {why}")));
        };
        if self.overdue.is_to_go(&pod_unit(&pod.uid)) {
            // What it was connected with in another namespace has to go first.
            self.detach(&pod.uid).await?;
        }
        let question = Question::pod(self.reach.placed(&pod));
        let fragment = match self.answers(&plugin, &node, vec![question]).await.pop() {
            Some((_, Ok(fragment))) => fragment,
            Some((_, Err(error))) => {
                // The first error says what is wrong, later ones that it was not tried again.
                self.unattached.entry(pod.uid.clone()).or_insert_with(|| error.clone());
                self.publish();
                return Err(AttachError(error));
            }
            None => None,
        };
        if self.unattached.remove(&pod.uid).is_some() {
            self.publish();
        }
        let known = self.pods.contains_key(&pod.uid);
        if !known {
            self.add_place(&pod.uid, netns).await.map_err(AttachError)?;
        }
        let uid = pod.uid.clone();
        match self.apply(Units::from([(pod_unit(&uid), fragment)])).await {
            Ok(()) => {
                self.overdue.forget(&pod_unit(&uid));
                self.pods.insert(uid, pod);
                Ok(())
            }
            Err(error) => {
                if !known {
                    let _ = self.engine.run(move |engine| engine.remove_place(&Place::Pod(uid))).await;
                }
                Err(AttachError(error))
            }
        }
    }

    pub(super) async fn detach(&mut self, uid: &str) -> Result<(), AttachError> {
        let was_attached = self.pods.remove(uid).is_some();
        if self.unattached.remove(uid).is_some() {
            self.publish();
        }
        let unit = pod_unit(uid);
        if !was_attached && !self.overdue.is_to_go(&unit) {
            return Ok(());
        }
        let failed = self.carry_out(Units::from([(unit.clone(), None)])).await;
        let outcome = failed.get(&unit).map_or(Ok(()), |(_, why)| Err(AttachError(why.clone())));
        self.overdue.tried([unit], failed);
        self.publish();
        outcome
    }

    pub(super) async fn add_place(&self, uid: &str, netns: PathBuf) -> Result<(), String> {
        let opened = Netns::open(&netns).map_err(|error| format!("{}: {error}", netns.display()))?;
        let place = Place::Pod(uid.to_owned());
        self.engine.run(move |engine| engine.add_place(place, opened)).await.map_err(|gone| gone.to_string())
    }
}
