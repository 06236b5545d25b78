//! What is counted and timed, through the facade of `metrics`. The only file that knows it; `unmetered.rs` is the same
//! without the feature.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use metrics::Unit;
use metrics::counter;
use metrics::describe_counter;
use metrics::describe_gauge;
use metrics::describe_histogram;
use metrics::gauge;
use metrics::histogram;
use tokio::time::Instant;

use super::span::word;
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;

const ENQUEUED: &str = "taskhare_tasks_enqueued_total";
const NOT_ENQUEUED: &str = "taskhare_enqueue_failures_total";
const ENQUEUE_TIME: &str = "taskhare_enqueue_seconds";
const ATTEMPTS: &str = "taskhare_attempts_total";
const WAIT_TIME: &str = "taskhare_task_wait_seconds";
const RUN_TIME: &str = "taskhare_task_run_seconds";
const TOTAL_TIME: &str = "taskhare_task_total_seconds";
const DEAD: &str = "taskhare_tasks_dead_total";
const RUNNING: &str = "taskhare_tasks_running";
const SLOTS: &str = "taskhare_slots";
const ACTIVE: &str = "taskhare_schedulers_active";
const LOST: &str = "taskhare_connections_lost_total";
const MISSED: &str = "taskhare_events_missed_total";

/// Tells the recorder what each is.
pub(crate) fn describe() {
    for (name, text) in [
        (ENQUEUED, "Tasks that the broker has confirmed"),
        (NOT_ENQUEUED, "Tasks whose enqueuing failed or was given up"),
        (ATTEMPTS, "Attempts that have ended"),
        (DEAD, "Dead letters that consumers have made"),
        (LOST, "Connections to the broker that were lost"),
        (MISSED, "Events that were not written"),
    ] {
        describe_counter!(name, Unit::Count, text);
    }
    for (name, text) in [
        (RUNNING, "Attempts under way"),
        (SLOTS, "How many attempts may be under way"),
        (ACTIVE, "Schedulers that are the active one"),
    ] {
        describe_gauge!(name, Unit::Count, text);
    }
    for (name, text) in [
        (ENQUEUE_TIME, "From the enqueue to its confirm"),
        (WAIT_TIME, "From when an attempt could start to its start"),
        (RUN_TIME, "How long a handler ran"),
        (TOTAL_TIME, "From when a task could start to its success"),
    ] {
        describe_histogram!(name, Unit::Seconds, text);
    }
}

/// One attempt.
pub(super) struct AttemptMeter {
    queue: Arc<str>,
    task: &'static str,
    started: Instant,
    /// How long before that the task could have been started.
    lead: Duration,
    _running: Raised,
}

impl AttemptMeter {
    /// It starts now.
    pub(super) fn begin(queue: &Arc<str>, task: &'static str, envelope: &Envelope, clock: Clock) -> Self {
        let now = clock.now();
        let wait = now.saturating_sub(envelope.startable());
        histogram!(WAIT_TIME, "queue" => queue.clone(), "task" => task).record(wait);
        Self {
            queue: queue.clone(),
            task,
            started: Instant::now(),
            lead: now.saturating_sub(envelope.first_due()),
            _running: Raised::by(1.0, gauge!(RUNNING, "queue" => queue.clone())),
        }
    }

    /// Its handler has ended.
    pub(super) fn ran(&self) {
        let Self { queue, task, started, .. } = self;
        histogram!(RUN_TIME, "queue" => queue.clone(), "task" => *task).record(started.elapsed());
    }

    pub(super) fn end(self, outcome: Outcome) {
        let Self { queue, task, started, lead, .. } = self;
        if outcome == Outcome::Succeeded {
            let total = lead + started.elapsed();
            histogram!(TOTAL_TIME, "queue" => queue.clone(), "task" => task).record(total);
        }
        counter!(ATTEMPTS, "queue" => queue, "task" => task, "outcome" => word(outcome)).increment(1);
    }
}

/// Enqueuing one task. Dropped before it is confirmed, it has failed.
pub(crate) struct EnqueueMeter {
    /// `None`: it has ended.
    task: Option<&'static str>,
    started: Instant,
}

impl EnqueueMeter {
    pub(crate) fn begin(task: &'static str) -> Self {
        Self { task: Some(task), started: Instant::now() }
    }

    /// The broker has it.
    pub(crate) fn confirmed(mut self, queue: &Arc<str>) {
        if let Some(task) = self.task.take() {
            counter!(ENQUEUED, "queue" => queue.clone(), "task" => task).increment(1);
            histogram!(ENQUEUE_TIME, "queue" => queue.clone(), "task" => task).record(self.started.elapsed());
        }
    }

    /// Another task is there in its place.
    pub(crate) fn merged(mut self) {
        self.task = None;
    }
}

impl Drop for EnqueueMeter {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            counter!(NOT_ENQUEUED, "task" => task).increment(1);
        }
    }
}

/// A scheduler has enqueued the task of a tick.
pub(crate) fn tick_confirmed(queue: &str, task: &str) {
    counter!(ENQUEUED, "queue" => queue.to_owned(), "task" => task.to_owned()).increment(1);
}

/// A consumer has made a dead letter, of a task of that name. What has no handler may have any name.
pub(crate) fn dead(queue: &str, task: &str, reason: DeadReason) {
    let is_known = !matches!(reason, DeadReason::UnknownTask | DeadReason::Foreign);
    let task = if is_known { task.to_owned() } else { "unknown".to_owned() };
    counter!(DEAD, "queue" => queue.to_owned(), "task" => task, "reason" => reason.as_str()).increment(1);
}

/// A connection was lost.
pub(crate) fn connection_lost(role: &'static str) {
    counter!(LOST, "role" => role).increment(1);
}

/// An event was not written.
pub(crate) fn event_missed() {
    counter!(MISSED).increment(1);
}

/// A gauge that is higher as long as this is there.
#[must_use]
pub(crate) struct Raised {
    gauge: Gauge,
    by: f64,
}

impl Raised {
    fn by(by: f64, gauge: Gauge) -> Self {
        gauge.increment(by);
        Self { gauge, by }
    }

    /// A consumer has so many slots for a queue.
    #[allow(clippy::cast_precision_loss, reason = "there are not so many")]
    pub(crate) fn slots(queue: &str, count: usize) -> Self {
        Self::by(count as f64, gauge!(SLOTS, "queue" => queue.to_owned()))
    }

    /// A scheduler is active.
    pub(crate) fn active_scheduler() -> Self {
        Self::by(1.0, gauge!(ACTIVE))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.gauge.decrement(self.by);
    }
}
