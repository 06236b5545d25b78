//! [`DeadLetters`]: what is in the dead letters of a queue, and the ways out.
//!
//! A queue on the broker can only be read by taking its messages. So each look takes letters, unacknowledged, and gives
//! them back in their order: [`scan`] does that, [`sweep`] takes those out that are requeued or discarded.

mod letter;
mod requeue;
mod scan;
mod sweep;

use crate::broker::Broker;
use crate::error::Error;
use crate::error::Result;
use crate::message::Message;
use crate::name::Name;
use crate::task::TaskId;
use crate::topology::QueueName;

pub use letter::DeadLetter;
pub use requeue::Requeue;
use scan::LONGEST_LOOK;
use scan::Scan;
use scan::Seen;
use sweep::Sweep;

/// How many bytes of payloads one listing returns at most.
const LARGEST_LIST: usize = 64 * 1024 * 1024;
/// How often a look begins again after its connection was lost.
const TRIES: u32 = 5;

/// The dead letters of one queue: see [`Broker::dead_letters`].
///
/// ```
/// # use taskhare::{Broker, DeadReason};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
/// # let broker = Broker::in_process();
/// let dead = broker.dead_letters("mail")?;
/// for letter in dead.list(100).await? {
///     println!("{:?} {} {}: {}", letter.id(), letter.name(), letter.reason(), letter.error().unwrap_or("-"));
/// }
/// // The bank is back:
/// dead.requeue_where(|letter| letter.reason() == DeadReason::AttemptsExhausted).rate(50).await?;
/// # Ok(()) }
/// ```
///
/// # What holds
///
/// - Looking at letters consumes none and keeps their order, the oldest first; RabbitMQ may put those that stay into
///   another order when some are taken out, or when whoever looks is cut off. While one is being looked at, others do
///   not see it: of two who look at once, each sees a part, and of two who requeue all, each requeues a part. Whoever
///   is cut off (a crash, a lost connection, a dropped future) gives back what it held.
/// - What is requeued is confirmed in its queue before it leaves the dead letters. A crash in between leaves it in
///   both, never in none: then the task runs, and may be requeued again.
/// - A call deals with what was there when it began, so it ends, also while consumers dead-letter more. A filter looks
///   past 10,000 letters that stay, at most; what is behind them is not reached.
/// - A letter goes after 30 days ([`dead_letter_age`](crate::BrokerBuilder::dead_letter_age)), and the oldest go when
///   there are more than 100,000 ([`dead_letter_length`](crate::BrokerBuilder::dead_letter_length)). Those being looked
///   at count for neither meanwhile; when they come back to a queue that filled up, RabbitMQ drops from its head until
///   it is within the limit.
/// - Nothing is declared: the dead letters of a queue that does not exist are none.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    broker: Broker,
    /// Whose they are; `None`: those that had no queue left to go to.
    of: Option<QueueName>,
}

impl Broker {
    /// The dead letters of `queue`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`].
    pub fn dead_letters(&self, queue: &str) -> Result<DeadLetters> {
        Ok(DeadLetters { broker: self.clone(), of: Some(QueueName::new(queue)?) })
    }

    /// The delayed tasks whose queue was gone when they were due, with the reason
    /// [`Undeliverable`](crate::DeadReason::Undeliverable). Once their queue is there again, because a producer or
    /// consumer declared it, they can be requeued.
    #[must_use]
    pub fn undeliverable(&self) -> DeadLetters {
        DeadLetters { broker: self.clone(), of: None }
    }
}

impl DeadLetters {
    /// How many there are, without those that somebody looks at.
    ///
    /// # Errors
    ///
    /// That the broker does not answer, as for all of these.
    pub async fn count(&self) -> Result<u64> {
        self.broker.depth(&self.queue()).await
    }

    /// The oldest, at most `limit` and 10,000 of them. It ends earlier when their payloads make 64 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::Consume`], [`Error::Timeout`], [`Error::Closed`].
    pub async fn list(&self, limit: usize) -> Result<Vec<DeadLetter>> {
        let mut bytes = 0;
        self.look(limit, |letter| {
            bytes += letter.payload().len();
            if bytes < LARGEST_LIST { Glance::Keep } else { Glance::Last }
        })
        .await
    }

    /// The letter of that task; the oldest, if there are several.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list).
    pub async fn find(&self, id: TaskId) -> Result<Option<DeadLetter>> {
        let wanted = |letter: &DeadLetter| if letter.id() == Some(id) { Glance::Last } else { Glance::Pass };
        Ok(self.look(LONGEST_LOOK, wanted).await?.pop())
    }

