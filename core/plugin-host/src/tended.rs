//! A plugin that is given another chance.
//!
//! An instance that panicked or hung is asked no more. Another one, of the same code and options, takes its place when somebody
//! asks after a pause that grows with each fault. Whatever it was asked about when it failed (a pod, a peer) is not asked about
//! again for a longer while: one bad question must not take the plugin from everybody who asks good ones.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use switchyard_netstate::Fragment;
use switchyard_plugin::abi::operation;
use switchyard_plugin::{Facts, Manifest, NodeFacts, PodFacts, Pool, SegmentFacts};

use crate::maker::Maker;
use crate::plugin::{CallError, Plugin, Started};
use crate::state::State;

/// A plugin, and who makes another instance of it.
pub(crate) struct Tended {
    maker: Maker,
    care: Mutex<Care<Arc<Started>>>,
}

/// Which instance answers, and when another one may.
struct Care<I> {
    /// None while it rests, or another one is being made.
    instance: Option<I>,
    making: bool,
    rest: Pause,
    /// What it failed with last, until it answers again.
    trouble: Option<String>,
    /// Questions that it failed with.
    suspects: HashMap<String, Suspect>,
}

/// A question that made an instance fail.
struct Suspect {
    why: String,
    pause: Pause,
}

/// A pause that grows, and when it is over.
struct Pause {
    first: Duration,
    longest: Duration,
    next: Duration,
    until: Option<Instant>,
}

/// What to do with a question.
#[derive(Debug, PartialEq)]
enum Turn<I> {
    Ask(I),
    /// Make an instance first.
    Make,
    /// Not now, and why.
    Rest(String),
}

const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// A bad question is repeated by whoever needs its answer; each time may cost an instance.
const FIRST_SUSPICION: Duration = Duration::from_secs(10);
const LONGEST_SUSPICION: Duration = Duration::from_secs(300);
/// Who did not fail for so long begins anew.
const STEADY: Duration = Duration::from_secs(600);

// === impl Tended ===

impl Tended {
    pub(crate) fn new(maker: Maker, started: Started) -> Self {
        Self { maker, care: Mutex::new(Care::of(Arc::new(started))) }
    }

    fn care(&self) -> MutexGuard<'_, Care<Arc<Started>>> {
        self.care.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an instance asked, unless it is not the time for this question.
    fn ask<T>(
        &self,
        operation: &'static str,
        about: &str,
        question: impl Fn(&Started) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let subject = format!("{operation} {about}");
        let turn = self.care().turn(&subject, Instant::now());
        let instance = match turn {
            Turn::Ask(instance) => instance,
            Turn::Rest(why) => return Err(CallError::Resting { operation, why }),
            Turn::Make => match self.maker.make() {
                Ok(made) => {
                    let made = Arc::new(made);
                    self.care().made(Arc::clone(&made));
                    made
                }
                Err(error) => {
                    let why = format!("it cannot be started again: {error}");
                    self.care().not_made(why.clone(), Instant::now());
                    return Err(CallError::Resting { operation, why });
                }
            },
        };
        let answer = question(&instance);
        let mut care = self.care();
        let is_current = care.instance.as_ref().is_some_and(|current| Arc::ptr_eq(current, &instance));
        match &answer {
            Err(error) if error.is_fault() => care.fault(&subject, error, is_current, Instant::now()),
            Err(_) => {}
            Ok(_) => care.well(&subject, is_current),
        }
        drop(care);
        answer
    }
}

impl Plugin for Tended {
    fn manifest(&self) -> &Manifest {
        &self.maker.manifest
    }

    fn file(&self) -> &Path {
        &self.maker.path
    }

    fn sha256(&self) -> &str {
        &self.maker.sha256
    }

    fn state(&self) -> State {
        if self.care().instance.is_some() { State::Started } else { State::Poisoned }
    }

    fn pool(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Pool, CallError> {
        self.ask(operation::POOL, &pod.uid, |plugin| plugin.pool(facts, node, pod))
    }

    fn node(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        self.ask(operation::NODE, &node.name, |plugin| plugin.node(facts, node))
    }

    fn peer(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts) -> Result<Fragment, CallError> {
        self.ask(operation::PEER, &peer.name, |plugin| plugin.peer(facts, node, peer))
    }

    fn pod(&self, facts: &Facts, node: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        self.ask(operation::POD, &pod.uid, |plugin| plugin.pod(facts, node, pod))
    }

    fn remote(&self, facts: &Facts, node: &NodeFacts, peer: &NodeFacts, pod: &PodFacts) -> Result<Fragment, CallError> {
        self.ask(operation::REMOTE, &pod.uid, |plugin| plugin.remote(facts, node, peer, pod))
    }

    fn segment(&self, facts: &Facts, node: &NodeFacts, segment: &SegmentFacts) -> Result<Fragment, CallError> {
        self.ask(operation::SEGMENT, &segment.name, |plugin| plugin.segment(facts, node, segment))
    }

    fn underlay(&self, facts: &Facts, node: &NodeFacts) -> Result<Fragment, CallError> {
        self.ask(operation::UNDERLAY, &node.name, |plugin| plugin.underlay(facts, node))
    }
}

// === impl Care ===

impl<I: Clone> Care<I> {
    fn of(instance: I) -> Self {
        let rest = Pause::new(FIRST_REST, LONGEST_REST);
        Self { instance: Some(instance), making: false, rest, trouble: None, suspects: HashMap::new() }
    }

