//! [`Facts`]: what is known of tasks that were cancelled or rescheduled, and which copy of one may start. Pure.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

use super::fact::Decision;
use super::fact::Fact;
use crate::task::TaskId;

/// Whether a copy of a task may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may.
    Go,
    /// The task was cancelled.
    Cancelled,
    /// The task was rescheduled: another copy counts.
    Superseded,
}

/// The newest decisions about at most [`LIMIT`](Self::LIMIT) tasks, none older than [`AGE`](Self::AGE).
#[derive(Debug, Default)]
pub(crate) struct Facts {
    standings: HashMap<TaskId, Standing>,
    /// When each was first heard of, oldest first.
    order: VecDeque<(Duration, TaskId)>,
}

/// What is known of one task.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    is_cancelled: bool,
    /// Copies with a smaller revision are stale.
    revision: u64,
}

impl Facts {
    /// About 15 MB.
    pub(crate) const LIMIT: usize = 200_000;
    /// As long as the stream keeps them: 30 days.
    pub(crate) const AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    /// Takes in the next fact of the stream.
    pub(crate) fn learn(&mut self, fact: Fact) {
        self.forget_before(fact.at.saturating_sub(Self::AGE));
        let standing = self.standings.entry(fact.id).or_insert_with(|| {
            self.order.push_back((fact.at, fact.id));
            Standing::default()
        });
        match fact.decision {
            Decision::Cancelled => standing.is_cancelled = true,
            // Whoever reschedules a cancelled task wants it after all.
            Decision::Rescheduled(revision) if revision >= standing.revision => {
                *standing = Standing { is_cancelled: false, revision };
            }
            Decision::Rescheduled(_) => {}
        }
        while self.order.len() > Self::LIMIT {
            self.forget_oldest();
        }
    }

    /// Whether this copy of a task may start.
    pub(crate) fn verdict(&self, id: TaskId, revision: u64) -> Verdict {
        match self.standings.get(&id) {
            Some(standing) if revision < standing.revision => Verdict::Superseded,
            Some(standing) if standing.is_cancelled => Verdict::Cancelled,
            _ => Verdict::Go,
        }
    }

    fn forget_before(&mut self, time: Duration) {
        while self.order.front().is_some_and(|(at, _)| *at < time) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.standings.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn id(number: u128) -> TaskId {
        TaskId::from_u128(number)
    }

    #[test]
    fn the_newest_decision_about_a_copy_counts() {
        use Decision::Cancelled;
        use Decision::Rescheduled;
        let table: [(&[Decision], u64, Verdict); 10] = [
            (&[], 0, Verdict::Go),
            (&[Cancelled], 0, Verdict::Cancelled),
            (&[Cancelled], 5, Verdict::Cancelled),
            (&[Rescheduled(5)], 0, Verdict::Superseded),
            (&[Rescheduled(5)], 5, Verdict::Go),
            (&[Rescheduled(5)], 6, Verdict::Go),
            (&[Rescheduled(5), Rescheduled(3)], 3, Verdict::Superseded),
            (&[Rescheduled(5), Cancelled], 5, Verdict::Cancelled),
            (&[Cancelled, Rescheduled(5)], 5, Verdict::Go),
            (&[Cancelled, Rescheduled(5)], 0, Verdict::Superseded),
        ];
        for (decisions, revision, expected) in table {
            let mut facts = Facts::default();
            for decision in decisions {
                facts.learn(Fact { id: id(1), decision: *decision, at: DAY });
            }
            assert_eq!(facts.verdict(id(1), revision), expected, "{decisions:?} about copy {revision}");
            assert_eq!(facts.verdict(id(2), revision), Verdict::Go, "others are not concerned");
        }
    }

    #[test]
    fn facts_are_forgotten_by_age_and_by_number() {
        let mut facts = Facts::default();
        let cancelled = |number, at| Fact { id: id(number), decision: Decision::Cancelled, at };
        facts.learn(cancelled(1, DAY));
        facts.learn(cancelled(2, 20 * DAY));
        facts.learn(cancelled(3, 32 * DAY));
        let known =
            |facts: &Facts| [1, 2, 3].map(|number| facts.verdict(id(number), 0) == Verdict::Cancelled);
        assert_eq!(known(&facts), [false, true, true]);
        for number in 0..Facts::LIMIT as u128 - 1 {
            facts.learn(cancelled(100 + number, 33 * DAY));
        }
        assert_eq!(known(&facts), [false, false, true]);
    }
}
