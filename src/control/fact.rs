//! [`Fact`]: what somebody decided about a task that is already on the broker, on its way to all consumers.
//!
//! | where | what |
//! | --- | --- |
//! | `message-id` | the task's id |
//! | `type` | `taskhare.cancelled` or `taskhare.rescheduled` |
//! | `timestamp` | when it was decided, in seconds |
//! | `taskhare-revision` | of a rescheduled task, the copy that counts now |

use std::time::Duration;

use crate::message::Message;
use crate::message::since_epoch;
use crate::task::TaskId;

const CANCELLED: &str = "taskhare.cancelled";
const RESCHEDULED: &str = "taskhare.rescheduled";
const REVISION: &str = "taskhare-revision";

/// A decision about one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) id: TaskId,
    pub(crate) decision: Decision,
    /// Since the Unix epoch, to the second.
    pub(crate) at: Duration,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It shall not be started, and stop if it runs.
    Cancelled,
    /// Copies older than this one shall not be started.
    Rescheduled(u64),
}

impl Fact {
    pub(crate) fn seal(self) -> Message {
        let mut message = Message {
            id: Some(self.id.to_string()),
            timestamp: Some(self.at.as_secs()),
            ..Message::default()
        };
        match self.decision {
            Decision::Cancelled => message.kind = Some(CANCELLED.into()),
            Decision::Rescheduled(revision) => {
                message.kind = Some(RESCHEDULED.into());
                message.headers.insert(REVISION, revision);
            }
        }
        message
    }

    /// `None` if the message is something else: a marker, or of a later release.
    pub(crate) fn open(message: &Message) -> Option<Self> {
        let decision = match message.kind.as_deref()? {
            CANCELLED => Decision::Cancelled,
            RESCHEDULED => Decision::Rescheduled(message.headers.get(REVISION)?.as_unsigned()?),
            _ => return None,
        };
        let id = message.id.as_deref()?.parse().ok()?;
        Some(Self { id, decision, at: since_epoch(message.timestamp.unwrap_or_default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_the_same() {
        for decision in [Decision::Cancelled, Decision::Rescheduled(1_700_000_000_123)] {
            let fact = Fact { id: TaskId::new(), decision, at: Duration::from_secs(1_700_000_000) };
            assert_eq!(Fact::open(&fact.seal()), Some(fact));
        }
        assert_eq!(Fact::open(&Message::default()), None);
    }
}
