//! [`ConsumerBuilder`]: handlers, queues and limits of a consumer.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Consumer;
use super::beat::Beat;
use super::dispatcher::Dispatcher;
use super::executor::Defaults;
use super::executor::Executor;
use super::executor::Staff;
use super::feedback::Feedback;
use super::gate::Gate;
use super::intake::Intake;
use super::lease::LeaseQueue;
#[cfg(feature = "limits")]
use super::limits::CircuitBreaker;
#[cfg(feature = "limits")]
use super::limits::Limits;
#[cfg(feature = "limits")]
use super::limits::RateLimit;
use super::put_back::PutBack;
use super::quarantine::Quarantine;
use super::registry::BlockingHandler;
use super::registry::FnHandler;
use super::registry::Registry;
use super::sequel::Sequel;
use super::suspicion::LEAST_CRASH_LIMIT;
use super::tally::Tally;
use super::term::Term;
use super::ward::Ward;
use crate::broker::Broker;
use crate::broker::Part;
use crate::dead::DeadLetter;
use crate::error::Error;
use crate::error::Result;
use crate::handler::TaskContext;
use crate::handler::TaskError;
use crate::handler::TaskHandler;
use crate::hook::Call;
use crate::hook::Hook;
use crate::journal::Journal;
use crate::lane::Lane;
use crate::lane::Picker;
use crate::retry::RetryPolicy;
use crate::route::Home;
use crate::task::Task;
use crate::topology::QueueName;
use crate::transport::Subscribe;
use crate::transport::Subscription;

/// Settings of a [`Consumer`].
#[must_use = "a builder does nothing until `start`"]
pub struct ConsumerBuilder {
    broker: Broker,
    registry: Registry,
    queues: Vec<(String, QueueSettings)>,
    defaults: QueueSettings,
    picker: Picker,
    crash_limit: u32,
    attempts: Defaults,
    term: Term,
    #[cfg(feature = "limits")]
    limits: Limits,
    grace: Duration,
    beat: Duration,
    on_dead_letter: Option<Call<DeadLetter>>,
}

/// How much of one queue a consumer takes at a time.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it is returned to `queue_with`"]
pub struct QueueSettings {
    concurrency: Option<usize>,
    prefetch: Option<u16>,
}

impl QueueSettings {
    const DEFAULT_CONCURRENCY: usize = 16;

    /// How many of the queue's tasks run at once. Defaults to the consumer's; at least 1.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = Some(tasks.max(1));
        self
    }

    /// How many of the queue's tasks are taken from the broker and not settled at a time, for each of its three lanes.
    /// Defaults to the consumer's, or to twice the concurrency; at least 1. When a consumer dies, at most so many run
    /// again.
    ///
    /// Four times as many as run at once, if that is more (up to 4,096), while attempts take less than 10 ms on the whole
    /// (until they take 25): most of what is here has ended then, and is acknowledged once that is stored in the history.
    /// Not [without events](crate::BrokerBuilder::without_events).
    pub fn prefetch(mut self, tasks: u16) -> Self {
        self.prefetch = Some(tasks.max(1));
        self
    }

    /// These, with gaps filled from `defaults`: (concurrency, prefetch).
    fn resolve(self, defaults: Self) -> (usize, u16) {
        let concurrency = self.concurrency.or(defaults.concurrency).unwrap_or(Self::DEFAULT_CONCURRENCY);
        let prefetch = self.prefetch.or(defaults.prefetch);
        let twice = u16::try_from(concurrency.saturating_mul(2)).unwrap_or(u16::MAX);
        (concurrency, prefetch.unwrap_or(twice))
    }
}

impl ConsumerBuilder {
    pub(super) fn new(broker: &Broker) -> Self {
        Self {
            broker: broker.clone(),
            registry: Registry::default(),
            queues: Vec::new(),
            defaults: QueueSettings::default(),
            picker: Picker::default(),
            crash_limit: 5,
            attempts: Defaults::default(),
            term: Term::default(),
            #[cfg(feature = "limits")]
            limits: Limits::default(),
            grace: Duration::from_secs(30),
            beat: Duration::from_secs(5),
            on_dead_letter: None,
        }
    }

    /// Runs tasks of one type with `handler`. One handler for each type of task.
    pub fn handler<H: TaskHandler>(mut self, handler: H) -> Self {
        self.registry.add(handler);
        self
    }

