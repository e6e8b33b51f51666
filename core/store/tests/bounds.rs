//! What is written can be read again, and what cannot be read does not keep the rest from being read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use switchyard_store::{Durability, Error, Expect, Options, Store, bounds};

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(Options { path: Some(path.into()), ..Options::default() })
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }))
}

#[tokio::test]
async fn a_value_nobody_could_read_again_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.redb");
    let store = open(&path).expect("open");
    store.create("deep", nested(bounds::MOST_DEPTH)).await.expect("as deep as it may be");
    for levels in [bounds::MOST_DEPTH + 1, 240] {
        assert!(matches!(store.create("deeper", nested(levels)).await, Err(Error::TooDeep { .. })), "{levels}");
    }
    let long = json!({ "x": "x".repeat(bounds::MOST_BYTES) });
    assert!(matches!(store.update("deep", long, 1).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.revision(), 1, "what is refused takes no revision");
    store.create("next", json!({})).await.expect("create");
    store.close().await;
    drop(store);
    let store = open(&path).expect("open again");
    assert_eq!(store.get("deep").expect("it is there").revision, 1);
    store.delete("deep", Expect::Present, Durability::Strict).await.expect("delete");
    store.close().await;
}

#[tokio::test]
async fn a_damaged_value_is_set_aside_and_the_rest_is_there() {
    const VALUES: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("values");
    const DAMAGED: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("damaged");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.redb");
    let store = open(&path).expect("open");
    store.create("good", json!({"n": 1})).await.expect("create");
    store.close().await;
    drop(store);
    let deep = [&[0; 8][..], "[".repeat(240).as_bytes(), "]".repeat(240).as_bytes()].concat();
    let database = redb::Database::open(&path).expect("the file");
    let transaction = database.begin_write().expect("write");
    {
        let mut values = transaction.open_table(VALUES).expect("table");
        values.insert("deep", deep.as_slice()).expect("insert");
        values.insert("short", &b"x"[..]).expect("insert");
    }
    transaction.commit().expect("commit");
    drop(database);

    let store = open(&path).expect("two damaged values are no reason to refuse the others");
    assert_eq!(store.get("good").expect("good").value["n"], 1);
    assert!(store.get("deep").is_none() && store.get("short").is_none());
    store.create("deep", json!({"n": 2})).await.expect("the key is free");
    store.close().await;
    drop(store);
    let store = open(&path).expect("and again");
    assert_eq!(store.get("deep").expect("deep").value["n"], 2);
    store.close().await;
    drop(store);
    let database = redb::Database::open(&path).expect("the file");
    let transaction = redb::ReadableDatabase::begin_read(&database).expect("read");
    let aside = transaction.open_table(DAMAGED).expect("table");
    assert_eq!(aside.get("deep").expect("get").expect("what was there is kept").value(), deep);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store/state.redb");
    let store = open(&path).expect("open");
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a directory"))), (0o600, 0o700));
    store.close().await;
}
