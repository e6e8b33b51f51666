use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::error::Error;

fn failure() -> Error {
    Error::Missing(crate::cache::Key::cluster("made to fail"))
}

#[tokio::test(start_paused = true)]
async fn keys_that_arrive_while_worked_on_are_worked_on_once_more() {
    let queue = Queue::new();
    let steps = AtomicU32::new(0);
    queue.add("a");
    queue.add("a");
    let step = |key| {
        let (queue, steps) = (queue.clone(), &steps);
        async move {
            if steps.fetch_add(1, Ordering::Relaxed) == 0 {
                for _ in 0..5 {
                    queue.add(key);
                }
            }
            Ok(Next::Change)
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), queue.clone().run("test", 4, step)).await;
    assert_eq!(steps.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_comes_again_later_and_later() {
    let queue = Queue::new();
    let times = Mutex::new(Vec::new());
    queue.add(1);
    let step = |_| {
        let mut times = times.lock().unwrap();
        times.push(Instant::now());
        let result = if times.len() < 5 { Err(failure()) } else { Ok(Next::Change) };
        async move { result }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), queue.clone().run("test", 1, step)).await;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 5);
    assert!(times.windows(3).all(|t| t[2] - t[1] > t[1] - t[0]), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paced_key_goes_at_once_and_its_burst_in_one_piece() {
    let queue = Queue::paced(Duration::from_millis(5));
    let begin = Instant::now();
    let times = Mutex::new(Vec::new());
    let step = |_| {
        times.lock().unwrap().push(begin.elapsed());
        async { Ok(Next::Change) }
    };
    queue.add("a");
    let adds = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            queue.add("a");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    tokio::select! {
        () = queue.clone().run("test", 1, step) => {}
        () = adds => {}
    }
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 2, "{times:?}");
    assert_eq!(times[0], Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_time_that_never_comes_is_no_trouble() {
    let queue = Queue::new();
    let steps = AtomicU32::new(0);
    queue.add(1);
    let step = |_| {
        steps.fetch_add(1, Ordering::Relaxed);
        async { Ok(Next::After(Duration::from_secs(i64::MAX as u64))) }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3600), queue.clone().run("test", 1, step)).await;
    assert_eq!(steps.load(Ordering::Relaxed), 1);
}