    /// Runs tasks of one type with a closure.
    pub fn handler_fn<T, F, R>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, TaskContext) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T::Output, TaskError>> + Send + 'static,
    {
        self.handler(FnHandler::new(handler))
    }

    /// Runs tasks of one type with a closure that may block its thread: on tokio's pool of blocking threads. What
    /// blocks cannot be stopped, only told: at the end of a grace period its task is settled, or back in its queue, and
    /// its slot is free, while it runs on.
    pub fn handler_blocking<T, F>(self, handler: F) -> Self
    where
        T: Task,
        F: Fn(T, TaskContext) -> Result<T::Output, TaskError> + Send + Sync + 'static,
    {
        self.handler(BlockingHandler::new(handler))
    }

    /// Takes tasks from `queue`. Defaults to the [`Task::QUEUE`]s of the handlers.
    pub fn queue(self, queue: &str) -> Self {
        self.queue_with(queue, |settings| settings)
    }

    /// Takes tasks from `queue`, with limits of its own: `.queue_with("reports", |queue| queue.concurrency(2))`.
    pub fn queue_with(mut self, queue: &str, settings: impl FnOnce(QueueSettings) -> QueueSettings) -> Self {
        self.queues.push((queue.to_owned(), settings(QueueSettings::default())));
        self
    }

    /// How many tasks of each queue run at once. Defaults to 16.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.defaults = self.defaults.concurrency(tasks);
        self
    }

    /// See [`QueueSettings::prefetch`]. Defaults to twice the concurrency.
    pub fn prefetch(mut self, tasks: u16) -> Self {
        self.defaults = self.defaults.prefetch(tasks);
        self
    }

    /// What happens to failed tasks, unless their handler, their type or their enqueuer says: see [`RetryPolicy`].
    /// Defaults to [`RetryPolicy::default`].
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.attempts.retry = policy;
        self
    }

    /// How long one attempt may take, unless its handler ([`TaskHandler::timeout`]) or its enqueuer
    /// ([`Enqueue::run_timeout`](crate::Enqueue::run_timeout)) says. Then its token is cancelled, and what it comes to
    /// other than success is a failed attempt. Defaults to no limit.
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.attempts.run_timeout = Some(timeout);
        self
    }

    /// How long a handler may go on after its token was cancelled at a deadline, at a timeout or on request; then it is
    /// dropped where it waits. Defaults to 5 s. What blocks its thread cannot be dropped: it runs on while its task is
    /// taken for stopped.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.attempts.cancel_grace = grace;
        self
    }

    /// In what proportion tasks are taken from the lanes of a queue while all of them have some; an empty lane's share
    /// goes to the others. Defaults to 16, 4, 1; 0 is taken as 1, so that each lane moves: of as many tasks as the
    /// weights add up to, each lane with work has its weight.
    ///
    /// A lane has work if some of it is at hand. Where tasks take less than a few milliseconds, a larger
    /// [`prefetch`](Self::prefetch) keeps the urgent lane from running dry while more of it is on the way.
    pub fn lane_weights(mut self, urgent: u16, normal: u16, low: u16) -> Self {
        self.picker = Picker::weighted([urgent, normal, low]);
        self
    }

    /// Takes a normal task only while no urgent one is at hand, and a low one only while there is neither: under steady
    /// urgent load nothing else moves. Instead of [`lane_weights`](Self::lane_weights).
    pub fn strict_lanes(mut self) -> Self {
        self.picker = Picker::strict();
        self
    }

    /// How often a task is started that never ends because its process dies each time, before it is dead-lettered
    /// ([`DeadReason::Crashed`](crate::DeadReason::Crashed)). Defaults to 5; at least 3.
    ///
    /// A process that dies gives back all that it had, and the broker cannot tell who is to blame. So a task that came
    /// back twice is started apart: from the queue's quarantine, one at a time for each consumer, in a slot of its own.
    /// There an innocent one ends; one that kills its process uses up its starts. A lost connection counts like a
    /// death, a shutdown does not.
    pub fn crash_limit(mut self, starts: u32) -> Self {
        self.crash_limit = starts.max(LEAST_CRASH_LIMIT);
        self
    }

    /// How many tasks of type `T` this consumer starts in a time, from all of its queues together. Defaults to no
    /// limit.
    ///
    /// What may not start yet takes no slot, uses up no attempt and keeps no other task away: for up to a second it is
    /// held here, for longer it waits on the broker. It is put back there for as long as those before it are estimated
    /// to take; of more than a minute for half of that, so that other consumers get to see it. So a backlog is
    /// moved out of the way as fast as the broker confirms, and then costs each of its tasks one more publish for each
    /// doubling of its wait beyond a minute. Where the estimate is wrong, because other consumers help, say, some of
    /// the rate may be left unused for that long. Tasks start in about the order in which they came. A deadline holds:
    /// what is still waiting then expires.
    ///
    /// Each consumer counts for itself: for a limit across all, divide it by how many there are.
    #[cfg(feature = "limits")]
    pub fn rate_limit<T: Task>(mut self, limit: RateLimit) -> Self {
        self.limits.set_rate(T::NAME, limit);
        self
    }

    /// When this consumer stops to start tasks of type `T` for a while, because attempts fail one after the other.
    /// Defaults to never. What may not start waits as at a [`rate_limit`](Self::rate_limit).
    ///
    /// Each consumer finds out for itself.
    #[cfg(feature = "limits")]
    pub fn circuit_breaker<T: Task>(mut self, breaker: CircuitBreaker) -> Self {
        self.limits.set_breaker(T::NAME, breaker);
        self
    }

    /// The broker's consumer timeout: how long RabbitMQ lets a consumer hold a task. Defaults to 30 minutes, which is
    /// RabbitMQ's own default; at least 4 s. It must not be longer than the broker's (`consumer_timeout` in its
    /// configuration, or a policy's `consumer-timeout` since 4.0); on quorum queues of 4.3 and later the broker takes
    /// this one instead.
    ///
    /// Tasks may run for as long as they like: half of this after the broker delivered a task, a fresh copy of it takes
    /// its place, in a queue that only this consumer reads, and then every half of this. When the process dies the task
    /// goes back to its queue, from where another process starts it within 5 seconds. One that waits for a slot for so
    /// long goes to the end of its queue. Should the process die between the copy and the acknowledgement, which are
    /// milliseconds apart, the task comes back twice.
    pub fn consumer_timeout(mut self, timeout: Duration) -> Self {
        self.term = Term::new(timeout);
        self
    }

    /// How long running tasks may take to finish when the consumer is shut down. Defaults to 30 s.
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How often this consumer says that it is alive, and what it runs: a [`Heartbeat`](crate::Heartbeat) among the
    /// events. Defaults to 5 s; from 100 ms to an hour. A scheduler takes a consumer for lost that has said nothing for
    /// 1.8 times as long. Each costs the broker one message, for all queues of the consumer.
    ///
    /// Tasks do not hold it up, however many there are; but handlers that block all threads of their runtime do.
    /// [`without_events`](crate::BrokerBuilder::without_events) there is none. Not to be confused with the heartbeat of
    /// a connection, which only RabbitMQ sees.
    pub fn beat_every(mut self, interval: Duration) -> Self {
        self.beat = interval.clamp(Duration::from_millis(100), Duration::from_secs(60 * 60));
        self
    }

    /// Is called with each letter that this consumer has put into the dead letters, after the broker has confirmed it:
    /// to raise an alarm, say. What the broker dead-letters by itself is not among them.
    ///
    /// It runs apart from the tasks, one call at a time, and may block its thread. A panic is logged, and the next call
    /// comes. While it is slow up to 1,024 letters wait for it; it does not hear of more, which is logged. A shutdown
    /// waits for it as long as for running tasks. A crash may lose a call: the dead letters themselves are what counts.
    pub fn on_dead_letter(mut self, call: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.on_dead_letter = Some(Arc::new(call));
        self
    }

    /// Declares the queues and starts to take tasks.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::InvalidSetting`] (no handler, two for one task, a limit of tasks without one),
    /// [`Error::Consume`],
    /// [`Error::TopologyConflict`], [`Error::AccessRefused`] and other failures to declare.
    pub async fn start(self) -> Result<Consumer> {
        let queues = self.queue_names()?;
        let gate = self.gate()?;
        let (stop, mut dispatchers) = (CancellationToken::new(), JoinSet::new());
        // For retries; declared now, so that a failure to do so shows.
        self.broker.declare(Part::Wheel).await?;
        self.broker.declare(Part::Control).await?;
        let leases = Arc::new(LeaseQueue::new(&self.broker, self.term)?);
        let staff = Staff::gather(&self.broker, self.registry, self.attempts, leases.clone()).await?;
        let journal = self.broker.declared_journal().await?;
        let name: Arc<str> = journal.as_ref().map_or_else(|| "".into(), Journal::name_consumer);
        let (hook, listener) = self.on_dead_letter.map(|call| Hook::new("on_dead_letter", call)).unzip();
        let (mut started, mut tallies) = (Vec::new(), Vec::new());
        for (queue, settings) in queues {
            self.broker.declare(Part::Queue(queue.clone())).await?;
            let (concurrency, prefetch) = settings.resolve(self.defaults);
            let tally = Arc::new(Tally::new(concurrency, prefetch));
            tallies.push((queue.text(), tally.clone()));
            let feedback = Feedback::new(&self.broker, journal.clone(), name.clone(), &queue, tally.clone());
            let sequel = Arc::new(Sequel::new(&self.broker, queue.clone(), feedback, hook.clone()));
            let put_back = PutBack::new(sequel.clone());
            let picker = self.picker.clone();
            let subscriptions = subscribe(&self.broker, &queue, prefetch, self.term).await?;
            let beat = journal.as_ref().map(|_| self.beat);
            let clock = self.broker.clock();
            let intake = Intake::new(subscriptions, tally.clone(), beat, picker, put_back, clock, self.term);
            let executor = |home| {
                Arc::new(Executor::new(&self.broker, &staff, &queue, home, sequel.clone(), stop.clone()))
            };
            let quarantine = Quarantine::new(&self.broker, queue.clone(), sequel.clone(), self.crash_limit);
            let quarantine = Arc::new(quarantine);
            let ward = Ward {
                quarantine: quarantine.clone(),
                executor: executor(Home::Quarantine),
                gate: gate.clone(),
                term: self.term,
                stop: stop.clone(),
                grace: self.grace,
            };
            let dispatcher = Dispatcher {
                intake,
                executor: executor(Home::Lane),
                quarantine,
                gate: gate.clone(),
                tally,
                stop: stop.clone(),
                grace: self.grace,
            };
            started.push((dispatcher, ward));
        }
        for (dispatcher, ward) in started {
            dispatchers.spawn(dispatcher.run());
            dispatchers.spawn(ward.run());
        }
        drop(hook);
        if let Some(listener) = listener {
            let told = listener.run(stop.clone(), self.grace);
            dispatchers.spawn(async {
                told.await;
                Vec::new()
            });
        }
        let beating = journal.map(|journal| {
            let beat = Beat {
                journal,
                consumer: name,
                clock: self.broker.clock(),
                connections: self.broker.transport().connection_names(),
                interval: self.beat,
                queues: tallies,
                running: staff.running().clone(),
                health: self.broker.transport().health(),
            };
            beat.start(stop.clone())
        });
        Ok(Consumer::new(stop, dispatchers, leases, beating))
    }

    #[cfg(feature = "limits")]
    fn gate(&self) -> Result<Option<Arc<dyn Gate>>> {
        self.limits.gate(&self.registry, self.broker.clock())
    }

    #[cfg(not(feature = "limits"))]
    #[allow(clippy::unused_self, reason = "as with the feature `limits`")]
    fn gate(&self) -> Result<Option<Arc<dyn Gate>>> {
        Ok(None)
    }

    fn queue_names(&self) -> Result<Vec<(QueueName, QueueSettings)>> {
        self.registry.check()?;
        let mut queues: Vec<(QueueName, QueueSettings)> = Vec::new();
        for (queue, settings) in &self.queues {
            let queue = QueueName::new(queue)?;
            if queues.iter().any(|(known, _)| *known == queue) {
                let reason = format!("{queue:?} is named twice");
                return Err(Error::InvalidSetting { setting: "queue", reason });
            }
            queues.push((queue, *settings));
        }
        if queues.is_empty() {
            for queue in self.registry.queues() {
                queues.push((QueueName::new(queue)?, QueueSettings::default()));
            }
        }
        Ok(queues)
    }
}

/// Subscribes to all lanes of `queue`.
async fn subscribe(
    broker: &Broker,
    queue: &QueueName,
    prefetch: u16,
    term: Term,
) -> Result<[Box<dyn Subscription>; 3]> {
    let lane = async |lane: Lane| {
        let tag = format!("{queue} {lane}");
        let mut subscribe = Subscribe::new(broker.names().lane(queue, lane), prefetch, tag);
        // 4.3 refuses it on classic queues.
        subscribe.consumer_timeout = broker.counts_returns().then_some(term.timeout());
        broker.transport().subscribe(subscribe).await
    };
    Ok([lane(Lane::Urgent).await?, lane(Lane::Normal).await?, lane(Lane::Low).await?])
}

impl fmt::Debug for ConsumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsumerBuilder")
            .field("queues", &self.queues)
            .field("defaults", &self.defaults)
            .field("attempts", &self.attempts)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}
