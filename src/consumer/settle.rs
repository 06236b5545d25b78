//! From an attempt without success to what becomes of the task. Pure.

use std::time::Duration;

use crate::handler::CancelReason;
use crate::handler::Intent;
use crate::outcome::DeadReason;
use crate::retry::RetryPolicy;
use crate::topology::wheel;

/// How an attempt ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its handler returned an error.
    Failed(Intent),
    /// Its handler panicked.
    Panicked,
    /// Its payload is not what the handler expects.
    Undecodable,
    /// Its handler did not stop in time when it was told to, for this reason, and was dropped.
    Stopped(CancelReason),
}

/// What a decision depends on, beside the failure. Times are since the Unix epoch.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The number of the attempt that ended.
    pub(super) attempt: u32,
    pub(super) policy: RetryPolicy,
    /// Why the attempt was told to stop, if it was.
    pub(super) cancelled: Option<CancelReason>,
    pub(super) now: Duration,
    pub(super) first_due: Duration,
    pub(super) deadline: Option<Duration>,
    /// In `0.0..1.0`.
    pub(super) random: f64,
}

/// What to do with a task after such an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Publish its next attempt, due after this time, then acknowledge it.
    Retry(Duration),
    /// Publish it to the dead letters, then acknowledge it.
    DeadLetter(DeadReason),
    /// Acknowledge it: somebody cancelled it.
    Cancel,
    /// Return it to its queue as it is.
    HandBack,
}

/// Decides.
pub(super) fn settlement(failure: Failure, facts: &Facts) -> Settlement {
    let cancelled = match failure {
        Failure::Stopped(reason) => Some(reason),
        _ => facts.cancelled,
    };
    match (failure, cancelled) {
        (Failure::Undecodable, _) => Settlement::DeadLetter(DeadReason::Undecodable),
        (Failure::Failed(Intent::Reject), _) => Settlement::DeadLetter(DeadReason::Rejected),
        (_, Some(CancelReason::Deadline)) => Settlement::DeadLetter(DeadReason::ExpiredRunning),
        (_, Some(CancelReason::Requested)) => Settlement::Cancel,
        // Whoever stops early because of a shutdown has not failed. A panic has.
        (Failure::Failed(_) | Failure::Stopped(_), Some(CancelReason::Shutdown)) => Settlement::HandBack,
        (Failure::Failed(Intent::RetryAfter(wait)), _) => retry(Some(wait), facts),
        _ => retry(None, facts),
    }
}

