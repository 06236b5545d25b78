//! What a producer decides about tasks that the broker already has.

use std::time::Duration;

use super::Producer;
use super::enqueue::Enqueue;
use crate::broker::Part;
use crate::control::Decision;
use crate::control::Fact;
use crate::error::Result;
use crate::task::Task;
use crate::task::TaskId;

/// The revision of a copy that is made at `now`, since the Unix epoch: the later one counts.
pub(super) fn revision(now: Duration) -> u64 {
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

impl Producer {
    /// Cancels a task, wherever it waits: when its turn comes it is dropped. If it runs, its handler is told by
    /// [`TaskContext::cancelled`](crate::TaskContext::cancelled), and is stopped when it does not end within the
    /// consumer's [`cancel_grace`](crate::ConsumerBuilder::cancel_grace).
    ///
    /// `Ok` means that the cancellation is stored, on a majority of replicas; every consumer has it within
    /// milliseconds, and reads it again when it starts. So a task that is due later than that does not start. Nobody
    /// knows whether it had ended before.
    ///
    /// It costs one publish, and each consumer some 70 bytes for as long as it is remembered: 30 days, of the newest
    /// 200,000 cancelled or rescheduled tasks at most. A task that is due after that would run.
    ///
    /// # Errors
    ///
    /// [`Error::Append`](crate::Error::Append): it may be stored or not. Cancel again.
    pub async fn cancel(&self, id: TaskId) -> Result<()> {
        self.decide(id, Decision::Cancelled, self.0.timeout).await
    }

    /// Enqueues the task with this id anew, in place of the copy that waits: with another
    /// [`delay`](Enqueue::delay), queue, priority or payload, or, without a delay, to run now.
    ///
    /// The task is given again, because no broker can find a message in the middle of its queues by its id. The new
    /// copy is confirmed first, then the old one is declared stale, and dropped when its turn comes. A copy that has
    /// been started runs on, so a task that is about to start may run twice. What was [cancelled](Self::cancel) is
    /// wanted again.
    ///
    /// Costs and memory are those of [`cancel`](Self::cancel).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhare::{Broker, Producer, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
    /// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let producer = Producer::builder(&Broker::in_process()).build().await?;
    /// let greet = || Greet { name: "Ada".into() };
    /// let task = producer.enqueue(greet()).delay(Duration::from_secs(3600)).await?;
    /// producer.reschedule(task.id(), greet()).await?; // no: now
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`enqueue`](Self::enqueue), and [`Error::Append`](crate::Error::Append): the new copy is there, and the
    /// old one perhaps not stale. Reschedule again.
    pub fn reschedule<T: Task>(&self, id: TaskId, task: T) -> Enqueue<'_, T> {
        Enqueue::again(self, task, id)
    }

    /// Tells all consumers.
    pub(super) async fn decide(&self, id: TaskId, decision: Decision, timeout: Duration) -> Result<()> {
        let producer = &*self.0;
        producer.broker.declare(Part::Control).await?;
        let fact = Fact { id, decision, at: producer.broker.clock().now() };
        producer.broker.control().append(fact.seal(), timeout).await
    }
}
