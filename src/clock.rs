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
