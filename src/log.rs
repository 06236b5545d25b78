//! [`Log`]: a stream that every process reads from its beginning, in the same order, and goes on reading.
//!
//! What is appended is on a majority of the stream's replicas before anybody reads it, and everybody reads it at the
//! same place. So whoever has read back what it appended knows all that came before, and all agree on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Error;
use crate::error::Result;
use crate::lock::Lock;
use crate::message::Message;
use crate::name::Name;
use crate::task::TaskId;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Start;
use crate::transport::Subscribe;
use crate::transport::Transport;

/// The `type` of what is appended only to be read back.
pub(crate) const MARKER: &str = "taskhare.marker";
/// How much of a stream is on its way to us at a time.
const PREFETCH: u16 = 256;

/// A stream, the exchange that leads to it, and what this process reads in it. Dropped, it stops reading.
///
/// `R` is what reading a message gives to whoever has appended it.
pub(crate) struct Log<R> {
    place: Place,
    waiting: Arc<Waiting<R>>,
    /// Nobody reads for it any more when it is dropped.
    _reader: AbortOnDropHandle<()>,
}

/// Where a log is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) exchange: Name,
    pub(crate) stream: Name,
}

/// A message that says nothing, for whoever wants to know that it has read all that is before it.
pub(crate) fn marker(id: String) -> Message {
    Message { kind: Some(MARKER.into()), correlation_id: Some(id), ..Message::default() }
}

/// Who waits to read back what it appended, by correlation id.
type Waiting<R> = Lock<HashMap<String, oneshot::Sender<R>>>;

impl Place {
    /// Appends without reading: `Ok` when it is stored on a majority.
    pub(crate) async fn append(&self, message: Message, timeout: Duration) -> Result<()> {
        let publish =
            Publish { exchange: self.exchange.clone(), key: self.stream.clone(), mandatory: true, message };
        let result = self.transport.publish(&publish, timeout).await;
        result.map_err(|error| match error {
            PublishError::Closed => Error::Closed,
            PublishError::Forbidden(reason) => {
                Error::AccessRefused { action: format!("append to stream '{}'", self.stream), reason }
            }
            error => Error::Append { stream: self.stream.to_string(), source: Box::new(error) },
        })
    }
}

impl<R: Send + 'static> Log<R> {
    /// Reads the stream from `start`, gives each message to `read`, and returns when all that was there has been read.
    pub(crate) async fn follow(
        place: Place,
        start: Start,
        limit: Duration,
        mut read: impl FnMut(&Message) -> R + Send + 'static,
    ) -> Result<Self> {
        let subscribe = Subscribe {
            start: Some(start),
            ..Subscribe::new(place.stream.clone(), PREFETCH, format!("reads {}", place.stream))
        };
        let mut subscription = place.transport.subscribe(subscribe).await?;
        let waiting = Arc::new(Waiting::default());
        let answer = waiting.clone();
        let reader = tokio::spawn(async move {
            while let Some(delivery) = subscription.next().await {
                let read = read(&delivery.message);
                if let Some(waiter) =
                    delivery.message.correlation_id.as_deref().and_then(|id| answer.lock().remove(id))
                {
                    // Whoever appended it may not want to know any more.
                    let _ = waiter.send(read);
                }
                delivery.ack();
            }
            answer.lock().clear();
        });
        let log = Self { place, waiting, _reader: AbortOnDropHandle::new(reader) };
        // It gets an id of its own.
        log.append(marker(String::new()), limit).await?;
        Ok(log)
    }

    /// Appends a message and waits until it is read here: its author knows then all that came before it.
    pub(crate) async fn append(&self, mut message: Message, limit: Duration) -> Result<R> {
        let id = TaskId::new().to_string();
        let (waiter, read) = oneshot::channel();
        self.waiting.lock().insert(id.clone(), waiter);
        message.correlation_id = Some(id.clone());
        let both = async {
            self.place.append(message, limit).await?;
            read.await.map_err(|_| Error::Closed)
        };
        let result = tokio::time::timeout(limit, both).await;
        self.waiting.lock().remove(&id);
        result.unwrap_or_else(|_| {
            let action = format!("read stream '{}' up to what was just appended", self.place.stream);
            Err(Error::Timeout { action, waited: limit })
        })
    }
}

impl<R> fmt::Debug for Log<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("stream", &self.place.stream).finish_non_exhaustive()
    }
}
