//! [`Outputs`]: the replies that this producer waits for.
//!
//! They arrive in an [`Inbox`], made when the first output is expected.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;

use tokio::sync::OnceCell;
use tokio::sync::oneshot;

use crate::broker::Broker;
use crate::error::Result;
use crate::inbox::Inbox;
use crate::inbox::Place;
use crate::inbox::Waiting;
use crate::message::Message;
use crate::name::Name;
use crate::reply::Reply;
use crate::task::Task;
use crate::task::TaskId;

type Waiter = oneshot::Sender<Reply>;

/// The replies that a producer waits for.
#[derive(Default)]
pub(super) struct Outputs {
    inbox: OnceCell<Inbox<Waiter>>,
}

impl Outputs {
    /// Gets ready for the output of task `id`; `None` for tasks that have none.
    pub(super) async fn expect<T: Task>(&self, broker: &Broker, id: TaskId) -> Result<Option<Expected<T>>> {
        if TypeId::of::<T::Output>() == TypeId::of::<()>() {
            return Ok(None);
        }
        let open = || Inbox::open(broker, "outputs", receive);
        let inbox = self.inbox.get_or_try_init(open).await?;
        let (sender, reply) = oneshot::channel();
        let place = inbox.wait(id, sender);
        Ok(Some(Expected { id, reply_to: inbox.key().clone(), reply, _place: place, task: PhantomData }))
    }
}

fn receive(message: Message, waiting: &mut Waiting<Waiter>) {
    if let Some((id, reply)) = Reply::open(message)
        && let Some(waiter) = waiting.remove(&id)
    {
        // Who waited may have given up in this instant.
        let _ = waiter.send(reply);
    }
}

/// An output on its way. Dropped, it is not waited for any more.
pub(super) struct Expected<T> {
    id: TaskId,
    reply_to: Name,
    reply: oneshot::Receiver<Reply>,
    _place: Place<Waiter>,
    task: PhantomData<fn() -> T>,
}

impl<T> Expected<T> {
    pub(super) fn reply_to(&self) -> &str {
        self.reply_to.as_str()
    }

    /// `None` if the producer is gone.
    pub(super) async fn reply(self) -> Option<Reply> {
        self.reply.await.ok()
    }
}

impl<T> fmt::Debug for Expected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").field("id", &self.id).finish()
    }
}