    /// What comes of a question now. Who is told to make an instance has to say how that went.
    fn turn(&mut self, subject: &str, now: Instant) -> Turn<I> {
        if let Some(suspect) = self.suspects.get(subject).filter(|suspect| suspect.pause.is_on(now)) {
            return Turn::Rest(suspect.why.clone());
        }
        match &self.instance {
            Some(instance) => Turn::Ask(instance.clone()),
            None if self.making || self.rest.is_on(now) => Turn::Rest(self.trouble.clone().unwrap_or_default()),
            None => {
                self.making = true;
                Turn::Make
            }
        }
    }

    fn made(&mut self, instance: I) {
        (self.making, self.instance) = (false, Some(instance));
    }

    /// No instance could be made.
    fn not_made(&mut self, why: String, now: Instant) {
        (self.making, self.trouble) = (false, Some(why));
        self.rest.begin(now);
    }

    /// A question ended an instance, or one of its processes.
    fn fault(&mut self, subject: &str, error: &CallError, is_current: bool, now: Instant) {
        self.suspects.retain(|_, suspect| !suspect.pause.is_over(now));
        let first = || Suspect { why: String::new(), pause: Pause::new(FIRST_SUSPICION, LONGEST_SUSPICION) };
        let suspect = self.suspects.entry(subject.to_owned()).or_insert_with(first);
        suspect.why = error.to_string();
        suspect.pause.begin(now);
        if is_current {
            self.trouble = Some(error.to_string());
        }
        if is_current && error.ends_instance() {
            self.instance = None;
            self.rest.begin(now);
        }
    }

    /// A question was answered.
    fn well(&mut self, subject: &str, is_current: bool) {
        self.suspects.remove(subject);
        if is_current {
            self.trouble = None;
        }
    }
}

// === impl Pause ===

impl Pause {
    fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first, until: None }
    }

    /// Begins, twice as long each time.
    fn begin(&mut self, now: Instant) {
        if self.is_over(now) {
            self.next = self.first;
        }
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(self.longest);
    }

    fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Whether it was over so long ago that it counts no more.
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now.saturating_duration_since(until) > STEADY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: CallError = CallError::Panicked { operation: "pod", message: String::new() };

    fn rests(care: &mut Care<u8>, subject: &str, now: Instant) -> bool {
        matches!(care.turn(subject, now), Turn::Rest(_))
    }

    #[test]
    fn a_fault_costs_a_pause_and_then_another_instance_answers() {
        let (mut care, now) = (Care::of(1), Instant::now());
        assert_eq!(care.turn("pod a", now), Turn::Ask(1));
        care.fault("pod bad", &PANIC, true, now);
        assert!(care.trouble.is_some() && rests(&mut care, "pod a", now));
        let later = now + FIRST_REST;
        assert_eq!(care.turn("pod a", later), Turn::Make);
        // One at a time.
        assert!(rests(&mut care, "pod b", later));
        care.made(2);
        assert_eq!(care.turn("pod b", later), Turn::Ask(2));
        care.well("pod b", true);
        assert_eq!(care.trouble, None);
    }

    #[test]
    fn what_an_instance_failed_with_waits_longer_than_the_rest() {
        let (mut care, now) = (Care::of(1), Instant::now());
        care.fault("pod bad", &PANIC, true, now);
        assert_eq!(care.turn("pod a", now + FIRST_REST), Turn::Make);
        care.made(2);
        assert!(rests(&mut care, "pod bad", now + FIRST_SUSPICION / 2));
        let again = now + FIRST_SUSPICION;
        assert_eq!(care.turn("pod bad", again), Turn::Ask(2));
        care.fault("pod bad", &PANIC, true, again);
        assert!(rests(&mut care, "pod bad", again + FIRST_SUSPICION));
        assert!(rests(&mut care, "pod a", again + FIRST_REST), "the second rest is longer");
        assert_eq!(care.turn("pod a", again + FIRST_REST * 2), Turn::Make);
    }

    #[test]
    fn pauses_are_bounded_and_forgotten_when_all_was_well_for_long() {
        let (mut pause, mut now) = (Pause::new(FIRST_REST, LONGEST_REST), Instant::now());
        for _ in 0..20 {
            pause.begin(now);
            assert!(!pause.is_on(now + LONGEST_REST));
        }
        now += LONGEST_REST + STEADY + FIRST_REST;
        pause.begin(now);
        assert!(pause.is_on(now) && !pause.is_on(now + FIRST_REST));
    }

    #[test]
    fn a_crash_of_its_process_leaves_the_instance_and_who_cannot_be_made_rests() {
        let (mut care, now) = (Care::of(1), Instant::now());
        let died = CallError::Died { operation: "pod", why: String::new() };
        care.fault("pod bad", &died, true, now);
        assert!(rests(&mut care, "pod bad", now));
        assert_eq!(care.turn("pod a", now), Turn::Ask(1));
        // What an instance of before failed with is no matter of the one that answers now.
        care.fault("pod worse", &PANIC, false, now);
        assert_eq!(care.turn("pod a", now), Turn::Ask(1));
        care.fault("pod bad", &PANIC, true, now);
        assert_eq!(care.turn("pod a", now + FIRST_REST), Turn::Make);
        care.not_made("no".into(), now + FIRST_REST);
        assert!(rests(&mut care, "pod a", now + FIRST_REST));
    }
}
