//! The end of Events: they tell what happened a while ago, and nobody deletes them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use switchyard_store::Entry;
use tokio::time::MissedTickBehavior;

use super::{DeleteOptions, Write};
use crate::meta;
use crate::server::Inner;

/// How long an Event is kept after what it tells last happened. Kubernetes'.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// Events of a namespace that are left at each look, the newest.
const MOST_OF_A_NAMESPACE: usize = 5000;
const EVERY: Duration = Duration::from_secs(60);

/// Deletes Events whose time is over, from now on.
pub fn expire_events(server: &Arc<Inner>) {
    let (weak, stop) = (Arc::downgrade(server), server.stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(server) = weak.upgrade() else { return };
            look(&server).await;
        }
    }));
}

async fn look(server: &Inner) {
    let table = server.kinds.now();
    let kind = table.find("", "events").expect("events are built in");
    for event in over(server.store.list(&kind.prefix).0, Timestamp::now()) {
        let write = Write::by_server(server, kind, meta::namespace(&event.value));
        match write.remove(meta::name(&event.value), &DeleteOptions::of(&event)).await {
            // It was told again in between, or is gone.
            Err(error) if matches!(error.code, 404 | 409) => {}
            Err(error) => return tracing::warn!(error = error.message, "old events stay"),
            Ok(_) => {}
        }
    }
}

/// Those that are too old, or too many.
fn over(events: Vec<Arc<Entry>>, now: Timestamp) -> Vec<Arc<Entry>> {
    let mut timed: Vec<_> = events.into_iter().map(|event| (last_seen(&event.value, now), event)).collect();
    timed.sort_by_key(|(seen, event)| Reverse((*seen, event.revision)));
    let mut counts = HashMap::<String, usize>::new();
    timed.retain(|(seen, event)| {
        let count = counts.entry(meta::namespace(&event.value).to_owned()).or_default();
        *count += 1;
        *count > MOST_OF_A_NAMESPACE || now.duration_since(*seen) > KEPT
    });
    timed.into_iter().map(|(_, event)| event).collect()
}

/// When it last happened. What is still to come is not believed.
fn last_seen(event: &Value, now: Timestamp) -> Timestamp {
    let times = ["/metadata/creationTimestamp", "/lastTimestamp", "/eventTime", "/series/lastObservedTime"];
    let times = times.iter().filter_map(|field| meta::text(event, field).parse::<Timestamp>().ok());
    times.filter(|time| *time <= now).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchyard_store::{Expect, Options, Store};

    use super::*;

    async fn stored(events: Vec<Value>) -> Vec<Arc<Entry>> {
        let store = Store::open(Options::default()).expect("a store");
        for event in events {
            let key = format!("core/events/{}/{}", meta::namespace(&event), meta::name(&event));
            store.put(&key, event, Expect::Absent, switchyard_store::Durability::Relaxed).await.expect("stored");
        }
        store.list("core/events/").0
    }

    fn names(events: &[Arc<Entry>]) -> Vec<&str> {
        events.iter().map(|event| meta::name(&event.value)).collect()
    }

    #[tokio::test]
    async fn an_event_goes_an_hour_after_it_last_happened() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let event = |name: &str, created: &str, last: &str| json!({"metadata": {"namespace": "a", "name": name, "creationTimestamp": created}, "lastTimestamp": last});
        let events = vec![
            event("again", "2026-01-01T10:00:00Z", "2026-01-01T11:30:00Z"),
            event("old", "2026-01-01T10:00:00Z", "2026-01-01T10:30:00Z"),
            event("to-come", "2026-01-01T10:00:00Z", "2027-01-01T00:00:00Z"),
            event("young", "2026-01-01T11:59:00Z", "2020-01-01T00:00:00Z"),
        ];
        let mut over = over(stored(events).await, now);
        over.sort_by_key(|event| event.key.clone());
        assert_eq!(names(&over), ["old", "to-come"]);
    }

    #[tokio::test]
    async fn the_newest_of_a_namespace_stay() {
        let now = Timestamp::now();
        let event = |namespace: &str, name: String| json!({"metadata": {"namespace": namespace, "name": name, "creationTimestamp": meta::timestamp(now)}});
        let many = (0..MOST_OF_A_NAMESPACE + 2).map(|number| event("a", format!("{number:05}")));
        let events = stored(many.chain([event("b", "alone".into())]).collect()).await;
        assert_eq!(names(&over(events, now)), ["00001", "00000"]);
    }
}
