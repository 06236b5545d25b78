//! [`Figures`]: what has become of tasks, in numbers.

use std::time::Duration;
use std::time::SystemTime;

use super::durations::Durations;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::outcome::DeadReason;

/// What has become of some tasks, in numbers.
///
/// Counts are of events: a task that is tried three times counts once as accepted, three times as started, and once
/// as what it ends as. In a part of the log (a window, say) not every task that ends has begun.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Tasks that the broker took; those that were rescheduled once more.
    pub accepted: u64,
    /// Attempts that have begun.
    pub started: u64,
    /// Tasks that are done.
    pub succeeded: u64,
    /// Attempts that have failed.
    pub failed: u64,
    /// Attempts that have failed and are followed by another one.
    pub retried: u64,
    /// Tasks that came too late.
    pub expired: u64,
    /// Tasks in the dead letters for another reason.
    pub dead: u64,
    /// Tasks that were cancelled.
    pub cancelled: u64,
    /// Attempts that do not count, because their consumer was shut down.
    pub handed_back: u64,
    /// Attempts whose consumer has fallen silent.
    pub lost: u64,
    /// Tasks that were taken out of the dead letters and enqueued again.
    pub redriven: u64,
    /// Ends of tasks that had ended before: a crash has let them run twice. They count nowhere else.
    pub repeated: u64,
    /// How long attempts have waited since they could have started: since their task was enqueued or, delayed or
    /// tried again, due. Without those that may have been started before: they have run meanwhile.
    pub wait: Durations,
    /// The same, of attempts that had a time when they were due alone: how late they started.
    pub lateness: Durations,
    /// How long attempts took that have succeeded or failed.
    pub run: Durations,
    /// How long tasks took that have succeeded, with all their attempts, since they were enqueued or first due.
    pub end_to_end: Durations,
    /// How many attempts tasks had that are done, expired or dead.
    pub attempts: Attempts,
    /// As many as [`DeadReason::ALL`], in its order.
    reasons: [u64; DeadReason::ALL.len()],
    /// When the first and the last of these events happened.
    span: Option<(SystemTime, SystemTime)>,
    /// How long the window is that they are of.
    window: Option<Duration>,
}

/// How many attempts some tasks had until their end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempts {
    /// Of how many tasks.
    pub tasks: u64,
    /// How many all of them had.
    pub sum: u64,
    /// How many the one had that had most.
    pub max: u32,
}

impl Attempts {
    /// How many a task had; `None` of no task.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.tasks > 0).then(|| self.sum as f64 / self.tasks as f64)
    }

    fn add(&mut self, attempts: u32) {
        self.merge(&Self { tasks: 1, sum: attempts.into(), max: attempts });
    }

    fn merge(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }
}

impl Figures {
    /// Those of a window as long as that.
    pub(super) fn of_window(window: Duration) -> Self {
        Self { window: Some(window), ..Self::default() }
    }

