//! [`TaskState`]: where a task stands, as its events tell.
//!
//! Events come at least once, and those of different processes in no order but that of their times. So:
//!
//! - **The first end counts.** What comes after it about the same life of the task changes nothing: a crash between an
//!   event and the acknowledgement of its task runs that again.
//! - **Attempts fence**: an event of an older attempt than the newest one seen changes nothing.
//! - **`Accepted` never moves a task back.** It is told by the enqueuer, and may come after what a consumer tells.
//! - **A new life** begins with `Redriven`, and with an `Accepted` that is clearly later: the task was rescheduled, or its
//!   id enqueued again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use super::task::TaskChange;
use super::task::TaskEvent;
use crate::outcome::Outcome;
use crate::task::TaskId;

/// How long after the first start of a task by the clock of its consumer its enqueuer may have it accepted, by its own.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// Where a task stands, as its events tell.
///
/// An id that is enqueued again, other than by [`reschedule`](crate::Producer::reschedule), within a second of the first
/// start of the task that had it before is taken for the same life of that task.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskState {
    /// The task.
    pub id: TaskId,
    /// Its name: [`Task::NAME`](crate::Task::NAME).
    pub name: Cow<'static, str>,
    /// Its queue.
    pub queue: Arc<str>,
    /// The newest attempt seen, or to come: 1 is the first. Of a task that waits for its next attempt, the one that failed.
    pub attempt: u32,
    /// Where it stands.
    pub standing: Standing,
    /// Since when, by the clock of whoever said so.
    pub since: SystemTime,
    /// Its last error, at most 256 bytes of it.
    pub error: Option<String>,
    /// How far its attempt is, as its handler last told.
    pub progress: Option<Progress>,
    /// When it was accepted, or redriven, in this life of it; `None`: nobody has told.
    accepted: Option<SystemTime>,
    /// When it was first more than accepted, in this life of it.
    moved: Option<SystemTime>,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It waits for its turn.
    Waiting,
    /// It waits until it is due.
    Delayed {
        /// When that is.
        until: SystemTime,
    },
    /// An attempt is under way.
    Running {
        /// Where.
        consumer: Arc<str>,
        /// Since when, by the clock of its consumer.
        since: SystemTime,
        /// How long it may run at most, with the time it has to stop.
        limit: Option<Duration>,
    },
    /// An attempt has failed, and the next one is to come.
    Retrying {
        /// When that is due.
        at: SystemTime,
    },
    /// The consumer that ran it is silent. The broker gives it to another one.
    Lost {
        /// The silent one.
        consumer: Arc<str>,
    },
    /// It has ended.
    Done(Outcome),
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How much is done.
    pub done: u64,
    /// Of how much.
    pub total: Option<u64>,
    /// What it is doing.
    pub note: String,
}

