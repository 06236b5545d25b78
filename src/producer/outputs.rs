//! [`Outputs`]: the replies that this producer waits for.
//!
//! One queue a producer, made when the first output is expected and deleted by the broker when it is gone. A reply
//! that nobody waits for any more is dropped.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::Broker;
use crate::error::Result;
use crate::lock::Lock;
use crate::name::Name;
use crate::reply::Reply;
use crate::task::Task;
use crate::task::TaskId;
use crate::topology;
use crate::transport::Subscribe;
use crate::transport::Subscription;

type Waiting = Arc<Lock<HashMap<TaskId, oneshot::Sender<Reply>>>>;

/// The replies that a producer waits for.
#[derive(Default)]
pub(super) struct Outputs {
    inbox: OnceCell<Inbox>,
}

/// Where they arrive.
struct Inbox {
    key: Name,
    waiting: Waiting,
    _receiver: AbortOnDropHandle<()>,
}

impl Outputs {
    /// Gets ready for the output of task `id`; `None` for tasks that have none.
    pub(super) async fn expect<T: Task>(&self, broker: &Broker, id: TaskId) -> Result<Option<Expected<T>>> {
        if TypeId::of::<T::Output>() == TypeId::of::<()>() {
            return Ok(None);
        }
        let inbox = self.inbox.get_or_try_init(|| Inbox::open(broker)).await?;
        let (sender, reply) = oneshot::channel();
        inbox.waiting.lock().insert(id, sender);
        Ok(Some(Expected {
            id,
            reply_to: inbox.key.clone(),
            reply,
            waiting: inbox.waiting.clone(),
            task: PhantomData,
        }))
    }
}

impl Inbox {
    async fn open(broker: &Broker) -> Result<Self> {
        let key = Name::new("reply key", TaskId::new().to_string())?;
        let queue = broker.names().outputs_queue(&key);
        broker.transport().declare(&topology::of_outputs(broker.names(), &queue, &key)).await?;
        let subscribe = Subscribe::new(queue, 256, "outputs");
        let subscription = broker.transport().subscribe(subscribe).await?;
        let waiting = Waiting::default();
        let receiver = tokio::spawn(receive(subscription, waiting.clone()));
        Ok(Self { key, waiting, _receiver: AbortOnDropHandle::new(receiver) })
    }
}

async fn receive(mut subscription: Box<dyn Subscription>, waiting: Waiting) {
    while let Some(mut delivery) = subscription.next().await {
        if let Some((id, reply)) = Reply::open(std::mem::take(&mut delivery.message))
            && let Some(sender) = waiting.lock().remove(&id)
        {
            // Who waited may have given up in this instant.
            let _ = sender.send(reply);
        }
        delivery.ack();
    }
}

/// An output on its way. Dropped, it is not waited for any more.
pub(super) struct Expected<T> {
    id: TaskId,
    reply_to: Name,
    reply: oneshot::Receiver<Reply>,
    waiting: Waiting,
    task: PhantomData<fn() -> T>,
}

impl<T> Expected<T> {
    pub(super) fn reply_to(&self) -> &str {
        self.reply_to.as_str()
    }

    /// `None` if the producer is gone.
    pub(super) async fn reply(mut self) -> Option<Reply> {
        (&mut self.reply).await.ok()
    }
}

impl<T> Drop for Expected<T> {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.id);
    }
}

impl<T> fmt::Debug for Expected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").field("id", &self.id).finish()
    }
}
