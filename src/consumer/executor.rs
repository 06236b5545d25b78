//! [`Executor`]: one attempt from delivery to settlement, as a straight line.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::receipt::Fate;
use super::receipt::Report;
use super::receipt::ShutdownEntry;
use super::registry::Registry;
use super::registry::RunError;
use super::settle::Failure;
use super::settle::Settlement;
use super::settle::settlement;
use crate::broker::Broker;
use crate::envelope;
use crate::envelope::Envelope;
use crate::envelope::Foreign;
use crate::handler::Attempt;
use crate::handler::Surroundings;
use crate::handler::TaskContext;
use crate::lane::Lane;
use crate::message::Message;
use crate::name::Name;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::task::TaskId;
use crate::topology::Names;
use crate::topology::QueueName;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;

/// How long one try to publish a retry or a dead letter waits.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an output may take; the task is done without it.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a panic leaves behind.
type Panic = Box<dyn Any + Send>;

/// Runs the tasks of one queue.
///
/// What is rare is boxed (all but success without a reply), so that the future of an attempt, which is allocated and
/// moved for each task, stays small.
pub(super) struct Executor {
    broker: Broker,
    registry: Arc<Registry>,
    policy: RetryPolicy,
    queue: QueueName,
    surroundings: Arc<Surroundings>,
    tasks: Name,
    keys: [Name; 3],
    dead: Name,
    outputs: Name,
    aborted: Mutex<Vec<ShutdownEntry>>,
    /// Unsettled until the subscription is closed, which returns them with the rest, in their order.
    handed_back: Mutex<Vec<Delivery>>,
}

impl Executor {
    pub(super) fn new(
        broker: &Broker,
        registry: Arc<Registry>,
        policy: RetryPolicy,
        queue: QueueName,
        cancelled: CancellationToken,
    ) -> Self {
        let names = broker.names();
        Self {
            registry,
            policy,
            surroundings: Arc::new(Surroundings { queue: queue.to_string(), cancelled }),
            tasks: names.tasks(),
            keys: Lane::ALL.map(|lane| Names::lane_key(&queue, lane)),
            dead: names.dead(),
            outputs: names.outputs(),
            broker: broker.clone(),
            queue,
            aborted: Mutex::default(),
            handed_back: Mutex::default(),
        }
    }

    /// Runs one attempt and settles it.
    #[allow(clippy::manual_async_fn, reason = "the future of an `async fn` would hold its arguments twice")]
    pub(super) fn run(self: Arc<Self>, mut delivery: Delivery) -> impl Future<Output = Report> + Send {
        async move {
            let envelope = match Envelope::open(std::mem::take(&mut delivery.message)) {
                Ok(envelope) => envelope,
                Err(foreign) => return Box::pin(self.bury_foreign(delivery, *foreign)).await,
            };
            let Some((name, handler)) = self.registry.get(&envelope.name) else {
                return Box::pin(self.bury_unknown(delivery, envelope)).await;
            };
            let unfinished = Unfinished { id: envelope.id, name, aborted: &self.aborted };
            let ctx = self.context(&envelope, name, delivery.redelivered);
            let outcome = match AssertUnwindSafe(handler.run(&envelope.payload, &ctx)).catch_unwind().await {
                Ok(Ok(_)) if envelope.reply_to.is_none() => {
                    delivery.ack();
                    Outcome::Succeeded
                }
                ended => Box::pin(self.settle(delivery, envelope, ended)).await,
            };
            unfinished.finish(outcome)
        }
    }

    /// The attempts that were stopped midway, since last asked.
    pub(super) fn take_aborted(&self) -> Vec<ShutdownEntry> {
        std::mem::take(&mut *lock(&self.aborted))
    }

    fn context(&self, envelope: &Envelope, name: &'static str, redelivered: bool) -> TaskContext {
        TaskContext::new(Attempt {
            id: envelope.id,
            name,
            surroundings: self.surroundings.clone(),
            priority: envelope.priority,
            number: envelope.attempt,
            redelivered,
            enqueued_at: envelope.enqueued_at,
        })
    }

    /// Decides what becomes of the task, and does it.
    async fn settle(
        &self,
        delivery: Delivery,
        envelope: Envelope,
        ended: Result<Result<Vec<u8>, RunError>, Panic>,
    ) -> Outcome {
        let (result, output, error) = match ended {
            Ok(Ok(output)) => (Ok(()), output, String::new()),
            Ok(Err(RunError::Failed(error))) => {
                (Err(Failure::Failed(error.intent)), Vec::new(), error.to_string())
            }
            Ok(Err(RunError::Undecodable(error))) => {
                (Err(Failure::Undecodable), Vec::new(), error.to_string())
            }
            Err(panic) => (Err(Failure::Panicked), Vec::new(), format!("panicked: {}", text(&*panic))),
        };
        let policy = self.policy.with_max_attempts(envelope.max_attempts);
        let cancelled = self.surroundings.cancelled.is_cancelled();
        match settlement(result, envelope.attempt, policy, cancelled, fastrand::f64()) {
            Settlement::Done => {
                self.reply(&envelope, Reply::Succeeded(output)).await;
                delivery.ack();
                Outcome::Succeeded
            }
            Settlement::Retry(wait) => self.retry(delivery, envelope, wait, &error).await,
            Settlement::DeadLetter(reason) => self.bury(delivery, envelope, reason, &error).await,
            Settlement::HandBack => {
                // Not requeued one by one: this very consumer, which is stopping, could get it again.
                lock(&self.handed_back).push(delivery);
                Outcome::HandedBack
            }
        }
    }

