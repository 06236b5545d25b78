//! [`Record`]: a claim to a unique key, or its end, on the wire.
//!
//! | where | what |
//! | --- | --- |
//! | `message-id` | the task's id |
//! | `type` | `taskhare.claimed` or `taskhare.released` |
//! | `taskhare-unique` | the key |
//! | `taskhare-at` | when it was claimed, in milliseconds since the Unix epoch |
//! | `taskhare-until` | when the claim ends by itself, likewise |
//! | `taskhare-replace` | present: it takes the key from whoever has it |

use std::time::Duration;

use crate::message::Message;
use crate::task::TaskId;

const CLAIMED: &str = "taskhare.claimed";
const RELEASED: &str = "taskhare.released";
const UNIQUE: &str = "taskhare-unique";
const AT: &str = "taskhare-at";
const UNTIL: &str = "taskhare-until";
const REPLACE: &str = "taskhare-replace";

/// One entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) id: TaskId,
    pub(crate) key: String,
    pub(crate) what: What,
}

/// What happened to a key. Times are since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Claimed { at: Duration, until: Duration, replace: bool },
    Released,
}

impl Record {
    pub(crate) fn seal(self) -> Message {
        let mut message = Message { id: Some(self.id.to_string()), ..Message::default() };
        message.headers.insert(UNIQUE, self.key);
        match self.what {
            What::Released => message.kind = Some(RELEASED.into()),
            What::Claimed { at, until, replace } => {
                message.kind = Some(CLAIMED.into());
                message.headers.insert(AT, at);
                message.headers.insert(UNTIL, until);
                if replace {
                    message.headers.insert(REPLACE, true);
                }
            }
        }
        message
    }

    /// `None` if the message is something else: a marker, or of a later release.
    pub(crate) fn open(message: &Message) -> Option<Self> {
        let time = |name| message.headers.get(name)?.as_milliseconds();
        let what = match message.kind.as_deref()? {
            RELEASED => What::Released,
            CLAIMED => What::Claimed {
                at: time(AT)?,
                until: time(UNTIL)?,
                replace: message.headers.get(REPLACE).is_some(),
            },
            _ => return None,
        };
        let id = message.id.as_deref()?.parse().ok()?;
        Some(Self { id, key: message.headers.get(UNIQUE)?.as_text()?.to_owned(), what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_the_same() {
        let (at, until) =
            (Duration::from_millis(1_700_000_000_123), Duration::from_millis(1_700_000_009_999));
        for what in [
            What::Released,
            What::Claimed { at, until, replace: false },
            What::Claimed { at, until, replace: true },
        ] {
            let record = Record { id: TaskId::new(), key: "user-7".to_owned(), what };
            assert_eq!(Record::open(&record.clone().seal()), Some(record));
        }
        assert_eq!(Record::open(&Message::default()), None);
    }
}
