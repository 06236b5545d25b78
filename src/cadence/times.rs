//! [`Times`]: a cadence that was checked, and the planned times themselves; [`jitter`].

use std::sync::Arc;
use std::time::Duration;

use super::Cadence;
use super::Kind;
use super::cron::Pattern;
use crate::error::Result;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);

/// The last second that the calendar's library knows, in the year 9999. Nothing is planned after it.
const END: Duration = Duration::from_secs(253_402_207_200);

/// When ticks are planned, compiled. Cheap to ask and to clone.
#[derive(Clone, Debug)]
pub(crate) enum Times {
    Every(Duration),
    Cron(Arc<Pattern>),
    At(Duration),
}

impl Times {
    /// Checks a cadence.
    pub(crate) fn of(cadence: &Cadence) -> Result<Self> {
        let refuse = |reason: &str| Err(cadence.invalid(reason));
        if cadence.zone.is_some() && !matches!(cadence.kind, Kind::Cron(_)) {
            return refuse("only a cron expression has a time zone");
        }
        match &cadence.kind {
            Kind::Every(interval) if *interval < SHORTEST => refuse("an interval is at least 10 ms"),
            Kind::Every(interval) if *interval > LONGEST => refuse("an interval is at most 3650 days"),
            Kind::Every(interval) if interval.subsec_nanos() % 1_000_000 != 0 => {
                refuse("an interval is a whole number of milliseconds")
            }
            Kind::Every(interval) => Ok(Self::Every(*interval)),
            Kind::Cron(expression) => {
                let pattern = Pattern::parse(expression, cadence.zone.as_deref());
                pattern.map(|pattern| Self::Cron(Arc::new(pattern))).map_err(|reason| cadence.invalid(reason))
            }
            Kind::At(time) => match u64::try_from(time.as_millisecond()).map(Duration::from_millis) {
                Ok(time) if time < END => Ok(Self::At(time)),
                Ok(_) => refuse("it is after the year 9999"),
                Err(_) => refuse("it is before 1970"),
            },
        }
    }

    /// The first planned time strictly after `time`, both since the Unix epoch. Intervals are counted from `anchor`, to
    /// both sides; nothing else looks at it.
    pub(crate) fn after(&self, anchor: Duration, time: Duration) -> Option<Duration> {
        let next = match self {
            Self::Every(interval) => next_multiple(*interval, anchor, time),
            Self::Cron(pattern) => pattern.after(time),
            Self::At(only) => Some(*only).filter(|only| *only > time),
        };
        next.filter(|next| *next <= END)
    }
}

/// The first `anchor + k * interval`, for any whole k, after `time`.
fn next_multiple(interval: Duration, anchor: Duration, time: Duration) -> Option<Duration> {
    let phase = anchor.as_nanos() % interval.as_nanos();
    let passed = (time.as_nanos() + interval.as_nanos() - phase) % interval.as_nanos();
    let wait = interval.as_nanos() - passed;
    time.checked_add(Duration::from_nanos(u64::try_from(wait).ok()?))
}

/// By how much the tick of schedule `name` that is planned for `planned` is put off: less than `width`, in whole
/// milliseconds. The same in every process and version, and spread evenly over names and times.
pub(crate) fn jitter(name: &str, planned: Duration, width: Duration) -> Duration {
    let hash = mix(fnv1a(name.bytes().chain([0xff]).chain(planned.as_millis().to_le_bytes())));
    let width = u64::try_from(width.as_millis()).unwrap_or(u64::MAX);
    let offset = (u128::from(hash) * u128::from(width)) >> u64::BITS;
    Duration::from_millis(offset as u64)
}

/// FNV-1a, 64 bit. Not the standard library's hash, which may change with its version.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of SplitMix64: FNV leaves its high bits alike where only the last bytes differ.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::UNIX_EPOCH;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn intervals_are_counted_from_the_anchor_to_both_sides() {
        let table = [
            // (interval, anchor, time, next)
            (100, 0, 0, 100),
            (100, 0, 99, 100),
            (100, 0, 100, 200),
            (100, 30, 0, 30),
            (100, 30, 30, 130),
            (100, 30, 129, 130),
            (100, 1_030, 0, 30),
            (100, 1_030, 29, 30),
            (100, 1_030, 30, 130),
            (100, 1_000, 999, 1_000),
            (70, 1_000, 0, 20),
            (86_400_000, 1_795_338_000_123, 1_795_338_000_122, 1_795_338_000_123),
        ];
        for (interval, anchor, time, next) in table {
            let times = Times::of(&Cadence::every(ms(interval))).unwrap();
            assert_eq!(times.after(ms(anchor), ms(time)), Some(ms(next)), "{interval} {anchor} {time}");
        }
    }

    #[test]
    fn a_time_between_two_milliseconds_is_after_the_first() {
        let times = Times::of(&Cadence::every(ms(100))).unwrap();
        assert_eq!(times.after(ms(0), ms(100) - Duration::from_nanos(1)), Some(ms(100)));
        assert_eq!(times.after(ms(0), ms(100) + Duration::from_nanos(1)), Some(ms(200)));
    }

    #[test]
    fn nothing_is_planned_after_the_year_9999() {
        for cadence in ["every 10ms", "cron * * * * * *", "cron 0 0 29 2 *", "at 2026-11-22T09:00:00.000Z"] {
            let times = Times::of(&cadence.parse().unwrap()).unwrap();
            for time in [END, END + ms(1), Duration::MAX] {
                assert_eq!(times.after(ms(0), time), None, "{cadence}");
            }
        }
        let latest = UNIX_EPOCH + END;
        Times::of(&Cadence::at(latest)).unwrap_err();
    }

    /// A changed hash would fire each tick anew at another time, where old and new schedulers meet.
    #[test]
    fn jitter_is_the_same_forever() {
        let planned = ms(1_795_338_000_000);
        let golden = [
            ("report", planned, ms(60_000), 47603),
            ("report", planned + ms(1), ms(60_000), 9801),
            ("reports", planned, ms(60_000), 58980),
            ("", ms(0), ms(60_000), 7889),
        ];
        for (name, planned, width, offset) in golden {
            assert_eq!(jitter(name, planned, width).as_millis(), offset, "{name} {planned:?}");
        }
    }

    #[test]
    fn jitter_stays_below_its_width() {
        assert_eq!(jitter("a", ms(7), Duration::ZERO), Duration::ZERO);
        assert_eq!(jitter("a", ms(7), Duration::from_micros(999)), Duration::ZERO);
        for planned in 0..1_000 {
            assert!(jitter("a", ms(planned), ms(3)) < ms(3));
            assert!(jitter("a", ms(planned), Duration::MAX) < Duration::MAX);
        }
    }

    #[test]
    fn jitter_is_spread_evenly_over_schedules_and_over_ticks() {
        let minute = ms(60_000);
        let schedules = (0..10_000).map(|number| jitter(&format!("schedule-{number}"), minute, minute));
        let ticks = (0..10_000).map(|number| jitter("schedule", number * minute, minute));
        for (of, offsets) in [("schedules", schedules.collect::<Vec<_>>()), ("ticks", ticks.collect())] {
            let mut buckets = [0; 20];
            for offset in &offsets {
                buckets[(offset.as_millis() / 3_000) as usize] += 1;
            }
            // 500 expected, with a standard deviation of 22.
            assert!(buckets.iter().all(|count| (400..600).contains(count)), "{of}: {buckets:?}");
            let distinct: BTreeSet<_> = offsets.iter().collect();
            assert!(distinct.len() > 9_000, "{of}: {} distinct", distinct.len());
        }
    }
}
