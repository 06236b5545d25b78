//! [`Claims`]: who has which unique key, as the stream tells it in its order. Pure.
//!
//! Nothing but the records counts, not even this process's clock: all processes come to the same result.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::time::Duration;

use super::claim::Record;
use super::claim::What;
use crate::task::TaskId;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The key is the claimant's.
    Granted,
    /// Another task has it.
    Held(TaskId),
    /// The key is the claimant's, and was that task's before.
    Taken(TaskId),
}

/// The keys that are taken.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    held: HashMap<String, Held>,
    /// The keys by when their claims end.
    ends: BTreeSet<(Duration, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: TaskId,
    until: Duration,
}

impl Claims {
    /// Takes in the next record of the stream, and says what became of it if it was a claim.
    pub(crate) fn learn(&mut self, record: Record) -> Option<Verdict> {
        let Record { id, key, what } = record;
        match what {
            What::Released => {
                if self.held.get(&key).is_some_and(|held| held.id == id) {
                    self.free(&key);
                }
                None
            }
            What::Claimed { at, until, replace } => {
                self.end_before(at);
                let before = self.held.get(&key).map(|held| held.id).filter(|holder| *holder != id);
                match before {
                    Some(holder) if !replace => return Some(Verdict::Held(holder)),
                    _ => self.free(&key),
                }
                self.ends.insert((until, key.clone()));
                self.held.insert(key, Held { id, until });
                Some(before.map_or(Verdict::Granted, Verdict::Taken))
            }
        }
    }

    fn free(&mut self, key: &str) {
        if let Some(held) = self.held.remove(key) {
            self.ends.remove(&(held.until, key.to_owned()));
        }
    }

    /// Forgets claims that had ended by then.
    fn end_before(&mut self, time: Duration) {
        while self.ends.first().is_some_and(|(until, _)| *until <= time) {
            if let Some((_, key)) = self.ends.pop_first() {
                self.held.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> TaskId {
        TaskId::from_u128(number)
    }

    /// Claims of task 1, 2, … for a key at a time, with a window of 10 s.
    fn claim(number: u128, key: &str, at: u64, replace: bool) -> Record {
        let (at, until) = (Duration::from_secs(at), Duration::from_secs(at + 10));
        Record { id: id(number), key: key.to_owned(), what: What::Claimed { at, until, replace } }
    }

    fn release(number: u128, key: &str) -> Record {
        Record { id: id(number), key: key.to_owned(), what: What::Released }
    }

    #[test]
    fn the_first_claim_holds_until_it_is_released_replaced_or_over() {
        use Verdict::Granted;
        use Verdict::Held;
        use Verdict::Taken;
        let table: [(&[Record], Option<Verdict>); 10] = [
            (&[claim(1, "a", 0, false)], Some(Granted)),
            (&[claim(1, "a", 0, false), claim(2, "a", 9, false)], Some(Held(id(1)))),
            (&[claim(1, "a", 0, false), claim(2, "a", 10, false)], Some(Granted)),
            (&[claim(1, "a", 0, false), claim(2, "b", 1, false)], Some(Granted)),
            (&[claim(1, "a", 0, false), claim(1, "a", 1, false)], Some(Granted)),
            (&[claim(1, "a", 0, false), release(1, "a"), claim(2, "a", 1, false)], Some(Granted)),
            (&[claim(1, "a", 0, false), release(2, "a"), claim(2, "a", 1, false)], Some(Held(id(1)))),
            (&[claim(1, "a", 0, false), claim(2, "a", 1, true)], Some(Taken(id(1)))),
            (
                &[claim(1, "a", 0, false), claim(2, "a", 1, true), release(1, "a"), claim(3, "a", 2, false)],
                Some(Held(id(2))),
            ),
            (&[claim(1, "a", 0, false), release(1, "a")], None),
        ];
        for (records, expected) in table {
            let mut claims = Claims::default();
            let mut last = None;
            for record in records {
                last = claims.learn(record.clone());
            }
            assert_eq!(last, expected, "{records:?}");
        }
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut claims = Claims::default();
        for number in 0..100 {
            claims.learn(claim(number, &number.to_string(), u64::try_from(number).unwrap(), false));
        }
        assert_eq!((claims.held.len(), claims.ends.len()), (10, 10));
    }
}
