//! [`Ends`]: which events of a task count. Pure.
//!
//! A task may be run twice, and then ends twice: a crash between the event and the acknowledgement does that. So
//! whoever reads events goes by these rules:
//!
//! - The first end counts. What comes later about that life of the task changes nothing.
//! - An event of an older attempt than the newest one seen changes nothing.
//! - A new life begins when the task is taken out of the dead letters, rescheduled, or enqueued again under its id.
//! - The word that a task was accepted may come after what came of it, and then changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use super::task::TaskChange;
use super::task::TaskEvent;
use super::times::since_epoch;
use super::times::to_micros;
use crate::task::TaskId;

/// What an event is to its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It counts.
    Counts,
    /// The task has ended before, and ends again: no second outcome.
    Repeats,
    /// It changes nothing: its task has ended, or goes on with a later attempt, or has been accepted long since.
    Nothing,
}

/// What must be remembered of tasks: that they have ended, or which of their attempts is the newest. Of a task that
/// is in its first attempt nothing is.
///
/// At least the newest [`LIMIT`](Self::LIMIT) tasks, and at most twice as many. An end that repeats a forgotten one
/// counts.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    newer: HashMap<TaskId, Life>,
    /// Forgotten as a whole when `newer` is full and takes its place.
    older: HashMap<TaskId, Life>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    /// When the newest thing happened, in microseconds since the Unix epoch.
    at: u64,
    attempt: u32,
    has_ended: bool,
}

impl Ends {
    /// As many as fit into a table of 2^18 places. With those before them: 18 MB.
    pub(crate) const LIMIT: usize = 229_376;

    /// How far apart the clocks of an enqueuer and a consumer may be, with the time until an event is written. Only a
    /// task that says so was enqueued again so soon after it has ended.
    const SKEW: Duration = Duration::from_secs(1);

    /// Takes in the next event, and says whether it counts.
    pub(crate) fn learn(&mut self, event: &TaskEvent) -> Effect {
        let at = since_epoch(event.at);
        let begun = Life { at, attempt: event.attempt, has_ended: false };
        let known = self.newer.get(&event.id).or_else(|| self.older.get(&event.id));
        let life = match (&event.change, known) {
            (TaskChange::Accepted { .. }, None) => return Effect::Counts,
            (TaskChange::Accepted { again, .. }, Some(known)) => {
                let earliest = if *again { known.at } else { known.at.saturating_add(to_micros(Self::SKEW)) };
                if at < earliest {
                    return Effect::Nothing;
                }
                begun
            }
            (TaskChange::Redriven, _) => begun,
            (change, Some(known)) if known.has_ended => {
                return if change.kind().is_end() { Effect::Repeats } else { Effect::Nothing };
            }
            (_, Some(known)) if event.attempt < known.attempt => return Effect::Nothing,
            (change, _) => Life { has_ended: change.kind().is_end(), ..begun },
        };
        if life.has_ended || life.attempt > 1 || known.is_some() {
            self.remember(event.id, life);
        }
        Effect::Counts
    }

    /// Remembers what another one does too: of a task that both know, what is newer.
    #[cfg(feature = "stats")]
    pub(crate) fn merge(&mut self, other: &Self) {
        for (id, life) in other.older.iter().chain(&other.newer) {
            if self.newer.get(id).or_else(|| self.older.get(id)).is_none_or(|known| known.at < life.at) {
                self.remember(*id, *life);
            }
        }
    }

    fn remember(&mut self, id: TaskId, life: Life) {
        if self.newer.len() >= Self::LIMIT && !self.newer.contains_key(&id) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(id, life);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lane::Priority;
    use crate::outcome::DeadReason;

    const SUCCEEDED: TaskChange = TaskChange::Succeeded { ran: Duration::ZERO, total: Duration::ZERO };
    const STARTED: TaskChange =
        TaskChange::Started { waited: Duration::ZERO, delayed: false, redelivered: false, limit: None };
    const RETRYING: TaskChange = TaskChange::Retrying { due: UNIX_EPOCH };
    const DEAD: TaskChange = TaskChange::Dead { reason: DeadReason::Rejected, error: None, total: None };

    fn accepted(again: bool) -> TaskChange {
        TaskChange::Accepted { priority: Priority::Normal, due: None, deadline: None, schedule: None, again }
    }

    fn event(id: TaskId, attempt: u32, at: Duration, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id,
            name: "resize".into(),
            queue: "images".into(),
            lane: None,
            attempt,
            at: UNIX_EPOCH + at,
            by: "host:7:c0de/1".into(),
            change,
        }
    }

