//! Asking plugins. A plugin may take its time, and one that hangs takes all it is given: so it is asked on another thread, and what
//! has nothing to do with plugins goes on meanwhile. The rest waits for the answer, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use switchyard_netstate::{Fragment, UnitId};
use switchyard_plugin::NodeFacts;
use switchyard_plugin_host::Plugin;
use tokio::task::spawn_blocking;

use super::Actor;
use crate::network::question::{Question, UNDERLAY};
use crate::network::{Call, Units};

/// What a plugin wants of each unit it was asked about, or why that is not known.
pub(super) type Answers = Vec<(UnitId, Result<Option<Fragment>, String>)>;

// === impl Actor ===

impl Actor {
    /// About all that a plugin can want in this node's kernel.
    pub(super) fn questions(&self) -> Vec<Question> {
        let mut questions = vec![Question::node()];
        questions.extend(self.peers.values().map(Question::peer));
        questions.extend(self.pods.values().map(|pod| Question::pod(self.reach.placed(pod))));
        questions.extend(self.reach.questions(&self.peers));
        questions
    }

    /// About one unit, as things are now.
    pub(super) fn question(&self, unit: &UnitId) -> Question {
        let (kind, name) = unit.0.split_once('/').unwrap_or((&unit.0, ""));
        let question = match kind {
            "node" => Some(Question::node()),
            UNDERLAY => Some(Question::underlay()),
            "peer" => self.peers.get(name).map(Question::peer),
            "pod" => self.pods.get(name).map(|pod| Question::pod(self.reach.placed(pod))),
            "remote" => Some(self.reach.of_pod(&self.peers, name)),
            "segment" => Some(self.reach.segment_itself(name)),
            _ => None,
        };
        question.unwrap_or_else(|| Question::nothing(unit.clone()))
    }

    /// All that a plugin wants here, or the first reason why that is not known.
    pub(super) async fn wishes(&mut self, node: &NodeFacts, plugin: &Arc<dyn Plugin>) -> Result<Units, String> {
        let (plugin, facts, node) = (plugin.clone(), self.facts.clone(), node.clone());
        let questions = self.questions();
        self.ask(move || {
            let mut units = Units::new();
            for question in questions {
                if let Some(wish) = question.ask(&*plugin, &facts, &node).map_err(|none| none.why)? {
                    units.insert(question.unit, Some(wish));
                }
            }
            Ok(units)
        })
        .await
    }

    /// All that a plugin wants here as far as it says so, and why it does not say the rest: for an agent that has just been started, as
    /// one bad question is no reason not to take over everything else. Of what a failing plugin does not say nothing is known, so
    /// it has to recover first; the question that it failed with is not asked again that soon.
    pub(super) async fn answered(
        &mut self,
        node: &NodeFacts,
        plugin: &Arc<dyn Plugin>,
    ) -> Result<(Units, BTreeMap<UnitId, String>), String> {
        let (plugin, facts, node) = (plugin.clone(), self.facts.clone(), node.clone());
        let questions = self.questions();
        let own = Question::node().unit;
        self.ask(move || {
            let (mut units, mut unanswered) = (Units::new(), BTreeMap::new());
            for question in questions {
                match question.ask(&*plugin, &facts, &node) {
                    Ok(wish) => units.extend(wish.map(|wish| (question.unit, Some(wish)))),
                    Err(none) if none.is_fault || question.unit == own => return Err(none.why),
                    Err(none) => drop(unanswered.insert(question.unit, none.why)),
                }
            }
            Ok((units, unanswered))
        })
        .await
    }

    /// Asks each question for itself.
    pub(super) async fn answers(
        &mut self,
        plugin: &Arc<dyn Plugin>,
        node: &NodeFacts,
        questions: Vec<Question>,
    ) -> Answers {
        let (plugin, facts, node) = (plugin.clone(), self.facts.clone(), node.clone());
        let answer = move |question: Question| {
            let answer = question.ask(&*plugin, &facts, &node);
            (question.unit, answer.map_err(|none| none.why))
        };
        self.ask(move || questions.into_iter().map(answer).collect()).await
    }

    /// Asks the plugin whose network is in force, if there is one, and brings its answers into force. What it does not answer is
    /// overdue.
    pub(super) async fn renew(&mut self, questions: Vec<Question>) {
        let (gone, questions): (Vec<_>, Vec<_>) = questions.into_iter().partition(Question::is_about_nothing);
        let mut units = Units::new();
        // Before the first network is in force, nothing is there that could go.
        if self.keeper.is_some() {
            units.extend(gone.into_iter().map(|question| (question.unit, None)));
        }
        if let (Some((_, plugin)), Some(node), false) = (self.plugin.clone(), self.node.clone(), questions.is_empty()) {
            for (unit, answer) in self.answers(&plugin, &node, questions).await {
                match answer {
                    Err(why) => self.overdue.unanswered(unit, why),
                    Ok(wish) if unit.0 == UNDERLAY => {
                        self.needs_route = wish.is_some();
                        self.overdue.forget(&unit);
                    }
                    Ok(wish) => {
                        self.overdue.forget(&unit);
                        units.insert(unit, wish);
                    }
                }
            }
        }
        self.change(units).await;
        self.publish();
    }

    /// Does something on a thread for work that may wait, and what it can do meanwhile.
    pub(super) async fn ask<T: Send + 'static>(&mut self, question: impl FnOnce() -> T + Send + 'static) -> T {
        let mut asked = spawn_blocking(question);
        loop {
            tokio::select! {
                biased;
                answer = &mut asked => return answer.expect("a plugin's panic ends at its boundary"),
                Some(call) = self.calls.recv() => self.meanwhile(call).await,
            }
        }
    }

    /// Does at once what has nothing to do with plugins, unless something of that kind waits already; all else has to wait.
    async fn meanwhile(&mut self, call: Call) {
        let is_beside =
            |call: &Call| matches!(call, Call::Services { .. } | Call::Policies { .. } | Call::PolicyCounters(_));
        let mut before = self.waiting.iter().chain(&self.aside);
        if self.is_halfway() || !is_beside(&call) || before.any(is_beside) {
            self.aside.push_back(call);
        } else {
            self.beside(call).await;
        }
    }
}
