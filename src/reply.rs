//! [`Reply`]: what became of a task, on its way back to who enqueued it.
//!
//! | where | what |
//! | --- | --- |
//! | body | the output, as MessagePack, if the task succeeded |
//! | `correlation-id` | the task's id |
//! | `type` | `taskhare.output` |
//! | `taskhare-reason` | why the task is dead, or `cancelled`, or `output-too-large`; absent: it succeeded |
//! | `taskhare-error` | its last error |
//! | `taskhare-size`, `taskhare-limit` | how many bytes an output has that is too large, and may have |

use crate::message::Message;
use crate::message::Value;
use crate::outcome::DeadReason;
use crate::task::TaskId;

const KIND: &str = "taskhare.output";
const REASON: &str = "taskhare-reason";
const ERROR: &str = "taskhare-error";
/// The reason of a task that was cancelled. There is no dead letter of it.
const CANCELLED: &str = "cancelled";
/// The reason of a task that has succeeded, with more to tell than a message may carry.
const TOO_LARGE: &str = "output-too-large";
const SIZE: &str = "taskhare-size";
const LIMIT: &str = "taskhare-limit";

/// The end of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Its output, encoded.
    Succeeded(Vec<u8>),
    /// Why it is dead.
    Dead { reason: DeadReason, error: String },
    /// What it was doing.
    Cancelled { error: String },
    /// It succeeded; in bytes.
    TooLarge { size: usize, limit: usize },
}

impl Reply {
    pub(crate) fn dead(reason: DeadReason, error: &str) -> Self {
        Self::Dead { reason, error: error.to_owned() }
    }

    pub(crate) fn cancelled(error: &str) -> Self {
        Self::Cancelled { error: error.to_owned() }
    }

    /// The output, if it is no larger than it may be.
    pub(crate) fn succeeded(output: Vec<u8>, limit: usize) -> Self {
        match output.len() {
            size if size > limit => Self::TooLarge { size, limit },
            _ => Self::Succeeded(output),
        }
    }

    pub(crate) fn seal(self, id: TaskId) -> Message {
        let mut message =
            Message { kind: Some(KIND.into()), correlation_id: Some(id.to_string()), ..Message::default() };
        let headers = &mut message.headers;
        match self {
            Self::Succeeded(output) => message.body = output,
            Self::Dead { reason, error } => {
                headers.insert(REASON, reason.as_str());
                headers.insert(ERROR, error);
            }
            Self::Cancelled { error } => {
                headers.insert(REASON, CANCELLED);
                headers.insert(ERROR, error);
            }
            Self::TooLarge { size, limit } => {
                headers.insert(REASON, TOO_LARGE);
                headers.insert(SIZE, size as u64);
                headers.insert(LIMIT, limit as u64);
            }
        }
        message
    }

    /// `None` if the message is something else.
    pub(crate) fn open(message: Message) -> Option<(TaskId, Self)> {
        if message.kind.as_deref() != Some(KIND) {
            return None;
        }
        let id = message.correlation_id?.parse().ok()?;
        let value = |name| message.headers.get(name);
        let error = || value(ERROR).and_then(Value::as_text).unwrap_or_default().to_owned();
        let size = |name| value(name).and_then(Value::as_unsigned).unwrap_or_default() as usize;
        let reply = match value(REASON).map(|reason| reason.as_text().unwrap_or_default()) {
            None => Self::Succeeded(message.body),
            Some(CANCELLED) => Self::Cancelled { error: error() },
            Some(TOO_LARGE) => Self::TooLarge { size: size(SIZE), limit: size(LIMIT) },
            // As dead letters are read: what a later release may say is no reason that we know.
            Some(reason) => Self::Dead {
                reason: DeadReason::parse(reason).unwrap_or(DeadReason::Foreign),
                error: error(),
            },
        };
        Some((id, reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_the_same() {
        let id = TaskId::new();
        for reply in [
            Reply::succeeded(vec![1, 2], 2),
            Reply::succeeded(vec![1, 2, 3], 2),
            Reply::dead(DeadReason::Rejected, "no such image"),
            Reply::cancelled("it waited"),
        ] {
            assert_eq!(Reply::open(reply.clone().seal(id)), Some((id, reply)));
        }
        assert_eq!(Reply::open(Message::default()), None);
    }
}
