//! [`DeadLetter`]: a task that has come to its end without success, or a message that never was a task.

use std::fmt;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::envelope;
use crate::envelope::Death;
use crate::envelope::Envelope;
use crate::envelope::Foreign;
use crate::error::Error;
use crate::error::Result;
use crate::event::TaskChange;
use crate::failures::FailedAttempt;
use crate::message::Message;
use crate::outcome::DeadReason;
use crate::task::Task;
use crate::task::TaskId;
use crate::topology::QueueName;

/// A task that has come to its end without success, or a message that never was a task: a snapshot of one dead letter.
///
/// What a consumer dead-lettered and what the broker took out of a queue by itself (past its deadline, delivered too
/// often) read alike.
#[derive(Clone)]
pub struct DeadLetter {
    content: Content,
    death: Death,
    queue: String,
}

#[derive(Clone)]
enum Content {
    Task(Envelope),
    Foreign(Foreign),
}

impl DeadLetter {
    /// `of` is the queue whose letter it is.
    pub(crate) fn read(message: Message, of: &QueueName) -> Self {
        let mut death = Death::read(&message.headers);
        let queue = death.queue.take().unwrap_or_else(|| of.to_string());
        Self::new(message, death, queue)
    }

    /// A letter that had no queue left to go to.
    pub(crate) fn read_undeliverable(message: Message) -> Self {
        let mut death = Death::read(&message.headers);
        death.reason = DeadReason::Undeliverable;
        let queue = death.queue.take().unwrap_or_default();
        Self::new(message, death, queue)
    }

    fn new(message: Message, death: Death, queue: String) -> Self {
        let content = match Envelope::open(message) {
            Ok(envelope) => Content::Task(envelope),
            Err(foreign) => Content::Foreign(*foreign),
        };
        Self { content, death, queue }
    }

    /// The task's id. `None` for a message that has none, or another kind of id.
    #[must_use]
    pub fn id(&self) -> Option<TaskId> {
        match &self.content {
            Content::Task(envelope) => Some(envelope.id),
            Content::Foreign(foreign) => foreign.message.id.as_deref()?.parse().ok(),
        }
    }

    /// The task's name, [`Task::NAME`]; what a foreign message has in its place, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.content {
            Content::Task(envelope) => &envelope.name,
            Content::Foreign(foreign) => foreign.message.kind.as_deref().unwrap_or_default(),
        }
    }

    /// The queue it was in, or for.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Why it is dead.
    #[must_use]
    pub fn reason(&self) -> DeadReason {
        self.death.reason
    }

    /// Its last error, at most 2 KiB. `None` if it never failed: what the broker took out of a queue did not.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.death.error.as_deref()
    }

    /// How many attempts there were, as far as one knows: crashes do not count.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        match &self.content {
            Content::Task(envelope) => self.death.reason.attempts(envelope.attempt),
            Content::Foreign(_) => 0,
        }
    }

    /// How often it was requeued before, by hand or by a [`Redrive`](crate::Redrive).
    #[must_use]
    pub fn redriven(&self) -> u32 {
        match &self.content {
            Content::Task(envelope) => envelope.redriven(),
            Content::Foreign(_) => 0,
        }
    }

    /// Its last attempts, at most 10, the first one first; nothing of those that crashed.
    #[must_use]
    pub fn failures(&self) -> &[FailedAttempt] {
        &self.death.failures
    }

    /// When it was enqueued, by the enqueuer's clock. `None` for what is not a task.
    #[must_use]
    pub fn enqueued_at(&self) -> Option<SystemTime> {
        match &self.content {
            Content::Task(envelope) => Some(UNIX_EPOCH + envelope.enqueued_at),
            Content::Foreign(_) => None,
        }
    }

    /// When it died: to the millisecond by the consumer's clock, or to the second by the broker's.
    #[must_use]
    pub fn dead_at(&self) -> Option<SystemTime> {
        self.death.at.map(|at: Duration| UNIX_EPOCH + at)
    }

    /// The number of the attempt that was under way, or to come.
    pub(crate) fn attempt(&self) -> u32 {
        match &self.content {
            Content::Task(envelope) => envelope.attempt,
            Content::Foreign(_) => 1,
        }
    }

    /// How long it lived since it was enqueued, or first due.
    fn lasted(&self) -> Option<Duration> {
        match &self.content {
            Content::Task(envelope) => Some(self.death.at?.saturating_sub(envelope.first_due())),
            Content::Foreign(_) => None,
        }
    }

    /// What its death is to the task.
    pub(crate) fn change(&self) -> TaskChange {
        let (reason, total) = (self.reason(), self.lasted());
        if reason.is_expiry() {
            TaskChange::Expired { reason, total }
        } else {
            TaskChange::Dead { reason, error: self.error().map(str::to_owned), total }
        }
    }

    /// Whether it is a task, and could be requeued.
    #[must_use]
    pub fn is_task(&self) -> bool {
        matches!(self.content, Content::Task(_))
    }

    /// Its payload: MessagePack, if it is a task.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.content {
            Content::Task(envelope) => &envelope.payload,
            Content::Foreign(foreign) => &foreign.message.body,
        }
    }

    /// Its payload, decoded.
    ///
    /// # Errors
    ///
    /// [`Error::WrongTask`] if it is another task than `T`, [`Error::Decode`] if it is not what `T` expects, and
    /// [`Error::NotATask`].
    pub fn task<T: Task>(&self) -> Result<T> {
        match &self.content {
            Content::Foreign(foreign) => Err(Error::NotATask { reason: foreign.why.clone() }),
            Content::Task(envelope) if envelope.name != T::NAME => {
                Err(Error::WrongTask { asked: T::NAME.to_owned(), found: envelope.name.to_string() })
            }
            Content::Task(envelope) => envelope::decode(&envelope.payload)
                .map_err(|source| Error::Decode { task: T::NAME.to_owned(), source }),
        }
    }

    /// The task, as if it had just been enqueued.
    pub(super) fn revive(self, now: Duration) -> Result<Envelope> {
        match self.content {
            Content::Task(envelope) => Ok(envelope.revive(now)),
            Content::Foreign(foreign) => Err(Error::NotATask { reason: foreign.why }),
        }
    }
}

/// Without the payload.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("queue", &self.queue)
            .field("reason", &self.death.reason)
            .field("error", &self.death.error)
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}
