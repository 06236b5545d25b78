//! [`Position`]: how far a stream was read, and where to go on. Pure.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Message;
use crate::message::Value;
use crate::transport::Start;

/// Where a subscriber of a stream is. The broker keeps no such thing for it.
///
/// A new channel goes on with the delivery handed out last, not with the one after it: if another one is in its place,
/// or none, then the stream was deleted and made anew meanwhile, and all that is in it is new.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    start: Start,
    /// When the stream was first read, if it was.
    since: Option<Instant>,
    /// What was handed out last.
    last: Option<Mark>,
    /// That one has to come again first.
    is_resuming: bool,
}

/// A message at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    offset: u64,
    fingerprint: u64,
}

/// What a delivery is to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The next one.
    New,
    /// It was handed out before.
    Known,
    /// It is from another stream of this name.
    Foreign,
}

impl Position {
    pub(super) fn new(start: Start) -> Self {
        Self { start, since: None, last: None, is_resuming: false }
    }

    /// The stream was read from this moment on, or from shortly after it.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// Another channel goes on.
    pub(super) fn resume(&mut self) {
        self.is_resuming = self.last.is_some();
    }

    /// Whether what was handed out last has to come again, and has not.
    pub(super) fn is_resuming(&self) -> bool {
        self.is_resuming
    }

    /// Goes on with all of another stream.
    pub(super) fn restart(&mut self) {
        *self = Self { start: Start::First, last: None, is_resuming: false, ..*self };
    }

    /// Where the broker shall start, as it is told.
    pub(super) fn argument(&self, now: Instant) -> Value {
        if let Some(Mark { offset, .. }) = self.last {
            return offset.into();
        }
        let elapsed = self.since.map(|since| now.saturating_duration_since(since));
        match (self.start, elapsed) {
            (Start::First, _) => "first".into(),
            (Start::Offset(offset), _) => offset.into(),
            (Start::Next, None) => "next".into(),
            // What was published while there was no channel is among what was to come.
            (Start::Next, Some(elapsed)) => ago(elapsed),
            (Start::Ago(ago_then), elapsed) => ago(ago_then.saturating_add(elapsed.unwrap_or_default())),
        }
    }

    /// The message at `offset` has come.
    pub(super) fn read(&mut self, offset: u64, message: &Message) -> Reading {
        let mark = Mark { offset, fingerprint: fingerprint(message) };
        if let Some(last) = self.last.filter(|_| self.is_resuming) {
            if mark == last {
                self.is_resuming = false;
                return Reading::Known;
            }
            // Beyond it: too old to be kept, it is gone.
            if offset <= last.offset {
                return Reading::Foreign;
            }
        }
        self.is_resuming = false;
        self.last = Some(mark);
        Reading::New
    }
}

/// In seconds, and by the broker's clock.
fn ago(duration: Duration) -> Value {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    format!("{}s", seconds.max(1)).into()
}

fn fingerprint(message: &Message) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&message.id, message.timestamp, &message.body).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        Message { body: body.into(), ..Message::default() }
    }

    #[test]
    fn it_starts_where_it_was_asked_to_and_misses_nothing_until_the_first_delivery() {
        let seconds = Duration::from_secs;
        let table = [
            (Start::First, None, "first"),
            (Start::First, Some(seconds(9)), "first"),
            (Start::Next, None, "next"),
            (Start::Next, Some(Duration::from_millis(1)), "1s"),
            (Start::Next, Some(seconds(9)), "9s"),
            (Start::Ago(seconds(60)), None, "60s"),
            (Start::Ago(Duration::from_millis(1_001)), None, "2s"),
            (Start::Ago(Duration::ZERO), None, "1s"),
            (Start::Ago(seconds(60)), Some(seconds(9)), "69s"),
        ];
        for (start, elapsed, expected) in table {
            let now = Instant::now();
            let mut position = Position::new(start);
            if let Some(elapsed) = elapsed {
                position.begin(now);
                position.resume();
                assert_eq!(position.argument(now + elapsed), expected.into(), "{start:?} after {elapsed:?}");
            } else {
                assert_eq!(position.argument(now), expected.into(), "{start:?}");
            }
        }
    }

    #[test]
    fn it_goes_on_after_the_last_one_and_knows_another_stream() {
        let table: [(u64, &str, Reading); 5] = [
            (7, "last", Reading::Known),
            (8, "after", Reading::New),
            (90, "much later", Reading::New),
            (7, "another", Reading::Foreign),
            (0, "last", Reading::Foreign),
        ];
        for (offset, body, expected) in table {
            let mut position = Position::new(Start::Next);
            for (offset, body) in [(6, "before"), (7, "last")] {
                assert_eq!(position.read(offset, &message(body)), Reading::New);
            }
            position.resume();
            assert_eq!(position.argument(Instant::now()), Value::Int(7));
            assert_eq!(position.read(offset, &message(body)), expected, "{offset} {body}");
            assert_eq!(position.is_resuming(), expected == Reading::Foreign);
        }
    }

    #[test]
    fn another_stream_is_read_whole() {
        let mut position = Position::new(Start::Next);
        position.read(7, &message("last"));
        position.restart();
        position.resume();
        assert_eq!(position.argument(Instant::now()), "first".into());
        assert_eq!(position.read(0, &message("new")), Reading::New);
        assert_eq!(position.argument(Instant::now()), Value::Int(0));
    }
}
