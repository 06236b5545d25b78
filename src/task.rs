//! [`Task`] and [`TaskId`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Builder;
use uuid::Uuid;

use crate::retry::RetryPolicy;

/// A piece of work: a payload with a name.
///
/// The payload travels as MessagePack with field names, so that fields with a `#[serde(default)]` can be added while
/// old tasks are still on the broker.
///
/// ```
/// use taskhare::Task;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Resize {
///     image: String,
///     width: u32,
/// }
///
/// impl Task for Resize {
///     const NAME: &'static str = "resize";
///     type Output = String;
/// }
/// ```
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// Identifies the kind of task on the wire; 1 to 255 bytes. Changing it orphans the tasks already enqueued.
    const NAME: &'static str;

    /// The queue it goes to unless [`queue`](crate::Enqueue::queue) says otherwise. Defaults to `"default"`.
    const QUEUE: &'static str = "default";

    /// What its handler returns. `()` if there is nothing to tell.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// How failed tasks of this type are tried again; `None`, the default: as the consumer says. [`RetryPolicy`] tells
    /// what goes first.
    fn retry() -> Option<RetryPolicy> {
        None
    }
}

/// Identifies one task through all its attempts: what a handler keys its own idempotence on.
///
/// A UUID; new ones are of version 7, which sort by the millisecond. Serde writes it as text, or as 16 bytes where the
/// format is not for humans.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId(Uuid);

impl TaskId {
    /// A new id.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "two calls give different ids")]
    pub fn new() -> Self {
        Self::at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// A new id of that time since the Unix epoch.
    pub(crate) fn at(time: Duration) -> Self {
        // Unique, not secret: a generator in this thread saves a system call for each task.
        let mut random = [0; 10];
        fastrand::fill(&mut random);
        Self(Builder::from_unix_timestamp_millis(milliseconds(time), &random).into_uuid())
    }

    /// The id of that time that follows from another one and `what`: always the same. A UUID of version 7 like any other,
    /// with a hash where those have random bits.
    pub(crate) fn derived(from: Self, what: &[u8], time: Duration) -> Self {
        let hash = Uuid::new_v5(&from.0, what).into_bytes();
        // Without the bits that tell the version of the hash.
        let mut bits = [0; 10];
        bits[..6].copy_from_slice(&hash[..6]);
        bits[6..].copy_from_slice(&hash[12..]);
        Self(Builder::from_unix_timestamp_millis(milliseconds(time), &bits).into_uuid())
    }

    /// When it was made, to the millisecond since the Unix epoch, if it says so: a UUID of version 7 does.
    pub(crate) fn time(self) -> Option<Duration> {
        let (seconds, nanoseconds) =
            self.0.get_timestamp().filter(|_| self.0.get_version_num() == 7)?.to_unix();
        Some(Duration::new(seconds, nanoseconds))
    }

    /// An id from elsewhere, as a number of 128 bits.
    #[must_use]
    pub fn from_u128(id: u128) -> Self {
        Self(Uuid::from_u128(id))
    }

    /// The id as a number.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a [`TaskId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a task id: a UUID is expected")]
pub struct ParseTaskIdError(String);

impl FromStr for TaskId {
    type Err = ParseTaskIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseTaskIdError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_as_written() {
        let id = TaskId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(TaskId::from_u128(id.as_u128()), id);
        let time = Duration::from_millis(1_700_000_000_123);
        assert_eq!(TaskId::at(time).time(), Some(time));
        assert_eq!(TaskId::derived(id, b"tick", time).time(), Some(time));
        assert_eq!(TaskId::from_u128(7).time(), None);
        assert!("hare".parse::<TaskId>().unwrap_err().to_string().contains("hare"));
    }
}
