//! [`Enqueue`] and [`EnqueueAll`], the builders that are futures, and [`Enqueued`], what they give.

use std::collections::VecDeque;
use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::future::maybe_done;
use tokio::time::Instant;

use super::Producer;
use super::outputs::Expected;
use super::unique::OnDuplicate;
use super::unique::UniqueKey;
use crate::envelope;
use crate::error::Error;
use crate::error::Result;
use crate::handler::TaskContext;
use crate::lane::Priority;
use crate::outcome::DeadReason;
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::task::Task;
use crate::task::TaskId;
use crate::telemetry::EnqueueSpan;

/// When a task may start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Start {
    #[default]
    AtOnce,
    After(Duration),
    At(SystemTime),
}

impl Start {
    /// Since the Unix epoch, as `now` is; `None`: at once.
    pub(super) fn due(self, now: Duration) -> Option<Duration> {
        let due = match self {
            Self::AtOnce => return None,
            Self::After(delay) => now.saturating_add(delay),
            Self::At(time) => time.duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        (due > now).then_some(due)
    }
}

/// What can be said about tasks when they are enqueued.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    pub(super) id: Option<TaskId>,
    pub(super) queue: Option<String>,
    pub(super) priority: Priority,
    pub(super) start: Start,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) max_attempts: Option<u32>,
    pub(super) deadline: Option<Deadline>,
    /// The deadline of the task that enqueues this one, since the Unix epoch.
    pub(super) no_later: Option<Duration>,
    pub(super) run_timeout: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) without_output: bool,
    pub(super) unique: Option<UniqueKey>,
    /// It takes the place of the copies before it.
    pub(super) reschedules: bool,
}

/// When it is too late to start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deadline {
    At(SystemTime),
    /// After it was enqueued.
    In(Duration),
}

impl Options {
    /// The deadline of a task that is enqueued at `now`, both since the Unix epoch.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let own = self.deadline.map(|deadline| match deadline {
            Deadline::At(time) => time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            Deadline::In(time) => now.saturating_add(time),
        });
        match (own, self.no_later) {
            (Some(own), Some(no_later)) => Some(own.min(no_later)),
            (own, no_later) => own.or(no_later),
        }
    }
}

