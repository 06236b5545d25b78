//! [`Table`]: what the active scheduler knows of tasks and consumers, live, from their events.
//!
//! ```text
//!   events ──► Table::apply ──┐
//!                             ├──► alerts
//!   time   ──► Table::tick ───┘
//! ```
//!
//! - [`consumers`] knows who is there, and who is silent.
//! - [`tasks`] knows what runs where, what was lost, and what has ended lately.
//! - [`waiting`] knows the oldest tasks that wait in each queue; [`minute`] counts what has ended there.
//! - [`conditions`] raises an alert when a threshold is crossed, and resolves it.
//!
//! Pure: no broker, and no clock of its own. All of it is bounded:
//!
//! | what | at most | and then |
//! | --- | --- | --- |
//! | consumers | 10,000 | further ones are not watched |
//! | running and lost tasks | 100,000 | further ones are not watched |
//! | waiting tasks | the oldest 1,000 of a queue | the age of the oldest is about right |
//! | ended tasks, so that what is told late does not bring them back | 458,752 | the oldest are forgotten |
//! | queues | 1,000 | further ones are not watched |
//!
//! A task takes about 300 bytes, an ended one 40.

mod alert;
mod conditions;
mod consumers;
mod minute;
mod table;
mod tasks;
mod thresholds;
mod waiting;

use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

pub use alert::Alert;
pub use consumers::ConsumerState;
pub use consumers::Presence;
pub(crate) use table::Table;
pub use thresholds::Thresholds;

/// The time at which something is seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// By a clock that nobody sets: for how long it has been since something was seen here.
    pub(crate) instant: Instant,
    /// The time of day: for what is told with one.
    pub(crate) time: SystemTime,
}

impl Now {
    /// How long ago that was.
    fn since(self, time: SystemTime) -> Duration {
        self.time.duration_since(time).unwrap_or_default()
    }
}
