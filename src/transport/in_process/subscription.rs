//! [`InProcessSubscription`]: one subscriber of a queue.

use std::fmt;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;
use std::task::ready;

use async_trait::async_trait;
use tokio::task::coop;

use crate::name::Name;
use crate::transport::Delivery;
use crate::transport::Settle;
use crate::transport::Settlement;
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
}

impl InProcessSubscription {
    pub(super) fn new(broker: Arc<Shared>, queue: Name, id: SubscriberId) -> Self {
        Self(Arc::new(Channel { broker, queue, id }))
    }
}

#[async_trait]
impl Subscription for InProcessSubscription {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // A queue that never runs dry must not keep other tasks from running.
        let budget = ready!(coop::poll_proceed(cx));
        let Channel { broker, queue, id } = &*self.0;
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
        let Channel { broker, queue, id } = &*self.0;
        broker.change(|state, _| state.set_prefetch(queue, *id, prefetch));
    }

    async fn cancel(&mut self) {
        let Channel { broker, queue, id } = &*self.0;
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
        false
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("queue", &self.queue).field("id", &self.id).finish_non_exhaustive()
    }
}
