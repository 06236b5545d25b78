//! [`FailedAttempt`]: what a task remembers of its attempts. Pure.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::message::Headers;
use crate::message::Value;

/// How many attempts a task remembers: its last ones.
const MOST: usize = 10;
/// How much of each error, in bytes.
const LONGEST_ERROR: usize = 256;

const ATTEMPT: &str = "attempt";
const STARTED: &str = "started";
const TOOK: &str = "took";
const ERROR: &str = "error";

/// An attempt that failed. A task carries the last 10 with it, in its header `taskhare-failures`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// Its number: 1 is the first.
    pub number: u32,
    /// When it started, by the consumer's clock, to the millisecond.
    pub started: SystemTime,
    /// How long it took, to the millisecond.
    pub took: Duration,
    /// Its error, at most 256 bytes of it.
    pub error: String,
}

impl FailedAttempt {
    /// `started` is since the Unix epoch.
    pub(crate) fn new(number: u32, started: Duration, took: Duration, error: &str) -> Self {
        let error = excerpt(error, LONGEST_ERROR).to_owned();
        Self { number, started: UNIX_EPOCH + started, took, error }
    }
}

/// What a header says of earlier attempts, the first one first; nothing if there is no such header.
pub(crate) fn read(header: Option<&Value>) -> Vec<FailedAttempt> {
    let Some(Value::List(entries)) = header else { return Vec::new() };
    entries.iter().filter_map(read_one).collect()
}

/// The header with one more, and without those too many.
pub(crate) fn append(header: Option<Value>, attempt: &FailedAttempt) -> Value {
    let mut entries = match header {
        Some(Value::List(entries)) => entries,
        _ => Vec::new(),
    };
    let excess = (entries.len() + 1).saturating_sub(MOST);
    entries.drain(..excess);
    entries.push(write_one(attempt));
    Value::List(entries)
}

fn read_one(entry: &Value) -> Option<FailedAttempt> {
    let Value::Table(entry) = entry else { return None };
    let time = |name| entry.get(name)?.as_milliseconds();
    Some(FailedAttempt {
        number: u32::try_from(entry.get(ATTEMPT)?.as_int()?).ok()?,
        started: UNIX_EPOCH + time(STARTED)?,
        took: time(TOOK)?,
        error: entry.get(ERROR)?.as_text()?.to_owned(),
    })
}

fn write_one(attempt: &FailedAttempt) -> Value {
    let FailedAttempt { number, started, took, error } = attempt;
    let mut entry = Headers::new();
    entry.insert(ATTEMPT, i64::from(*number));
    entry.insert(STARTED, started.duration_since(UNIX_EPOCH).unwrap_or_default());
    entry.insert(TOOK, *took);
    entry.insert(ERROR, error.as_str());
    Value::Table(entry)
}

/// The beginning of `text`, at most `longest` bytes, cut between characters.
pub(crate) fn excerpt(text: &str, longest: usize) -> &str {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= longest);
    &text[..end.last().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32) -> FailedAttempt {
        let started = Duration::from_millis(1_700_000_000_000 + u64::from(number));
        FailedAttempt::new(number, started, Duration::from_millis(12), "the disk is full")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let header = append(Some(append(None, &attempt(1))), &attempt(2));
        assert_eq!(read(Some(&header)), [attempt(1), attempt(2)]);
        assert_eq!(read(None), []);
    }

    #[test]
    fn only_the_last_ten_are_kept() {
        let header = (1..=25).fold(None, |header, number| Some(append(header, &attempt(number))));
        let numbers: Vec<u32> = read(header.as_ref()).iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, (16..=25).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_history_is_skipped() {
        let odd = Value::List(vec![1.into(), write_one(&attempt(3)), Value::Table(Headers::new())]);
        assert_eq!(read(Some(&odd)), [attempt(3)]);
        assert_eq!(read(Some(&"long".into())), []);
        assert_eq!(read(Some(&append(Some("long".into()), &attempt(1)))), [attempt(1)]);
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let long = "ä".repeat(LONGEST_ERROR);
        let error = FailedAttempt::new(1, Duration::ZERO, Duration::ZERO, &long).error;
        assert!(error.len() <= LONGEST_ERROR && error.len() > LONGEST_ERROR - 2);
        assert_eq!(excerpt("short", LONGEST_ERROR), "short");
    }
}
