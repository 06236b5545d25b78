//! [`TaskHandler`], [`TaskContext`] and [`TaskError`]: what an application writes and what it sees.

use std::fmt;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::error::BoxError;
use crate::lane::Lane;
use crate::lane::Priority;
use crate::lock::Lock;
use crate::progress::Duty;
use crate::progress::Report;
use crate::retry::RetryPolicy;
use crate::task::Task;
use crate::task::TaskId;
use crate::tick::Tick;

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

    /// How failed tasks of this handler are tried again; `None`, the default: as [`Task::retry`] says.
    fn retry(&self) -> Option<RetryPolicy> {
        None
    }

    /// How long one attempt may take; `None`, the default: as the consumer's
    /// [`run_timeout`](crate::ConsumerBuilder::run_timeout) says. The enqueuer's
    /// [`run_timeout`](crate::Enqueue::run_timeout) goes before both.
    fn timeout(&self) -> Option<Duration> {
        None
    }
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
    /// `None`: in quarantine.
    pub(crate) lane: Option<Lane>,
    pub(crate) priority: Priority,
    pub(crate) number: u32,
    pub(crate) redelivered: bool,
    pub(crate) enqueued_at: Duration,
    pub(crate) deadline: Option<Duration>,
    pub(crate) tick: Option<Box<Tick>>,
    pub(crate) cancellation: Cancellation,
    pub(crate) progress: Progress,
}

/// How far an attempt is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Made when the handler first says so; most never do. `Some(None)`: the attempt has ended before.
    report: OnceLock<Option<Box<Lock<Report>>>>,
    /// It is told that the attempt has begun.
    is_open: AtomicBool,
}

/// Made when somebody first asks for it: most attempts are done before.
#[derive(Debug, Default)]
pub(crate) struct Cancellation {
    token: OnceLock<CancellationToken>,
    reason: OnceLock<CancelReason>,
}

/// What all attempts of one consumer and queue share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) queue: Arc<str>,
    pub(crate) clock: Clock,
    /// Cancelled when the consumer begins to shut down.
    pub(crate) shutdown: CancellationToken,
    /// `None`: nobody wants to know how far attempts are.
    pub(crate) tell: Option<Tell>,
}

/// Tells how far an attempt is.
pub(crate) struct Tell(Box<Telling>);

type Telling = dyn Fn(&Attempt, &Report) + Send + Sync;

impl Tell {
    pub(crate) fn new(tell: impl Fn(&Attempt, &Report) + Send + Sync + 'static) -> Self {
        Self(Box::new(tell))
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// Why an attempt is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// Its consumer is shutting down. A handler that stops early goes back to its queue uncounted.
    Shutdown,
    /// Its deadline has passed. The task ends as expired, unless the handler still succeeds.
    Deadline,
    /// It has run for longer than one attempt may. It has failed, unless the handler still succeeds.
    Timeout,
    /// Somebody cancelled the task.
    Requested,
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

    /// When its task is too late, by the enqueuer's clock, if ever. To hand it on:
    /// [`Enqueue::deadline_of`](crate::Enqueue::deadline_of).
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        self.0.deadline.map(|deadline| UNIX_EPOCH + deadline)
    }

    /// Which tick of a schedule it is; `None` for a task that was enqueued by itself.
    #[must_use]
    pub fn tick(&self) -> Option<&Tick> {
        self.0.tick.as_deref()
    }