    /// How many tasks have ended: succeeded, expired, dead or cancelled.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.succeeded + self.expired + self.dead + self.cancelled
    }

    /// How many tasks have expired or are dead for that reason.
    #[must_use]
    pub fn reason(&self, reason: DeadReason) -> u64 {
        place(reason).map_or(0, |place| self.reasons[place])
    }

    /// How many tasks have [ended](Self::ended) a second. Of a window: over its whole length, also while it lasts. Of
    /// all: from the first of these events to the last, and 0 while there is nothing between them.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        let between =
            |(first, last): (SystemTime, SystemTime)| last.duration_since(first).unwrap_or_default();
        let seconds = self.window.or_else(|| self.span.map(between)).unwrap_or_default().as_secs_f64();
        if seconds > 0.0 { self.ended() as f64 / seconds } else { 0.0 }
    }

    /// When the first of these events happened; `None` if there is none.
    #[must_use]
    pub fn first(&self) -> Option<SystemTime> {
        self.span.map(|(first, _)| first)
    }

    /// When the last of these events happened; `None` if there is none.
    #[must_use]
    pub fn last(&self) -> Option<SystemTime> {
        self.span.map(|(_, last)| last)
    }

    /// Takes in an event; `repeats`: its task has ended before.
    pub(super) fn count(&mut self, event: &TaskEvent, repeats: bool) {
        self.extend((event.at, event.at));
        if repeats {
            self.repeated += 1;
            return;
        }
        match &event.change {
            TaskChange::Accepted { .. } => self.accepted += 1,
            TaskChange::Started { waited, delayed, redelivered, .. } => {
                self.started += 1;
                if !redelivered {
                    self.wait.add(*waited);
                }
                if *delayed && !redelivered {
                    self.lateness.add(*waited);
                }
            }
            TaskChange::Progress { .. } => {}
            TaskChange::Succeeded { ran, total } => {
                self.succeeded += 1;
                self.run.add(*ran);
                self.end_to_end.add(*total);
                self.attempts.add(event.attempt);
            }
            TaskChange::Failed { ran, .. } => {
                self.failed += 1;
                self.run.add(*ran);
            }
            TaskChange::Retrying { .. } => self.retried += 1,
            TaskChange::Expired { reason, .. } => {
                self.expired += 1;
                self.bury(event, *reason);
            }
            TaskChange::Dead { reason, .. } => {
                self.dead += 1;
                self.bury(event, *reason);
            }
            TaskChange::Cancelled => self.cancelled += 1,
            TaskChange::HandedBack => self.handed_back += 1,
            TaskChange::Lost { .. } => self.lost += 1,
            TaskChange::Redriven => self.redriven += 1,
        }
    }

    fn bury(&mut self, event: &TaskEvent, reason: DeadReason) {
        if let Some(place) = place(reason) {
            self.reasons[place] += 1;
        }
        self.attempts.add(reason.attempts(event.attempt));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts_mut().into_iter().zip(other.counts()) {
            *mine += theirs.1;
        }
        for (mine, theirs) in self.reasons.iter_mut().zip(other.reasons) {
            *mine += theirs;
        }
        self.wait.merge(&other.wait);
        self.lateness.merge(&other.lateness);
        self.run.merge(&other.run);
        self.end_to_end.merge(&other.end_to_end);
        self.attempts.merge(&other.attempts);
        if let Some(span) = other.span {
            self.extend(span);
        }
    }

    /// All counts, by their names.
    pub(super) fn counts(&self) -> [(&'static str, u64); 12] {
        [
            ("accepted", self.accepted),
            ("started", self.started),
            ("succeeded", self.succeeded),
            ("failed", self.failed),
            ("retried", self.retried),
            ("expired", self.expired),
            ("dead", self.dead),
            ("cancelled", self.cancelled),
            ("handed_back", self.handed_back),
            ("lost", self.lost),
            ("redriven", self.redriven),
            ("repeated", self.repeated),
        ]
    }

    /// The same, in the same order.
    fn counts_mut(&mut self) -> [&mut u64; 12] {
        [
            &mut self.accepted,
            &mut self.started,
            &mut self.succeeded,
            &mut self.failed,
            &mut self.retried,
            &mut self.expired,
            &mut self.dead,
            &mut self.cancelled,
            &mut self.handed_back,
            &mut self.lost,
            &mut self.redriven,
            &mut self.repeated,
        ]
    }

    fn extend(&mut self, (first, last): (SystemTime, SystemTime)) {
        let (oldest, newest) = self.span.unwrap_or((first, last));
        self.span = Some((oldest.min(first), newest.max(last)));
    }
}

