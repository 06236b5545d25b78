//! [`Follow`]: the life of one task, as it goes on.

use std::fmt;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use futures_util::Stream;

use super::stream::EventStream;
use crate::broker::Broker;
use crate::error::Result;
use crate::event::Event;
use crate::event::TaskEvent;
use crate::event::TaskState;
use crate::task::TaskId;

/// What happens to one task, event after event, until it ends: see [`Broker::follow`]. Dropped, it stops to read.
#[must_use = "nothing is read until `next`"]
pub struct Follow {
    events: EventStream,
    state: Option<TaskState>,
    /// All that had happened when it began is read.
    is_live: bool,
    is_over: bool,
}

impl Broker {
    /// What happens to a task, from its beginning, then live, up to and with its end; from any process.
    ///
    /// ```
    /// # use taskhare::{Broker, Consumer, Kind, Producer, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
    /// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let broker = Broker::in_process();
    /// # let producer = Producer::builder(&broker).build().await?;
    /// # let consumer = Consumer::builder(&broker).handler_fn(|_: Greet, _| async { Ok(()) }).start().await?;
    /// let task = producer.enqueue(Greet { name: "Ada".into() }).await?;
    /// let mut life = broker.follow(task.id()).await?;
    /// while let Some(event) = life.next().await {
    ///     println!("{}: {:?}", event.by, event.change);
    /// }
    /// assert!(life.state().is_some_and(|state| state.standing.is_done()));
    /// # consumer.shutdown().await;
    /// # Ok(()) }
    /// ```
    ///
    /// It comes to its end with the first end of the task that is told after the call; or, if the task had ended by then,
    /// with the last one: also of a task that was taken out of the dead letters. Otherwise it goes on for as long as the
    /// task lives; for an id that nobody enqueues, for ever.
    ///
    /// What it reads at first is what [`status`](Self::status) reads up to now. Then it gets the events of all tasks, and
    /// leaves out the others'. What the history has given up before it was read is left out as well, perhaps the end.
    ///
    /// # Errors
    ///
    /// As for [`Events::subscribe`](crate::Events::subscribe), with [`Error::Append`](crate::Error::Append).
    pub async fn follow(&self, id: TaskId) -> Result<Follow> {
        let events = self.events().id(id).since_made(id).until_now().subscribe().await?;
        Ok(Follow { events, state: None, is_live: false, is_over: false })
    }
}

impl Follow {
    /// The next event; `None` after the end, or when the broker handle is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<TaskEvent> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Where the task stands, by the events so far; `None` before the first one.
    #[must_use]
    pub fn state(&self) -> Option<&TaskState> {
        self.state.as_ref()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        while !self.is_over {
            match ready!(self.events.poll_event(cx)) {
                Some(Event::Task(event)) => {
                    TaskState::follow(&mut self.state, &event);
                    self.is_over = self.is_live && self.is_done();
                    return Poll::Ready(Some(event));
                }
                Some(_) => {}
                None if !self.is_live && self.events.read_on() => {
                    self.is_live = true;
                    self.is_over = self.is_done();
                }
                None => self.is_over = true,
            }
        }
        Poll::Ready(None)
    }

    fn is_done(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.standing.is_done())
    }
}

impl Stream for Follow {
    type Item = TaskEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<TaskEvent>> {
        self.get_mut().poll_event(cx)
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("state", &self.state).finish_non_exhaustive()
    }
}
