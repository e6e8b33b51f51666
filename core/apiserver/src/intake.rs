//! Bodies of requests, taken in only from those who may ask, and never more of them than there is room for.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::{ApiError, Result};

/// Bytes of a request's body at most, as in Kubernetes.
pub const MOST_BODY_BYTES: usize = 3 << 20;
/// Bytes of all bodies at once at most.
const MOST_IN_ALL: usize = 64 << 20;

/// Where bodies are taken in.
pub struct Intake {
    room: Arc<Semaphore>,
    patience: Duration,
}

/// A whole body, and the room it takes.
#[derive(Default)]
pub struct Taken {
    pub bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

// === impl Intake ===

impl Intake {
    /// With how long a body may take.
    pub fn new(patience: Duration) -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_IN_ALL)), patience }
    }

    /// Reads a body to its end.
    pub async fn take<B>(&self, body: B) -> Result<Taken>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if body.size_hint().lower() > MOST_BODY_BYTES as u64 {
            return Err(ApiError::too_large(MOST_BODY_BYTES));
        }
        let collected = tokio::time::timeout(self.patience, self.collect(body)).await;
        collected.unwrap_or_else(|_| Err(ApiError::too_slow(self.patience)))
    }

    async fn collect<B>(&self, body: B) -> Result<Taken>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = pin!(body);
        let mut bytes = BytesMut::new();
        let mut room: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| ApiError::bad_request(format!("read the body: {}", error.into() as Box<_>)))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MOST_BODY_BYTES {
                return Err(ApiError::too_large(MOST_BODY_BYTES));
            }
            let more = self.room.clone().try_acquire_many_owned(data.len() as u32);
            let more = more.map_err(|_| ApiError::too_many("too many large requests at once"))?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Taken { bytes: bytes.freeze(), _room: room })
    }
}
