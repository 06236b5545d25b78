//! [`Minute`]: how many of something there were within the last minute.

use std::time::Duration;

use tokio::time::Instant;

/// How many parts a minute has: as exact it is.
const PARTS: usize = 12;
const PART: Duration = Duration::from_secs(5);

/// A count over the last minute, in parts of 5 s.
#[derive(Clone, Debug, Default)]
pub(super) struct Minute {
    parts: [u64; PARTS],
    /// When the newest part began, and which it is.
    newest: Option<(Instant, usize)>,
}

impl Minute {
    /// Counts what was `ago`.
    pub(super) fn count(&mut self, ago: Duration, now: Instant) {
        self.turn(now);
        let Some((_, newest)) = self.newest else { return };
        let back = usize::try_from(ago.as_secs() / PART.as_secs()).unwrap_or(usize::MAX);
        if back < PARTS {
            self.parts[(newest + PARTS - back) % PARTS] += 1;
        }
    }

    pub(super) fn sum(&mut self, now: Instant) -> u64 {
        self.turn(now);
        self.parts.iter().sum()
    }

    fn turn(&mut self, now: Instant) {
        let (mut began, mut newest) = *self.newest.get_or_insert((now, 0));
        let mut turns = 0;
        while began + PART <= now && turns < PARTS {
            (began, newest, turns) = (began + PART, (newest + 1) % PARTS, turns + 1);
            self.parts[newest] = 0;
        }
        if began + PART <= now {
            began = now;
        }
        self.newest = Some((began, newest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_minute_does_not_count() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        // (When it is told, how long ago it was), when it is counted, how many there are.
        for (told, at, expected) in [
            (&[(0, 0), (0, 0)][..], 0, 2),
            (&[(0, 0)], 54, 1),
            (&[(0, 0)], 60, 0),
            (&[(0, 0)], 3600, 0),
            (&[(0, 30)], 0, 1),
            (&[(0, 30)], 31, 0),
            (&[(0, 61)], 0, 0),
            (&[(0, 0), (30, 0), (59, 0)], 59, 3),
            (&[(0, 0), (30, 0), (59, 0)], 70, 2),
            (&[(0, 0), (1_000, 0)], 1_000, 1),
        ] {
            let mut minute = Minute::default();
            for (when, ago) in told {
                minute.count(seconds(*ago), start + seconds(*when));
            }
            assert_eq!(minute.sum(start + seconds(at)), expected, "{told:?} at {at}");
        }
    }
}