    /// Publishes the next attempt; then the old message may go.
    async fn retry(&self, delivery: Delivery, envelope: Envelope, wait: Duration, error: &str) -> Outcome {
        let (id, name, attempt) = (envelope.id, envelope.name.clone(), envelope.attempt);
        tracing::warn!(task.id = %id, task.name = %name, queue = %self.queue, attempt, wait = ?wait, error, "attempt failed");
        let due = self.broker.clock().now() + wait;
        let key = self.keys[Lane::of(envelope.priority) as usize].clone();
        let message = envelope.retry(due, error).seal();
        self.replace(delivery, &self.tasks, key, message).await;
        Outcome::Retried
    }

    /// Publishes the dead letter; then the old message may go.
    async fn bury(&self, delivery: Delivery, envelope: Envelope, reason: DeadReason, error: &str) -> Outcome {
        let (id, name, attempt) = (envelope.id, envelope.name.clone(), envelope.attempt);
        tracing::error!(task.id = %id, task.name = %name, queue = %self.queue, attempt, %reason, error, "task is dead");
        self.reply(&envelope, Reply::dead(reason, error)).await;
        self.dead_letter(delivery, envelope.seal(), reason, error).await
    }

    async fn bury_unknown(&self, delivery: Delivery, envelope: Envelope) -> Report {
        let (id, name) = (Some(envelope.id), envelope.name.clone());
        let error = format!("no handler for tasks named {name:?}");
        let outcome = self.bury(delivery, envelope, DeadReason::UnknownTask, &error).await;
        Report { id, name, outcome }
    }

    async fn bury_foreign(&self, delivery: Delivery, foreign: Foreign) -> Report {
        let Foreign { message, why } = foreign;
        let (id, name) = (message.id.as_deref(), message.kind.clone().unwrap_or_default());
        tracing::error!(message.id = id, message.kind = %name, queue = %self.queue, why, "message is not a task");
        let id: Option<TaskId> = id.and_then(|id| id.parse().ok());
        let outcome = self.dead_letter(delivery, message, DeadReason::Foreign, &why).await;
        Report { id, name, outcome }
    }

    async fn dead_letter(
        &self,
        delivery: Delivery,
        message: Message,
        reason: DeadReason,
        error: &str,
    ) -> Outcome {
        let now = self.broker.clock().now();
        let message = envelope::dead_letter(message, reason, error, self.queue.as_str(), now);
        self.replace(delivery, &self.dead, Names::dead_key(&self.queue), message).await;
        Outcome::DeadLettered(reason)
    }

    /// Publishes what follows a message, and acknowledges it once that is confirmed: a crash in between repeats the
    /// task and never loses it. While the broker cannot take it the message stays ours, unsettled.
    async fn replace(&self, delivery: Delivery, exchange: &Name, key: Name, message: Message) {
        let publish = Publish { exchange: exchange.clone(), key, mandatory: true, message };
        let mut pause = Duration::from_millis(100);
        loop {
            match self.broker.transport().publish(&publish, PUBLISH_TIMEOUT).await {
                Ok(()) => return delivery.ack(),
                // It will never take this one (too large for it with its headers, say): the broker's own
                // dead-lettering keeps the message.
                Err(PublishError::Refused(reason)) => {
                    tracing::error!(queue = %self.queue, reason, "the broker refused to take a task's next message");
                    return delivery.reject();
                }
                Err(PublishError::Closed) => return delivery.requeue(),
                Err(error) => {
                    tracing::warn!(queue = %self.queue, %error, "a task's next message is not confirmed yet");
                    if error == PublishError::Unroutable {
                        // Somebody deleted the queue; if this fails too, the next round tells.
                        let _ = self.broker.declare_again(&self.queue).await;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Tells the enqueuer, if it wants to know. A lost output loses no task, so failures are only logged.
    async fn reply(&self, envelope: &Envelope, reply: Reply) {
        let Some(key) = envelope.reply_to.as_deref() else {
            return;
        };
        let Ok(key) = Name::new("reply key", key) else {
            return;
        };
        let reply = match reply {
            Reply::Succeeded(output) if output.len() > self.broker.max_payload() => Reply::Dead {
                reason: "output-too-large".to_owned(),
                error: format!("its output has {} bytes", output.len()),
            },
            reply => reply,
        };
        let message = reply.seal(envelope.id);
        let publish = Publish { exchange: self.outputs.clone(), key, mandatory: false, message };
        if let Err(error) = self.broker.transport().publish(&publish, REPLY_TIMEOUT).await {
            tracing::warn!(task.id = %envelope.id, task.name = %envelope.name, %error, "output not delivered");
        }
    }
}

/// An attempt under way. Dropped before it finished, it is noted as aborted.
struct Unfinished<'a> {
    id: TaskId,
    name: &'static str,
    aborted: &'a Mutex<Vec<ShutdownEntry>>,
}

impl Unfinished<'_> {
    fn finish(self, outcome: Outcome) -> Report {
        let report = Report { id: Some(self.id), name: self.name.into(), outcome };
        std::mem::forget(self);
        report
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let entry = ShutdownEntry { id: Some(self.id), name: self.name.into(), fate: Fate::Aborted };
        lock(self.aborted).push(entry);
    }
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    list.lock().expect("nothing panics while holding this lock")
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}
