//! [`Schedule`]: a task that is enqueued again and again, and everything about it that is decided rather than done.
//!
//! ```text
//!   Schedule ── checked ──► Definition ─┐
//!                                       ├─► Entry ◄─► the message in {ns}.schedules
//!                             State ────┘
//!                               │
//!                               └─► plan: fire, wait or pass over (pure)
//! ```

mod command;
mod definition;
mod doubt;
mod entry;
mod plan;
mod state;

use std::fmt;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::cadence::Cadence;
use crate::envelope;
use crate::error::BoxError;
use crate::lane::Priority;
use crate::retry::RetryPolicy;
use crate::task::Task;

pub(crate) use command::Answer;
pub(crate) use command::Command;
pub(crate) use command::Record;
pub(crate) use command::What;
pub(crate) use definition::Definition;
pub(crate) use doubt::Doubt;
pub(crate) use entry::Entry;
pub(crate) use plan::Move;
pub(crate) use plan::Why;
pub(crate) use plan::next;
pub(crate) use plan::plan;
pub use state::LastTick;
pub(crate) use state::State;

/// What becomes of ticks that nobody could fire in time, because no scheduler ran, the broker was down or
/// their queue was full. A tick that is
/// late by no more than [`misfire_after`](crate::SchedulerBuilder::misfire_after) is not one of them: it is fired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfire {
    /// They are not fired. The next planned one is.
    Skip,
    /// One tick is fired at once for all of them, and for those too that are due by now but not late yet. The default.
    /// It is planned when the first of them was.
    #[default]
    Once,
    /// Each that was planned within this time before now, or exactly so long ago, is fired at once, one after the other;
    /// those before are not. However many they are: an hour of a schedule of 10 ms has 360,000.
    CatchUp(Duration),
}

/// What becomes of a tick whose predecessor has not ended: waits in its queue, runs, or waits for its next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overlap {
    /// It is fired. The default.
    #[default]
    Allow,
    /// It is not fired.
    Skip,
    /// It is fired once its predecessor has ended; those planned meanwhile are not. So it is not late while it waits, and
    /// the misfire policy is not about it.
    Wait,
}

/// A task that is enqueued again and again: a name, when, what, and how.
///
/// Declared by [`SchedulerBuilder::schedule`](crate::SchedulerBuilder::schedule), or by
/// [`Producer::schedule`](crate::Producer::schedule). Declaring it again, by however many processes, changes nothing
/// unless something of it has changed; then it takes the change, and counts its ticks on. Where its cadence or its start
/// has changed, the new one counts from then on. The payload is compared as it is encoded: one with a `HashMap`, whose
/// order is a different one each time, is a change each time.
///
/// ```
/// # use std::time::Duration;
/// use taskhare::{Cadence, Misfire, Overlap, Schedule, Task};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Report { region: String }
///
/// impl Task for Report {
///     const NAME: &'static str = "report";
///     type Output = ();
/// }
///
/// let cadence = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
/// let schedule = Schedule::new("morning-report", cadence, Report { region: "eu".into() })
///     .queue("reports")
///     .deadline_in(Duration::from_secs(3600))
///     .misfire(Misfire::Skip)
///     .overlap(Overlap::Skip);
/// ```
///
/// # Clocks
///
/// When a tick is due is decided by the clock of the scheduler that is active. Keep the clocks of all its hosts together,
/// by NTP say. Where a clock is set nevertheless:
///
/// - **Forward**: the ticks that it leaps over are late, as if no scheduler had run meanwhile. They are fired if they are
///   late by no more than [`misfire_after`](crate::SchedulerBuilder::misfire_after), else it is up to the [`Misfire`]
///   policy.
/// - **Back, by no more than `misfire_after` or past no more than one tick**: no tick is fired twice. The schedule goes on
///   with the next one that it has not fired, so the time between two of them is longer by what the clock was set back.
/// - **Back, by more, past several ticks**: their times come again, and they are fired again then, as ticks of their own
///   with a new [sequence](crate::Tick::sequence) and task id. To wait would stop the schedule for as long as the clock
///   was set back.
///
/// So no more than two periods are without a tick, or one and `misfire_after`, whichever is longer. A time zone's summer
/// time is another matter: see [`Cadence`].
#[derive(Debug)]
#[must_use = "nothing is declared until it is given to a scheduler or a producer"]
pub struct Schedule {
    pub(crate) name: String,
    pub(crate) cadence: Cadence,
    pub(crate) task: &'static str,
    pub(crate) payload: Result<Vec<u8>, BoxError>,
    pub(crate) options: Options,
}

/// What can be said about a schedule and its ticks.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) queue: String,
    pub(crate) priority: Priority,
    pub(crate) deadline_in: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) starts: Option<Duration>,
    pub(crate) ends: Option<Duration>,
    pub(crate) limit: Option<u64>,
    pub(crate) jitter: Duration,
    pub(crate) misfire: Misfire,
    pub(crate) overlap: Overlap,
    pub(crate) longest_run: Duration,
}

impl Options {
    /// A day.
    const LONGEST_RUN: Duration = Duration::from_secs(24 * 60 * 60);

    fn new(queue: &str) -> Self {
        Self {
            queue: queue.to_owned(),
            priority: Priority::default(),
            deadline_in: None,
            run_timeout: None,
            retry: None,
            max_attempts: None,
            starts: None,
            ends: None,
            limit: None,
            jitter: Duration::ZERO,
            misfire: Misfire::default(),
            overlap: Overlap::default(),
            longest_run: Self::LONGEST_RUN,
        }
    }
}