/// The setters that one task and many share.
macro_rules! options {
    () => {
        /// The queue. Defaults to [`Task::QUEUE`].
        pub fn queue(mut self, queue: &str) -> Self {
            self.options.queue = Some(queue.to_owned());
            self
        }

        /// Which of the queue's lanes. Defaults to [`Priority::Normal`].
        pub fn priority(mut self, priority: Priority) -> Self {
            self.options.priority = priority;
            self
        }

        /// Starts it so much later: milliseconds to years. It waits on the broker, and is never started early.
        ///
        /// [`at`](Self::at) tells how exact that is; of the two, the last one counts.
        pub fn delay(mut self, delay: Duration) -> Self {
            self.options.start = Start::After(delay);
            self
        }

        /// Starts it at that time of day; at once if that has passed.
        ///
        /// It waits on the broker, in queues of the whole namespace ([`Broker::delayed`](crate::Broker::delayed) counts
        /// them), for years if need be, and costs no process any memory. It comes to a consumer 0.2 s before its time,
        /// which holds it, in no slot, to the millisecond. What comes due while nobody consumes starts as soon as
        /// somebody does.
        ///
        /// The clocks of enqueuer and consumer are taken to agree. A task starts early by as much as the consumer's is
        /// ahead, and by 0.2 s at most; it is late by no more than that if the consumer's is behind. The broker's clock
        /// need not agree with theirs, but must not be changed by hand: a wait in the broker is as much shorter or
        /// longer as that clock is set forward or back meanwhile.
        pub fn at(mut self, time: SystemTime) -> Self {
            self.options.start = Start::At(time);
            self
        }

        /// What happens when it fails, instead of what handler or consumer say. Travels with the task, to the
        /// millisecond. A [`custom`](RetryPolicy::custom) policy cannot: [`Error::InvalidSetting`].
        pub fn retry(mut self, policy: RetryPolicy) -> Self {
            self.options.retry = Some(policy);
            self
        }

        /// How many attempts there are, instead of what the [`RetryPolicy`] says, whose ever it is. At least 1.
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.options.max_attempts = Some(attempts.max(1));
            self
        }

        /// It is not started at this time or later, nor tried again, and what still runs then is told to stop. It ends
        /// as expired, in the dead letters: see [`DeadReason`]. Each machine goes by its own clock, so
        /// theirs should agree. Defaults to never.
        ///
        /// Enqueuing fails as [`Error::DeadlinePassed`] if it could not be started before.
        pub fn deadline(mut self, time: SystemTime) -> Self {
            self.options.deadline = Some(Deadline::At(time));
            self
        }

        /// As [`deadline`](Self::deadline), so long after it is enqueued.
        pub fn deadline_in(mut self, time: Duration) -> Self {
            self.options.deadline = Some(Deadline::In(time));
            self
        }

        /// No later than the task of `ctx`: in a handler, hands its deadline on to what it enqueues. The earlier one
        /// counts if a [`deadline`](Self::deadline) is given as well.
        pub fn deadline_of(mut self, ctx: &TaskContext) -> Self {
            self.options.no_later = ctx.deadline().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            self
        }

        /// How long one attempt may take, instead of what handler or consumer say: see
        /// [`ConsumerBuilder::run_timeout`](crate::ConsumerBuilder::run_timeout).
        pub fn run_timeout(mut self, timeout: Duration) -> Self {
            self.options.run_timeout = Some(timeout);
            self
        }

        /// How long to wait for the broker, instead of what the producer's
        /// [`timeout`](crate::ProducerBuilder::timeout) says.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.options.timeout = Some(timeout);
            self
        }

        /// Nobody will ask for the [`output`](Enqueued::output), which saves the consumer a publish.
        pub fn without_output(mut self) -> Self {
            self.options.without_output = true;
            self
        }
    };
}

/// A task about to be enqueued: see [`Producer::enqueue`].
#[must_use = "nothing is enqueued until this is awaited"]
pub struct Enqueue<'a, T: Task> {
    producer: &'a Producer,
    task: T,
    options: Options,
}

impl<'a, T: Task> Enqueue<'a, T> {
    pub(super) fn new(producer: &'a Producer, task: T) -> Self {
        Self { producer, task, options: Options::default() }
    }

    /// The task with this id again, instead of the copy that waits.
    pub(super) fn again(producer: &'a Producer, task: T, id: TaskId) -> Self {
        let options = Options { id: Some(id), reschedules: true, ..Options::default() };
        Self { producer, task, options }
    }

    /// The task's id. Defaults to a new one. With the id of an earlier, unconfirmed enqueue it is the same task again.
    pub fn id(mut self, id: TaskId) -> Self {
        self.options.id = Some(id);
        self
    }

    /// Of all tasks with the same key, in all queues of the namespace, only one at a time waits or runs; 1 to 255
    /// bytes.
    ///
    /// The key is free again when its task has ended, or at the latest [`unique_for`](Self::unique_for) after it was
    /// enqueued: a producer that dies between claiming a key and enqueuing blocks the key so long, and so does a task
    /// that the broker itself takes out of its queue. A task that still waits or runs then may get a double. The claim
    /// costs a publish and a look into the stream `{namespace}.unique`, a few milliseconds; the end of the task one
    /// publish more.
    ///
    /// Who claims first is decided by the stream, on a majority of its replicas. So two producers on two sides of a
    /// partition cannot both get a key: on the smaller side claims fail by their timeout.
    pub fn unique(mut self, key: &str) -> Self {
        self.unique_key().key = key.to_owned();
        self
    }

