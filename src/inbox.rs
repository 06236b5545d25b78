//! [`Inbox`]: a queue of one's own, for what is sent back.
//!
//! The broker deletes it when its reader is gone for a while. What nobody waits for any more is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Weak;

use tokio_util::task::AbortOnDropHandle;

use crate::broker::Broker;
use crate::error::Result;
use crate::lock::Lock;
use crate::message::Message;
use crate::name::Name;
use crate::task::TaskId;
use crate::transport::Subscribe;

const PREFETCH: u16 = 256;

/// Those that wait, by the id of what they wait for an answer to.
pub(crate) type Waiting<W> = HashMap<TaskId, W>;

/// A queue, and those that wait for what comes there. Dropped, all of them are.
pub(crate) struct Inbox<W> {
    key: Name,
    waiting: Arc<Lock<Waiting<W>>>,
    _reader: AbortOnDropHandle<()>,
}

/// A place among those that wait, given up when it is dropped.
pub(crate) struct Place<W> {
    id: TaskId,
    waiting: Weak<Lock<Waiting<W>>>,
}

impl<W: Send + 'static> Inbox<W> {
    /// Makes the queue, and gives all that comes there to `receive`, with those that wait.
    pub(crate) async fn open(
        broker: &Broker,
        tag: &str,
        mut receive: impl FnMut(Message, &mut Waiting<W>) + Send + 'static,
    ) -> Result<Self> {
        let key = Name::new("reply key", TaskId::new().to_string())?;
        let queue = broker.declare_outputs(&key).await?;
        let mut subscription = broker.transport().subscribe(Subscribe::new(queue, PREFETCH, tag)).await?;
        let waiting = Arc::new(Lock::new(Waiting::new()));
        let all = waiting.clone();
        let reader = tokio::spawn(async move {
            while let Some(mut delivery) = subscription.next().await {
                receive(std::mem::take(&mut delivery.message), &mut all.lock());
                delivery.ack();
            }
            all.lock().clear();
        });
        Ok(Self { key, waiting, _reader: AbortOnDropHandle::new(reader) })
    }
}

impl<W> Inbox<W> {
    /// What answers are to have for a routing key.
    pub(crate) fn key(&self) -> &Name {
        &self.key
    }

    /// Lets `waiter` wait for what comes about `id`.
    pub(crate) fn wait(&self, id: TaskId, waiter: W) -> Place<W> {
        self.waiting.lock().insert(id, waiter);
        Place { id, waiting: Arc::downgrade(&self.waiting) }
    }
}

impl<W> Drop for Place<W> {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.upgrade() {
            waiting.lock().remove(&self.id);
        }
    }
}