/// Another attempt, after the handler's wait or the policy's, unless a limit has been reached.
fn retry(wait: Option<Duration>, facts: &Facts) -> Settlement {
    let Some(backoff) = facts.policy.after(facts.attempt, facts.random) else {
        return Settlement::DeadLetter(DeadReason::AttemptsExhausted);
    };
    let wait = match wait {
        Some(wait) => wait,
        None if facts.policy.is_exact() => backoff,
        None => wheel::shortened(backoff),
    };
    let start = facts.now.saturating_add(wait);
    let last_start = facts.policy.time_limit().map(|limit| facts.first_due.saturating_add(limit));
    if facts.deadline.is_some_and(|deadline| start >= deadline) {
        return Settlement::DeadLetter(DeadReason::ExpiredRetrying);
    }
    if last_start.is_some_and(|last| start > last) {
        return Settlement::DeadLetter(DeadReason::TimeExhausted);
    }
    Settlement::Retry(wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeadReason::AttemptsExhausted;
    use DeadReason::ExpiredRetrying;
    use DeadReason::ExpiredRunning;
    use DeadReason::Rejected;
    use DeadReason::TimeExhausted;
    use DeadReason::Undecodable;
    use Settlement::Cancel;
    use Settlement::DeadLetter;
    use Settlement::HandBack;
    use Settlement::Retry;

    const SECOND: Duration = Duration::from_secs(1);
    const RETRY: Failure = Failure::Failed(Intent::Retry);
    const REJECT: Failure = Failure::Failed(Intent::Reject);
    const PANIC: Failure = Failure::Panicked;
    const UNDECODABLE: Failure = Failure::Undecodable;

    const fn later(seconds: u64) -> Failure {
        Failure::Failed(Intent::RetryAfter(Duration::from_secs(seconds)))
    }

    const fn stopped(reason: CancelReason) -> Failure {
        Failure::Stopped(reason)
    }

    /// Three attempts, a second between them. It is second 100, and 40 seconds since the first was due.
    fn facts() -> Facts {
        Facts {
            attempt: 1,
            policy: RetryPolicy::fixed(SECOND).max_attempts(3),
            cancelled: None,
            now: 100 * SECOND,
            first_due: 60 * SECOND,
            deadline: None,
            random: 0.5,
        }
    }

    #[test]
    fn settles_by_failure_and_attempt() {
        for (failure, attempt, expected) in [
            (RETRY, 1, Retry(SECOND)),
            (RETRY, 2, Retry(SECOND)),
            (RETRY, 3, DeadLetter(AttemptsExhausted)),
            (later(2), 1, Retry(2 * SECOND)),
            (later(86_400), 1, Retry(86_400 * SECOND)),
            (later(1), 3, DeadLetter(AttemptsExhausted)),
            (REJECT, 1, DeadLetter(Rejected)),
            (PANIC, 1, Retry(SECOND)),
            (PANIC, 3, DeadLetter(AttemptsExhausted)),
            (UNDECODABLE, 1, DeadLetter(Undecodable)),
            (stopped(CancelReason::Timeout), 1, Retry(SECOND)),
            (stopped(CancelReason::Timeout), 3, DeadLetter(AttemptsExhausted)),
        ] {
            let settled = settlement(failure, &Facts { attempt, ..facts() });
            assert_eq!(settled, expected, "{failure:?} of attempt {attempt}");
        }
    }

    #[test]
    fn settles_by_why_the_attempt_was_told_to_stop() {
        use CancelReason::{Deadline, Requested, Shutdown, Timeout};
        for (cancelled, failure, expected) in [
            (Shutdown, RETRY, HandBack),
            (Shutdown, later(1), HandBack),
            (Shutdown, REJECT, DeadLetter(Rejected)),
            (Shutdown, PANIC, Retry(SECOND)),
            (Shutdown, UNDECODABLE, DeadLetter(Undecodable)),
            (Shutdown, stopped(Deadline), DeadLetter(ExpiredRunning)),
            (Shutdown, stopped(Timeout), Retry(SECOND)),
            (Deadline, RETRY, DeadLetter(ExpiredRunning)),
            (Deadline, later(1), DeadLetter(ExpiredRunning)),
            (Deadline, REJECT, DeadLetter(Rejected)),
            (Deadline, PANIC, DeadLetter(ExpiredRunning)),
            (Deadline, stopped(Deadline), DeadLetter(ExpiredRunning)),
            (Timeout, RETRY, Retry(SECOND)),
            (Timeout, later(9), Retry(9 * SECOND)),
            (Timeout, REJECT, DeadLetter(Rejected)),
            (Timeout, PANIC, Retry(SECOND)),
            (Timeout, stopped(Timeout), Retry(SECOND)),
            (Requested, RETRY, Cancel),
            (Requested, REJECT, DeadLetter(Rejected)),
            (Requested, PANIC, Cancel),
            (Requested, stopped(Requested), Cancel),
        ] {
            let settled = settlement(failure, &Facts { cancelled: Some(cancelled), ..facts() });
            assert_eq!(settled, expected, "{failure:?}, cancelled for {cancelled:?}");
        }
        let last = Facts { attempt: 3, cancelled: Some(Shutdown), ..facts() };
        assert_eq!(settlement(RETRY, &last), HandBack, "the last attempt does not count either");
    }

    #[test]
    fn a_random_wait_is_shortened_to_few_hops_and_others_are_exact() {
        let wait = 100 * SECOND;
        let exponential = RetryPolicy::exponential(2 * wait).max_attempts(3);
        for (policy, failure, expected) in [
            (RetryPolicy::fixed(wait), RETRY, wait),
            (RetryPolicy::custom(move |_| Some(wait)), RETRY, wait),
            (exponential.clone(), later(100), wait),
        ] {
            assert_eq!(settlement(failure, &Facts { policy, ..facts() }), Retry(expected));
        }
        let Retry(shortened) = settlement(RETRY, &Facts { policy: exponential, ..facts() }) else {
            panic!("it is tried again");
        };
        assert!(shortened < wait && shortened > wait * 3 / 4, "{shortened:?}");
    }

    #[test]
    fn an_attempt_that_could_not_start_in_time_is_not_scheduled() {
        // Attempt; the deadline, and how long after the first was due it may start, in seconds.
        for (attempt, deadline, within, failure, expected) in [
            (1, Some(102), None, RETRY, Retry(SECOND)),
            (1, Some(101), None, RETRY, DeadLetter(ExpiredRetrying)),
            (1, Some(99), None, RETRY, DeadLetter(ExpiredRetrying)),
            (1, Some(101), None, PANIC, DeadLetter(ExpiredRetrying)),
            (1, Some(110), None, later(9), Retry(9 * SECOND)),
            (1, Some(110), None, later(10), DeadLetter(ExpiredRetrying)),
            (1, None, Some(41), RETRY, Retry(SECOND)),
            (1, None, Some(40), RETRY, DeadLetter(TimeExhausted)),
            (1, None, Some(45), later(6), DeadLetter(TimeExhausted)),
            (1, Some(101), Some(40), RETRY, DeadLetter(ExpiredRetrying)),
            (3, Some(101), Some(40), RETRY, DeadLetter(AttemptsExhausted)),
            (1, Some(102), None, later(u64::MAX), DeadLetter(ExpiredRetrying)),
            (1, None, Some(u64::MAX), later(u64::MAX), Retry(Duration::from_secs(u64::MAX))),
        ] {
            let mut facts = Facts { attempt, deadline: deadline.map(Duration::from_secs), ..facts() };
            if let Some(within) = within {
                facts.policy = facts.policy.within(Duration::from_secs(within));
            }
            let settled = settlement(failure, &facts);
            assert_eq!(settled, expected, "{failure:?}, deadline {deadline:?}, within {within:?}");
        }
    }
}
