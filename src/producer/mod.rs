//! [`Producer`]: where tasks come in.

mod control;
mod enqueue;
mod outputs;
mod schedule;
mod unique;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::RwLock;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use crate::broker::Broker;
use crate::broker::Part;
use crate::control::Decision;
use crate::envelope;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::error::Result;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::journal::Journal;
use crate::retry::RetryPolicy;
use crate::route;
use crate::route::Route;
use crate::task::Task;
use crate::task::TaskId;
use crate::telemetry;
use crate::telemetry::EnqueueMeter;
use crate::topology::QueueName;
use crate::transport::Publish;
use crate::transport::PublishError;

use control::revision;
pub use enqueue::Enqueue;
pub use enqueue::EnqueueAll;
pub use enqueue::Enqueued;
use enqueue::Options;
use enqueue::Start;
pub use schedule::DeclareSchedule;
use unique::Claimed;
pub use unique::OnDuplicate;
use unique::Uniqueness;

/// Enqueues tasks. Cheap to clone.
///
/// ```
/// # use taskhare::{Broker, Producer, Priority, Task};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
/// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
/// let producer = Producer::builder(&Broker::in_process()).build().await?;
///
/// let task = producer.enqueue(Greet { name: "Ada".into() }).priority(Priority::Urgent).await?;
/// println!("the broker has task {}", task.id());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Producer(Arc<Inner>);

struct Inner {
    broker: Broker,
    timeout: Duration,
    /// `None`: nobody wants to know what is enqueued.
    journal: Option<Journal>,
    outputs: outputs::Outputs,
    uniqueness: Uniqueness,
    routes: RwLock<HashMap<String, Arc<Route>>>,
}

impl Producer {
    /// A producer for `broker`.
    pub fn builder(broker: &Broker) -> ProducerBuilder {
        ProducerBuilder { broker: broker.clone(), queues: Vec::new(), timeout: Duration::from_secs(30) }
    }

