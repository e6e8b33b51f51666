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

/// What became of it.
pub(super) enum Bound {
    Yes,
    /// Somebody else was faster, or the pod is gone: look at it as new.
    Raced,
    /// The API server does not take it, and says why.
    Refused(String),
}

const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

/// Writes it. Does not return before it is certain whether the pod has this node now: until then, the address is not free.
pub(super) async fn bind(context: Arc<Context>, decision: Decision) -> (Decision, Bound) {
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
        return (decision, Bound::Yes);
    };
    tracing::debug!(pod = %decision.key, node = decision.node, %error, "not bound");
    let not = match &error {
        _ if code(&error) == Some(404) => return (decision, Bound::Raced),
        _ if code(&error) == Some(409) => Bound::Raced,
        kube::Error::Api(status) => Bound::Refused(status.message.clone()),
        error => Bound::Refused(error.to_string()),
    };
    // It may have been written all the same, by this call or by one before a restart.
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match api.get_opt(&decision.key.name).await {
            Ok(Some(pod)) if pod.metadata.uid.as_ref() == Some(&decision.uid) => {
                let here =
                    pod::node(&pod) == Some(decision.node.as_str()) && super::snapshot::address(&pod) == decision.ip;
                context.caches.pods.wrote(pod);
                return (decision, if here { Bound::Yes } else { not });
            }
            Ok(_) => return (decision, Bound::Raced),
            Err(error) => {
                tracing::debug!(pod = %decision.key, %error, "whether it is bound is not known yet");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(LONGEST_BACK_OFF);
            }
        }
    }
}