    /// How long a unique key is taken at most. Defaults to an hour; at most a day, because producers read that much of
    /// the stream. Must be longer than the task's delay.
    pub fn unique_for(mut self, window: Duration) -> Self {
        self.unique_key().window = window;
        self
    }

    /// What happens if another task has the key. Defaults to [`OnDuplicate::Refuse`].
    pub fn on_duplicate(mut self, on_duplicate: OnDuplicate) -> Self {
        self.unique_key().on_duplicate = on_duplicate;
        self
    }

    fn unique_key(&mut self) -> &mut UniqueKey {
        self.options.unique.get_or_insert_with(UniqueKey::default)
    }

    options!();
}

impl<'a, T: Task> IntoFuture for Enqueue<'a, T> {
    type Output = Result<Enqueued<T>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let queue = self.options.queue.as_deref().unwrap_or(T::QUEUE);
        EnqueueSpan::one(T::NAME, queue).around_one(
            Box::pin(async move { self.producer.send(self.task, &self.options).await }),
            Enqueued::id,
        )
    }
}

impl<T: Task> fmt::Debug for Enqueue<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueue").field("task", &T::NAME).field("options", &self.options).finish()
    }
}

/// Tasks about to be enqueued: see [`Producer::enqueue_all`].
#[must_use = "nothing is enqueued until this is awaited"]
pub struct EnqueueAll<'a, T: Task> {
    producer: &'a Producer,
    tasks: Box<dyn Iterator<Item = T> + Send>,
    options: Options,
}

impl<'a, T: Task> EnqueueAll<'a, T> {
    pub(super) fn new(producer: &'a Producer, tasks: Box<dyn Iterator<Item = T> + Send>) -> Self {
        Self { producer, tasks, options: Options::default() }
    }

    options!();
}

impl<'a, T: Task> IntoFuture for EnqueueAll<'a, T> {
    type Output = Vec<Result<Enqueued<T>>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let span = EnqueueSpan::many(T::NAME, self.options.queue.as_deref().unwrap_or(T::QUEUE));
        span.around(Box::pin(self.run()))
    }
}

impl<T: Task> EnqueueAll<'_, T> {
    /// How many are on their way at a time: where the throughput of a broker levels off.
    const WINDOW: usize = 512;
    /// How many are sent before others get their turn on this thread.
    const BURST: usize = 64;

    /// Keeps a window of tasks on their way, in their order. Each is sent when it enters the window; then only the
    /// oldest is waited for, which costs less than asking all of them at each confirm.
    async fn run(self) -> Vec<Result<Enqueued<T>>> {
        let Self { producer, tasks, options } = self;
        // What has to wait for its queue would be overtaken by what comes when it is there. Each task reports a failure.
        let _ = producer.prepare(options.queue.as_deref().unwrap_or(T::QUEUE), options.start).await;
        let mut results = Vec::with_capacity(tasks.size_hint().0);
        let mut window = VecDeque::new();
        for (index, task) in tasks.enumerate() {
            if window.len() == Self::WINDOW
                && let Some(oldest) = window.pop_front()
            {
                results.push(oldest.await);
            }
            if index % Self::BURST == 0 {
                tokio::task::yield_now().await;
            }
            let mut sending = Box::pin(maybe_done(producer.send(task, &options)));
            // Outside of tokio's budget, which would leave some of a burst unsent.
            let _ = tokio::task::unconstrained(&mut sending).now_or_never();
            window.push_back(async move {
                (&mut sending).await;
                sending.as_mut().take_output().expect("it is done, and its output is taken once")
            });
        }
        for oldest in window {
            results.push(oldest.await);
        }
        results
    }
}

impl<T: Task> fmt::Debug for EnqueueAll<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueAll").field("task", &T::NAME).field("options", &self.options).finish()
    }
}

/// A task that the broker has.
pub struct Enqueued<T: Task> {
    id: TaskId,
    is_new: bool,
    output: Option<Expected<T>>,
    /// When nobody will tell of it any more.
    silent_at: Option<Instant>,
}

