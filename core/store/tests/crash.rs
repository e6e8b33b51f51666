//! A writer killed with -9 at random moments: what it was told is written is there, and no revision is given twice.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use switchyard_store::{Durability, Expect, Options, Store};

const DIR: &str = "SWITCHYARD_STORE_CRASH_DIR";

fn open(dir: &Path) -> Store {
    Store::open(Options { path: Some(dir.join("state.redb")), ..Options::default() }).expect("open the store")
}

/// The victim: not a test, but what the test starts. Prints a line for each write that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(Path::new(&dir));
    println!("open {}", store.revision());
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let key = format!("k/{writer}");
            for n in 0u64.. {
                let durability = if writer == 7 { Durability::Relaxed } else { Durability::Strict };
                let expect = if store.get(&key).is_some() { Expect::Present } else { Expect::Absent };
                let entry = store
                    .put(&key, json!({ "n": n, "padding": "x".repeat(2000) }), expect, durability)
                    .await
                    .expect("put");
                println!("{} {writer} {}", if writer == 7 { "relaxed" } else { "acked" }, entry.revision);
            }
        })
    });
    futures_all(writers.collect()).await;
}

async fn futures_all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.expect("a writer");
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut highest = 0;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "victim", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the victim");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
        // Where in a commit the kill falls is up to chance; how many writes come first is not.
        let count = 20 + round * 37;
        let mut acked = [0u64; 8];
        let mut begin = 0;
        let mut note = |line: String| {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                [.., "open", revision] => begin = revision.parse().expect("a revision"),
                ["acked", writer, revision] => {
                    acked[writer.parse::<usize>().expect("a writer")] = revision.parse().expect("a revision");
                }
                _ => return false,
            }
            true
        };
        let mut seen = 0;
        while seen < count {
            seen += u64::from(note(lines.next().expect("the victim writes on")));
        }
        std::thread::sleep(Duration::from_micros(round * 731));
        child.kill().expect("kill -9");
        // Lines already in the pipe were acknowledged as well; the last may be cut off.
        let mut rest: Vec<String> = lines.collect();
        rest.pop();
        for line in rest {
            note(line);
        }
        child.wait().expect("reap");
        assert!(begin > highest || highest == 0, "revision {begin} was given before (up to {highest})");
        let store = open(dir.path());
        for (writer, revision) in acked.iter().enumerate().filter(|(_, revision)| **revision > 0) {
            let entry = store.get(&format!("k/{writer}")).expect("the key");
            assert!(
                entry.revision >= *revision,
                "round {round}: writer {writer} was told {revision}, there is {}",
                entry.revision
            );
        }
        highest = highest.max(acked.into_iter().max().unwrap_or(0));
        assert!(store.revision() > highest);
        assert!(store.watch("", None, highest).is_err(), "clients from before must list anew");
        // The next victim needs the file, which the writer's thread lets go of when it has ended.
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(store.close());
    }
}

#[tokio::test]
async fn a_closed_store_opens_with_everything_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.create("a", json!({"n": 1})).await.expect("create");
    store.put("b", json!({"n": 2}), Expect::Absent, Durability::Relaxed).await.expect("put");
    store.create("c", json!({})).await.expect("create");
    store.delete("c", Expect::Present, Durability::Strict).await.expect("delete");
    store.close().await;
    assert!(store.create("d", json!({})).await.is_err());
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.get("a").expect("a").value["n"], 1);
    assert_eq!(store.get("b").expect("b").value["n"], 2);
    assert!(store.get("c").is_none());
}
