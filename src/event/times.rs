//! Times as events carry them: in microseconds, since the Unix epoch where they are times of day.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// At most `u64::MAX`.
pub(super) fn to_micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Since the Unix epoch; 0 for what was before it.
pub(super) fn since_epoch(time: SystemTime) -> u64 {
    to_micros(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The inverse of [`since_epoch`]. The epoch for what no clock can show.
pub(super) fn at_epoch(micros: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(micros)).unwrap_or(UNIX_EPOCH)
}

/// A `Duration` for serde.
pub(super) mod microseconds {
    use std::time::Duration;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(super::to_micros(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

/// An `Option<Duration>` for serde.
pub(super) mod optional_microseconds {
    use std::time::Duration;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serialize;
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(super::to_micros).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_micros))
    }
}

/// A `SystemTime` for serde.
pub(super) mod time_of_day {
    use std::time::SystemTime;

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(super::since_epoch(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        u64::deserialize(deserializer).map(super::at_epoch)
    }
}
