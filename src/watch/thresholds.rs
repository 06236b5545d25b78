//! [`Thresholds`]: from when on somebody should know.

use std::time::Duration;

/// From when on an [`Alert`](crate::Alert) is raised.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Thresholds {
    pub(super) failure_rate: Option<f64>,
    pub(super) oldest_waiting: Option<Duration>,
    pub(super) dead_letters: Option<u64>,
    pub(super) no_consumer: Option<Duration>,
    pub(super) overdue: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            failure_rate: Some(0.5),
            oldest_waiting: None,
            dead_letters: None,
            no_consumer: Some(Duration::from_secs(60)),
            overdue: Duration::from_secs(30),
        }
    }
}

impl Thresholds {
    /// How few attempts of a queue within the last minute say nothing about its failure rate.
    pub(super) const FEW: u64 = 20;

    /// Which part of the attempts of a queue may have failed, of those that ended within the last minute if they were 20 or
    /// more. Defaults to 0.5; 1 or more: never an alert.
    pub fn failure_rate(mut self, rate: f64) -> Self {
        self.failure_rate = (rate < 1.0).then_some(rate);
        self
    }

    /// How long a task that could start may wait. Only tasks count that were enqueued, or became due, since shortly before
    /// this scheduler became active. Off by default: a queue for the night may be full all day.
    pub fn oldest_waiting(mut self, age: Duration) -> Self {
        self.oldest_waiting = Some(age);
        self
    }

    /// How many new dead letters a queue may have within a minute, expired ones among them. Off by default.
    pub fn dead_letters(mut self, a_minute: u64) -> Self {
        self.dead_letters = Some(a_minute);
        self
    }

    /// How long tasks may wait in a queue that no consumer takes any from. Defaults to a minute; long enough for
    /// a deployment.
    pub fn no_consumer(mut self, time: Duration) -> Self {
        self.no_consumer = Some(time);
        self
    }

    /// How much longer than its `run_timeout` and the grace period after it a task may run until it is
    /// [overdue](crate::Alert::TaskOverdue). Defaults to 30 s.
    pub fn overdue(mut self, grace: Duration) -> Self {
        self.overdue = grace;
        self
    }
}
