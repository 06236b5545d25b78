//! [`Outcome`] and [`DeadReason`]: the closed vocabulary of what becomes of an attempt.

use std::fmt;

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Done. The task is gone from the broker.
    Succeeded,
    /// It failed, and the broker has confirmed the message of its next attempt.
    Retried,
    /// It is in the queue's dead letters, confirmed by the broker.
    DeadLettered(DeadReason),
    /// It came too late, and is in the queue's dead letters with that reason.
    Expired(DeadReason),
    /// It was cancelled, and is gone from the broker.
    Cancelled,
    /// It was rescheduled: another copy counts, and this one is gone from the broker.
    Superseded,
    /// Not counted as an attempt; the task is back in its queue.
    HandedBack,
    /// Not started, and not counted: it waits in the delay wheel, or in quarantine.
    Deferred,
}

/// Why a task is in the dead letters: the text of its header `taskhare-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// Its handler gave up: [`TaskError::reject`](crate::TaskError::reject).
    Rejected,
    /// Its last attempt failed.
    AttemptsExhausted,
    /// It failed, and its next attempt would come later than its policy allows.
    TimeExhausted,
    /// Its deadline passed in its queue: the broker took it out.
    ExpiredInQueue,
    /// Its deadline had passed when its turn came.
    ExpiredUnstarted,
    /// Its deadline passed while it ran.
    ExpiredRunning,
    /// It failed, and its next attempt could not have started before its deadline.
    ExpiredRetrying,
    /// It was started again and again, and each time its consumer died or lost its connection: see
    /// [`crash_limit`](crate::ConsumerBuilder::crash_limit).
    Crashed,
    /// Its payload is not what its type expects.
    Undecodable,
    /// The consumer has no handler for its name.
    UnknownTask,
    /// Not a task at all: a message without our headers, or of a later version of them.
    Foreign,
    /// When it was due there was no such queue any more.
    Undeliverable,
}

impl DeadReason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Rejected,
        Self::AttemptsExhausted,
        Self::TimeExhausted,
        Self::ExpiredInQueue,
        Self::ExpiredUnstarted,
        Self::ExpiredRunning,
        Self::ExpiredRetrying,
        Self::Crashed,
        Self::Undecodable,
        Self::UnknownTask,
        Self::Foreign,
        Self::Undeliverable,
    ];

    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::TimeExhausted => "time-exhausted",
            Self::ExpiredInQueue => "expired-in-queue",
            Self::ExpiredUnstarted => "expired-unstarted",
            Self::ExpiredRunning => "expired-running",
            Self::ExpiredRetrying => "expired-retrying",
            Self::Crashed => "crashed",
            Self::Undecodable => "undecodable",
            Self::UnknownTask => "unknown-task",
            Self::Foreign => "foreign",
            Self::Undeliverable => "undeliverable",
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// How many attempts a task had that died with `attempt` to come or under way.
    pub(crate) fn attempts(self, attempt: u32) -> u32 {
        match self {
            // Its turn had not come, or its handler saw nothing of it.
            Self::ExpiredInQueue
            | Self::ExpiredUnstarted
            | Self::Undecodable
            | Self::UnknownTask
            | Self::Foreign
            | Self::Undeliverable => attempt.saturating_sub(1),
            Self::Rejected
            | Self::AttemptsExhausted
            | Self::TimeExhausted
            | Self::ExpiredRunning
            | Self::ExpiredRetrying
            | Self::Crashed => attempt,
        }
    }

    /// Whether its deadline was the reason.
    #[must_use]
    pub fn is_expiry(self) -> bool {
        matches!(
            self,
            Self::ExpiredInQueue | Self::ExpiredUnstarted | Self::ExpiredRunning | Self::ExpiredRetrying
        )
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_count_if_they_were_started() {
        for reason in DeadReason::ALL {
            let expected = match reason.as_str() {
                "rejected" | "attempts-exhausted" | "time-exhausted" => 3,
                "expired-running" | "expired-retrying" | "crashed" => 3,
                _ => 2,
            };
            assert_eq!(reason.attempts(3), expected, "{reason}");
        }
    }
}
