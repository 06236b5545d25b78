//! [`Foreign`]: a message that this release does not read as a task, and whether it waits for one that does. Pure.
//!
//! Of a message of a later release only this is known, because all releases agree on it: that its `content-type` begins
//! alike and names a higher version, what `message-id` and `type` are, the headers `taskhare-priority`, `-due`, `-hold`,
//! `-deadline`, `-queue`, `-returned` and `-lease`, and this one:
//!
//! | header | what |
//! | --- | --- |
//! | `taskhare-unread-since` | since when consumers that cannot read it pass it on, in milliseconds since the Unix epoch |

use std::time::Duration;

use super::QUEUE;
use super::milliseconds;
use super::note_returned;
use super::returned;
use crate::message::Message;

/// With the version. Most tasks have no header at all: a table, even of one entry, costs both ends more than all of the
/// properties.
pub(super) const CONTENT_TYPE: &str = "application/vnd.taskhare.v1+msgpack";
/// What the content types of all versions begin with; the number follows.
const ANY_VERSION: &str = "application/vnd.taskhare.v";
const VERSION: u32 = 1;

pub(super) const UNREAD_SINCE: &str = "taskhare-unread-since";

/// How long a task of a later release waits for a consumer that can read it: longer than deployments take.
const LONGEST_UNREAD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long until the next consumer looks at it: a quarter of the time that it has waited, within these bounds.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A message that is not a task, or not to this release, and why not.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) message: Message,
    pub(crate) why: String,
}

impl Foreign {
    /// For how long it is to wait until a consumer looks at it again, who may be of a later release; or why it is a dead
    /// letter. `now` is since the Unix epoch.
    pub(crate) fn wait(&self, now: Duration) -> Result<Duration, String> {
        if !is_newer(&self.message) {
            return Err(self.why.clone());
        }
        let waited = now.saturating_sub(self.unread_since().unwrap_or(now));
        if waited >= LONGEST_UNREAD {
            return Err(format!("{}; none that reads more took it within {LONGEST_UNREAD:?}", self.why));
        }
        Ok((waited / 4).clamp(SHORTEST_WAIT, LONGEST_WAIT))
    }

    /// Since when it is passed on, if it was passed on before.
    pub(crate) fn unread_since(&self) -> Option<Duration> {
        milliseconds(&self.message.headers, UNREAD_SINCE)
    }

    /// The same message for another consumer of `queue`. `returned`: how often it came back without an end.
    pub(crate) fn pass_on(self, queue: &str, returned: u32, now: Duration) -> Message {
        // A time to come, by another clock, would be waited for.
        let since = self.unread_since().unwrap_or(now).min(now);
        let mut message = self.message;
        // As on any way through the wheel: the shorter of two times to live would count.
        message.expiration = None;
        message.headers.strip_broker_headers();
        message.headers.insert(UNREAD_SINCE, since);
        message.headers.insert(QUEUE, queue);
        note_returned(&mut message, returned);
        message
    }

    /// How often it came back without an end before this message, as far as is noted on it.
    pub(crate) fn returned(&self) -> u32 {
        returned(&self.message)
    }
}

/// Whether some release of ours wrote a message, this one or another.
pub(crate) fn is_any_version(message: &Message) -> bool {
    message.content_type.as_deref().is_some_and(|text| text.starts_with(ANY_VERSION))
}

/// Whether a later release wrote it.
fn is_newer(message: &Message) -> bool {
    let version = message.content_type.as_deref().and_then(|text| text.strip_prefix(ANY_VERSION));
    let number = version.and_then(|text| text.split('+').next()?.parse::<u32>().ok());
    number.is_some_and(|number| number > VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;
    use crate::message::Value;
    use crate::task::TaskId;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn foreign(content_type: &'static str, unread_for: Option<Duration>) -> Foreign {
        let mut message = Message { content_type: Some(content_type.into()), ..Message::default() };
        if let Some(time) = unread_for {
            message.headers.insert(UNREAD_SINCE, NOW - time);
        }
        Foreign { message, why: "unread".to_owned() }
    }

    #[test]
    fn only_a_higher_version_of_ours_is_newer() {
        for (text, expected) in [
            ("application/vnd.taskhare.v1+msgpack", false),
            ("application/vnd.taskhare.v2+msgpack", true),
            ("application/vnd.taskhare.v17+cbor", true),
            ("application/vnd.taskhare.v2", true),
            ("application/vnd.taskhare.v0+msgpack", false),
            ("application/vnd.taskhare.vx+msgpack", false),
            ("application/vnd.taskhare.v99999999999+msgpack", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_newer(&foreign(text, None).message), expected, "{text}");
            assert_eq!(foreign(text, None).wait(NOW).is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_newer_waits_longer_each_time_and_a_day_in_all() {
        let s = Duration::from_secs;
        for (waited, expected) in [
            (None, Ok(s(1))),
            (Some(s(0)), Ok(s(1))),
            (Some(s(20)), Ok(s(5))),
            (Some(s(3600)), Ok(s(60))),
            (Some(s(24 * 3600) - s(1)), Ok(s(60))),
            (Some(s(24 * 3600)), Err("unread; none that reads more took it within 86400s".to_owned())),
        ] {
            let foreign = foreign("application/vnd.taskhare.v2+msgpack", waited);
            assert_eq!(foreign.wait(NOW), expected, "{waited:?}");
        }
        let mut ahead = foreign("application/vnd.taskhare.v2+msgpack", None);
        ahead.message.headers.insert(UNREAD_SINCE, NOW + s(9_999_999));
        assert_eq!(ahead.wait(NOW), Ok(s(1)));
        assert_eq!(milliseconds(&ahead.pass_on("mail", 0, NOW).headers, UNREAD_SINCE), Some(NOW));
    }

    #[test]
    fn what_is_passed_on_keeps_all_it_says_and_since_when() {
        let mut first = foreign("application/vnd.taskhare.v2+msgpack", None);
        first.message.headers.insert("taskhare-of-a-later-release", 7);
        first.message.headers.insert("x-death", Value::List(Vec::new()));
        first.message.expiration = Some(NOW);
        first.message.body = vec![1, 2, 3];
        let later = NOW + Duration::from_secs(9);
        let once = first.clone().pass_on("mail", 0, NOW);
        let twice = Foreign { message: once, why: String::new() }.pass_on("mail", 2, later);
        let mut expected = Message { expiration: None, ..first.message };
        expected.headers.remove("x-death");
        expected.headers.insert(UNREAD_SINCE, NOW);
        expected.headers.insert(QUEUE, "mail");
        assert_eq!(returned(&twice), 2);
        expected.headers.insert("taskhare-returned", 2);
        assert_eq!(twice, expected);
    }

    #[test]
    fn who_can_read_it_forgets_that_others_could_not() {
        let mut message = Envelope::new(TaskId::new(), "send", NOW, Vec::new()).seal();
        message.headers.insert(UNREAD_SINCE, NOW);
        assert_eq!(Envelope::open(message).unwrap().seal().headers.get(UNREAD_SINCE), None);
    }
}