/// The setters of a schedule, for [`Schedule`] and for whoever wraps one. `$($path)*` leads to its [`Options`].
macro_rules! schedule_options {
    ($($path:ident).+) => {
        /// The queue of its tasks. Defaults to [`Task::QUEUE`](crate::Task::QUEUE).
        pub fn queue(mut self, queue: &str) -> Self {
            queue.clone_into(&mut self.$($path).+.queue);
            self
        }

        /// Which of the queue's lanes. Defaults to [`Priority::Normal`](crate::Priority::Normal).
        pub fn priority(mut self, priority: crate::lane::Priority) -> Self {
            self.$($path).+.priority = priority;
            self
        }

        /// Its tasks are not started so long after they were planned, or later, as with
        /// [`Enqueue::deadline`](crate::Enqueue::deadline). Defaults to never. A tick that is fired later than that, by its
        /// misfire policy, has its time from then on. Jitter does not put the deadline off.
        pub fn deadline_in(mut self, time: std::time::Duration) -> Self {
            self.$($path).+.deadline_in = Some(time);
            self
        }

        /// How long one attempt may take: see [`ConsumerBuilder::run_timeout`](crate::ConsumerBuilder::run_timeout).
        pub fn run_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.$($path).+.run_timeout = Some(timeout);
            self
        }

        /// What happens when a task fails, instead of what handler or consumer say: see
        /// [`Enqueue::retry`](crate::Enqueue::retry).
        pub fn retry(mut self, policy: crate::retry::RetryPolicy) -> Self {
            self.$($path).+.retry = Some(policy);
            self
        }

        /// How many attempts a task has, instead of what the policy says. At least 1.
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            self.$($path).+.max_attempts = Some(attempts.max(1));
            self
        }

        /// No tick is planned before that time. An interval counts from it: it is its first tick, unless it has passed
        /// when the schedule is declared. Defaults to then; the first tick is one interval later.
        pub fn starting_at(mut self, time: std::time::SystemTime) -> Self {
            self.$($path).+.starts = Some(crate::schedule::since_epoch(time));
            self
        }

        /// No tick is planned after that time. Defaults to never.
        pub fn ending_at(mut self, time: std::time::SystemTime) -> Self {
            self.$($path).+.ends = Some(crate::schedule::since_epoch(time));
            self
        }

        /// How many ticks are fired in all, those that were [triggered](crate::Schedules::trigger) included. At least 1.
        /// Defaults to no limit.
        pub fn limit(mut self, ticks: u64) -> Self {
            self.$($path).+.limit = Some(ticks.max(1));
            self
        }

        /// Each tick is fired up to so much later than planned, so that not all schedules fire at the full hour. How
        /// much is the same for the same tick, whichever scheduler fires it. Defaults to zero; at most a day,
        /// and always less than the time between this tick and the next.
        pub fn jitter(mut self, width: std::time::Duration) -> Self {
            self.$($path).+.jitter = width;
            self
        }

        /// What becomes of ticks that nobody could fire in time. Defaults to [`Misfire::Once`](crate::Misfire::Once).
        pub fn misfire(mut self, policy: crate::schedule::Misfire) -> Self {
            self.$($path).+.misfire = policy;
            self
        }

        /// What becomes of a tick whose predecessor has not ended. Defaults to
        /// [`Overlap::Allow`](crate::Overlap::Allow). Anything else costs a publish more for each tick.
        pub fn overlap(mut self, policy: crate::schedule::Overlap) -> Self {
            self.$($path).+.overlap = policy;
            self
        }

        /// How long a tick that nobody has reported the end of is taken not to have ended: its task may have been purged
        /// from its queue, or dead-lettered by the broker itself. Defaults to a day. Of no meaning where ticks may
        /// overlap. At least a millisecond.
        pub fn longest_run(mut self, time: std::time::Duration) -> Self {
            self.$($path).+.longest_run = time;
            self
        }
    };
}

pub(crate) use schedule_options;

impl Schedule {
    /// Enqueues `task` at each tick of `cadence`: an interval, or a [`Cadence`]. `name` identifies the schedule in its
    /// namespace; 1 to 255 bytes.
    ///
    /// What is wrong with it is told when it is declared.
    #[expect(clippy::needless_pass_by_value, reason = "as everywhere a task is enqueued")]
    pub fn new<T: Task>(name: &str, cadence: impl Into<Cadence>, task: T) -> Self {
        Self {
            name: name.to_owned(),
            cadence: cadence.into(),
            task: T::NAME,
            payload: envelope::encode(&task),
            options: Options::new(T::QUEUE),
        }
    }

    schedule_options!(options);
}

pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl fmt::Display for Misfire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip => f.write_str("skip"),
            Self::Once => f.write_str("once"),
            Self::CatchUp(within) => write!(f, "catch up {}ms", within.as_millis()),
        }
    }
}

impl Misfire {
    /// The inverse of [`Display`](fmt::Display).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "skip" => Some(Self::Skip),
            "once" => Some(Self::Once),
            _ => {
                let within = text.strip_prefix("catch up ")?.strip_suffix("ms")?.parse().ok()?;
                Some(Self::CatchUp(Duration::from_millis(within)))
            }
        }
    }
}

impl Overlap {
    /// As it is written on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
            Self::Wait => "wait",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Allow, Self::Skip, Self::Wait].into_iter().find(|overlap| overlap.as_str() == text)
    }
}
