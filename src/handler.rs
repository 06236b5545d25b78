//! [`TaskHandler`], [`TaskContext`] and [`TaskError`]: what an application writes and what it sees.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::error::BoxError;
use crate::lane::Priority;
use crate::task::Task;
use crate::task::TaskId;

/// Runs the tasks of one type.
///
/// One value handles all tasks of its type, many at once. Delivery is at least once: after a crash or a lost connection
/// a task can run again, with the same [`TaskContext::id`].
///
/// ```
/// use taskhare::{async_trait, Task, TaskContext, TaskError, TaskHandler};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Resize { image: String, width: u32 }
/// # impl Task for Resize { const NAME: &'static str = "resize"; type Output = String; }
///
/// struct Resizer;
///
/// #[async_trait]
/// impl TaskHandler for Resizer {
///     type Task = Resize;
///
///     async fn handle(&self, task: Resize, _ctx: &TaskContext) -> Result<String, TaskError> {
///         let width: u16 = task.width.try_into().map_err(TaskError::reject)?; // never worth a retry
///         Ok(format!("{}@{width}", task.image))
///     }
/// }
/// ```
#[async_trait]
pub trait TaskHandler: Send + Sync + 'static {
    /// The type of task.
    type Task: Task;

    /// Runs one attempt. Work that blocks the thread belongs into
    /// [`handler_blocking`](crate::ConsumerBuilder::handler_blocking) or `tokio::task::spawn_blocking`.
    ///
    /// # Errors
    ///
    /// Any error, by `?`, means: try again by the [`RetryPolicy`](crate::RetryPolicy). [`TaskError::reject`] gives up.
    /// A panic counts as an error.
    async fn handle(
        &self,
        task: Self::Task,
        ctx: &TaskContext,
    ) -> Result<<Self::Task as Task>::Output, TaskError>;
}

/// What a handler knows about its attempt. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskContext(Arc<Attempt>);

/// The facts of one attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) id: TaskId,
    pub(crate) name: &'static str,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) priority: Priority,
    pub(crate) number: u32,
    pub(crate) redelivered: bool,
    pub(crate) enqueued_at: Duration,
}

/// What all attempts of one consumer and queue share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) queue: String,
    pub(crate) cancelled: CancellationToken,
}

impl TaskContext {
    pub(crate) fn new(attempt: Attempt) -> Self {
        Self(Arc::new(attempt))
    }

    /// The task's id, the same in every attempt.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.0.id
    }

    /// The task's name: [`Task::NAME`].
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.0.surroundings.queue
    }

    /// Its priority.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.0.priority
    }

    /// 1 for the first attempt, one more after each failure. A crash or a lost connection does not count.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// Whether this attempt may have been started before: the broker delivered the message to someone who did not
    /// finish it.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.0.redelivered
    }

    /// When it was enqueued, by the enqueuer's clock.
    #[must_use]
    pub fn enqueued_at(&self) -> SystemTime {
        UNIX_EPOCH + self.0.enqueued_at
    }

    /// Ends when the consumer begins to shut down. A handler that watches it can stop early and return any error: the
    /// task goes back to its queue and the attempt does not count.
    pub async fn cancelled(&self) {
        self.0.surroundings.cancelled.cancelled().await;
    }

    /// Whether [`cancelled`](Self::cancelled) has ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.surroundings.cancelled.is_cancelled()
    }
}

/// Why an attempt failed, and what shall become of the task.
///
/// Not a `std::error::Error` itself, so that `?` turns every error into one.
pub struct TaskError {
    pub(crate) intent: Intent,
    pub(crate) source: BoxError,
}

/// What a handler wants after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Retry,
    RetryAfter(Duration),
    Reject,
}

impl TaskError {
    /// Try again when the policy says so. The same as `?`, for errors that are only a text or not `std` errors.
    pub fn retry(error: impl Into<BoxError>) -> Self {
        Self { intent: Intent::Retry, source: error.into() }
    }

    /// Try again after `wait`, whatever the policy's backoff; its number of attempts still holds. At most
    /// [`RetryPolicy::LONGEST_WAIT`](crate::RetryPolicy::LONGEST_WAIT).
    pub fn retry_after(wait: Duration, error: impl Into<BoxError>) -> Self {
        Self { intent: Intent::RetryAfter(wait), source: error.into() }
    }

    /// Give up: the task is dead-lettered now.
    pub fn reject(error: impl Into<BoxError>) -> Self {
        Self { intent: Intent::Reject, source: error.into() }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

impl fmt::Display for TaskError {
    /// The error and its causes, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError").field("intent", &self.intent).field("source", &self.source).finish()
    }
}
