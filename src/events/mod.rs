//! [`Events`]: what happens to tasks and consumers, as it happens, or from the history.

mod filter;
mod follow;
mod letter;
mod lookup;
mod sequences;
mod stream;

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::broker::Broker;
use crate::broker::Part;
use crate::error::Error;
use crate::error::Result;
use crate::event::Kind;
use crate::task::TaskId;
use crate::transport::Start;
use crate::transport::Subscribe;
use filter::Filter;
pub use follow::Follow;
#[cfg(feature = "testing")]
pub(crate) use letter::event as letter;
pub use lookup::Lookup;
pub use stream::EventStream;
pub(crate) use stream::Read;

/// How many messages, each with up to 2,000 events, are on their way to a reader at a time.
const PREFETCH: u16 = 16;
/// By how much the clocks of an enqueuer and a reader may differ, where an id says when a task was made.
const SKEW: Duration = Duration::from_secs(5);

/// What happens to tasks and consumers: see [`Broker::events`].
#[derive(Clone, Debug)]
#[must_use = "nothing is read until `subscribe`"]
pub struct Events {
    broker: Broker,
    from: From,
    until_now: bool,
    filter: Filter,
}

/// Where to begin.
#[derive(Clone, Copy, Debug)]
enum From {
    Now,
    First,
    Time(SystemTime),
    Offset(u64),
}

impl Broker {
    /// What happens to the tasks and consumers of this namespace, in all processes: a builder, whose
    /// [`subscribe`](Events::subscribe) gives a stream of [`Event`](crate::Event)s.
    ///
    /// ```
    /// # use taskhare::{Broker, Event, Kind, Producer, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
    /// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let broker = Broker::in_process();
    /// let mut events = broker.events().kind(Kind::Accepted).subscribe().await?;
    /// # let producer = Producer::builder(&broker).build().await?;
    /// # producer.enqueue(Greet { name: "Ada".into() }).await?;
    /// while let Some(event) = events.next().await {
    ///     if let Event::Task(task) = event {
    ///         println!("{} {} {}", task.id, task.name, task.change.kind());
    ///         # break;
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # What holds
    ///
    /// - Each process writes its events, many in a message, into the stream `{namespace}.history`, within 50 ms and
    ///   the time the broker takes to store them. There they stay for 7 days, or 1 GiB
    ///   ([`history_age`](crate::BrokerBuilder::history_age), [`history_size`](crate::BrokerBuilder::history_size)).
    /// - The end of a task is there before its message is gone: a crash loses none. It may repeat one, as it may repeat
    ///   the task: the first end of a task counts. A dead letter is its own event, also one that the broker made.
    /// - What one process tells of a task is in order, and so is what consumers tell of it one after the other. That it
    ///   was [accepted](crate::TaskChange::Accepted) its enqueuer tells on its own, so up to 50 ms later than what a
    ///   consumer says.
    /// - A reader that is slow lags behind, and holds up nobody. What the stream has given up before it was read, or a
    ///   process could not write, is [`Missed`](crate::Event::Missed).
    /// - All readers get everything and leave out what they are not asked for: the broker does not look into the
    ///   messages.
    pub fn events(&self) -> Events {
        Events { broker: self.clone(), from: From::Now, until_now: false, filter: Filter::default() }
    }
}

impl Events {
    /// Also what is in the history since then. The broker finds it to about a second, and a reader may get a little of
    /// what was before.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.from = From::Time(time);
        self
    }

    /// Also what is in the history since that task was made, as far as its id tells; otherwise all.
    fn since_made(mut self, id: TaskId) -> Self {
        self.from = id.time().map_or(From::First, |time| From::Time(UNIX_EPOCH + time.saturating_sub(SKEW)));
        self
    }

    /// Also all that is in the history.
    pub fn from_start(mut self) -> Self {
        self.from = From::First;
        self
    }

    /// Also what is in the history from that message on: see [`EventStream::offset`].
    pub fn from_offset(mut self, offset: u64) -> Self {
        self.from = From::Offset(offset);
        self
    }

    /// Ends with what has happened by now, instead of going on. It writes a message into the history, to know the end.
    pub fn until_now(mut self) -> Self {
        self.until_now = true;
        self
    }

    /// Only about tasks of this queue; said again, of these.
    pub fn queue(mut self, queue: &str) -> Self {
        self.filter.queues.insert(queue.to_owned());
        self
    }

    /// Only about tasks of this name, [`Task::NAME`](crate::Task::NAME); said again, of these.
    pub fn name(mut self, name: &str) -> Self {
        self.filter.names.insert(name.to_owned());
        self
    }

    /// Only about this task; said again, these.
    pub fn id(mut self, id: TaskId) -> Self {
        self.filter.ids.insert(id);
        self
    }

    /// Only this kind of change to tasks; said again, these.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.filter.kinds.insert(kind);
        self
    }

    /// Begins to read. What happens from then on is in the stream.
    ///
    /// # Errors
    ///
    /// [`Error::NoHistory`], [`Error::Consume`], [`Error::Append`] ([`until_now`](Self::until_now) only), failures to
    /// declare the history where it does not exist yet, and [`Error::Closed`].
    pub async fn subscribe(self) -> Result<EventStream> {
        let Self { broker, from, until_now, filter } = self;
        if broker.journal().is_none() {
            return Err(Error::NoHistory);
        }
        let history = broker.names().history();
        if broker.transport().depth(&history).await?.is_none() {
            broker.restore(Part::History).await?;
        }
        let start = match from {
            From::Now => Start::Next,
            From::First => Start::First,
            From::Time(time) => Start::Ago(ago(time, broker.clock().now())),
            From::Offset(offset) => Start::Offset(offset),
        };
        let subscribe = Subscribe { start: Some(start), ..Subscribe::new(history, PREFETCH, "reads events") };
        let subscription = broker.transport().subscribe(subscribe).await?;
        EventStream::new(&broker, subscription, filter, until_now).await
    }
}

/// How long before `now`, since the Unix epoch, that was.
fn ago(time: SystemTime, now: Duration) -> Duration {
    now.saturating_sub(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
