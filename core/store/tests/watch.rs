//! What a watch promises, one test a promise: ordered, unique, reliable, resumable, atomic, bookmarkable.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchyard_store::{Change, Durability, Error, Event, Expect, Options, Store, Watch};

fn store() -> Store {
    Store::open(Options::default()).expect("open a store in memory")
}

fn indexed(options: Options) -> Store {
    let index = |_: &str, value: &Value| value.get("node").and_then(Value::as_str).map(Into::into);
    Store::open(Options { index, ..options }).expect("open a store in memory")
}

async fn take(watch: &mut Watch, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    let all = async {
        while events.len() < count {
            events.extend(watch.next(count - events.len()).await.expect("the watch does not lag"));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("all events arrive");
    events
}

/// Many writers at once, each counting up its own key.
async fn traffic(store: &Store, writers: usize, writes: usize) {
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let key = format!("a/b/{writer}");
            for n in 0..writes {
                store
                    .put(
                        &key,
                        json!({ "n": n }),
                        if n == 0 { Expect::Absent } else { Expect::Present },
                        Durability::Strict,
                    )
                    .await
                    .expect("put");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a writer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_ordered_unique_and_none_is_missing() {
    let store = store();
    let mut watch = store.watch("a/b/", None, 0).expect("watch");
    traffic(&store, 8, 200).await;
    let events = take(&mut watch, 1600).await;
    let revisions: Vec<u64> = events.iter().map(|event| event.entry.revision).collect();
    assert_eq!(revisions, (1..=1600).collect::<Vec<u64>>());
    for writer in 0..8 {
        let key = format!("a/b/{writer}");
        let own: Vec<_> = events
            .iter()
            .filter(|event| *event.entry.key == *key)
            .map(|event| event.entry.value["n"].clone())
            .collect();
        assert_eq!(own, (0..200).map(|n| json!(n)).collect::<Vec<_>>(), "writes of {key} in their order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_opened_during_writes_and_the_list_before_it_make_the_whole() {
    let store = store();
    let writes = tokio::spawn({
        let store = store.clone();
        async move { traffic(&store, 4, 300).await }
    });
    let mut checks = Vec::new();
    for _ in 0..20 {
        let (entries, revision) = store.list("a/b/");
        let mut watch = store.watch("a/b/", None, revision).expect("watch");
        checks.push(tokio::spawn(async move {
            let mut state: std::collections::BTreeMap<Arc<str>, u64> =
                entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
            let mut last = revision;
            while last < 1200 {
                for event in watch.next(100).await.expect("no lag") {
                    assert_eq!(event.entry.revision, last + 1, "nothing is left out, nothing comes twice");
                    last = event.entry.revision;
                    state.insert(event.entry.key.clone(), last);
                }
            }
            state
        }));
    }
    writes.await.expect("writes");
    let (entries, _) = store.list("a/b/");
    let truth: std::collections::BTreeMap<Arc<str>, u64> =
        entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
    for check in checks {
        let state = tokio::time::timeout(Duration::from_secs(60), check).await.expect("in time").expect("check");
        assert_eq!(state, truth);
    }
}

#[tokio::test]
async fn a_watch_resumes_where_it_stopped_or_is_told_that_it_cannot() {
    let store = Store::open(Options { history_events: 10, ..Options::default() }).expect("open");
    for n in 0..30 {
        store.create(&format!("a/{n}"), json!({})).await.expect("create");
    }
    let mut watch = store.watch("a/", None, 20).expect("the last ten are there");
    let revisions: Vec<u64> = take(&mut watch, 10).await.iter().map(|event| event.entry.revision).collect();
    assert_eq!(revisions, (21..=30).collect::<Vec<u64>>());
    assert!(matches!(store.watch("a/", None, 19), Err(Error::Compacted { requested: 19, oldest: 20, current: 30 })));
    assert!(matches!(store.watch("a/", None, 31), Err(Error::Compacted { .. })), "a revision nobody gave");
}

#[tokio::test]
async fn an_event_has_the_value_before_and_after() {
    let store = store();
    let mut watch = store.watch("", None, 0).expect("watch");
    store.create("a/x", json!({"n": 1})).await.expect("create");
    store.update("a/x", json!({"n": 2}), 1).await.expect("update");
    store.delete("a/x", Expect::Revision(2), Durability::Strict).await.expect("delete");
    let events = take(&mut watch, 3).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event.change,
                event.entry.value["n"].clone(),
                event.previous.as_ref().map(|entry| entry.value["n"].clone()),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (Change::Created, json!(1), None),
            (Change::Updated, json!(2), Some(json!(1))),
            (Change::Deleted, json!(2), Some(json!(2)))
        ]
    );
    assert_eq!(events[2].entry.value["metadata"]["resourceVersion"], "3", "a removal has a revision of its own");
}

#[tokio::test]
async fn progress_is_promised_only_when_everything_before_it_was_delivered() {
    let store = store();
    let mut watch = store.watch("a/", None, 0).expect("watch");
    store.create("b/1", json!({})).await.expect("create");
    assert_eq!(watch.progress(), Some(1), "other keys count as well");
    store.create("a/1", json!({})).await.expect("create");
    assert_eq!(watch.progress(), None, "an event waits");
    take(&mut watch, 1).await;
    assert_eq!(watch.progress(), Some(2));
}

#[tokio::test]
async fn a_narrowed_watch_sees_what_comes_to_its_word_and_what_leaves_it() {
    let store = indexed(Options::default());
    let mut watch = store.watch("p/", Some("n1"), 0).expect("watch");
    store.create("p/1", json!({})).await.expect("unbound");
    store.update("p/1", json!({"node": "n1"}), 1).await.expect("bound");
    store.create("p/2", json!({"node": "n2"})).await.expect("elsewhere");
    store.update("p/1", json!({"node": "n2"}), 2).await.expect("moved");
    let revisions: Vec<u64> = take(&mut watch, 2).await.iter().map(|event| event.entry.revision).collect();
    assert_eq!(revisions, [2, 4]);
    let mut replay = store.watch("p/", Some("n1"), 0).expect("watch");
    let again: Vec<u64> = take(&mut replay, 2).await.iter().map(|event| event.entry.revision).collect();
    assert_eq!(again, [2, 4], "the ring is narrowed in the same way");
}

#[tokio::test]
async fn a_watch_of_one_key_does_not_see_keys_that_begin_with_it() {
    let store = store();
    let mut watch = store.watch("a/x", None, 0).expect("watch");
    store.create("a/xy", json!({})).await.expect("create");
    store.create("a/x", json!({})).await.expect("create");
    assert_eq!(&*take(&mut watch, 1).await[0].entry.key, "a/x");
}

#[tokio::test]
async fn a_slow_watch_is_dropped_and_bounded() {
    let store = Store::open(Options { watch_queue: 8, ..Options::default() }).expect("open");
    let mut watch = store.watch("a/", None, 0).expect("watch");
    for n in 0..100 {
        store.create(&format!("a/{n}"), json!({})).await.expect("create");
    }
    assert!(watch.next(10).await.is_err());
    assert_eq!(store.watches(), 1);
    drop(watch);
    assert_eq!(store.watches(), 0);
}

#[tokio::test]
async fn a_slow_watch_of_large_values_is_bounded_by_their_bytes() {
    let store = Store::open(Options { watch_bytes: 10_000, ..Options::default() }).expect("open");
    let large = || json!({ "x": "x".repeat(4_000) });
    let mut watch = store.watch("a/", None, 0).expect("watch");
    for n in 0..2 {
        store.create(&format!("a/{n}"), large()).await.expect("create");
    }
    assert_eq!(take(&mut watch, 2).await.len(), 2, "what was taken does not count any more");
    for n in 2..4 {
        store.create(&format!("a/{n}"), large()).await.expect("create");
    }
    assert_eq!(take(&mut watch, 2).await.len(), 2);
    for n in 4..7 {
        store.create(&format!("a/{n}"), large()).await.expect("create");
    }
    assert!(watch.next(10).await.is_err(), "three are too much");
    let mut watch = store.watch("a/", None, store.revision()).expect("watch");
    store.create("a/x", json!({ "x": "x".repeat(40_000) })).await.expect("create");
    assert_eq!(take(&mut watch, 1).await.len(), 1, "one may wait, however long it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_of_one_revision_one_wins() {
    let store = store();
    store.create("a/x", json!({"n": 0})).await.expect("create");
    let mut wins = 0;
    for round in 1..=20u64 {
        let attempts = (0..16).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.update("a/x", json!({ "n": n }), round).await.is_ok() })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            wins += u64::from(attempt.await.expect("an attempt"));
        }
        assert_eq!(wins, round);
    }
    assert!(matches!(store.create("a/x", json!({})).await, Err(Error::Exists(_))));
    assert!(matches!(store.update("a/y", json!({}), 1).await, Err(Error::NotFound(_))));
    assert!(matches!(store.update("a/x", json!({}), 1).await, Err(Error::Conflict { current: 21, .. })));
}
