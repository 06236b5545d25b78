//! [`RetryPolicy`]: how often a failed task is tried again, and when. Pure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::error::Result;

/// How often a task is attempted and how long it waits between attempts.
///
/// The default: 5 attempts; before the second it waits up to 1 s, then up to 2, 4, 8 s, each a random part of that
/// ("full jitter"), so that what failed together does not come back together.
///
/// Whose policy counts, the first there is of:
///
/// 1. the enqueuer's, [`Enqueue::retry`](crate::Enqueue::retry), which travels with the task;
/// 2. the handler's, [`TaskHandler::retry`](crate::TaskHandler::retry);
/// 3. the task type's, [`Task::retry`](crate::Task::retry);
/// 4. the consumer's, [`ConsumerBuilder::retry`](crate::ConsumerBuilder::retry);
/// 5. the default.
///
/// [`Enqueue::max_attempts`](crate::Enqueue::max_attempts) changes one number of whichever it is, and
/// [`TaskError::retry_after`](crate::TaskError::retry_after) one wait. A task with a deadline is not tried again when
/// the next attempt could not start before it.
///
/// ```
/// # use std::time::Duration;
/// use taskhare::RetryPolicy;
///
/// let patient = RetryPolicy::exponential(Duration::from_secs(1))
///     .cap(Duration::from_secs(600))
///     .max_attempts(50)
///     .within(Duration::from_secs(24 * 60 * 60));
/// let thrice = RetryPolicy::custom(|failed| match failed {
///     1 => Some(Duration::from_secs(5)),
///     2 => Some(Duration::from_secs(300)),
///     _ => None,
/// });
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    backoff: Backoff,
    max_attempts: u32,
    within: Option<Duration>,
}

/// How long to wait.
#[derive(Clone)]
enum Backoff {
    Fixed(Duration),
    Exponential { base: Duration, cap: Duration },
    Custom(Arc<dyn Fn(u32) -> Option<Duration> + Send + Sync>),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1))
    }
}

impl RetryPolicy {
    const DEFAULT_ATTEMPTS: u32 = 5;
    const DEFAULT_CAP: Duration = Duration::from_secs(60 * 60);

    /// Waits a random part of `base`, then of twice that, and so on, up to [`cap`](Self::cap).
    #[must_use]
    pub fn exponential(base: Duration) -> Self {
        Self::new(Backoff::Exponential { base, cap: Self::DEFAULT_CAP }, Self::DEFAULT_ATTEMPTS)
    }

    /// Waits exactly `wait` each time.
    #[must_use]
    pub fn fixed(wait: Duration) -> Self {
        Self::new(Backoff::Fixed(wait), Self::DEFAULT_ATTEMPTS)
    }

    /// Waits what `wait` says, given the number of the attempt that failed (1 is the first); `None`: not again. As
    /// often as it says, unless [`max_attempts`](Self::max_attempts) is set as well. It must not block, nor panic.
    ///
    /// It cannot travel, so not at [`Enqueue::retry`](crate::Enqueue::retry).
    #[must_use]
    pub fn custom(wait: impl Fn(u32) -> Option<Duration> + Send + Sync + 'static) -> Self {
        Self::new(Backoff::Custom(Arc::new(wait)), u32::MAX)
    }

    /// No second attempt: the first failure dead-letters the task.
    #[must_use]
    pub fn never() -> Self {
        Self::fixed(Duration::ZERO).max_attempts(1)
    }

    fn new(backoff: Backoff, max_attempts: u32) -> Self {
        Self { backoff, max_attempts, within: None }
    }

    /// How many attempts there are in all, the first one included. Defaults to 5; 0 is taken as 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// The longest wait of an exponential policy. Defaults to an hour. The others have none.
    #[must_use]
    pub fn cap(mut self, longest: Duration) -> Self {
        if let Backoff::Exponential { cap, .. } = &mut self.backoff {
            *cap = longest;
        }
        self
    }

    /// No attempt starts later than this after the task was first due: when it was enqueued, or after its delay.
    /// Then it is dead as [`TimeExhausted`](crate::DeadReason::TimeExhausted). Defaults to no such limit.
    #[must_use]
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// How long to wait after `attempt` (1 is the first) failed; `None`: not again. `random` is in `0.0..1.0`.
    pub(crate) fn after(&self, attempt: u32, random: f64) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        match &self.backoff {
            Backoff::Fixed(wait) => Some(*wait),
            Backoff::Exponential { base, cap } => {
                let doublings = attempt.saturating_sub(1).min(31);
                Some(base.saturating_mul(1 << doublings).min(*cap).mul_f64(random))
            }
            Backoff::Custom(wait) => wait(attempt),
        }
    }

    /// Whether its waits are meant to the millisecond. A random one may as well be a little shorter.
    pub(crate) fn is_exact(&self) -> bool {
        !matches!(self.backoff, Backoff::Exponential { .. })
    }

    /// How long after it was first due the last attempt may start.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.within
    }

    pub(crate) fn with_max_attempts(self, attempts: Option<u32>) -> Self {
        match attempts {
            Some(attempts) => self.max_attempts(attempts),
            None => self,
        }
    }

    /// As it travels, for people to read: `exponential base=1000ms cap=60000ms attempts=5 within=600000ms`, or
    /// `fixed wait=500ms attempts=3`. `None` for what cannot travel.
    pub(crate) fn to_text(&self) -> Option<String> {
        let mut text = match &self.backoff {
            Backoff::Fixed(wait) => format!("fixed wait={}ms", wait.as_millis()),
            Backoff::Exponential { base, cap } => {
                format!("exponential base={}ms cap={}ms", base.as_millis(), cap.as_millis())
            }
            Backoff::Custom(_) => return None,
        };
        text.push_str(&format!(" attempts={}", self.max_attempts));
        if let Some(within) = self.within {
            text.push_str(&format!(" within={}ms", within.as_millis()));
        }
        Some(text)
    }

    /// The same, for a policy that is to travel.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] for a custom one.
    pub(crate) fn checked_text(&self) -> Result<String> {
        let reason =
            "a custom policy is a function, which cannot travel; give it to the handler or the consumer";
        self.to_text().ok_or_else(|| Error::InvalidSetting { setting: "retry", reason: reason.to_owned() })
    }

    /// The inverse of [`to_text`](Self::to_text), to the millisecond. Words that it does not know are skipped.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let kind = words.next()?;
        let values: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
        let value = |name: &str| values.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let time = |name| value(name).map(milliseconds);
        let policy = match kind {
            "fixed" => Self::fixed(time("wait")??),
            "exponential" => Self::exponential(time("base")??).cap(time("cap")??),
            _ => return None,
        };
        let policy = policy.max_attempts(value("attempts")?.parse().ok()?);
        match time("within") {
            None => Some(policy),
            Some(within) => Some(policy.within(within?)),
        }
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.strip_suffix("ms")?.parse().ok().map(Duration::from_millis)
}

