//! [`Holder`]: a channel that consumes and publishes, and is never made anew.

use std::fmt;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot::Receiver;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::error::Result;
use crate::name::Name;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::Tenure;
use crate::transport::amqp::confirms::NotSent;
use crate::transport::amqp::confirms::Outcome;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::declare::Closing;
use crate::transport::amqp::live::Live;
use crate::transport::amqp::live::Terms;
use crate::transport::amqp::live::first;
use crate::transport::amqp::properties;
use crate::transport::amqp::publisher::LONGEST;

/// A tenure.
pub(super) struct Holder {
    shared: Arc<Shared>,
    queue: Name,
    /// Until it has ended.
    live: Option<Box<Live>>,
    /// Knows why it has.
    closing: Closing,
    runtime: Handle,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_live = self.live.is_some();
        f.debug_struct("Holder")
            .field("queue", &self.queue)
            .field("is_live", &is_live)
            .finish_non_exhaustive()
    }
}

impl Holder {
    pub(super) async fn start(shared: Arc<Shared>, link: &Arc<Link>, subscribe: Subscribe) -> Result<Self> {
        let queue = subscribe.queue.clone();
        let terms = || Terms { publishes: true, ..Terms::default() };
        let live = first(&shared, link, &Subscribe { start: None, ..subscribe }, terms).await?;
        let closing = live.closing().clone();
        Ok(Self { shared, queue, live: Some(Box::new(live)), closing, runtime: Handle::current() })
    }

    /// Sends, once; the outcome comes later.
    fn send(&self, publish: &Publish, deadline: Instant) -> Result<Receiver<Outcome>, PublishError> {
        properties::check(&publish.message).map_err(PublishError::Refused)?;
        if self.shared.closing.is_cancelled() {
            return Err(PublishError::Closed);
        }
        let not_sent = match self.live.as_ref().and_then(|live| live.confirms()) {
            Some(confirms) => match confirms.send(publish, deadline) {
                Ok(outcome) => return Ok(outcome),
                Err(not_sent) => not_sent,
            },
            None => NotSent::Dead,
        };
        let why = match not_sent {
            NotSent::Dead => self.closing.why(),
            NotSent::Stuck => "too much is on its way".to_owned(),
        };
        Err(PublishError::Unavailable { waited: Duration::ZERO, last_loss: Some(why) })
    }

    /// Nothing is sent from now on but what was settled, and the goodbye.
    fn end(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.live.take().map(Live::retire)
    }
}

#[async_trait]
impl Subscription for Holder {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let Some(live) = &mut self.live else { return Poll::Ready(None) };
        let next = ready!(live.poll_next(&self.runtime, cx));
        // A channel whose consumer the broker cancelled is open still.
        if next.is_none()
            && let Some(end) = self.end()
        {
            self.runtime.spawn(end);
        }
        Poll::Ready(next)
    }

    fn set_prefetch(&mut self, _: u16) {}

    async fn cancel(&mut self) {
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(end) = self.end() {
            // In a task of its own, so that dropping this future leaves nothing half done.
            let _ = tokio::spawn(end).await;
        }
    }
}

impl Tenure for Holder {
    fn is_orderly(&self) -> bool {
        self.closing.is_orderly()
    }

    fn publish(&self, publish: &Publish, limit: Duration) -> BoxFuture<'static, Result<(), PublishError>> {
        let begun = Instant::now();
        let deadline = begun + limit.min(LONGEST);
        let sent = self.send(publish, deadline);
        let (closing, ends) = (self.closing.clone(), self.shared.closing.clone());
        Box::pin(async move {
            let last_loss = match timeout_at(deadline, sent?).await {
                Ok(Ok(Outcome::Acked)) => return Ok(()),
                Ok(Ok(Outcome::Nacked)) => return Err(PublishError::Rejected),
                Ok(Ok(Outcome::Returned)) => return Err(PublishError::Unroutable),
                Ok(Ok(Outcome::Lost | Outcome::Closed(_)) | Err(_)) if ends.is_cancelled() => {
                    return Err(PublishError::Closed);
                }
                Ok(Ok(Outcome::Lost | Outcome::Closed(_)) | Err(_)) => Some(closing.why()),
                Ok(Ok(Outcome::Expired)) | Err(_) => None,
            };
            Err(PublishError::Unconfirmed { waited: begun.elapsed(), last_loss })
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if let Some(end) = self.end() {
            self.runtime.spawn(end);
        }
    }
}
