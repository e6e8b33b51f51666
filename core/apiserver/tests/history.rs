//! What is kept of the past: watches that resume, lists in parts, and what both are told when it is over.

mod rig;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use rig::{Rig, code, from};
use serde_json::{Value, json};
use switchyard_apiserver::pki::Identity;

async fn fill(maps: &Api<ConfigMap>, names: std::ops::Range<usize>) {
    for n in names {
        let map = json!({"metadata": {"name": format!("m{n}"), "labels": {"n": n.to_string()}}});
        maps.create(&PostParams::default(), &from(map)).await.expect("create");
    }
}

async fn revision(maps: &Api<ConfigMap>) -> String {
    maps.list(&ListParams::default()).await.expect("list").metadata.resource_version.expect("a revision")
}

/// The code with which a watch ends.
async fn ends_with(maps: &Api<ConfigMap>, from: &str) -> u16 {
    let mut events = maps.watch(&WatchParams::default(), from).await.expect("watch").boxed();
    loop {
        match events.try_next().await.expect("watch").expect("an event") {
            WatchEvent::Error(status) => return status.code,
            WatchEvent::Added(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_watch_from_before_what_is_kept_is_told_to_list_anew() {
    let rig = Rig::start_with(|config| config.history.events = 4).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(rig.client(&Identity::admin()).await);
    let before = revision(&maps).await;
    fill(&maps, 0..10).await;
    assert_eq!(ends_with(&maps, &before).await, 410);
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_that_lags_is_told_so() {
    let rig = Rig::start_with(|config| config.history.watch_queue = 4).await;
    // In one thread, and in this process: nobody takes anything from the watch before it is read.
    let maps: Api<ConfigMap> = Api::default_namespaced(rig.server.client());
    let events = maps.watch(&WatchParams::default(), &revision(&maps).await).await.expect("watch");
    fill(&maps, 0..10).await;
    let last = events.try_collect::<Vec<_>>().await.expect("it ends").pop();
    assert!(matches!(last, Some(WatchEvent::Error(status)) if status.code == 410));
    rig.stop().await;
}

#[tokio::test]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let rig = Rig::start_with(|config| config.history.bookmark_every = Duration::from_millis(20)).await;
    let client = rig.client(&Identity::admin()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let from = revision(&maps).await;
    let params = WatchParams::default().labels("n=none");
    let mut events = maps.watch(&params, &from).await.expect("watch").boxed();
    fill(&maps, 0..3).await;
    let now = revision(&maps).await;
    loop {
        match events.try_next().await.expect("watch").expect("an event") {
            WatchEvent::Bookmark(mark) if mark.metadata.resource_version == now => break,
            WatchEvent::Bookmark(_) => {}
            other => panic!("{other:?}"),
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn events_from_the_beginning_need_a_promise_to_hold_them_to() {
    let rig = Rig::start().await;
    let client = rig.client(&Identity::admin()).await;
    let get = |query: &str| {
        let path = format!("/api/v1/configmaps?watch=1&{query}");
        client.request::<Value>(http::Request::get(path).body(vec![]).expect("a request"))
    };
    assert_eq!(code(get("sendInitialEvents=true").await), 422);
    assert_eq!(code(get("sendInitialEvents=true&resourceVersionMatch=Exact").await), 422);
    assert_eq!(code(get("resourceVersionMatch=NotOlderThan").await), 422);
    rig.stop().await;
}

#[tokio::test]
async fn the_rest_of_a_list_is_kept_for_a_while() {
    let rig = Rig::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(rig.client(&Identity::admin()).await);
    fill(&maps, 0..5).await;
    let page = |token: Option<&str>| {
        let params = ListParams { limit: Some(2), continue_token: token.map(Into::into), ..ListParams::default() };
        let maps = maps.clone();
        async move { maps.list(&params).await }
    };
    let first = page(None).await.expect("list");
    let token = first.metadata.continue_.clone().expect("there is more");
    let names = |list: &kube::core::ObjectList<ConfigMap>| -> Vec<String> {
        list.items.iter().filter_map(|map| map.metadata.name.clone()).collect()
    };
    fill(&maps, 5..7).await;
    let second = page(Some(&token)).await.expect("list");
    assert_eq!(
        (names(&second), &second.metadata.resource_version),
        (vec!["m2".into(), "m3".into()], &first.metadata.resource_version)
    );
    let third = page(second.metadata.continue_.as_deref()).await.expect("list");
    assert_eq!((names(&third), third.metadata.continue_), (vec!["m4".to_owned()], None), "as it was at the first part");
    assert_eq!(names(&page(Some(&token)).await.expect("list")), names(&second), "a part may be asked for again");
    for wrong in ["1", "x-1", "1-x"] {
        assert_eq!(code(page(Some(wrong)).await), 400, "{wrong}");
    }
    assert_eq!(code(page(Some("1-1000")).await), 410);
    for other in [ListParams::default().fields("metadata.name=m0"), ListParams::default().labels("a=b")] {
        let other = ListParams { continue_token: Some(token.clone()), ..other };
        assert_eq!(code(maps.list(&other).await), 410, "the rest of another list");
    }
    // Others list as well, and only so many lists are kept.
    for _ in 0..64 {
        page(None).await.expect("list");
    }
    assert_eq!(code(page(Some(&token)).await), 410);
    rig.stop().await;
    let rig = Rig::start_with(|config| config.history.continuation = Duration::ZERO).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(rig.client(&Identity::admin()).await);
    fill(&maps, 0..3).await;
    let token = maps.list(&ListParams::default().limit(1)).await.expect("list").metadata.continue_.expect("more");
    rig::eventually("its time is over", || async {
        let params = ListParams { continue_token: Some(token.clone()), ..ListParams::default() };
        matches!(maps.list(&params).await, Err(kube::Error::Api(status)) if status.code == 410)
    })
    .await;
    rig.stop().await;
}
