//! The delay wheel as arithmetic: which queues a delay is made of. Pure.
//!
//! A delay is counted in units of 64 ms and written in base 4: sixteen digits, 8.7 years. For each digit of each
//! position there is one queue, whose messages expire after what that digit is worth, and a task passes one for each of
//! its digits that is not zero, the highest first. So a fixed number of queues gives every delay in at most sixteen
//! hops.
//!
//! ```text
//!   20 s ≈ 310 units = 1 0 3 1 2 (base 4):  delay.04.1 ──► delay.02.3 ──► delay.01.1 ──► delay.00.2 ──► due
//!                                             16.4 s         3.1 s          0.3 s          0.1 s
//! ```
//!
//! Why base 4: base 2 needs fewer queues and more hops, and each hop costs the broker 50 to 70 µs. Why 64 ms: a hop is
//! late by 1 to 5 ms, so shorter steps would be noise; consumers hold a task for the rest.

use std::time::Duration;

/// What the lowest digit counts.
pub(crate) const UNIT: Duration = Duration::from_millis(64);
/// How many digits a delay has.
pub(crate) const POSITIONS: u8 = 16;
/// The digits that take time.
pub(crate) const DIGITS: [u8; 3] = [1, 2, 3];
/// The word in a routing key for a position from which on no time passes.
pub(crate) const OVER: char = '-';
/// What is left to the consumer at least: more than sixteen hops are late.
pub(crate) const LEAD: Duration = Duration::from_millis(2 * 64);

/// How many digits a wait may have that need not be exact.
const FEW: usize = 2;

/// One queue of the wheel: the messages whose digit at `position` is `digit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// 0 is the lowest.
    pub(crate) position: u8,
    /// 1 to 3.
    pub(crate) digit: u8,
}

impl Level {
    /// All of them, the highest position first.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        positions().flat_map(|position| DIGITS.map(|digit| Self { position, digit }))
    }

    /// How long a message stays.
    pub(crate) fn time_to_live(self) -> Duration {
        units(u64::from(self.digit) << (2 * self.position))
    }
}

/// All positions, the highest first.
pub(crate) fn positions() -> impl Iterator<Item = u8> {
    (0..POSITIONS).rev()
}

/// The way of one task through the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    /// More than 0, and at most sixteen digits.
    units: u64,
}

impl Passage {
    /// What no passage reaches.
    const END: u64 = 1 << (2 * POSITIONS);

    /// The longest that ends [`LEAD`] before `delay` does, or earlier; `None` if that is not worth a hop.
    pub(crate) fn within(delay: Duration) -> Option<Self> {
        let units = delay.saturating_sub(LEAD).as_millis() / UNIT.as_millis();
        let units = u64::try_from(units).unwrap_or(u64::MAX).min(Self::END - 1);
        (units > 0).then_some(Self { units })
    }

    /// How long it takes if no hop is late.
    pub(crate) fn time(self) -> Duration {
        units(self.units)
    }

    /// The position where it begins.
    pub(crate) fn entry(self) -> u8 {
        positions().find(|position| self.digit(*position) > 0).unwrap_or_default()
    }

    /// What the routing key of its message begins with: for each position, the highest first, the digit; `-` where no
    /// more time is to pass. So that the key need not change on the way, each exchange looks at one of the words.
    pub(crate) fn words(self) -> String {
        let mut words = String::with_capacity(2 * usize::from(POSITIONS));
        for position in positions() {
            let is_over = self.units.trailing_zeros() >= 2 * (u32::from(position) + 1);
            words.push(if is_over { OVER } else { char::from(b'0' + self.digit(position)) });
            words.push('.');
        }
        words.pop();
        words
    }

    fn digit(self, position: u8) -> u8 {
        ((self.units >> (2 * position)) & 3) as u8
    }

    /// The same without all but the highest digits that are not zero.
    fn shortened(self) -> Self {
        let digits = positions().filter(|position| self.digit(*position) > 0).take(FEW);
        Self { units: digits.map(|position| u64::from(self.digit(position)) << (2 * position)).sum() }
    }
}

