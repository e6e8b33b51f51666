//! A fragment: the wanted state of one unit, place by place.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Iter};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Key, Object, Place};

/// The wanted state of one unit (a node, a peer, a pod, a Service) in one or several places.
///
/// As JSON: an object from place to a list of objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fragment {
    places: BTreeMap<Place, Objects>,
}

/// Objects of one place, each key once. As JSON: a list; a key that comes twice is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<Key, Object>);

// === impl Fragment ===

impl Fragment {
    /// A fragment that wants nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object; one of the same key in the same place is replaced.
    pub fn want(&mut self, place: &Place, object: Object) -> &mut Self {
        if !self.places.contains_key(place) {
            self.places.insert(place.clone(), Objects::default());
        }
        self.places.get_mut(place).expect("inserted above").insert(object);
        self
    }

    /// Adds several objects in one place.
    pub fn want_all(&mut self, place: &Place, objects: impl IntoIterator<Item = Object>) -> &mut Self {
        for object in objects {
            self.want(place, object);
        }
        self
    }

    /// Takes in all that `other` wants.
    pub fn merge(&mut self, other: Self) {
        for (place, objects) in other.places {
            let mine = self.places.entry(place).or_default();
            mine.0.extend(objects.0);
        }
    }

    /// The places it says something about, with their objects.
    pub fn places(&self) -> Iter<'_, Place, Objects> {
        self.places.iter()
    }

    /// What it wants in one place.
    pub fn get(&self, place: &Place) -> Option<&Objects> {
        self.places.get(place)
    }

    /// Whether it wants nothing anywhere.
    pub fn is_empty(&self) -> bool {
        self.places.values().all(|objects| objects.0.is_empty())
    }
}

// === impl Objects ===

impl Objects {
    /// Adds an object, replacing one of the same key.
    pub fn insert(&mut self, object: Object) -> Option<Object> {
        self.0.insert(object.key(), object)
    }

    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.0.get(key)
    }

    /// Removes the object with this key.
    pub fn remove(&mut self, key: &Key) -> Option<Object> {
        self.0.remove(key)
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> Iter<'_, Key, Object> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        Self(objects.into_iter().map(|object| (object.key(), object)).collect())
    }
}

impl Serialize for Objects {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut objects = BTreeMap::new();
        for object in Vec::<Object>::deserialize(deserializer)? {
            match objects.entry(object.key()) {
                Entry::Vacant(slot) => slot.insert(object),
                Entry::Occupied(slot) => return Err(D::Error::custom(format!("{} is wanted twice", slot.key()))),
            };
        }
        Ok(Self(objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_a_list_by_place_and_refuses_doubles_and_unknown_fields() {
        let good = r#"{"node/n1":[{"kind":"link","name":"cbr0","type":{"bridge":{}}},
            {"kind":"route","to":"10.40.2.0/24","via":{"gateway":"10.140.0.12"}}]}"#;
        let fragment: Fragment = serde_json::from_str(good).unwrap();
        assert_eq!(fragment.get(&Place::node("n1")).unwrap().len(), 2);
        let again: Fragment = serde_json::from_str(&serde_json::to_string(&fragment).unwrap()).unwrap();
        assert_eq!(again, fragment);

        let twice =
            r#"{"router":[{"kind":"sysctl","path":"net/a","value":"1"},{"kind":"sysctl","path":"net/a","value":"0"}]}"#;
        assert!(serde_json::from_str::<Fragment>(twice).unwrap_err().to_string().contains("wanted twice"));
        let typo = r#"{"router":[{"kind":"route","to":"10.0.0.0/8","via":{"gatway":"10.0.0.1"}}]}"#;
        assert!(serde_json::from_str::<Fragment>(typo).unwrap_err().to_string().contains("gatway"));
    }
}
