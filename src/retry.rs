//! [`RetryPolicy`]: how often a failed task is tried again, and when. Pure.

use std::time::Duration;

/// How often a task is attempted and how long it waits between attempts.
///
/// The default: 5 attempts; before the second it waits up to 1 s, then up to 2, 4, 8 s, each a random part of that
/// ("full jitter"), so that what failed together does not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    max_attempts: u32,
    base: Duration,
    cap: Duration,
    jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1))
    }
}

impl RetryPolicy {
    /// The longest wait that can be asked for now. A waiting task is held by a consumer, and RabbitMQ ends a consumer
    /// that holds a delivery for long (30 minutes by default).
    pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

    /// Waits a random part of `base`, then of twice that, and so on, up to [`cap`](Self::cap).
    #[must_use]
    pub fn exponential(base: Duration) -> Self {
        Self { max_attempts: 5, base, cap: Self::LONGEST_WAIT, jitter: true }
    }

    /// Waits exactly `wait` each time.
    #[must_use]
    pub fn fixed(wait: Duration) -> Self {
        Self { max_attempts: 5, base: wait, cap: wait, jitter: false }
    }

    /// No second attempt: the first failure dead-letters the task.
    #[must_use]
    pub fn never() -> Self {
        Self::default().max_attempts(1)
    }

    /// How many attempts there are in all, the first one included. Defaults to 5; 0 is taken as 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// The longest wait. Defaults to [`LONGEST_WAIT`](Self::LONGEST_WAIT), which is also the most.
    #[must_use]
    pub fn cap(mut self, cap: Duration) -> Self {
        self.cap = cap;
        self
    }

    /// How long to wait after `attempt` (1 is the first) failed; `None`: not again. `random` is in `0.0..1.0`.
    pub(crate) fn after(&self, attempt: u32, random: f64) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let wait = self.base.saturating_mul(1 << doublings).min(self.cap).min(Self::LONGEST_WAIT);
        Some(if self.jitter { wait.mul_f64(random) } else { wait })
    }

    pub(crate) fn with_max_attempts(self, attempts: Option<u32>) -> Self {
        attempts.map_or(self, |attempts| self.max_attempts(attempts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_by_policy_attempt_and_chance() {
        let ms = Duration::from_millis;
        let exponential = RetryPolicy::exponential(ms(100)).max_attempts(100).cap(ms(1000));
        for (policy, attempt, random, expected) in [
            (exponential, 1, 1.0, Some(ms(100))),
            (exponential, 2, 1.0, Some(ms(200))),
            (exponential, 2, 0.5, Some(ms(100))),
            (exponential, 2, 0.0, Some(ms(0))),
            (exponential, 5, 1.0, Some(ms(1000))),
            (exponential, 99, 1.0, Some(ms(1000))),
            (exponential, 100, 1.0, None),
            (
                RetryPolicy::exponential(Duration::MAX).max_attempts(u32::MAX),
                4_000_000_000,
                1.0,
                Some(ms(60_000)),
            ),
            (RetryPolicy::fixed(ms(70)), 1, 0.1, Some(ms(70))),
            (RetryPolicy::fixed(ms(70)), 4, 0.9, Some(ms(70))),
            (RetryPolicy::fixed(ms(70)), 5, 0.9, None),
            (RetryPolicy::never(), 1, 0.5, None),
            (RetryPolicy::default().max_attempts(0), 1, 0.5, None),
        ] {
            assert_eq!(policy.after(attempt, random), expected, "{policy:?} after attempt {attempt}");
        }
    }
}