fn place(reason: DeadReason) -> Option<usize> {
    DeadReason::ALL.into_iter().position(|other| other == reason)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lane::Lane;
    use crate::lane::Priority;
    use crate::task::TaskId;

    fn event(attempt: u32, second: u64, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id: TaskId::new(),
            name: "resize".into(),
            queue: "images".into(),
            lane: Some(Lane::Normal),
            attempt,
            at: UNIX_EPOCH + Duration::from_secs(second),
            by: "host:7:c0de/1".into(),
            change,
        }
    }

    fn started(waited: Duration, delayed: bool, redelivered: bool) -> TaskChange {
        TaskChange::Started { waited, delayed, redelivered, limit: None }
    }

    fn of(changes: impl IntoIterator<Item = TaskChange>) -> Figures {
        let mut figures = Figures::default();
        for change in changes {
            figures.count(&event(2, 0, change), false);
        }
        figures
    }

    #[test]
    fn each_change_counts_as_what_it_is() {
        let (ran, total, none) = (Duration::from_secs(1), Duration::from_secs(2), Duration::ZERO);
        let expired = |reason| TaskChange::Expired { reason, total: None };
        let cases = [
            (
                "accepted",
                TaskChange::Accepted {
                    priority: Priority::Normal,
                    due: None,
                    deadline: None,
                    schedule: None,
                    again: false,
                },
            ),
            ("started", started(none, false, false)),
            ("succeeded", TaskChange::Succeeded { ran, total }),
            ("failed", TaskChange::Failed { ran, error: String::new() }),
            ("retried", TaskChange::Retrying { due: UNIX_EPOCH }),
            ("expired", expired(DeadReason::ExpiredRunning)),
            ("dead", TaskChange::Dead { reason: DeadReason::Rejected, error: None, total: None }),
            ("cancelled", TaskChange::Cancelled),
            ("handed_back", TaskChange::HandedBack),
            ("lost", TaskChange::Lost { consumer: "host:7:c0de/1".into() }),
            ("redriven", TaskChange::Redriven),
        ];
        for (name, change) in cases {
            let counts = of([change]).counts();
            for (other, count) in counts {
                assert_eq!(count, u64::from(other == name), "{name}: {other}");
            }
        }
        let progress = TaskChange::Progress { done: 1, total: None, note: String::new() };
        assert!(of([progress]).counts().iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn a_repeated_end_counts_nowhere_else() {
        let mut figures = Figures::default();
        let (ran, total) = (Duration::from_secs(1), Duration::from_secs(2));
        figures.count(&event(1, 0, TaskChange::Succeeded { ran, total }), true);
        assert_eq!((figures.repeated, figures.ended()), (1, 0));
        assert_eq!((figures.run.count(), figures.attempts), (0, Attempts::default()));
    }

    #[test]
    fn lateness_is_of_delayed_attempts_and_no_wait_of_those_that_ran_before() {
        let second = Duration::from_secs(1);
        let figures = of([
            started(second, false, false),
            started(2 * second, true, false),
            started(60 * second, false, true),
            started(60 * second, true, true),
        ]);
        assert_eq!(figures.started, 4);
        assert_eq!((figures.wait.count(), figures.wait.max()), (2, Some(2 * second)));
        assert_eq!((figures.lateness.count(), figures.lateness.min()), (1, Some(2 * second)));
    }

    #[test]
    fn attempts_are_those_that_were_begun() {
        let dead = |reason| TaskChange::Dead { reason, error: None, total: None };
        let figures = of([
            TaskChange::Succeeded { ran: Duration::ZERO, total: Duration::ZERO },
            dead(DeadReason::AttemptsExhausted),
            TaskChange::Expired { reason: DeadReason::ExpiredInQueue, total: None },
            TaskChange::Cancelled,
        ]);
        assert_eq!(figures.attempts, Attempts { tasks: 3, sum: 5, max: 2 });
        assert_eq!(figures.reason(DeadReason::AttemptsExhausted), 1);
        assert_eq!(figures.reason(DeadReason::ExpiredInQueue), 1);
        assert_eq!(figures.reason(DeadReason::Rejected), 0);
    }

    #[test]
    fn throughput_is_of_the_window_or_from_first_to_last() {
        let mut whole = Figures::default();
        let mut window = Figures::of_window(Duration::from_secs(60));
        assert_eq!((whole.per_second(), window.per_second()), (0.0, 0.0));
        for second in [10, 20, 30] {
            for figures in [&mut whole, &mut window] {
                figures.count(&event(1, second, TaskChange::Cancelled), false);
            }
        }
        assert_eq!((whole.per_second(), window.per_second()), (3.0 / 20.0, 3.0 / 60.0));
        assert_eq!(whole.first(), Some(UNIX_EPOCH + Duration::from_secs(10)));
        assert_eq!(whole.last(), Some(UNIX_EPOCH + Duration::from_secs(30)));
    }
}
