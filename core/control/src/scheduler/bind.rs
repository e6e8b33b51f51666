//! Writing a decision: node and address in one write.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::api::{ObjectMeta, PostParams};
use switchyard_api::names;

use super::NAME;
use crate::cache::Key;
use crate::context::Context;
use crate::error::code;
use crate::pod;

/// A decision.
pub(super) struct Decision {
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) node: String,
    pub(super) ip: Option<IpAddr>,
    pub(super) pod: Arc<Pod>,
}

const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

/// Writes it; true if the pod has this node now. Does not return before that is certain: until then, the address is not free.
pub(super) async fn bind(context: Arc<Context>, decision: Decision) -> (Decision, bool) {
    let api = context.api::<Pod>(&decision.key.namespace);
    let annotations = decision.ip.map(|ip| [(names::POD_IP.to_owned(), ip.to_string())].into());
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(decision.key.name.to_string()),
            namespace: Some(decision.key.namespace.to_string()),
            uid: Some(decision.uid.clone()),
            annotations,
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(decision.node.clone()),
            ..ObjectReference::default()
        },
    };
    let written = api
        .create_subresource::<_, serde_json::Value>("binding", &decision.key.name, &PostParams::default(), &binding)
        .await;
    let Err(error) = written else {
        let message = format!("Successfully assigned {} to {}", decision.key, decision.node);
        context.events.normal(NAME, &*decision.pod, "Scheduled", message);
        return (decision, true);
    };
    tracing::debug!(pod = %decision.key, node = decision.node, %error, "not bound");
    if code(&error) == Some(404) {
        return (decision, false);
    }
    // It may have been written all the same, by this call or by one before a restart.
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match api.get_opt(&decision.key.name).await {
            Ok(Some(pod)) if pod.metadata.uid.as_ref() == Some(&decision.uid) => {
                let here =
                    pod::node(&pod) == Some(decision.node.as_str()) && super::snapshot::address(&pod) == decision.ip;
                context.caches.pods.wrote(pod);
                return (decision, here);
            }
            Ok(_) => return (decision, false),
            Err(error) => {
                tracing::debug!(pod = %decision.key, %error, "whether it is bound is not known yet");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            }
        }
    }
}
