//! [`Waiting`]: the oldest tasks that wait in one queue.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::task::TaskId;

/// How many of a queue are known one by one.
const MOST: usize = 1_000;

/// The oldest tasks that wait in one queue: those that are due first.
///
/// Of what is beyond them only the span is known within which it is due. Tasks start about in the order in which they
/// are due, so each start tells that nothing beyond is older.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    oldest: BTreeSet<(SystemTime, TaskId)>,
    beyond: Option<(SystemTime, SystemTime)>,
}

impl Waiting {
    /// One more waits. Which one is not known one by one any more, if any.
    pub(super) fn add(&mut self, due: SystemTime, id: TaskId) -> Option<TaskId> {
        self.oldest.insert((due, id));
        if self.oldest.len() <= MOST {
            return None;
        }
        let (due, id) = self.oldest.pop_last()?;
        let (first, last) = self.beyond.unwrap_or((due, due));
        self.beyond = Some((first.min(due), last.max(due)));
        Some(id)
    }

    pub(super) fn remove(&mut self, due: SystemTime, id: TaskId) {
        self.oldest.remove(&(due, id));
    }

    /// One has started that was due at that time.
    pub(super) fn started(&mut self, due: SystemTime) {
        self.beyond = self.beyond.filter(|(_, last)| due < *last).map(|(first, last)| (first.max(due), last));
    }

    /// When the first one is due, or was.
    pub(super) fn first(&self) -> Option<SystemTime> {
        let known = self.oldest.first().map(|(due, _)| *due);
        known.into_iter().chain(self.beyond.map(|(first, _)| first)).min()
    }

    /// Since when the one waits that has waited for longest.
    pub(super) fn oldest(&self, now: SystemTime) -> Option<SystemTime> {
        self.first().filter(|due| *due <= now)
    }

    /// Forgets all of them, and says which they were.
    pub(super) fn clear(&mut self) -> Vec<TaskId> {
        self.beyond = None;
        std::mem::take(&mut self.oldest).into_iter().map(|(_, id)| id).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.oldest.is_empty() && self.beyond.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(s: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(s)
    }

    #[test]
    fn the_oldest_is_the_one_that_was_due_first() {
        let (a, b) = (TaskId::new(), TaskId::new());
        let mut waiting = Waiting::default();
        assert_eq!(waiting.oldest(at(9)), None);
        waiting.add(at(5), b);
        waiting.add(at(3), a);
        // When it is looked at, and since when the oldest waits.
        for (now, expected) in [(2, None), (3, Some(3)), (9, Some(3))] {
            assert_eq!(waiting.oldest(at(now)), expected.map(at), "{now}");
        }
        waiting.remove(at(3), a);
        assert_eq!(waiting.oldest(at(9)), Some(at(5)));
        assert_eq!(waiting.clear(), [b]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn of_many_the_age_of_the_oldest_is_known_by_what_starts() {
        let most = u64::try_from(MOST).unwrap();
        let ids: Vec<TaskId> = (0..2 * most).map(|_| TaskId::new()).collect();
        let mut waiting = Waiting::default();
        let dropped = (0..).zip(&ids).filter_map(|(due, id)| waiting.add(at(due), *id)).count();
        assert_eq!(dropped, MOST);
        let now = at(100_000);
        for (due, id) in (0..).zip(&ids) {
            let oldest = waiting.oldest(now).unwrap();
            assert!(oldest <= at(due) && at(due) <= oldest + Duration::from_secs(1), "{oldest:?} {due}");
            waiting.remove(at(due), *id);
            waiting.started(at(due));
        }
        assert!(waiting.is_empty());
    }
}
