//! [`Message`]: what goes over the wire, whatever the wire is.

use std::borrow::Cow;
use std::time::Duration;

/// The longest time to live that RabbitMQ takes, of a queue or a message: ten years.
pub(crate) const LONGEST_TIME_TO_LIVE: Duration = Duration::from_millis(315_360_000_000);

/// A message as the broker stores it. Always persistent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// `message-id`; a task's id.
    pub id: Option<String>,
    /// `type`; a task's name.
    pub kind: Option<Cow<'static, str>>,
    /// `content-type` of the body.
    pub content_type: Option<Cow<'static, str>>,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// `reply-to`.
    pub reply_to: Option<String>,
    /// `timestamp`, in seconds since the Unix epoch.
    pub timestamp: Option<u64>,
    /// `expiration`: how long it may wait in a queue, to the millisecond; then it is dead-lettered (or dropped).
    /// A queue's own limit applies if that is shorter.
    pub expiration: Option<Duration>,
    /// Everything that AMQP has no property for.
    pub headers: Headers,
    /// The payload.
    pub body: Vec<u8>,
}

/// The value of a header.
///
/// What RabbitMQ's other clients may send maps to the nearest of these; a value of a type without one (decimals,
/// nothing) reads as [`Value::Null`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, or a type we do not read.
    Null,
    /// A truth value.
    Bool(bool),
    /// Any integer type.
    Int(i64),
    /// Any float type. RabbitMQ takes finite ones only.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Seconds since the Unix epoch.
    Timestamp(u64),
    /// A list.
    List(Vec<Self>),
    /// A nested table.
    Table(Headers),
}

impl Value {
    /// The integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        self.as_int().and_then(|value| u64::try_from(value).ok())
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }

    /// The time or time span of so many milliseconds, if it is an integer and not negative.
    pub fn as_milliseconds(&self) -> Option<Duration> {
        self.as_unsigned().map(Duration::from_millis)
    }
}

/// In milliseconds, rounded down; at most `i64::MAX`.
impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self::Int(i64::try_from(value.as_millis()).unwrap_or(i64::MAX))
    }
}

/// At most `i64::MAX`.
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// A timestamp since the Unix epoch. Anybody may write any; what is after the year 9999 is taken for its end, which every
/// clock can show.
pub(crate) fn since_epoch(timestamp: u64) -> Duration {
    Duration::from_secs(timestamp.min(253_402_300_799))
}

/// As headers count, but rounded up: for what must not be early.
pub(crate) fn whole_milliseconds(time: Duration) -> Duration {
    let beyond = time.subsec_nanos() % 1_000_000;
    if beyond == 0 { time } else { time.saturating_add(Duration::from_nanos((1_000_000 - beyond).into())) }
}

/// A header table. Few entries, so a list in the order of insertion.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(Cow<'static, str>, Value)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Sets `name`, replacing what it was.
    pub fn insert(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Removes `name` and returns what it was.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(key, _)| key == name)?;
        Some(self.0.remove(index).1)
    }

    /// Removes what the broker added on the way: delivery counts, death records, extra routes. Every republish does
    /// this, because brokers before 4.0 take a copied `x-death` for a dead-letter cycle and drop the message, and
    /// would route a copied `CC` again.
    pub fn strip_broker_headers(&mut self) {
        self.0.retain(|(key, _)| !key.starts_with("x-") && key != "CC" && key != "BCC");
    }

    /// All entries, in order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Headers {
    type Item = (Cow<'static, str>, Value);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Tables are unordered: equal if they hold the same entries.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Into<Cow<'static, str>>, V: Into<Value>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_travel_in_milliseconds() {
        let (ms, ns) = (Duration::from_millis, Duration::from_nanos);
        for (time, written, read, rounded_up) in [
            (ns(0), 0, ms(0), ms(0)),
            (ns(1), 0, ms(0), ms(1)),
            (ns(1_000_000), 1, ms(1), ms(1)),
            (ns(1_999_999), 1, ms(1), ms(2)),
            (ns(999_000_001), 999, ms(999), ms(1000)),
            (Duration::MAX, i64::MAX, ms(u64::MAX / 2), Duration::MAX),
        ] {
            let value = Value::from(time);
            assert_eq!(value, Value::Int(written), "{time:?}");
            assert_eq!(value.as_milliseconds(), Some(read), "{time:?}");
            assert_eq!(whole_milliseconds(time), rounded_up, "{time:?}");
        }
        for odd in [Value::Int(-1), Value::Timestamp(1), "1".into(), Value::Null] {
            assert_eq!(odd.as_milliseconds(), None, "{odd:?}");
        }
    }
}
