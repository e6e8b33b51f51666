//! The end of a custom resource definition: its objects go first, each with its finalizers, then the definition.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use switchyard_store::Entry;

use super::{DeleteOptions, Part, Write, custom};
use crate::meta;
use crate::server::Inner;
use crate::status::Result;

/// Keeps a definition until its objects are gone. Kubernetes'.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Events taken from a watch at once: what matters is that there are some.
const MANY: usize = 1024;

/// Names of definitions that are being ended.
type Ending = Arc<Mutex<HashSet<String>>>;

/// Ends definitions that are being deleted, from now on.
pub fn end_definitions(server: &Arc<Inner>) {
    let (weak, stop) = (Arc::downgrade(server), server.stop.clone());
    let ending = Ending::default();
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Some(server) = weak.upgrade() {
            let (definitions, revision) = server.store.list(custom::DEFINITIONS);
            for definition in definitions.iter().filter(|definition| meta::is_deleting(&definition.value)) {
                begin(&server, &ending, definition);
            }
            // History moved on in between: there is a newer list.
            let Ok(mut watch) = server.store.watch(custom::DEFINITIONS, None, revision) else { continue };
            drop(server);
            watch.next(MANY).await.ok();
        }
    }));
}

fn begin(server: &Arc<Inner>, ending: &Ending, definition: &Entry) {
    let name = meta::name(&definition.value).to_owned();
    if !ending.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone()) {
        return;
    }
    let (weak, stop, ending) = (Arc::downgrade(server), server.stop.clone(), ending.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        if let Err(error) = end(weak, &name).await {
            tracing::warn!(error = error.message, name, "a definition that is being deleted stays");
        }
        ending.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }));
}

async fn end(weak: Weak<Inner>, name: &str) -> Result<()> {
    while let Some(server) = weak.upgrade() {
        let Some(definition) = server.store.get(&format!("{}{name}", custom::DEFINITIONS)) else { return Ok(()) };
        let kind = custom::kinds(&definition.value, false).into_iter().next().map(Arc::new);
        let table = server.kinds.now();
        // The server's own kinds keep their objects, whoever defined them once more.
        let kind = kind.filter(|kind| table.find(&kind.group, &kind.plural).is_none_or(|known| known.is_custom()));
        let (objects, revision) = match &kind {
            Some(kind) => server.store.list(&kind.prefix),
            None => (vec![], 0),
        };
        let Some(kind) = kind.filter(|_| !objects.is_empty()) else { return release(&server, name).await };
        let watch = server.store.watch(&kind.prefix, None, revision);
        for object in objects.iter().filter(|object| !meta::is_deleting(&object.value)) {
            let write = Write::by_server(&server, &kind, meta::namespace(&object.value));
            match write.remove(meta::name(&object.value), &DeleteOptions::default()).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        drop(server);
        if let Ok(mut watch) = watch {
            watch.next(MANY).await.ok();
        }
    }
    Ok(())
}

/// Lets the definition go.
async fn release(server: &Inner, name: &str) -> Result<()> {
    let table = server.kinds.now();
    let kind = table.find("apiextensions.k8s.io", "customresourcedefinitions").expect("definitions are built in");
    let write = Write::by_server(server, kind, "");
    let released = write.change(name, Part::Any, |old| {
        let mut new = old.clone();
        let kept = meta::list(old, "/metadata/finalizers").iter().filter(|finalizer| *finalizer != FINALIZER).cloned();
        let kept: Vec<_> = kept.collect();
        meta::metadata_mut(&mut new).insert("finalizers".into(), kept.into());
        Ok(new)
    });
    match released.await {
        Err(error) if error.code != 404 => Err(error),
        _ => Ok(()),
    }
}
