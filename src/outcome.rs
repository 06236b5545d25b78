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
    /// Not counted as an attempt; the task is back in its queue.
    HandedBack,
}

/// Why a task is in the dead letters: the text of its header `taskhare-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// Its handler gave up: [`TaskError::reject`](crate::TaskError::reject).
    Rejected,
    /// Its last attempt failed.
    AttemptsExhausted,
    /// Its payload is not what its type expects.
    Undecodable,
    /// The consumer has no handler for its name.
    UnknownTask,
    /// Not a task at all: a message without our headers, or of a later version of them.
    Foreign,
}

impl DeadReason {
    /// As it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::Undecodable => "undecodable",
            Self::UnknownTask => "unknown-task",
            Self::Foreign => "foreign",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
