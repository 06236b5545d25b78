//! [`Clock`]: the time of day, which a test can pause.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// The operating system.
    System,
    /// Tokio's clock, counted from when it was made: a paused test moves it.
    Tokio { origin: SystemTime, started: Instant },
}

impl Clock {
    /// A clock that follows tokio's. Needs a runtime.
    pub(crate) fn tokio() -> Self {
        Self::Tokio { origin: SystemTime::now(), started: Instant::now() }
    }

    /// Whether it can be set by somebody: then what it shows says nothing about how much time has passed.
    pub(crate) fn may_be_set(&self) -> bool {
        matches!(self, Self::System)
    }

    /// Since the Unix epoch.
    pub(crate) fn now(&self) -> Duration {
        let time = match self {
            Self::System => SystemTime::now(),
            Self::Tokio { origin, started } => *origin + started.elapsed(),
        };
        time.duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Tells when a clock was set back, to whoever waits for a time that it shows.
#[derive(Debug, Default)]
pub(crate) struct SetBack {
    /// What it showed at the last look, since the Unix epoch, and when that was.
    last: Option<(Duration, Instant)>,
}

impl SetBack {
    /// Less is adjusted again and again by those who keep clocks right, and costs whoever waits no more than this.
    const TOLERANCE: Duration = Duration::from_millis(100);

    /// Whether it was set back since the last look: it shows `now` at this instant.
    pub(crate) fn look(&mut self, now: Duration, instant: Instant) -> bool {
        let last = self.last.replace((now, instant));
        last.is_some_and(|(then, since)| now + Self::TOLERANCE < then + instant.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_is_told_from_one_that_goes_forward_or_is_adjusted() {
        let start = Instant::now();
        let mut clock = SetBack::default();
        // After how many milliseconds it shows what, and whether it was set back since the last look.
        for (after, shown, expected) in [
            (0, 5_000_000, false),
            (0, 5_000_000, false),
            (10, 5_000_010, false),
            (1_010, 5_000_915, false),
            (2_010, 5_001_815, false),
            (3_010, 5_002_700, true),
            (4_010, 5_003_700, false),
            (4_010, 9_000_000, false),
            (4_020, 5_000_000, true),
            (9_000, 5_004_980, false),
            (9_000, 0, true),
        ] {
            let (shown, instant) = (Duration::from_millis(shown), start + Duration::from_millis(after));
            assert_eq!(clock.look(shown, instant), expected, "{shown:?} after {after} ms");
        }
    }
}
