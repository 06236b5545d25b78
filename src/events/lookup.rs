//! [`Lookup`]: where one task stands, from the history.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::broker::Broker;
use crate::error::Error;
use crate::error::Result;
use crate::event::Event;
use crate::event::Standing;
use crate::event::TaskState;
use crate::outcome::Outcome;
use crate::task::TaskId;

/// Where a task stands: see [`Broker::status`]. A builder, and a future.
#[derive(Clone)]
#[must_use = "nothing is read until this is awaited"]
pub struct Lookup {
    broker: Broker,
    id: TaskId,
    timeout: Duration,
    reads_on: bool,
}

impl Broker {
    /// Where a task stands, wherever it was enqueued and runs: a builder, and a future of its
    /// [`TaskState`]; `None`: the history tells nothing of it.
    ///
    /// ```
    /// # use taskhare::{Broker, Producer, Standing, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
    /// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let broker = Broker::in_process();
    /// # let producer = Producer::builder(&broker).build().await?;
    /// let task = producer.enqueue(Greet { name: "Ada".into() }).await?;
    /// match broker.status(task.id()).await?.map(|state| state.standing) {
    ///     Some(Standing::Running { consumer, since, .. }) => println!("{consumer} runs it since {since:?}"),
    ///     Some(Standing::Done(outcome)) => println!("{outcome:?}"),
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # What it costs
    ///
    /// The broker keeps no index of tasks, so the history is read, from when the task was made: its id says when
    /// ([`TaskId::new`], and the ids of ticks). The broker finds that place without reading what was before. From there
    /// all events of all tasks are read,
    ///
    /// - of a task that has succeeded or was cancelled: up to that end;
    /// - of any other one: up to now. A dead task may have been taken out of the dead letters since.
    ///
    /// So it costs the traffic while the task lived, and 5 seconds before it (for clocks that differ), and what the broker
    /// sends ahead: 16 messages, with up to 2,000 events each, and all that it has stored together with the last of them.
    /// An event takes some 60 bytes. An id of another kind ([`TaskId::from_u128`], a UUID that is not of version 7) says
    /// nothing of its time: then it is read from the start of the history.
    ///
    /// # What holds
    ///
    /// - It is what was told by now: up to 50 ms behind, and the time the broker takes to store it.
    /// - A task that was made before the history begins
    ///   ([`history_age`](crate::BrokerBuilder::history_age), [`history_size`](crate::BrokerBuilder::history_size)), or
    ///   by a process [without events](crate::BrokerBuilder::without_events), is known by what was told of it since.
    /// - Of a task whose enqueuer's clock and ours differ by more than 5 seconds, the beginning may be overlooked.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after 30 s ([`Lookup::timeout`]), [`Error::NoHistory`], [`Error::Consume`], [`Error::Append`]
    /// (it writes a message into the history, to know where that ends), and [`Error::Closed`].
    pub fn status(&self, id: TaskId) -> Lookup {
        Lookup { broker: self.clone(), id, timeout: Duration::from_secs(30), reads_on: false }
    }
}

impl Lookup {
    /// How long it may take. Defaults to 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Also reads on to now behind a success or a cancellation: the task may have been rescheduled, or its id enqueued
    /// again.
    pub fn to_now(mut self) -> Self {
        self.reads_on = true;
        self
    }

    /// Also how many messages were read, for tests.
    #[doc(hidden)]
    pub async fn counted(self) -> Result<(Option<TaskState>, u64)> {
        let Self { broker, id, timeout, reads_on } = self;
        let read = async {
            let mut events = broker.events().id(id).since_made(id).until_now().subscribe().await?;
            let mut state: Option<TaskState> = None;
            while let Some(event) = events.next().await {
                let Event::Task(event) = event else { continue };
                TaskState::follow(&mut state, &event);
                if !reads_on && state.as_ref().is_some_and(|state| is_final(&state.standing)) {
                    return Ok((state, events.messages()));
                }
            }
            if events.has_reached_end() { Ok((state, events.messages())) } else { Err(Error::Closed) }
        };
        let too_late = || Error::Timeout { action: format!("status of task {id}"), waited: timeout };
        tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| Err(too_late()))
    }
}

/// Whether it stays so, unless somebody enqueues the same id again.
fn is_final(standing: &Standing) -> bool {
    matches!(standing, Standing::Done(Outcome::Succeeded | Outcome::Cancelled))
}

impl IntoFuture for Lookup {
    type Output = Result<Option<TaskState>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.counted().await.map(|(state, _)| state) })
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("id", &self.id).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}