/// Two custom ones are equal if they are clones.
impl PartialEq for Backoff {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fixed(ours), Self::Fixed(theirs)) => ours == theirs,
            (Self::Exponential { base, cap }, Self::Exponential { base: other_base, cap: other_cap }) => {
                (base, cap) == (other_base, other_cap)
            }
            (Self::Custom(ours), Self::Custom(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

impl fmt::Debug for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(wait) => f.debug_tuple("Fixed").field(wait).finish(),
            Self::Exponential { base, cap } => {
                f.debug_struct("Exponential").field("base", base).field("cap", cap).finish()
            }
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn waits_by_policy_attempt_and_chance() {
        let exponential = RetryPolicy::exponential(ms(100)).max_attempts(100).cap(ms(1000));
        let custom = RetryPolicy::custom(|failed| (failed < 3).then(|| ms(7) * failed));
        let long = RetryPolicy::exponential(Duration::MAX).max_attempts(u32::MAX);
        let last_chance = 1.0 - f64::EPSILON / 2.0;
        for (policy, attempt, random, expected) in [
            (&exponential, 1, 1.0, Some(ms(100))),
            (&exponential, 2, 1.0, Some(ms(200))),
            (&exponential, 2, 0.5, Some(ms(100))),
            (&exponential, 2, 0.0, Some(ms(0))),
            (&exponential, 5, 1.0, Some(ms(1000))),
            (&exponential, 99, 1.0, Some(ms(1000))),
            (&exponential, 100, 1.0, None),
            (&long, 4_000_000_000, 0.5, Some(RetryPolicy::DEFAULT_CAP / 2)),
            (&RetryPolicy::fixed(ms(70)), 1, 0.1, Some(ms(70))),
            (&RetryPolicy::fixed(ms(70)), 4, 0.9, Some(ms(70))),
            (&RetryPolicy::fixed(ms(70)), 5, 0.9, None),
            (&RetryPolicy::fixed(ms(70)).cap(ms(1)), 1, 0.9, Some(ms(70))),
            (&RetryPolicy::fixed(Duration::MAX), 1, 0.9, Some(Duration::MAX)),
            (&RetryPolicy::never(), 1, 0.5, None),
            (&RetryPolicy::default().max_attempts(0), 1, 0.5, None),
            (&custom, 1, 0.5, Some(ms(7))),
            (&custom, 2, 0.5, Some(ms(14))),
            (&custom, 3, 0.5, None),
            (&custom.clone().max_attempts(2), 2, 0.5, None),
            (&custom.clone().with_max_attempts(None), 2, 0.5, Some(ms(14))),
            (&custom.clone().with_max_attempts(Some(1)), 1, 0.5, None),
        ] {
            assert_eq!(policy.after(attempt, random), expected, "{policy:?} after attempt {attempt}");
        }
        assert!(long.cap(Duration::MAX).after(40, last_chance).is_some(), "no overflow");
    }

    #[test]
    fn a_policy_is_read_back_as_written() {
        for (policy, text) in [
            (RetryPolicy::fixed(ms(500)).max_attempts(3), "fixed wait=500ms attempts=3"),
            (
                RetryPolicy::exponential(ms(1000)).cap(ms(60_000)).within(ms(600_000)),
                "exponential base=1000ms cap=60000ms attempts=5 within=600000ms",
            ),
        ] {
            assert_eq!(policy.to_text().as_deref(), Some(text));
            assert_eq!(RetryPolicy::parse(text), Some(policy));
        }
        assert_eq!(RetryPolicy::custom(|_| None).to_text(), None);
    }

    #[test]
    fn words_of_later_releases_are_skipped_and_what_is_no_policy_is_none() {
        let known = RetryPolicy::parse("fixed wait=500ms attempts=3 mood=good whatever");
        assert_eq!(known, Some(RetryPolicy::fixed(ms(500)).max_attempts(3)));
        for text in [
            "",
            "fixed",
            "fixed wait=500 attempts=3",
            "fixed wait=ms attempts=3",
            "fixed wait=500ms attempts=many",
            "exponential base=5ms attempts=3",
            "fixed wait=5ms attempts=3 within=long",
            "fibonacci base=5ms attempts=3",
        ] {
            assert_eq!(RetryPolicy::parse(text), None, "{text:?}");
        }
    }
}
