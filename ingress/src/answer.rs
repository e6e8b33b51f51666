//! An answer on its way to the client, and what is noted when it ends.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{gate::ConnState, proxy::Core, stream::Pace, upstream::ResponseBody};

/// A body on its way to the client; tells its connection when the request is over.
pub struct Answer {
    pub(crate) body: AnswerBody,
    /// Where the body is one of many on its connection.
    pub(crate) pace: Option<Rc<Pace>>,
    /// Held for its `Drop`.
    pub(crate) _open: Open,
}

/// Where a body comes from.
pub(crate) enum AnswerBody {
    Own(Option<Bytes>),
    Relayed(ResponseBody),
    /// Of a connection that runs on its own, because it was to be upgraded.
    Apart(Incoming),
}

/// An open request.
pub(crate) struct Open {
    pub(crate) state: Arc<ConnState>,
    pub(crate) core: Rc<Core>,
    pub(crate) since: Instant,
    pub(crate) status: StatusCode,
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.core.metrics.answered(self.status, self.since.elapsed());
        self.state.finish();
    }
}

// === impl Answer ===

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.body {
            AnswerBody::Own(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            AnswerBody::Relayed(body) => Pin::new(body).poll_frame(cx),
            AnswerBody::Apart(body) => Pin::new(body).poll_frame(cx),
        };
        if let Some(pace) = &self.pace {
            match frame {
                Poll::Ready(_) => pace.given(),
                Poll::Pending => pace.taken(),
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            AnswerBody::Own(bytes) => bytes.is_none(),
            AnswerBody::Relayed(body) => body.is_end_stream(),
            AnswerBody::Apart(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            AnswerBody::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            AnswerBody::Relayed(body) => body.size_hint(),
            AnswerBody::Apart(body) => body.size_hint(),
        }
    }
}