impl Standing {
    /// The same at `now`: what is due waits for its turn.
    #[must_use]
    pub fn at(&self, now: SystemTime) -> Self {
        match self {
            Self::Delayed { until: due } | Self::Retrying { at: due } if *due <= now => Self::Waiting,
            other => other.clone(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

impl TaskState {
    /// What the first event that is seen of a task tells.
    pub(crate) fn new(event: &TaskEvent) -> Self {
        let mut state = Self {
            id: event.id,
            name: event.name.clone(),
            queue: event.queue.clone(),
            attempt: event.attempt,
            standing: Standing::Waiting,
            since: event.at,
            error: None,
            progress: None,
            accepted: None,
            moved: None,
        };
        if state.opens(event) {
            state.open(event);
        } else {
            state.change(event);
        }
        state
    }

    /// Takes the next event about a task of which something may be known.
    pub(crate) fn follow(known: &mut Option<Self>, event: &TaskEvent) {
        match known {
            None => *known = Some(Self::new(event)),
            Some(state) => drop(state.apply(event)),
        }
    }

    /// Takes the next event about the task; whether that has changed anything.
    pub(crate) fn apply(&mut self, event: &TaskEvent) -> bool {
        match &event.change {
            _ if self.opens(event) => self.open(event),
            TaskChange::Accepted { .. } => {
                // Late, of the life that is known already.
                self.accepted = self.accepted.max(Some(event.at));
                return false;
            }
            _ if self.standing.is_done() || event.attempt < self.attempt => return false,
            _ => return self.change(event),
        }
        true
    }

    /// The consumer that runs it is silent.
    pub(crate) fn lose(&mut self, at: SystemTime) {
        if let Standing::Running { consumer, .. } = &self.standing {
            (self.standing, self.since) = (Standing::Lost { consumer: consumer.clone() }, at);
        }
    }

    /// Whether a new life of the task begins.
    fn opens(&self, event: &TaskEvent) -> bool {
        let is_new = self.accepted.is_none_or(|accepted| event.at > accepted);
        match event.change {
            TaskChange::Redriven => is_new,
            TaskChange::Accepted { again, .. } => {
                let slack = if again { Duration::ZERO } else { CLOCKS_DIFFER };
                is_new && self.moved.is_none_or(|moved| event.at > moved + slack)
            }
            _ => false,
        }
    }

    fn open(&mut self, event: &TaskEvent) {
        (self.name, self.queue) = (event.name.clone(), event.queue.clone());
        (self.attempt, self.accepted, self.moved) = (event.attempt, Some(event.at), None);
        (self.error, self.progress) = (None, None);
        let due = match event.change {
            TaskChange::Accepted { due, .. } => due.filter(|due| *due > event.at),
            _ => None,
        };
        self.stand(due.map_or(Standing::Waiting, |until| Standing::Delayed { until }), event);
    }

    /// The next event of this life, of this attempt or a newer one.
    fn change(&mut self, event: &TaskEvent) -> bool {
        let TaskEvent { at, by, .. } = event;
        let is_newer = event.attempt > self.attempt;
        if is_newer {
            self.progress = None;
        }
        self.attempt = event.attempt;
        self.moved.get_or_insert(*at);
        let runs_elsewhere =
            !is_newer && matches!(&self.standing, Standing::Running { consumer, .. } if consumer != by);
        let standing = match &event.change {
            TaskChange::Started { limit, .. } => {
                if let Standing::Running { since, .. } = &self.standing
                    && !is_newer
                    && at < since
                {
                    return false;
                }
                self.progress = None;
                Standing::Running { consumer: by.clone(), since: *at, limit: *limit }
            }
            TaskChange::Progress { done, total, note } => {
                if runs_elsewhere {
                    return false;
                }
                self.progress = Some(Progress { done: *done, total: *total, note: note.clone() });
                match &self.standing {
                    Standing::Running { .. } if !is_newer => return true,
                    _ => Standing::Running { consumer: by.clone(), since: *at, limit: None },
                }
            }
            TaskChange::Failed { error, .. } => {
                // What becomes of the task follows, unless its consumer dies just now: then it is lost.
                self.error = Some(error.clone());
                return true;
            }
            TaskChange::Retrying { due } => Standing::Retrying { at: *due },
            TaskChange::HandedBack if runs_elsewhere => return false,
            TaskChange::HandedBack => Standing::Waiting,
            TaskChange::Lost { consumer } => match &self.standing {
                Standing::Running { consumer: other, .. } if !is_newer && other != consumer => return false,
                _ => Standing::Lost { consumer: consumer.clone() },
            },
            TaskChange::Succeeded { .. } => Standing::Done(Outcome::Succeeded),
            TaskChange::Cancelled => Standing::Done(Outcome::Cancelled),
            TaskChange::Expired { reason, .. } => Standing::Done(Outcome::Expired(*reason)),
            TaskChange::Dead { reason, error, .. } => {
                if error.is_some() {
                    self.error.clone_from(error);
                }
                Standing::Done(Outcome::DeadLettered(*reason))
            }
            TaskChange::Accepted { .. } | TaskChange::Redriven => return false,
        };
        self.stand(standing, event);
        true
    }

    fn stand(&mut self, standing: Standing, event: &TaskEvent) {
        (self.standing, self.since) = (standing, event.at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lane::Priority;
    use crate::outcome::DeadReason;

    /// A moment, in milliseconds.
    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    type Told = (u64, u32, &'static str, TaskChange);

    fn accepted(due: Option<u64>) -> TaskChange {
        let due = due.map(at);
        TaskChange::Accepted { priority: Priority::Normal, due, deadline: None, schedule: None, again: false }
    }

    fn rescheduled() -> TaskChange {
        TaskChange::Accepted {
            priority: Priority::Normal,
            due: None,
            deadline: None,
            schedule: None,
            again: true,
        }
    }

    fn started() -> TaskChange {
        let waited = Duration::ZERO;
        TaskChange::Started { waited, delayed: false, redelivered: false, limit: None }
    }

    fn succeeded() -> TaskChange {
        TaskChange::Succeeded { ran: Duration::ZERO, total: Duration::ZERO }
    }

    fn failed(error: &str) -> TaskChange {
        TaskChange::Failed { ran: Duration::ZERO, error: error.to_owned() }
    }

    fn retrying(due: u64) -> TaskChange {
        TaskChange::Retrying { due: at(due) }
    }

    fn dead() -> TaskChange {
        TaskChange::Dead { reason: DeadReason::Rejected, error: None, total: None }
    }

    fn expired() -> TaskChange {
        TaskChange::Expired { reason: DeadReason::ExpiredInQueue, total: None }
    }

    fn lost(consumer: &str) -> TaskChange {
        TaskChange::Lost { consumer: consumer.into() }
    }

    fn progress(done: u64) -> TaskChange {
        TaskChange::Progress { done, total: None, note: String::new() }
    }

    fn running(consumer: &str, since: u64) -> Standing {
        Standing::Running { consumer: consumer.into(), since: at(since), limit: None }
    }

    /// The state after these events: (when, attempt, by, change).
    fn fold(events: &[Told]) -> TaskState {
        let mut states = None;
        for (when, attempt, by, change) in events {
            let event = TaskEvent {
                id: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
                name: "resize".into(),
                queue: "images".into(),
                lane: None,
                attempt: *attempt,
                at: at(*when),
                by: (*by).into(),
                change: change.clone(),
            };
            match &mut states {
                None => states = Some(TaskState::new(&event)),
                Some(state) => {
                    let before = state.clone();
                    let has_changed = state.apply(&event);
                    let is_same = (&before.standing, before.attempt, &before.error, &before.progress)
                        == (&state.standing, state.attempt, &state.error, &state.progress);
                    assert!(
                        has_changed || is_same,
                        "{change:?} has changed {before:?} to {state:?} and not said so"
                    );
                }
            }
        }
        states.unwrap()
    }

    fn check(cases: &[(&str, &[Told], Standing, u32)]) {
        for (what, events, standing, attempt) in cases {
            let state = fold(events);
            assert_eq!((&state.standing, state.attempt), (standing, *attempt), "{what}");
        }
    }

    #[test]
    fn a_task_stands_where_its_last_event_says() {
        use Outcome::{Cancelled, DeadLettered, Expired, Succeeded};
        use Standing::{Delayed, Done, Lost, Retrying, Waiting};
        let done = Done(Succeeded);
        check(&[
            ("accepted", &[(0, 1, "p", accepted(None))], Waiting, 1),
            ("delayed", &[(0, 1, "p", accepted(Some(9)))], Delayed { until: at(9) }, 1),
            ("due already", &[(9, 1, "p", accepted(Some(9)))], Waiting, 1),
            ("started", &[(0, 1, "p", accepted(None)), (1, 1, "a", started())], running("a", 1), 1),
            ("seen running only", &[(4, 2, "a", progress(1))], running("a", 4), 2),
            (
                "succeeded",
                &[(0, 1, "p", accepted(None)), (1, 1, "a", started()), (2, 1, "a", succeeded())],
                done,
                1,
            ),
            ("only its end", &[(2, 3, "a", succeeded())], Done(Succeeded), 3),
            (
                "failed, its fate to follow",
                &[(1, 1, "a", started()), (2, 1, "a", failed("no"))],
                running("a", 1),
                1,
            ),
            (
                "retrying",
                &[(1, 1, "a", started()), (2, 1, "a", failed("no")), (3, 1, "a", retrying(9))],
                Retrying { at: at(9) },
                1,
            ),
            ("second attempt", &[(3, 1, "a", retrying(9)), (9, 2, "b", started())], running("b", 9), 2),
            ("handed back", &[(1, 1, "a", started()), (2, 1, "a", TaskChange::HandedBack)], Waiting, 1),
            ("lost", &[(1, 1, "a", started()), (2, 1, "s", lost("a"))], Lost { consumer: "a".into() }, 1),
            (
                "lost and found",
                &[(1, 1, "a", started()), (2, 1, "s", lost("a")), (3, 1, "b", started())],
                running("b", 3),
                1,
            ),
            (
                "lost and done after all",
                &[(1, 1, "a", started()), (2, 1, "s", lost("a")), (3, 1, "a", succeeded())],
                Done(Succeeded),
                1,
            ),
            ("dead", &[(1, 1, "a", dead())], Done(DeadLettered(DeadReason::Rejected)), 1),
            (
                "expired",
                &[(0, 1, "p", accepted(None)), (1, 1, "", expired())],
                Done(Expired(DeadReason::ExpiredInQueue)),
                1,
            ),
            (
                "cancelled",
                &[(0, 1, "p", accepted(None)), (1, 1, "a", TaskChange::Cancelled)],
                Done(Cancelled),
                1,
            ),
            ("only redriven", &[(5, 1, "o", TaskChange::Redriven)], Waiting, 1),
        ]);
    }

    #[test]
    fn what_is_late_or_told_twice_changes_nothing() {
        use Outcome::{DeadLettered, Succeeded};
        use Standing::{Done, Lost, Retrying};
        check(&[
            (
                "the first end counts",
                &[(1, 1, "a", succeeded()), (2, 1, "b", started()), (3, 1, "b", dead())],
                Done(Succeeded),
                1,
            ),
            (
                "… also before that of a newer attempt",
                &[(1, 1, "a", dead()), (2, 2, "b", succeeded())],
                Done(DeadLettered(DeadReason::Rejected)),
                1,
            ),
            (
                "a late result",
                &[(1, 1, "a", started()), (5, 2, "b", started()), (6, 1, "a", succeeded())],
                running("b", 5),
                2,
            ),
            ("a late failure", &[(5, 2, "b", started()), (6, 1, "a", retrying(9))], running("b", 5), 2),
            (
                "accepted after started",
                &[(2, 1, "a", started()), (1, 1, "p", accepted(None))],
                running("a", 2),
                1,
            ),
            (
                "… by a clock that is ahead",
                &[(2, 1, "a", started()), (900, 1, "p", accepted(None))],
                running("a", 2),
                1,
            ),
            (
                "accepted after its end",
                &[(2, 1, "a", succeeded()), (1, 1, "p", accepted(Some(9)))],
                Done(Succeeded),
                1,
            ),
            (
                "accepted twice",
                &[(1, 1, "p", accepted(None)), (2, 1, "a", started()), (1, 1, "p", accepted(None))],
                running("a", 2),
                1,
            ),
            ("a start told late", &[(5, 1, "b", started()), (1, 1, "a", started())], running("b", 5), 1),
            (
                "progress of one given up",
                &[(1, 1, "a", started()), (5, 1, "b", started()), (6, 1, "a", progress(1))],
                running("b", 5),
                1,
            ),
            (
                "handed back by one given up",
                &[(1, 1, "a", started()), (5, 1, "b", started()), (6, 1, "a", TaskChange::HandedBack)],
                running("b", 5),
                1,
            ),
            (
                "lost by one, and started by another",
                &[(1, 1, "a", started()), (2, 1, "b", started()), (3, 1, "s", lost("a"))],
                running("b", 2),
                1,
            ),
            (
                "lost twice",
                &[(2, 1, "s", lost("a")), (3, 1, "t", lost("a"))],
                Lost { consumer: "a".into() },
                1,
            ),
            (
                "the consumer died before it published the retry that it had told",
                &[(1, 1, "a", retrying(9)), (5, 1, "b", started()), (6, 1, "b", succeeded())],
                Done(Succeeded),
                1,
            ),
            (
                "retrying told twice",
                &[(1, 1, "a", retrying(9)), (1, 1, "a", retrying(9))],
                Retrying { at: at(9) },
                1,
            ),
        ]);
    }

    #[test]
    fn a_new_life_begins_with_all_its_attempts_before_it() {
        use Standing::{Delayed, Waiting};
        check(&[
            ("redriven", &[(1, 4, "a", dead()), (5, 1, "o", TaskChange::Redriven)], Waiting, 1),
            (
                "redriven and running",
                &[(1, 4, "a", dead()), (5, 1, "o", TaskChange::Redriven), (6, 1, "b", started())],
                running("b", 6),
                1,
            ),
            (
                "redriven told twice",
                &[
                    (1, 4, "a", dead()),
                    (5, 1, "o", TaskChange::Redriven),
                    (6, 1, "b", started()),
                    (5, 1, "o", TaskChange::Redriven),
                ],
                running("b", 6),
                1,
            ),
            (
                "rescheduled",
                &[(0, 1, "p", accepted(None)), (5, 1, "p", accepted(Some(9_000)))],
                Delayed { until: at(9_000) },
                1,
            ),
            (
                "rescheduled while it waits for its next attempt",
                &[(1, 2, "a", retrying(9_000)), (2_000, 1, "p", accepted(None))],
                Waiting,
                1,
            ),
            (
                "enqueued again",
                &[(0, 1, "p", accepted(None)), (1, 1, "a", succeeded()), (2_000, 1, "p", accepted(None))],
                Waiting,
                1,
            ),
            (
                "rescheduled, and started before that was told",
                &[
                    (0, 1, "p", accepted(Some(90_000))),
                    (5_000, 1, "a", started()),
                    (4_999, 1, "p", rescheduled()),
                ],
                running("a", 5_000),
                1,
            ),
            (
                "rescheduled right after it had ended",
                &[(0, 1, "p", accepted(None)), (1, 2, "a", succeeded()), (2, 1, "p", rescheduled())],
                Waiting,
                1,
            ),
        ]);
    }

    #[test]
    fn errors_and_progress_are_those_of_this_life() {
        let state = fold(&[(1, 1, "a", started()), (2, 1, "a", progress(7))]);
        assert_eq!(state.progress.map(|it| it.done), Some(7));
        let state = fold(&[(1, 1, "a", started()), (2, 1, "a", progress(7)), (3, 2, "b", started())]);
        assert_eq!(state.progress, None);
        let state = fold(&[(1, 1, "a", failed("no disk")), (1, 1, "a", dead())]);
        assert_eq!(state.error.as_deref(), Some("no disk"));
        let state =
            fold(&[(1, 1, "a", failed("no disk")), (1, 1, "a", dead()), (2, 1, "o", TaskChange::Redriven)]);
        assert_eq!(state.error, None);
    }

    #[test]
    fn what_is_due_waits_for_its_turn() {
        for standing in [Standing::Delayed { until: at(5) }, Standing::Retrying { at: at(5) }] {
            assert_eq!(standing.at(at(4)), standing);
            assert_eq!(standing.at(at(5)), Standing::Waiting);
        }
        assert_eq!(running("a", 1).at(at(5)), running("a", 1));
    }
}
