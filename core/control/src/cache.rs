//! One cache a kind for the whole process, filled by one watch, read by every controller.
//!
//! What a controller itself wrote is put in as soon as the API server has answered ([`Cache::wrote`]), so a step that follows sees
//! it even when the watch lags behind. That takes the place of the "expectations" other controllers keep: a ReplicaSet never
//! counts fewer pods than it made. Versions decide which of two states of an object is the later one.

use std::fmt;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// Where an object is: its namespace, empty for kinds without, and its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// Objects of one kind; a cheap handle.
pub(crate) struct Cache<K: 'static>(Arc<Inner<K>>);

/// By what objects can be found besides their key: one word an object and index.
pub(crate) type Index<K> = fn(&K) -> Option<String>;

/// Called after every change, with the object before and after; either may be missing. Calls may overtake each other, so what is
/// in the cache decides, not the order of calls.
type Handler<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

struct Inner<K: 'static> {
    objects: RwLock<Objects<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    indexes: &'static [Index<K>],
}

struct Objects<K> {
    by_key: HashMap<Key, Arc<K>>,
    by_index: Vec<HashMap<String, HashSet<Key>>>,
    /// The latest version the watch has shown.
    seen: u64,
}

// === impl Key ===

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
    }

    /// Of an object without namespace.
    pub(crate) fn cluster(name: &str) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

// === impl Cache ===

impl<K: 'static> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Cache<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    pub(crate) fn new(indexes: &'static [Index<K>]) -> Self {
        let by_index = indexes.iter().map(|_| HashMap::new()).collect();
        Self(Arc::new(Inner {
            objects: RwLock::new(Objects { by_key: HashMap::new(), by_index, seen: 0 }),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
            indexes,
        }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.0.objects.read().expect("no panic while the cache is locked")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Objects<K>> {
        self.0.objects.write().expect("no panic while the cache is locked")
    }

    pub(crate) fn on_change(&self, handler: impl Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync + 'static) {
        self.0.handlers.write().expect("no panic while handlers are locked").push(Box::new(handler));
    }

    /// Forgets the handlers, which hold what holds this cache.
    pub(crate) fn close(&self) {
        self.0.handlers.write().expect("no panic while handlers are locked").clear();
    }

    /// Returns once everything that was there at the beginning is in.
    pub(crate) async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives in `self`.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().by_key.get(key).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<K>> {
        self.read().by_key.values().cloned().collect()
    }

    /// The objects for which an index gives this word.
    pub(crate) fn by(&self, index: usize, word: &str) -> Vec<Arc<K>> {
        let objects = self.read();
        let keys = objects.by_index[index].get(word).into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned()).collect()
    }

    /// Puts in what a write has just answered.
    pub(crate) fn wrote(&self, object: K) {
        let key = Key::of(object.meta());
        let version = version(object.meta());
        let mut objects = self.write();
        let stale = match objects.by_key.get(&key) {
            Some(old) => self::version(old.meta()) >= version,
            // The watch is past this version and does not have it: it was deleted since.
            None => objects.seen >= version,
        };
        if stale {
            return;
        }
        let new = Arc::new(strip(object));
        let old = objects.set(self.0.indexes, key, new.clone());
        drop(objects);
        self.tell(old.as_ref(), Some(&new));
    }

    /// Notes that a delete of this very object was accepted: until the watch says more, it counts as being deleted.
    pub(crate) fn deleted(&self, object: &K) {
        let key = Key::of(object.meta());
        let mut objects = self.write();
        let Some(old) = objects.by_key.get(&key).cloned() else { return };
        if old.meta().uid != object.meta().uid || old.meta().deletion_timestamp.is_some() {
            return;
        }
        let mut new = K::clone(&old);
        new.meta_mut().deletion_timestamp = Some(Time(jiff::Timestamp::now()));
        let new = Arc::new(new);
        objects.set(self.0.indexes, key, new.clone());
        drop(objects);
        self.tell(Some(&old), Some(&new));
    }

    /// Watches for ever.
    pub(crate) async fn run(self, api: Api<K>, config: watcher::Config) {
        let mut events = switchyard_watch::watch(api, config).boxed();
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.insert(Key::of(object.meta()));
                    self.apply(object);
                }
                Ok(watcher::Event::InitDone) => {
                    self.keep_only(&std::mem::take(&mut listed));
                    self.0.synced.send_replace(true);
                }
                Ok(watcher::Event::Apply(object)) => self.apply(object),
                Ok(watcher::Event::Delete(object)) => self.remove(&object),
                Err(error) => tracing::debug!(kind = %K::kind(&()), %error, "watch"),
            }
        }
    }

    fn apply(&self, object: K) {
        let key = Key::of(object.meta());
        let version = version(object.meta());
        let mut objects = self.write();
        objects.seen = objects.seen.max(version);
        // Our own write came first, or the same again after a new list.
        if version != 0 && objects.by_key.get(&key).is_some_and(|old| self::version(old.meta()) >= version) {
            return;
        }
        let new = Arc::new(strip(object));
        let old = objects.set(self.0.indexes, key, new.clone());
        drop(objects);
        self.tell(old.as_ref(), Some(&new));
    }

    fn remove(&self, object: &K) {
        let mut objects = self.write();
        objects.seen = objects.seen.max(version(object.meta()));
        let key = Key::of(object.meta());
        // Another object of the same name may already be there, from our own write.
        if objects.by_key.get(&key).is_some_and(|old| old.meta().uid != object.meta().uid) {
            return;
        }
        let old = objects.unset(self.0.indexes, &key);
        drop(objects);
        self.tell(old.as_ref(), None);
    }

    fn keep_only(&self, listed: &HashSet<Key>) {
        let mut objects = self.write();
        let gone: Vec<Key> = objects.by_key.keys().filter(|key| !listed.contains(key)).cloned().collect();
        let gone: Vec<Arc<K>> = gone.iter().filter_map(|key| objects.unset(self.0.indexes, key)).collect();
        drop(objects);
        for old in gone {
            self.tell(Some(&old), None);
        }
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        for handler in self.0.handlers.read().expect("no panic while handlers are locked").iter() {
            handler(old, new);
        }
    }
}

// === impl Objects ===

impl<K> Objects<K> {
    fn set(&mut self, indexes: &[Index<K>], key: Key, new: Arc<K>) -> Option<Arc<K>> {
        let old = self.unset(indexes, &key);
        for (index, words) in indexes.iter().zip(&mut self.by_index) {
            if let Some(word) = index(&new) {
                words.entry(word).or_default().insert(key.clone());
            }
        }
        self.by_key.insert(key, new);
        old
    }

    fn unset(&mut self, indexes: &[Index<K>], key: &Key) -> Option<Arc<K>> {
        let old = self.by_key.remove(key)?;
        for (index, words) in indexes.iter().zip(&mut self.by_index) {
            let Some(word) = index(&old) else { continue };
            if let Some(keys) = words.get_mut(&word) {
                keys.remove(key);
                if keys.is_empty() {
                    words.remove(&word);
                }
            }
        }
        Some(old)
    }
}

/// Versions are numbers that grow, as the API promises since KEP-5504. Where one is not, 0: then only the watch is believed.
fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Who wrote which field is of no use here, and often most of an object.
fn strip<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