    /// Enqueues `task`: a builder, and a future.
    ///
    /// `Ok` means that the broker has stored it, on a majority of its replicas, and confirmed it.
    ///
    /// # Errors
    ///
    /// - Never enqueued: [`Error::InvalidName`], [`Error::Encode`], [`Error::TooLarge`], [`Error::Unroutable`],
    ///   [`Error::Rejected`], [`Error::Unavailable`], [`Error::DeadlinePassed`], [`Error::InvalidSetting`],
    ///   [`Error::Closed`], or a failure to declare its queue.
    /// - Unknown: [`Error::Unconfirmed`].
    ///
    /// Dropped before it is done, the task may be enqueued or not.
    pub fn enqueue<T: Task>(&self, task: T) -> Enqueue<'_, T> {
        Enqueue::new(self, task)
    }

    /// Enqueues many tasks of one type, with up to 512 on their way at a time: a builder, and a future of one result
    /// each, in their order.
    ///
    /// ```
    /// # use taskhare::{Broker, Producer, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
    /// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let producer = Producer::builder(&Broker::in_process()).build().await?;
    /// let names = ["Ada", "Grace", "Barbara"];
    /// let enqueued = producer.enqueue_all(names.map(|name| Greet { name: name.into() })).await;
    /// assert!(enqueued.iter().all(Result::is_ok));
    /// # Ok(()) }
    /// ```
    pub fn enqueue_all<T: Task, I>(&self, tasks: I) -> EnqueueAll<'_, T>
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        EnqueueAll::new(self, Box::new(tasks.into_iter()))
    }

    /// One task, all the way.
    async fn send<T: Task>(&self, task: T, options: &Options) -> Result<Enqueued<T>> {
        let (producer, meter) = (&*self.0, EnqueueMeter::begin(T::NAME));
        let payload = envelope::checked(T::NAME, envelope::encode(&task), producer.broker.max_payload())?;
        let policy = options.retry.as_ref().map(RetryPolicy::checked_text).transpose()?;
        let route = self.route(options.queue.as_deref().unwrap_or(T::QUEUE)).await?;
        let now = producer.broker.clock().now();
        let due = options.start.due(now);
        self.declare_wheel(due, now).await?;
        let id = options.id.unwrap_or_else(|| TaskId::at(now));
        let deadline = options.deadline(now);
        in_time(id, due.unwrap_or(now), deadline)?;
        let timeout = options.timeout.unwrap_or(producer.timeout);
        let claim = match &options.unique {
            None => None,
            Some(unique) => {
                let wait = due.map_or(Duration::ZERO, |due| due.saturating_sub(now));
                match Box::pin(self.claim(unique, id, wait, timeout)).await? {
                    Claimed::Theirs(holder) => {
                        meter.merged();
                        return Ok(Enqueued::other(holder));
                    }
                    Claimed::Ours(claim) => Some(claim),
                }
            }
        };
        let output = match options.without_output {
            true => None,
            false => producer.outputs.expect::<T>(&producer.broker, id).await?,
        };
        let mut envelope = Envelope {
            max_attempts: options.max_attempts,
            priority: options.priority,
            due,
            deadline,
            run_timeout: options.run_timeout,
            revision: if options.reschedules { revision(now) } else { 0 },
            unique: claim.as_ref().map(|claim| claim.key.clone()),
            reply_to: output.as_ref().map(|output| output.reply_to().to_owned()),
            ..Envelope::new(id, T::NAME, now, payload)
        };
        if let Some(policy) = policy {
            envelope.set_policy(&policy);
        }
        telemetry::write_current(&mut envelope.rest);
        let publish = route.publish(envelope, now);
        let published = self.publish(&publish, &route, timeout).await;
        if let Some(claim) = claim {
            Box::pin(self.settle_claim(claim, id, &published, timeout)).await?;
        }
        published.map_err(|error| route::refused(error, id, route.queue()))?;
        meter.confirmed(&route.queue().text());
        if let Some(journal) = &producer.journal {
            journal.record(TaskEvent {
                id,
                name: T::NAME.into(),
                queue: route.queue().text(),
                lane: None,
                attempt: 1,
                at: UNIX_EPOCH + now,
                by: journal.instance().name().clone(),
                change: TaskChange::Accepted {
                    priority: options.priority,
                    due: due.map(|due| UNIX_EPOCH + due),
                    deadline: deadline.map(|deadline| UNIX_EPOCH + deadline),
                    schedule: None,
                    again: options.reschedules,
                },
            });
        }
        if options.reschedules {
            Box::pin(self.decide(id, Decision::Rescheduled(revision(now)), timeout)).await?;
        }
        Ok(Enqueued::new(id, output, deadline.map(|deadline| deadline.saturating_sub(now))))
    }

    /// Declares what tasks for `queue` need that start then.
    async fn prepare(&self, queue: &str, start: Start) -> Result<()> {
        self.route(queue).await?;
        let now = self.0.broker.clock().now();
        self.declare_wheel(start.due(now), now).await
    }

    /// Declares the delay wheel, if a task that is due then goes through it.
    async fn declare_wheel(&self, due: Option<Duration>, now: Duration) -> Result<()> {
        if Route::is_delayed(due, now) {
            Box::pin(self.0.broker.declare(Part::Wheel)).await?;
        }
        Ok(())
    }

    /// Publishes; what was deleted meanwhile is declared again, once.
    async fn publish(&self, publish: &Publish, route: &Route, timeout: Duration) -> Result<(), PublishError> {
        let broker = &self.0.broker;
        let result = broker.transport().publish(publish, timeout).await;
        let is_gone = result.as_ref().is_err_and(PublishError::is_missing);
        if is_gone && broker.declares() && Box::pin(broker.replace_deleted(route.queue())).await.is_ok() {
            return broker.transport().publish(publish, timeout).await;
        }
        result
    }

    /// The way to `queue`, which is declared if need be.
    async fn route(&self, queue: &str) -> Result<Arc<Route>> {
        const SOUND: &str = "nothing panics while holding this lock";
        if let Some(route) = self.0.routes.read().expect(SOUND).get(queue) {
            return Ok(route.clone());
        }
        let name = QueueName::new(queue)?;
        Box::pin(self.0.broker.declare(Part::Queue(name.clone()))).await?;
        let route = Arc::new(self.0.broker.route(name));
        self.0.routes.write().expect(SOUND).insert(queue.to_owned(), route.clone());
        Ok(route)
    }
}

/// That a task which may start at `start` is not too late then.
fn in_time(id: TaskId, start: Duration, deadline: Option<Duration>) -> Result<()> {
    match deadline {
        Some(deadline) if deadline <= start => {
            Err(Error::DeadlinePassed { id: id.to_string(), late: start.saturating_sub(deadline) })
        }
        _ => Ok(()),
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("broker", &self.0.broker).finish()
    }
}

/// Settings of a [`Producer`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProducerBuilder {
    broker: Broker,
    queues: Vec<String>,
    timeout: Duration,
}

impl ProducerBuilder {
    /// Declares `queue` at once. Others are declared when the first task goes there.
    pub fn queue(mut self, queue: &str) -> Self {
        self.queues.push(queue.to_owned());
        self
    }

    /// How long an enqueue waits for a connection, for room among the unconfirmed, and for its confirm. Defaults to
    /// 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The producer, with its queues declared.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::TopologyConflict`], [`Error::AccessRefused`] and other failures to declare.
    pub async fn build(self) -> Result<Producer> {
        let journal = self.broker.declared_journal().await?;
        let producer = Producer(Arc::new(Inner {
            journal,
            broker: self.broker,
            timeout: self.timeout,
            outputs: outputs::Outputs::default(),
            uniqueness: Uniqueness::default(),
            routes: RwLock::default(),
        }));
        for queue in &self.queues {
            producer.route(queue).await?;
        }
        Ok(producer)
    }
}
