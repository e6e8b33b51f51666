//! A Kubernetes API of a few kinds: list, watch from a version, status by merge patch. Enough for a client that watches.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};

use super::{Body, full};

/// The API; clones are the same one.
#[derive(Clone)]
pub struct KubeApi {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct State {
    version: u64,
    objects: BTreeMap<(String, String, String), Value>,
    patches: Vec<(String, Value)>,
}

#[derive(Clone)]
struct Event {
    resource: String,
    kind: &'static str,
    object: Value,
}

impl KubeApi {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let this = Self {
            address: listener.local_addr().expect("address"),
            state: Arc::default(),
            events: broadcast::channel(1024).0,
        };
        let api = this.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = api.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let api = api.clone();
                        async move { Ok::<_, Infallible>(api.answer(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        this
    }

    pub fn client(&self) -> kube::Client {
        let url = format!("http://{}", self.address).parse().expect("url");
        kube::Client::try_from(kube::Config::new(url)).expect("client")
    }

    /// Creates or replaces an object of a resource such as `services`.
    pub fn put(&self, resource: &str, mut object: Value) {
        let mut state = self.state.lock().expect("lock");
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let kind = match state.objects.insert(key(resource, &object), object.clone()) {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        let _ = self.events.send(Event { resource: resource.into(), kind, object });
    }

    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock().expect("lock");
        state.version += 1;
        if let Some(mut object) = state.objects.remove(&(resource.into(), namespace.into(), name.into())) {
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            let _ = self.events.send(Event { resource: resource.into(), kind: "DELETED", object });
        }
    }

    /// Status patches so far, by path.
    pub fn patches(&self) -> Vec<(String, Value)> {
        self.state.lock().expect("lock").patches.clone()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if request.method() == Method::PATCH {
            let bytes = request.into_body().collect().await.expect("body").to_bytes();
            let patch: Value = serde_json::from_slice(&bytes).expect("JSON");
            return self.patch(&path, &patch);
        }
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        if query.contains("watch=true") { self.watch(&resource) } else { self.list(&resource) }
    }

    fn list(&self, resource: &str) -> Response<Body> {
        let state = self.state.lock().expect("lock");
        let items: Vec<&Value> = state.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, o)| o).collect();
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": state.version.to_string() }, "items": items });
        Response::builder().header("content-type", "application/json").body(full(list.to_string())).expect("response")
    }

    fn watch(&self, resource: &str) -> Response<Body> {
        let resource = resource.to_owned();
        // Objects put between a list and this watch come once more; a client must take that.
        let (events, past): (_, Vec<Event>) = {
            let state = self.state.lock().expect("lock");
            let past = state.objects.iter().filter(|((r, ..), _)| *r == resource);
            let past = past.map(|(_, o)| Event { resource: resource.clone(), kind: "MODIFIED", object: o.clone() });
            (self.events.subscribe(), past.collect())
        };
        let past = futures::stream::iter(past);
        let live =
            futures::stream::unfold(events, |mut events| async move { events.recv().await.ok().map(|e| (e, events)) });
        let all = futures::StreamExt::chain(past, live);
        let lines = futures::StreamExt::filter_map(all, move |event| {
            let line = (event.resource == resource).then(|| {
                Ok(Frame::data(Bytes::from(format!("{}\n", json!({ "type": event.kind, "object": event.object })))))
            });
            std::future::ready(line)
        });
        let body = BodyExt::boxed(SyncBody(Mutex::new(Box::pin(StreamBody::new(lines)))));
        Response::builder().header("content-type", "application/json").body(body).expect("response")
    }

    fn patch(&self, path: &str, patch: &Value) -> Response<Body> {
        // .../namespaces/NAMESPACE/ingresses/NAME/status
        let parts: Vec<&str> = path.rsplit('/').collect();
        let (name, resource, namespace) = (parts[1], parts[2], parts[3]);
        let found = {
            let mut state = self.state.lock().expect("lock");
            state.patches.push((path.to_owned(), patch.clone()));
            state.objects.get(&(resource.into(), namespace.into(), name.into())).cloned()
        };
        let Some(mut object) = found else {
            return Response::builder().status(404).body(full("{}")).expect("response");
        };
        object["status"] = patch["status"].clone();
        self.put(resource, object.clone());
        Response::builder().header("content-type", "application/json").body(full(object.to_string())).expect("response")
    }
}

fn key(resource: &str, object: &Value) -> (String, String, String) {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    (resource.into(), part("namespace"), part("name"))
}

type Inner = dyn http_body::Body<Data = Bytes, Error = hyper::Error> + Send;

/// A streamed body that may be shared, as the rig's body type asks.
struct SyncBody(Mutex<std::pin::Pin<Box<Inner>>>);

impl http_body::Body for SyncBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.lock().expect("lock").as_mut().poll_frame(cx)
    }
}