impl<T: Task> Enqueued<T> {
    /// How long after its deadline a task is heard of, at most: the default grace of a running one, and the way back.
    const LAST_WORD: Duration = Duration::from_secs(10);

    /// `left` is how long until its deadline.
    pub(super) fn new(id: TaskId, output: Option<Expected<T>>, left: Option<Duration>) -> Self {
        let silent_at =
            left.and_then(|left| Instant::now().checked_add(left.saturating_add(Self::LAST_WORD)));
        Self { id, is_new: true, output, silent_at }
    }

    /// Another task that was there already.
    pub(super) fn other(id: TaskId) -> Self {
        Self { id, is_new: false, output: None, silent_at: None }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// Whether it is a task of its own; `false`: another one has its [unique key](Enqueue::unique), and
    /// [`id`](Self::id) is that one's.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Waits, at most a minute, for what its handler returned: see [`output_within`](Self::output_within).
    ///
    /// # Errors
    ///
    /// As for [`output_within`](Self::output_within).
    pub async fn output(self) -> Result<T::Output> {
        self.output_within(Duration::from_secs(60)).await
    }

    /// Waits for what its handler returned, over all attempts.
    ///
    /// The output comes back on a queue of this producer, once, and is not stored: with the producer or this value gone
    /// it is dropped, and the task is done all the same.
    ///
    /// # Errors
    ///
    /// - [`Error::Failed`]: the task is in the dead letters. A broker that expires a task tells nobody; so when 10 s
    ///   after its deadline no consumer has told of it, that is taken for
    ///   [`ExpiredInQueue`](DeadReason::ExpiredInQueue): wrongly so if it runs in a consumer whose
    ///   [`cancel_grace`](crate::ConsumerBuilder::cancel_grace) is longer.
    /// - [`Error::Cancelled`].
    /// - [`Error::OutputTooLarge`]: the task is done. An output may be as large as a payload:
    ///   [`max_payload`](crate::BrokerBuilder::max_payload), by default 1 MiB.
    /// - [`Error::Decode`]: this program expects another output than the handler has returned.
    /// - [`Error::Timeout`]: it is not done yet, or its output was lost with a broker node.
    ///   [`Broker::status`](crate::Broker::status) tells which.
    /// - [`Error::NoOutput`]: none was asked for, because [`Task::Output`] is `()` or of
    ///   [`without_output`](Enqueue::without_output).
    pub async fn output_within(self, limit: Duration) -> Result<T::Output> {
        let id = self.id.to_string();
        let Some(expected) = self.output else {
            return Err(Error::NoOutput { id });
        };
        let silence = self.silent_at.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = silence.map_or(limit, |silence| silence.min(limit));
        match tokio::time::timeout(wait, expected.reply()).await {
            Err(_) if silence.is_some_and(|silence| silence <= limit) => Err(Error::Failed {
                id,
                reason: DeadReason::ExpiredInQueue,
                error: "its deadline has passed, and no consumer has told of it".to_owned(),
            }),
            Err(_) => Err(Error::Timeout { action: format!("output of task {id}"), waited: limit }),
            Ok(None) => Err(Error::Closed),
            Ok(Some(Reply::Dead { reason, error })) => Err(Error::Failed { id, reason, error }),
            Ok(Some(Reply::Cancelled { error })) => Err(Error::Cancelled { id, reason: error }),
            Ok(Some(Reply::TooLarge { size, limit })) => Err(Error::OutputTooLarge { id, size, limit }),
            Ok(Some(Reply::Succeeded(output))) => {
                envelope::decode(&output).map_err(|source| Error::Decode { task: T::NAME.to_owned(), source })
            }
        }
    }
}

impl<T: Task> fmt::Debug for Enqueued<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enqueued").field("task", &T::NAME).field("id", &self.id).finish_non_exhaustive()
    }
}
