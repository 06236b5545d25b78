//! From the end of an attempt to what becomes of the task. Pure.

use std::time::Duration;

use crate::handler::Intent;
use crate::outcome::DeadReason;
use crate::retry::RetryPolicy;

/// How an attempt ended without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Its handler returned an error.
    Failed(Intent),
    /// Its handler panicked.
    Panicked,
    /// Its payload is not what the handler expects.
    Undecodable,
}

/// What to do with a task after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// Acknowledge it.
    Done,
    /// Publish its next attempt, due after this time, then acknowledge it.
    Retry(Duration),
    /// Publish it to the dead letters, then acknowledge it.
    DeadLetter(DeadReason),
    /// Return it to its queue as it is.
    HandBack,
}

/// Decides. `attempt` is the number of the one that ended; `cancelled` says that its consumer is shutting down;
/// `random` is in `0.0..1.0`.
pub(super) fn settlement(
    result: Result<(), Failure>,
    attempt: u32,
    policy: RetryPolicy,
    cancelled: bool,
    random: f64,
) -> Settlement {
    let Err(failure) = result else {
        return Settlement::Done;
    };
    match failure {
        Failure::Undecodable => Settlement::DeadLetter(DeadReason::Undecodable),
        Failure::Failed(Intent::Reject) => Settlement::DeadLetter(DeadReason::Rejected),
        // Whoever stops early because of a shutdown has not failed.
        Failure::Failed(_) if cancelled => Settlement::HandBack,
        Failure::Failed(intent) => match (policy.after(attempt, random), intent) {
            (None, _) => Settlement::DeadLetter(DeadReason::AttemptsExhausted),
            (Some(_), Intent::RetryAfter(wait)) => Settlement::Retry(wait.min(RetryPolicy::LONGEST_WAIT)),
            (Some(wait), _) => Settlement::Retry(wait),
        },
        Failure::Panicked => match policy.after(attempt, random) {
            None => Settlement::DeadLetter(DeadReason::AttemptsExhausted),
            Some(wait) => Settlement::Retry(wait),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_by_result_attempt_and_shutdown() {
        use DeadReason::{AttemptsExhausted, Rejected, Undecodable};
        use Settlement::{DeadLetter, Done, HandBack, Retry};
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        let retry = Err(Failure::Failed(Intent::Retry));
        let later = |wait| Err(Failure::Failed(Intent::RetryAfter(wait)));
        let reject = Err(Failure::Failed(Intent::Reject));
        // Three attempts, a second between them.
        let policy = RetryPolicy::fixed(second).max_attempts(3);
        for (result, attempt, cancelled, expected) in [
            (Ok(()), 1, false, Done),
            (Ok(()), 9, true, Done),
            (retry, 1, false, Retry(second)),
            (retry, 2, false, Retry(second)),
            (retry, 3, false, DeadLetter(AttemptsExhausted)),
            (retry, 1, true, HandBack),
            (retry, 3, true, HandBack),
            (later(2 * second), 1, false, Retry(2 * second)),
            (later(day), 1, false, Retry(RetryPolicy::LONGEST_WAIT)),
            (later(second), 3, false, DeadLetter(AttemptsExhausted)),
            (later(second), 1, true, HandBack),
            (reject, 1, false, DeadLetter(Rejected)),
            (reject, 1, true, DeadLetter(Rejected)),
            (Err(Failure::Panicked), 1, false, Retry(second)),
            (Err(Failure::Panicked), 3, false, DeadLetter(AttemptsExhausted)),
            (Err(Failure::Panicked), 1, true, Retry(second)),
            (Err(Failure::Undecodable), 1, false, DeadLetter(Undecodable)),
            (Err(Failure::Undecodable), 1, true, DeadLetter(Undecodable)),
        ] {
            let settled = settlement(result, attempt, policy, cancelled, 0.5);
            assert_eq!(settled, expected, "{result:?} of attempt {attempt}, cancelled: {cancelled}");
        }
    }
}
