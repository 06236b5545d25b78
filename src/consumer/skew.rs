//! [`Skew`]: whether the clocks of this machine and the broker's agree. Pure.
//!
//! A message tells in which second of the broker's clock it left the delay wheel. Delayed tasks do not depend on that
//! clock, but it is the one that all enqueuers and consumers can be compared with, and theirs should agree.

use std::time::Duration;

/// What the broker tells is rounded down to this.
const SECOND: Duration = Duration::from_secs(1);
/// Differences up to this are not worth a word: tasks are early by at most a fifth of a second, whatever the
/// difference.
const TOLERANCE: Duration = Duration::from_secs(2);
/// How many messages in a row must seem old before we say that our clock is ahead: one may be.
const ENOUGH: u32 = 8;

/// How our clock differs, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    Behind(Duration),
    Ahead(Duration),
}

/// What the messages so far have told.
#[derive(Debug, Default)]
pub(super) struct Skew {
    /// How many in a row seemed old, and how old the youngest of them.
    old: u32,
    youngest: Option<Duration>,
    is_told: bool,
}

impl Skew {
    /// One message `left` the wheel by the broker's clock and `arrived` by ours, both since the Unix epoch. The way of
    /// one that `is_alone` was short: it waited neither in its lane nor here. Tells of a difference once.
    pub(super) fn observe(
        &mut self,
        left: Duration,
        arrived: Duration,
        is_alone: bool,
    ) -> Option<Difference> {
        let difference = if let Some(behind) = left.checked_sub(arrived).filter(|behind| *behind > TOLERANCE)
        {
            Difference::Behind(behind)
        } else {
            let age = arrived.saturating_sub(left + SECOND);
            if age <= TOLERANCE {
                (self.old, self.youngest) = (0, None);
                return None;
            }
            if !is_alone {
                return None;
            }
            self.old += 1;
            let youngest = self.youngest.map_or(age, |youngest| youngest.min(age));
            self.youngest = Some(youngest);
            if self.old < ENOUGH {
                return None;
            }
            Difference::Ahead(youngest)
        };
        (!std::mem::replace(&mut self.is_told, true)).then_some(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_from_the_future_and_many_old_ones_in_a_row_tell_of_a_difference() {
        use Difference::Ahead;
        use Difference::Behind;
        let ms = Duration::from_millis;
        // When they arrive, in milliseconds after the second in which they left.
        let old = |times: usize, age: i64| vec![(age, true); times];
        for (arrivals, expected, why) in [
            (old(20, 900), None, "the same second"),
            (old(20, 2999), None, "within the tolerance"),
            (old(20, -2000), None, "within the tolerance, behind"),
            (old(1, -2001), Some(Behind(ms(2001))), "from the future"),
            (old(7, 9000), None, "a few old ones"),
            (old(8, 9000), Some(Ahead(ms(8000))), "many old ones"),
            ([old(7, 9000), old(1, 5000)].concat(), Some(Ahead(ms(4000))), "the youngest counts"),
            ([old(7, 9000), old(1, 10), old(7, 9000)].concat(), None, "a young one between"),
            (vec![(9000, false); 50], None, "a backlog"),
        ] {
            let mut skew = Skew::default();
            let left = Duration::from_secs(1_700_000_000);
            let told: Vec<Difference> = arrivals
                .into_iter()
                .filter_map(|(after, is_alone)| {
                    let by = ms(after.unsigned_abs());
                    skew.observe(left, if after < 0 { left - by } else { left + by }, is_alone)
                })
                .collect();
            assert_eq!(told, Vec::from_iter(expected), "{why}");
        }
    }
}
