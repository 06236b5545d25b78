//! [`Reply`]: what became of a task, on its way back to who enqueued it.
//!
//! | where | what |
//! | --- | --- |
//! | body | the output, as MessagePack, if the task succeeded |
//! | `correlation-id` | the task's id |
//! | `type` | `taskhare.output` |
//! | `taskhare-reason` | why the task is dead; absent: it succeeded |
//! | `taskhare-error` | its last error |

use crate::message::Message;
use crate::outcome::DeadReason;
use crate::task::TaskId;

const KIND: &str = "taskhare.output";
const REASON: &str = "taskhare-reason";
const ERROR: &str = "taskhare-error";
/// The reason of a task that was cancelled. There is no dead letter of it.
const CANCELLED: &str = "cancelled";

/// The end of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Its output, encoded.
    Succeeded(Vec<u8>),
    /// Why it is dead.
    Dead { reason: String, error: String },
}

impl Reply {
    pub(crate) fn dead(reason: DeadReason, error: &str) -> Self {
        Self::Dead { reason: reason.as_str().to_owned(), error: error.to_owned() }
    }

    pub(crate) fn cancelled(error: &str) -> Self {
        Self::Dead { reason: CANCELLED.to_owned(), error: error.to_owned() }
    }

    pub(crate) fn seal(self, id: TaskId) -> Message {
        let mut message =
            Message { kind: Some(KIND.into()), correlation_id: Some(id.to_string()), ..Message::default() };
        match self {
            Self::Succeeded(output) => message.body = output,
            Self::Dead { reason, error } => {
                message.headers.insert(REASON, reason);
                message.headers.insert(ERROR, error);
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
        let text = |name| message.headers.get(name).and_then(|value| value.as_text()).map(str::to_owned);
        let reply = match text(REASON) {
            None => Self::Succeeded(message.body),
            Some(reason) => Self::Dead { reason, error: text(ERROR).unwrap_or_default() },
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
        for reply in [Reply::Succeeded(vec![1, 2]), Reply::dead(DeadReason::Rejected, "no such image")] {
            assert_eq!(Reply::open(reply.clone().seal(id)), Some((id, reply)));
        }
        assert_eq!(Reply::open(Message::default()), None);
    }
}