/// A wait that need not be exact, shortened (by less than a quarter) so that it takes two hops at most.
pub(crate) fn shortened(wait: Duration) -> Duration {
    match Passage::within(wait) {
        Some(passage) => wait.saturating_sub(units(passage.units - passage.shortened().units)),
        None => wait,
    }
}

fn units(count: u64) -> Duration {
    Duration::from_millis(count * UNIT.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::LONGEST_TIME_TO_LIVE;

    const DAY: u64 = 24 * 60 * 60 * 1000;

    /// The levels that a key leads through, as the bindings read it.
    fn levels(passage: Passage) -> Vec<Level> {
        let words = passage.words();
        let words: Vec<&str> = words.split('.').collect();
        assert_eq!(words.len(), usize::from(POSITIONS));
        let mut levels = Vec::new();
        for position in positions().skip_while(|position| *position > passage.entry()) {
            match words[usize::from(POSITIONS - 1 - position)] {
                "-" => return levels,
                "0" => {}
                digit => levels.push(Level { position, digit: digit.parse().unwrap() }),
            }
        }
        levels
    }

    /// Delays of all magnitudes.
    fn delays() -> impl Iterator<Item = Duration> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..20_000).map(move |_| Duration::from_millis(random.u64(..) >> random.u32(16..64)))
    }

    #[test]
    fn a_delay_is_a_sum_of_levels() {
        let (end, max) = (Passage::END * 64, u64::MAX);
        for (ms, entry, time, words) in [
            (192, 0, 64, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1"),
            (255, 0, 64, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1"),
            (256, 0, 128, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2"),
            (6 * 64, 1, 256, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.-"),
            (20_000, 4, 19_840, "0.0.0.0.0.0.0.0.0.0.0.1.0.3.1.2"),
            (DAY, 10, DAY - 128, "0.0.0.0.0.1.1.0.2.1.2.1.1.2.3.2"),
            (end + 127, 15, end - 64, "3.3.3.3.3.3.3.3.3.3.3.3.3.3.3.3"),
            (max, 15, end - 64, "3.3.3.3.3.3.3.3.3.3.3.3.3.3.3.3"),
        ] {
            let passage = Passage::within(Duration::from_millis(ms)).unwrap();
            let found = (passage.entry(), passage.time().as_millis() as u64, passage.words());
            assert_eq!(found, (entry, time, words.to_owned()), "{ms} ms");
        }
        for ms in [0, 1, 64, 128, 191] {
            assert_eq!(Passage::within(Duration::from_millis(ms)), None, "{ms} ms");
        }
    }

    #[test]
    fn a_passage_ends_early_and_not_much_earlier() {
        let longest = units(Passage::END - 1);
        for delay in delays() {
            let time = Passage::within(delay).map_or(Duration::ZERO, Passage::time);
            assert!(time <= delay.saturating_sub(LEAD), "{delay:?} takes {time:?}");
            assert!(time == longest || delay < time + LEAD + UNIT, "{delay:?} takes only {time:?}");
        }
    }

    #[test]
    fn a_key_leads_through_levels_that_take_its_time() {
        for passage in delays().filter_map(Passage::within) {
            let levels = levels(passage);
            assert!(levels.len() <= 16, "{passage:?}");
            assert_eq!(levels[0].position, passage.entry(), "{passage:?}");
            assert!(levels.is_sorted_by(|one, next| one.position > next.position), "no queue twice");
            assert_eq!(levels.iter().map(|level| level.time_to_live()).sum::<Duration>(), passage.time());
        }
    }

    #[test]
    fn a_shortened_wait_takes_two_hops_and_most_of_its_time() {
        for wait in delays().filter(|wait| wait.as_millis() / 64 < Passage::END.into()) {
            let short = shortened(wait);
            assert!(short <= wait && short >= wait.mul_f64(0.75), "{wait:?} became {short:?}");
            assert!(Passage::within(short).is_none_or(|passage| levels(passage).len() <= 2), "{wait:?}");
        }
    }

    #[test]
    fn no_level_lives_longer_than_rabbitmq_allows() {
        assert_eq!(Level::all().count(), 48);
        assert!(Level::all().all(|level| level.time_to_live() < LONGEST_TIME_TO_LIVE));
    }
}
