//! Groups of pods by what the pods in them have in common, so that who a pod belongs to is found without asking every group.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Labels, Namespaces, PodGroup};

/// Things that speak of pods, each in the place where every pod that it may speak of finds it.
#[derive(Debug)]
pub(crate) struct Groups<T> {
    /// By a label that it demands: key, value.
    by_label: BTreeMap<String, BTreeMap<String, BTreeSet<T>>>,
    /// By the one namespace that it speaks of, if it demands no label.
    by_namespace: BTreeMap<String, BTreeSet<T>>,
    /// The rest: any pod may be meant.
    wide: BTreeSet<T>,
}

/// Where a group is found.
enum Mark<'a> {
    Label(&'a str, &'a str),
    Namespace(&'a str),
    Wide,
}

// === impl Groups ===

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { by_label: BTreeMap::new(), by_namespace: BTreeMap::new(), wide: BTreeSet::new() }
    }
}

impl<T: Clone + Ord> Groups<T> {
    /// From now on found by the pods of this group.
    pub(crate) fn enter(&mut self, group: &PodGroup, thing: T) {
        match mark(group) {
            Mark::Label(key, value) => {
                let values = self.by_label.entry(key.to_owned()).or_default();
                values.entry(value.to_owned()).or_default().insert(thing)
            }
            Mark::Namespace(name) => self.by_namespace.entry(name.to_owned()).or_default().insert(thing),
            Mark::Wide => self.wide.insert(thing),
        };
    }

    /// No longer. One that is not there is fine.
    pub(crate) fn leave(&mut self, group: &PodGroup, thing: &T) {
        match mark(group) {
            Mark::Label(key, value) => {
                let Some(values) = self.by_label.get_mut(key) else { return };
                take(values, value, thing);
                if values.is_empty() {
                    self.by_label.remove(key);
                }
            }
            Mark::Namespace(name) => take(&mut self.by_namespace, name, thing),
            Mark::Wide => drop(self.wide.remove(thing)),
        }
    }

    /// All whose groups may hold such a pod; whether they do, the groups say.
    pub(crate) fn candidates(&self, namespace: &str, labels: &Labels) -> BTreeSet<&T> {
        let of_labels = labels.iter().filter_map(|(key, value)| self.by_label.get(key)?.get(value));
        of_labels.chain(self.by_namespace.get(namespace)).chain([&self.wide]).flatten().collect()
    }
}

fn take<T: Ord>(sets: &mut BTreeMap<String, BTreeSet<T>>, name: &str, thing: &T) {
    let Some(set) = sets.get_mut(name) else { return };
    set.remove(thing);
    if set.is_empty() {
        sets.remove(name);
    }
}

/// One demand of the group that every pod in it meets; a label tells more apart than a namespace does.
fn mark(group: &PodGroup) -> Mark<'_> {
    match (group.labels.match_labels.iter().flatten().next(), &group.namespaces) {
        (Some((key, value)), _) => Mark::Label(key, value),
        (None, Namespaces::Named(name)) => Mark::Namespace(name),
        (None, _) => Mark::Wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Selector;

    fn group(namespaces: Namespaces, label: Option<(&str, &str)>) -> PodGroup {
        PodGroup { namespaces, labels: label.map(|(key, value)| Selector::label(key, value)).unwrap_or_default() }
    }

    #[test]
    fn a_pod_finds_every_group_that_may_hold_it_and_few_others() {
        let shop = || Namespaces::Named("shop".into());
        let all = [
            group(shop(), Some(("app", "web"))),
            group(shop(), Some(("app", "db"))),
            group(shop(), None),
            group(Namespaces::Named("bank".into()), None),
            group(Namespaces::All, None),
            group(Namespaces::Labelled(Selector::label("team", "x")), Some(("app", "web"))),
        ];
        let mut groups = Groups::default();
        all.iter().enumerate().for_each(|(number, group)| groups.enter(group, number));
        let labels = Labels::from([("app".to_owned(), "web".to_owned()), ("zone".to_owned(), "1".to_owned())]);
        let found =
            |groups: &Groups<usize>| groups.candidates("shop", &labels).into_iter().copied().collect::<Vec<_>>();
        assert_eq!(found(&groups), [0, 2, 4, 5]);
        all.iter().enumerate().skip(1).for_each(|(number, group)| groups.leave(group, &number));
        assert_eq!(found(&groups), [0]);
        groups.leave(&all[0], &0);
        assert!(groups.by_label.is_empty() && groups.by_namespace.is_empty() && groups.wide.is_empty());
    }
}
