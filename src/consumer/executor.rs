//! [`Executor`]: one attempt from delivery to settlement, as a straight line.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::receipt::Fate;
use super::receipt::Report;
use super::receipt::ShutdownEntry;
use super::registry::Registry;
use super::registry::RunError;
use super::sequel::Sequel;
use super::settle::Failure;
use super::settle::Settlement;
use super::settle::settlement;
use crate::broker::Broker;
use crate::envelope::Envelope;
use crate::handler::Attempt;
use crate::handler::Surroundings;
use crate::handler::TaskContext;
use crate::outcome::Outcome;
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::task::TaskId;
use crate::topology::QueueName;
use crate::transport::Delivery;

/// What a panic leaves behind.
type Panic = Box<dyn Any + Send>;

/// Runs the tasks of one queue.
///
/// What is rare is boxed (all but success without a reply), so that the future of an attempt, which is allocated and
/// moved for each task, stays small.
pub(super) struct Executor {
    registry: Arc<Registry>,
    policy: RetryPolicy,
    surroundings: Arc<Surroundings>,
    sequel: Sequel,
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
        Self {
            registry,
            policy,
            surroundings: Arc::new(Surroundings { queue: queue.to_string(), cancelled }),
            sequel: Sequel::new(broker, queue),
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
                Err(foreign) => return Box::pin(self.sequel.bury_foreign(delivery, *foreign)).await,
            };
            let Some((name, handler)) = self.registry.get(&envelope.name) else {
                return Box::pin(self.sequel.bury_unknown(delivery, envelope)).await;
            };
            let unfinished = Unfinished { id: envelope.id, name, aborted: &self.aborted };
            let ctx = self.context(&envelope, name, delivery.redelivered || envelope.returned > 0);
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
                self.sequel.reply(&envelope, Reply::Succeeded(output)).await;
                delivery.ack();
                Outcome::Succeeded
            }
            Settlement::Retry(wait) => self.sequel.retry(delivery, envelope, wait, &error).await,
            Settlement::DeadLetter(reason) => self.sequel.bury(delivery, envelope, reason, &error).await,
            Settlement::HandBack => {
                // Not requeued one by one: this very consumer, which is stopping, could get it again.
                lock(&self.handed_back).push(delivery);
                Outcome::HandedBack
            }
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