    #[test]
    fn what_counts_follows_from_what_came_before() {
        use Effect::Counts;
        use Effect::Nothing;
        use Effect::Repeats;
        let failed = || TaskChange::Failed { ran: Duration::ZERO, error: String::new() };
        // The attempt, milliseconds, the change, what it is.
        type Case = (&'static str, Vec<(u32, u64, TaskChange, Effect)>);
        let cases: Vec<Case> = vec![
            (
                "the first end counts",
                vec![
                    (1, 0, accepted(false), Counts),
                    (1, 1, STARTED, Counts),
                    (1, 2, SUCCEEDED, Counts),
                    (1, 3, STARTED, Nothing),
                    (1, 4, SUCCEEDED, Repeats),
                    (1, 5, DEAD, Repeats),
                    (2, 6, STARTED, Nothing),
                ],
            ),
            (
                "a cancelled task that ran all the same stays cancelled",
                vec![(1, 0, TaskChange::Cancelled, Counts), (1, 1, SUCCEEDED, Repeats)],
            ),
            (
                "an older attempt changes nothing",
                vec![
                    (1, 1, STARTED, Counts),
                    (1, 2, failed(), Counts),
                    (1, 2, RETRYING, Counts),
                    (2, 3, STARTED, Counts),
                    (1, 4, SUCCEEDED, Nothing),
                    (2, 5, SUCCEEDED, Counts),
                ],
            ),
            (
                "what was handed back or lost starts again",
                vec![
                    (2, 1, STARTED, Counts),
                    (2, 2, TaskChange::HandedBack, Counts),
                    (2, 3, STARTED, Counts),
                    (2, 4, TaskChange::Lost { consumer: "host:7:c0de/1".into() }, Counts),
                    (2, 5, STARTED, Counts),
                    (2, 6, SUCCEEDED, Counts),
                ],
            ),
            (
                "what is taken out of the dead letters lives again",
                vec![
                    (5, 1, DEAD, Counts),
                    (1, 2, TaskChange::Redriven, Counts),
                    (1, 3, STARTED, Counts),
                    (1, 4, SUCCEEDED, Counts),
                    (1, 5, SUCCEEDED, Repeats),
                ],
            ),
            (
                "what is rescheduled lives again",
                vec![
                    (3, 1, TaskChange::Cancelled, Counts),
                    (1, 1, accepted(true), Counts),
                    (1, 2, SUCCEEDED, Counts),
                    (1, 3, SUCCEEDED, Repeats),
                ],
            ),
            (
                "what is rescheduled between two attempts begins with its first",
                vec![
                    (2, 1, RETRYING, Counts),
                    (1, 2, accepted(true), Counts),
                    (1, 3, STARTED, Counts),
                    (1, 4, SUCCEEDED, Counts),
                ],
            ),
            (
                "what is enqueued again under its id lives again",
                vec![
                    (1, 1, SUCCEEDED, Counts),
                    (1, 1_001, accepted(false), Counts),
                    (1, 1_002, DEAD, Counts),
                ],
            ),
            (
                "the word of its acceptance may be late, and by a clock that is ahead",
                vec![
                    (1, 100, SUCCEEDED, Counts),
                    (1, 90, accepted(false), Nothing),
                    (1, 1_099, accepted(false), Nothing),
                    (1, 99, accepted(true), Nothing),
                    (1, 101, SUCCEEDED, Repeats),
                ],
            ),
            (
                "a late acceptance moves no attempt back",
                vec![(2, 100, STARTED, Counts), (1, 90, accepted(false), Nothing), (1, 101, DEAD, Nothing)],
            ),
        ];
        for (rule, events) in cases {
            let (mut ends, id) = (Ends::default(), TaskId::new());
            for (step, (attempt, at, change, expected)) in events.into_iter().enumerate() {
                let event = event(id, attempt, Duration::from_millis(at), change);
                assert_eq!(ends.learn(&event), expected, "{rule}: step {step}, {:?}", event.change);
            }
        }
    }

    #[test]
    fn tasks_do_not_touch_each_other() {
        let mut ends = Ends::default();
        for _ in 0..2 {
            assert_eq!(ends.learn(&event(TaskId::new(), 1, Duration::ZERO, SUCCEEDED)), Effect::Counts);
        }
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let mut ends = Ends::default();
        let mut end = |id: u128| {
            let effect = ends.learn(&event(TaskId::from_u128(id), 1, Duration::ZERO, SUCCEEDED));
            (effect, ends.newer.len() + ends.older.len())
        };
        let last = 3 * Ends::LIMIT as u128;
        for id in 0..=last {
            let (effect, remembered) = end(id);
            assert_eq!(effect, Effect::Counts);
            assert!(remembered <= 2 * Ends::LIMIT);
        }
        assert_eq!(end(last + 1 - Ends::LIMIT as u128).0, Effect::Repeats);
        assert_eq!(end(0).0, Effect::Counts);
    }

    #[test]
    fn first_attempts_under_way_take_no_room() {
        let mut ends = Ends::default();
        for change in [accepted(false), STARTED, TaskChange::HandedBack] {
            ends.learn(&event(TaskId::new(), 1, Duration::ZERO, change));
        }
        assert!(ends.newer.is_empty());
    }
}
