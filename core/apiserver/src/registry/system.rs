//! What is there from the first moment on: the namespaces every cluster has.

use serde_json::json;
use switchyard_store::{Durability, Error, Expect};

use crate::admission;
use crate::meta;
use crate::server::Inner;

const NAMES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// Creates the namespaces that are missing. Blocks for one commit of the store, whose own thread does the work.
pub fn create_system_namespaces(server: &Inner) -> Result<(), Error> {
    let table = server.kinds.now();
    let kind = table.find("", "namespaces").expect("namespaces are built in");
    let writes = NAMES.map(|name| async move {
        let key = kind.key("", name);
        if server.store.get(&key).is_some() {
            return Ok(());
        }
        let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": meta::now()}});
        admission::defaults(kind, &mut namespace);
        server.store.put(&key, namespace, Expect::Absent, Durability::Strict).await.map(drop)
    });
    futures::executor::block_on(futures::future::try_join_all(writes)).map(drop)
}
