//! [`Alert`]: what somebody should know.

use std::sync::Arc;
use std::time::Duration;

use crate::event::RunningTask;

/// What somebody should know: see [`SchedulerBuilder::on_alert`](crate::SchedulerBuilder::on_alert).
///
/// What is about a queue is told when its [threshold](crate::Thresholds) is crossed, then [`Resolved`](Self::Resolved),
/// and only then again.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Alert {
    /// A consumer has said nothing for 1.8 of its heartbeats: it is dead, frozen or cut off.
    ConsumerSilent {
        /// Which.
        consumer: Arc<str>,
        /// How long ago it was last heard of.
        heard: Duration,
    },
    /// A silent consumer is heard of again.
    ConsumerBack {
        /// Which.
        consumer: Arc<str>,
        /// How long it was silent.
        after: Duration,
    },
    /// A task has no consumer any more: that is silent, or another one has it already.
    TaskLost {
        /// The task; its age is for how long it has run.
        task: RunningTask,
        /// The consumer that had it.
        consumer: Arc<str>,
    },
    /// A lost task runs again.
    TaskRedelivered {
        /// The task.
        task: RunningTask,
        /// The consumer that had it.
        from: Arc<str>,
        /// The one that has it now.
        to: Arc<str>,
        /// How long after the first one was last heard of.
        after: Duration,
    },
    /// A task runs for longer than it may, and longer than it has to stop: it blocks its thread, most often.
    TaskOverdue {
        /// The task.
        task: RunningTask,
        /// Its consumer.
        consumer: Arc<str>,
        /// For how much longer than its limit.
        by: Duration,
    },
    /// Many attempts of a queue fail.
    FailureRate {
        /// The queue.
        queue: Arc<str>,
        /// Which part of the attempts that have ended within the last minute, from 0 to 1.
        rate: f64,
    },
    /// A task has been waiting for long.
    OldestWaiting {
        /// Its queue.
        queue: Arc<str>,
        /// For how long; about so, where more than 1,000 wait.
        age: Duration,
    },
    /// A queue has many new dead letters, expired ones among them.
    DeadLetters {
        /// The queue.
        queue: Arc<str>,
        /// How many within the last minute.
        count: u64,
    },
    /// Tasks wait in a queue that no consumer takes any from.
    NoConsumer {
        /// The queue.
        queue: Arc<str>,
    },
    /// Such an alert holds no more.
    Resolved(Box<Self>),
}
