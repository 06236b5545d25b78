//! [`InProcessSubscription`]: one subscriber of a queue.

use std::fmt;
use std::sync::Arc;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::coop;

use crate::error::Result;
use crate::name::Name;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Settle;
use crate::transport::Settlement;
use crate::transport::Subscribe;
use crate::transport::Subscription;

use super::Shared;
use super::queue::Next;
use super::queue::SubscriberId;

#[derive(Debug)]
pub(super) struct InProcessSubscription(Arc<Channel>);

/// What a subscription and its deliveries share.
struct Channel {
    broker: Arc<Shared>,
    queue: Name,
    id: SubscriberId,
    /// Dead once the broker has taken back what was handed out.
    presence: Weak<()>,
}

impl InProcessSubscription {
    pub(super) fn start(broker: Arc<Shared>, subscribe: &Subscribe) -> Result<Self> {
        let (id, presence) = broker.change(|state, now| state.subscribe(subscribe, now))?;
        Ok(Self(Arc::new(Channel { broker, queue: subscribe.queue.clone(), id, presence })))
    }

    /// Publishes, unless the subscription has ended.
    pub(super) fn publish(&self, publish: &Publish) -> Result<(), PublishError> {
        let Channel { broker, presence, .. } = &*self.0;
        broker.change(|state, now| match presence.strong_count() {
            0 if !state.is_closed() => {
                let last_loss = Some("the consumer was closed or cancelled".to_owned());
                Err(PublishError::Unavailable { waited: Duration::ZERO, last_loss })
            }
            _ => state.publish(publish.clone(), now),
        })
    }
}

#[async_trait]
impl Subscription for InProcessSubscription {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // A queue that never runs dry must not keep other tasks from running.
        let budget = ready!(coop::poll_proceed(cx));
        let Channel { broker, queue, id, .. } = &*self.0;
        let (next, _old_waker) = broker.state.lock().next(queue, *id, cx.waker());
        let next = match next {
            Next::Nothing => return Poll::Pending,
            Next::End => None,
            Next::Message { tag, message, redelivered, returned, offset } => {
                let mut delivery = Delivery::new(message, tag, self.0.clone());
                delivery.redelivered = redelivered;
                delivery.returned = returned;
                delivery.offset = offset;
                Some(delivery)
            }
        };
        budget.made_progress();
        Poll::Ready(next)
    }

    fn set_prefetch(&mut self, prefetch: u16) {
        let Channel { broker, queue, id, .. } = &*self.0;
        broker.change(|state, _| state.set_prefetch(queue, *id, prefetch));
    }

    async fn cancel(&mut self) {
        let Channel { broker, queue, id, .. } = &*self.0;
        let waiting = broker.change(|state, _| state.cancel(queue, *id));
        waiting.into_iter().for_each(Waker::wake);
    }

    async fn close(&mut self) {
        self.0.close();
    }
}

impl Drop for InProcessSubscription {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Channel {
    fn close(&self) {
        let waiting = self.broker.change(|state, _| state.unsubscribe(&self.queue, self.id));
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Settle for Channel {
    fn settle(&self, tag: u64, settlement: Settlement) {
        self.broker.change(|state, _| state.settle(&self.queue, self.id, tag, settlement));
    }

    fn is_lost(&self) -> bool {
        self.presence.strong_count() == 0
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("queue", &self.queue).field("id", &self.id).finish_non_exhaustive()
    }
}