    /// How long until [`deadline`](Self::deadline), by this consumer's clock; zero when it has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.0.deadline.map(|deadline| deadline.saturating_sub(self.0.surroundings.clock.now()))
    }

    /// Cancelled when this attempt is to stop: at its deadline, at its timeout, when the task is cancelled, or when the
    /// consumer begins to shut down; [`cancel_reason`](Self::cancel_reason) tells which. A handler that watches it can
    /// stop early and return any error. One that does not is dropped where it waits, after the
    /// [`cancel_grace`](crate::ConsumerBuilder::cancel_grace), or in a shutdown after the
    /// [`shutdown_grace`](crate::ConsumerBuilder::shutdown_grace).
    ///
    /// Each attempt has a token of its own. Pass clones to what the handler spawns; cancelling it yourself stops no
    /// one else.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.token().clone()
    }

    /// Ends when [`cancellation`](Self::cancellation) is cancelled.
    pub async fn cancelled(&self) {
        self.token().cancelled().await;
    }

    /// Whether [`cancelled`](Self::cancelled) has ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancel_reason().is_some()
    }

    /// Why it is to stop: the first reason there was; `None`: it may go on.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        let Attempt { surroundings, cancellation, .. } = &*self.0;
        let shutdown = || surroundings.shutdown.is_cancelled().then_some(CancelReason::Shutdown);
        cancellation.reason.get().copied().or_else(shutdown)
    }

    /// Says how far this attempt is: so much is `done`, of so much in `total`, if that is known, and what is being done.
    ///
    /// Whoever follows the task ([`Broker::follow`](crate::Broker::follow)), asks for its state
    /// ([`Broker::status`](crate::Broker::status)) or reads all events sees it, in any process. It never waits, and may
    /// be called as often as one likes, for some 0.1 µs: at most one event each 100 ms goes out for an attempt, always
    /// the newest, and the last one before the end of the attempt, whatever that is. What is said before the handler has
    /// first waited for something goes out up to 100 ms after that, or with its end. Said after the end, or where
    /// [no events are kept](crate::BrokerBuilder::without_events), it does nothing. Of a note 256 bytes are told.
    ///
    /// ```
    /// # fn run(ctx: &taskhare::TaskContext, pages: &[&str]) {
    /// for (number, page) in (1..).zip(pages) {
    ///     // … print it …
    ///     ctx.progress(number, pages.len() as u64, page);
    /// }
    /// # }
    /// ```
    pub fn progress(&self, done: u64, total: impl Into<Option<u64>>, note: &str) {
        let Attempt { surroundings, progress, .. } = &*self.0;
        let Some(tell) = &surroundings.tell else { return };
        let Some(report) = progress.report.get_or_init(|| Some(Box::default())) else { return };
        let mut report = report.lock();
        let is_open = progress.is_open.load(Ordering::Relaxed);
        match report.say((done, total.into(), note), Instant::now(), is_open) {
            Duty::Tell => (tell.0)(&self.0, &report),
            Duty::Wake(at) => {
                // Elsewhere there is nobody to wake up: then the next one is told, or the last one.
                if let Ok(runtime) = Handle::try_current() {
                    report.set_timer();
                    runtime.spawn(pass_on(Arc::downgrade(&self.0), at));
                }
            }
            Duty::Nothing => {}
        }
    }

    /// It is told that the attempt has begun, so what it does may be told.
    pub(crate) fn open_progress(&self) {
        self.0.progress.is_open.store(true, Ordering::Relaxed);
    }

    /// The attempt has ended: tells the last that it has said, after `begin`, and nothing any more.
    pub(crate) fn end_progress(&self, begin: impl FnOnce()) {
        let Attempt { surroundings, progress, .. } = &*self.0;
        if Arc::strong_count(&self.0) == 1 && progress.report.get().is_none() {
            // Nobody is left who could say something.
            return;
        }
        let report = progress.report.get_or_init(|| None);
        if let (Some(tell), Some(report)) = (&surroundings.tell, report) {
            let mut report = report.lock();
            if report.end() {
                begin();
                (tell.0)(&self.0, &report);
            }
        }
    }

    /// Tells the handler to stop.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        let first = self.cancel_reason().unwrap_or(reason);
        // Fails if there is one already, which is then the first.
        let _ = self.0.cancellation.reason.set(first);
        self.token().cancel();
    }

    fn token(&self) -> &CancellationToken {
        self.0.cancellation.token.get_or_init(|| self.0.surroundings.shutdown.child_token())
    }
}

/// Tells then how far an attempt is, if it has said more by then.
async fn pass_on(attempt: Weak<Attempt>, mut at: Instant) {
    loop {
        tokio::time::sleep_until(at).await;
        let Some(attempt) = attempt.upgrade() else { return };
        let Attempt { surroundings, progress, .. } = &*attempt;
        let (Some(tell), Some(Some(report))) = (&surroundings.tell, progress.report.get()) else { return };
        let mut report = report.lock();
        match report.pass(Instant::now(), progress.is_open.load(Ordering::Relaxed)) {
            Duty::Tell => return (tell.0)(&attempt, &report),
            Duty::Wake(next) => {
                report.set_timer();
                at = next;
            }
            Duty::Nothing => return,
        }
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

    /// Try again after `wait`, whatever the policy's backoff; its limits of attempts and time still hold.
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
