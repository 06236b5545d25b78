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
    let offset = (u128::from(hash) * width.as_millis()) >> u64::BITS;
    Duration::from_millis(u64::try_from(offset).unwrap_or(u64::MAX))
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