    /// Puts a task back into its queue, with all its attempts before it, and without its deadline. Its payload,
    /// priority, and own settings stay. Nobody waits for its output any more.
    ///
    /// Before that the history is told: [`Redriven`](crate::TaskChange::Redriven). Should it then fail, it is told that the
    /// task is dead as before.
    ///
    /// # Errors
    ///
    /// - [`Error::NoDeadLetter`], also while somebody else looks at it.
    /// - [`Error::NotATask`]: it can only be discarded.
    /// - Those of [`enqueue`](crate::Producer::enqueue): the letter stays. After [`Error::Unconfirmed`] it may be in
    ///   both.
    pub async fn requeue(&self, id: TaskId) -> Result<()> {
        let found = Sweep::requeue(self, move |letter| letter.id() == Some(id)).one().run().await?;
        self.must_be_found(found, id)
    }

    /// Puts all tasks back into their queue, as [`requeue`](Self::requeue) does: a builder, and a future of their
    /// number. What is not a task stays.
    ///
    /// # Errors
    ///
    /// As for [`enqueue`](crate::Producer::enqueue). It ends with the first; what is requeued by then stays requeued.
    /// So it does when the future is dropped.
    pub fn requeue_all(&self) -> Requeue {
        self.requeue_where(|_| true)
    }

    /// Puts those tasks back for which `filter` holds: see [`requeue_all`](Self::requeue_all). It may be asked about a
    /// letter more than once.
    pub fn requeue_where(&self, filter: impl FnMut(&DeadLetter) -> bool + Send + 'static) -> Requeue {
        Requeue::new(self, filter)
    }

    /// Deletes the letter of that task; the oldest, if there are several.
    ///
    /// # Errors
    ///
    /// [`Error::NoDeadLetter`], and as for [`list`](Self::list).
    pub async fn discard(&self, id: TaskId) -> Result<()> {
        let found = Sweep::discard(self, move |letter| letter.id() == Some(id)).one().run().await?;
        self.must_be_found(found, id)
    }

    /// Deletes those letters for which `filter` holds, also what is not a task, and returns how many that were.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list).
    pub async fn discard_where(
        &self,
        filter: impl FnMut(&DeadLetter) -> bool + Send + 'static,
    ) -> Result<u64> {
        Sweep::discard(self, filter).run().await
    }

    /// Deletes all letters but those that somebody looks at, and returns how many that were. One request, however many.
    ///
    /// # Errors
    ///
    /// [`Error::AccessRefused`], [`Error::Timeout`], [`Error::Closed`].
    pub async fn purge(&self) -> Result<u64> {
        self.broker.transport().purge(&self.queue()).await
    }

    /// The queue on the broker.
    fn queue(&self) -> Name {
        let names = self.broker.names();
        self.of.as_ref().map_or_else(|| names.undeliverable(), |queue| names.dead_queue(queue))
    }

    fn read(&self, message: Message) -> DeadLetter {
        match &self.of {
            Some(queue) => DeadLetter::read(message, queue),
            None => DeadLetter::read_undeliverable(message),
        }
    }

    fn must_be_found(&self, found: u64, id: TaskId) -> Result<()> {
        if found > 0 {
            return Ok(());
        }
        Err(Error::NoDeadLetter { id: id.to_string(), queue: self.queue().to_string() })
    }

    /// The letters that `glance` keeps, at most `limit`.
    async fn look(
        &self,
        limit: usize,
        mut glance: impl FnMut(&DeadLetter) -> Glance,
    ) -> Result<Vec<DeadLetter>> {
        for _ in 0..TRIES {
            let mut kept = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX);
            let Some(mut scan) = Scan::open(&self.broker, self.queue(), most).await? else {
                return Ok(kept);
            };
            let is_lost = loop {
                match scan.next().await? {
                    Seen::Letter(_, message) => {
                        let letter = self.read(message);
                        let glanced = glance(&letter);
                        if glanced != Glance::Pass {
                            kept.push(letter);
                        }
                        if glanced == Glance::Last {
                            break false;
                        }
                    }
                    Seen::End => break false,
                    Seen::Lost => break true,
                }
            };
            scan.close().await;
            if !is_lost {
                return Ok(kept);
            }
        }
        Err(Error::Consume {
            queue: self.queue().to_string(),
            reason: "the connection was lost again and again".to_owned(),
        })
    }
}

/// What becomes of a letter that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glance {
    Keep,
    Pass,
    /// Kept, and nothing after it.
    Last,
}
