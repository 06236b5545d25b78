//! [`Envelope`]: a task on the wire. The only file that knows the payload's encoding and the names of our headers.
//!
//! | where | what |
//! | --- | --- |
//! | body | the payload, MessagePack with field names |
//! | `message-id` | the task's id |
//! | `type` | the task's name |
//! | `content-type` | `application/vnd.taskhare.v1+msgpack`: the version of all this |
//! | `timestamp` | when it was enqueued, in seconds |
//! | `reply-to` | where its output is expected, if anywhere |
//! | `taskhare-enqueued-at` | in milliseconds since the Unix epoch; absent: the time in the id |
//! | `taskhare-attempt` | the number of the attempt to come; absent: 1 |
//! | `taskhare-max-attempts` | overrides the policy's; absent: it does not |
//! | `taskhare-priority` | `urgent` or `low`; absent: normal |
//! | `taskhare-due` | not to be started before, in milliseconds since the Unix epoch; absent: at once |
//! | `taskhare-hold` | how long before it is due it was to reach its lane, in milliseconds |
//! | `taskhare-deadline` | not to be started after, in milliseconds since the Unix epoch; absent: never too late |
//! | `taskhare-run-timeout` | how long one attempt may take, in milliseconds; absent: what its consumer allows |
//! | `taskhare-revision` | which of several copies of a rescheduled task this is; absent: 0 |
//! | `taskhare-returned` | how often it came back without an end before this message; absent: 0 |
//! | `taskhare-lease` | which copy this is of a task that runs for long; 0: of none, and it may have been started before |
//! | `taskhare-unique` | the key of which there may be one task at a time; absent: none |
//! | `taskhare-tick` | of a schedule's task: which tick it is; see [`Tick`] |
//! | `taskhare-schedule` | of the same, until somebody publishes it again: the schedule; see [`Entry`](crate::schedule) |
//! | `taskhare-retry` | the enqueuer's retry policy, as text; absent: the handler's or the consumer's |
//! | `taskhare-first-due` | of a retried task that was delayed, or of a deferred one: when its first attempt was due, in milliseconds |
//! | `taskhare-turn` | of a task that waits because of a rate limit: the turn that it was promised, in milliseconds |
//! | `taskhare-redriven` | how often it was taken out of the dead letters; absent: never |
//! | `taskhare-error` | the last failure, at most 2 KiB |
//! | `taskhare-failures` | the last 10 attempts: number, start, time taken, error |
//! | `taskhare-queue` | of a delayed task or a dead letter: its queue |
//! | `taskhare-reason`, `taskhare-dead-at` | of a dead letter: why, when; see [`Death`] |
//!
//! Other headers stay as they are, through retries and into the dead letters. A reader ignores headers that it does not
//! know; a change that old readers would misunderstand raises the version, and they pass it on unread: see [`Foreign`].

mod death;
mod foreign;
mod nesting;

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::error::BoxError;
use crate::error::Error;
use crate::failures;
use crate::failures::FailedAttempt;
use crate::lane::Priority;
use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::message::since_epoch;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::task::TaskId;
use crate::tick::Tick;

pub(crate) use death::Death;
pub(crate) use death::bound_for;
pub(crate) use death::buried_from;
pub(crate) use death::dead_letter;
pub(crate) use death::expired_at;
pub(crate) use death::first_death;
pub(crate) use death::last_queue;
pub(crate) use death::set_death;
pub(crate) use foreign::Foreign;
pub(crate) use foreign::is_any_version;

use foreign::CONTENT_TYPE;
use foreign::UNREAD_SINCE;

const ENQUEUED_AT: &str = "taskhare-enqueued-at";
const ATTEMPT: &str = "taskhare-attempt";
const MAX_ATTEMPTS: &str = "taskhare-max-attempts";
const PRIORITY: &str = "taskhare-priority";
const DUE: &str = "taskhare-due";
const HOLD: &str = "taskhare-hold";
const DEADLINE: &str = "taskhare-deadline";
const RUN_TIMEOUT: &str = "taskhare-run-timeout";
const REVISION: &str = "taskhare-revision";
const RETURNED: &str = "taskhare-returned";
const LEASE: &str = "taskhare-lease";
const UNIQUE: &str = "taskhare-unique";
const TICK: &str = "taskhare-tick";
const RETRY: &str = "taskhare-retry";
const FIRST_DUE: &str = "taskhare-first-due";
const TURN: &str = "taskhare-turn";
const REDRIVEN: &str = "taskhare-redriven";
const ERROR: &str = "taskhare-error";
const FAILURES: &str = "taskhare-failures";
const QUEUE: &str = "taskhare-queue";

/// The headers that are fields of an [`Envelope`], or follow from where it goes.
const OURS: [&str; 16] = [
    ENQUEUED_AT,
    ATTEMPT,
    MAX_ATTEMPTS,
    PRIORITY,
    DUE,
    HOLD,
    DEADLINE,
    RUN_TIMEOUT,
    REVISION,
    RETURNED,
    LEASE,
    UNIQUE,
    TICK,
    SCHEDULE,
    QUEUE,
    UNREAD_SINCE,
];

/// A schedule, on the message of its tick. The task itself does not need it.
pub(crate) const SCHEDULE: &str = "taskhare-schedule";

/// Why the broker moved a message for the first time since it was published.
const FIRST_DEATH: &str = "x-first-death-reason";

/// How much of an error travels with a task, in bytes.
const LONGEST_ERROR: usize = 2048;

/// A task as it travels. Times are since the Unix epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Envelope {
    pub(crate) id: TaskId,
    pub(crate) name: Cow<'static, str>,
    pub(crate) enqueued_at: Duration,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) priority: Priority,
    pub(crate) due: Option<Duration>,
    /// How long before `due` it was to reach its lane.
    pub(crate) hold: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) revision: u64,
    /// How often it came back without an end since its last attempt that had one; the broker's own count, which each
    /// message begins anew, comes on top.
    pub(crate) returned: u32,
    pub(crate) unique: Option<String>,
    pub(crate) tick: Option<Box<Tick>>,
    pub(crate) reply_to: Option<String>,
    pub(crate) payload: Vec<u8>,
    /// Headers that are not ours, and those of ours that are looked at only after a failure.
    pub(crate) rest: Headers,
}

/// When a message may be started, and how long before that it was to arrive; read without opening it.
pub(crate) fn due(message: &Message) -> Option<(Duration, Option<Duration>)> {
    let due = milliseconds(&message.headers, DUE)?;
    Some((due, milliseconds(&message.headers, HOLD)))
}

/// In which lane a message belongs, as far as this release understands it, read without opening it.
pub(crate) fn priority(message: &Message) -> Priority {
    message.headers.get(PRIORITY).and_then(Value::as_text).and_then(Priority::parse).unwrap_or_default()
}

/// Writes on a message for which queue it is, for whoever finds it where its key does not tell.
pub(crate) fn address(message: &mut Message, queue: &str) {
    message.headers.insert(QUEUE, queue);
}

/// After when a message must not be started, read without opening it.
pub(crate) fn deadline(message: &Message) -> Option<Duration> {
    milliseconds(&message.headers, DEADLINE)
}

/// The turn that a rate limit has promised, read without opening it.
#[cfg(feature = "limits")]
pub(crate) fn turn(message: &Message) -> Option<Duration> {
    milliseconds(&message.headers, TURN)
}

/// Writes the turn on a message, in whole milliseconds.
#[cfg(feature = "limits")]
pub(crate) fn set_turn(message: &mut Message, turn: Duration) {
    message.headers.insert(TURN, turn);
}

/// How often a task came back without an end before this message, read without opening it. A lease that nobody held any
/// more came back too; one that was handed back was rejected, and does not count.
pub(crate) fn returned(message: &Message) -> u32 {
    let headers = &message.headers;
    let noted = headers.get(RETURNED).and_then(positive).unwrap_or(0);
    let was_left = lease(message).is_some_and(|number| number > 0)
        && headers.get(FIRST_DEATH).and_then(Value::as_text) == Some("expired");
    noted.saturating_add(was_left.into())
}

/// Writes on a message how often it came back.
fn note_returned(message: &mut Message, returned: u32) {
    if returned > 0 {
        message.headers.insert(RETURNED, i64::from(returned));
    }
}

/// Numbers a message among the copies that one process holds of what it runs, from 1; 0 for one that nobody holds, of
/// something that was held before.
pub(crate) fn set_lease(message: &mut Message, number: u64) {
    message.headers.insert(LEASE, number);
}

/// That number. A message that has one was started before.
pub(crate) fn lease(message: &Message) -> Option<u64> {
    message.headers.get(LEASE)?.as_unsigned()
}

impl Envelope {
    /// Of a task for its first attempt, at once, with nothing special.
    pub(crate) fn new(
        id: TaskId,
        name: impl Into<Cow<'static, str>>,
        enqueued_at: Duration,
        payload: Vec<u8>,
    ) -> Self {
        Self {
            id,
            name: name.into(),
            enqueued_at,
            attempt: 1,
            max_attempts: None,
            priority: Priority::Normal,
            due: None,
            hold: None,
            deadline: None,
            run_timeout: None,
            revision: 0,
            returned: 0,
            unique: None,
            tick: None,
            reply_to: None,
            payload,
            rest: Headers::new(),
        }
    }

    pub(crate) fn seal(self) -> Message {
        let mut headers = Headers::new();
        if self.id.time().as_ref().map(Duration::as_millis) != Some(self.enqueued_at.as_millis()) {
            headers.insert(ENQUEUED_AT, self.enqueued_at);
        }
        if self.attempt > 1 {
            headers.insert(ATTEMPT, i64::from(self.attempt));
        }
        if let Some(attempts) = self.max_attempts {
            headers.insert(MAX_ATTEMPTS, i64::from(attempts));
        }
        if self.priority != Priority::Normal {
            headers.insert(PRIORITY, self.priority.as_str());
        }
        for (name, time) in
            [(DUE, self.due), (HOLD, self.hold), (DEADLINE, self.deadline), (RUN_TIMEOUT, self.run_timeout)]
        {
            if let Some(time) = time {
                headers.insert(name, time);
            }
        }
        if self.revision > 0 {
            headers.insert(REVISION, self.revision);
        }
        if self.returned > 0 {
            headers.insert(RETURNED, i64::from(self.returned));
        }
        if let Some(key) = self.unique {
            headers.insert(UNIQUE, key);
        }
        if let Some(tick) = self.tick {
            headers.insert(TICK, tick.to_value());
        }
        for (name, value) in self.rest {
            headers.insert(name, value);
        }
        Message {
            id: Some(self.id.to_string()),
            kind: Some(self.name),
            content_type: Some(CONTENT_TYPE.into()),
            timestamp: Some(self.enqueued_at.as_secs()),
            reply_to: self.reply_to,
            headers,
            body: self.payload,
            ..Message::default()
        }
    }

    pub(crate) fn open(mut message: Message) -> Result<Self, Box<Foreign>> {
        match Self::facts(&message) {
            Err(why) => Err(Box::new(Foreign { message, why })),
            Ok(facts) => {
                let mut rest = std::mem::take(&mut message.headers);
                rest.strip_broker_headers();
                for ours in OURS {
                    rest.remove(ours);
                }
                Ok(Self {
                    name: message.kind.unwrap_or_default(),
                    reply_to: message.reply_to,
                    payload: message.body,
                    rest,
                    ..facts
                })
            }
        }
    }

    /// All that needs checking.
    fn facts(message: &Message) -> Result<Self, String> {
        let headers = &message.headers;
        match message.content_type.as_deref() {
            Some(CONTENT_TYPE) => {}
            Some(other) if is_any_version(message) => {
                return Err(format!("content type {other:?}; this release reads {CONTENT_TYPE:?}"));
            }
            other => {
                return Err(format!(
                    "content type {:?}: not enqueued by taskhare",
                    other.unwrap_or_default()
                ));
            }
        }
        let id = message.id.as_deref().ok_or("no message-id")?;
        let id: TaskId = id.parse().map_err(|_| format!("message-id {id:.64?} is not a task id"))?;
        if message.kind.as_deref().unwrap_or_default().is_empty() {
            return Err("no type: the task's name is missing".to_owned());
        }
        let attempt = match headers.get(ATTEMPT) {
            None => 1,
            Some(value) => positive(value).ok_or_else(|| format!("header {ATTEMPT} is {value:?}"))?,
        };
        let max_attempts = match headers.get(MAX_ATTEMPTS) {
            None => None,
            Some(value) => {
                Some(positive(value).ok_or_else(|| format!("header {MAX_ATTEMPTS} is {value:?}"))?)
            }
        };
        let priority = match headers.get(PRIORITY) {
            None => Priority::Normal,
            Some(value) => value
                .as_text()
                .and_then(Priority::parse)
                .ok_or_else(|| format!("header {PRIORITY} is {value:?}"))?,
        };
        let enqueued_at = milliseconds(headers, ENQUEUED_AT)
            .or_else(|| id.time())
            .or_else(|| message.timestamp.map(since_epoch))
            .unwrap_or_default();
        Ok(Self {
            id,
            name: Cow::Borrowed(""),
            enqueued_at,
            attempt,
            max_attempts,
            priority,
            due: milliseconds(headers, DUE),
            hold: milliseconds(headers, HOLD),
            deadline: milliseconds(headers, DEADLINE),
            run_timeout: milliseconds(headers, RUN_TIMEOUT),
            revision: headers.get(REVISION).and_then(Value::as_int).map_or(0, i64::unsigned_abs),
            returned: returned(message),
            unique: headers.get(UNIQUE).and_then(Value::as_text).map(str::to_owned),
            tick: headers.get(TICK).and_then(Tick::from_value).map(Box::new),
            reply_to: None,
            payload: Vec::new(),
            rest: Headers::new(),
        })
    }

    /// Whether somebody is to be told of its end.
    pub(crate) fn is_awaited(&self) -> bool {
        let Self { reply_to, unique, tick, .. } = self;
        reply_to.is_some() || unique.is_some() || tick.as_ref().is_some_and(|tick| tick.reports)
    }

    /// The same task as if it had just been enqueued: all its attempts before it, at once, never too late, and nobody
    /// who waits for its output or, as it has ended before, for its end.
    pub(crate) fn revive(self, now: Duration) -> Self {
        let redriven = self.redriven();
        let Self { mut rest, mut tick, .. } = self;
        if let Some(tick) = &mut tick {
            tick.reports = false;
        }
        death::forget(&mut rest);
        rest.remove(FIRST_DUE);
        rest.remove(TURN);
        rest.insert(REDRIVEN, i64::from(redriven.saturating_add(1)));
        // Due now: a policy that counts from then on counts from now.
        let due = Some(now);
        Self { attempt: 1, due, hold: None, deadline: None, returned: 0, tick, reply_to: None, rest, ..self }
    }

    /// How often it was taken out of the dead letters.
    pub(crate) fn redriven(&self) -> u32 {
        self.rest.get(REDRIVEN).and_then(positive).unwrap_or(0)
    }

    /// The same task for its next attempt.
    pub(crate) fn retry(mut self, due: Duration, error: &str) -> Self {
        if self.attempt == 1 && self.due.is_some() {
            self.rest.insert(FIRST_DUE, self.first_due());
        }
        self.rest.remove(TURN);
        self.attempt = self.attempt.saturating_add(1);
        self.returned = 0;
        (self.due, self.hold) = (Some(due), None);
        self.rest.insert(ERROR, failures::excerpt(error, LONGEST_ERROR));
        self
    }

    /// The same attempt, not to be started before `due`.
    pub(crate) fn defer(&mut self, due: Duration) {
        self.rest.insert(FIRST_DUE, self.first_due());
        (self.due, self.hold) = (Some(due), None);
    }

    /// When its next attempt may start.
    pub(crate) fn startable(&self) -> Duration {
        self.due.unwrap_or_default().max(self.enqueued_at)
    }

    /// When its first attempt was due.
    pub(crate) fn first_due(&self) -> Duration {
        let delayed = milliseconds(&self.rest, FIRST_DUE);
        delayed.or(self.due.filter(|_| self.attempt == 1)).unwrap_or(self.enqueued_at)
    }

    /// The task alone, without the schedule that it is a tick of.
    pub(crate) fn without_schedule(mut self) -> Self {
        self.rest.remove(SCHEDULE);
        self
    }

    /// Notes an attempt that failed.
    pub(crate) fn remember(&mut self, attempt: &FailedAttempt) {
        let failures = self.rest.remove(FAILURES);
        self.rest.insert(FAILURES, failures::append(failures, attempt));
    }

    /// The policy that travels with it. One that this release cannot read is as good as none.
    pub(crate) fn policy(&self) -> Option<RetryPolicy> {
        self.policy_text().and_then(RetryPolicy::parse)
    }

    /// The same, as it travels.
    pub(crate) fn policy_text(&self) -> Option<&str> {
        self.rest.get(RETRY).and_then(Value::as_text)
    }

    /// Lets a policy travel with it, given as [text](RetryPolicy::to_text).
    pub(crate) fn set_policy(&mut self, policy: &str) {
        self.rest.insert(RETRY, policy);
    }
}

/// A payload as it travels.
pub(crate) fn encode<T: Serialize>(payload: &T) -> Result<Vec<u8>, BoxError> {
    encode_sized(payload, 512)
}

/// What has so many bytes, about.
pub(crate) fn encode_sized<T: Serialize>(payload: &T, size: usize) -> Result<Vec<u8>, BoxError> {
    let mut encoded = Vec::with_capacity(size);
    rmp_serde::encode::write_named(&mut encoded, payload)?;
    Ok(encoded)
}

/// The payload of a task with that name, which may have so many bytes.
pub(crate) fn checked(
    task: &str,
    payload: Result<Vec<u8>, BoxError>,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    Name::check("task", task)?;
    let payload = payload.map_err(|source| Error::Encode { task: task.to_owned(), source })?;
    if payload.len() > limit {
        return Err(Error::TooLarge { task: task.to_owned(), size: payload.len(), limit });
    }
    nesting::check(&payload).map_err(|source| Error::Encode { task: task.to_owned(), source })?;
    Ok(payload)
}

/// The inverse of [`encode`]. What is nested too deeply for a stack is not looked at.
pub(crate) fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, BoxError> {
    nesting::check(payload)?;
    Ok(rmp_serde::from_slice(payload)?)
}

fn positive(value: &Value) -> Option<u32> {
    value.as_int().and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0)
}

fn milliseconds(headers: &Headers, name: &str) -> Option<Duration> {
    headers.get(name)?.as_milliseconds()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::DeadReason;

    fn envelope() -> Envelope {
        let enqueued_at = Duration::from_millis(1_700_000_000_123);
        Envelope::new(TaskId::from_u128(7), "resize", enqueued_at, vec![0xc0])
    }

    #[test]
    fn what_is_sealed_is_opened_the_same() {
        let plain = envelope();
        let full = Envelope {
            attempt: 3,
            max_attempts: Some(9),
            priority: Priority::Urgent,
            due: Some(Duration::from_millis(1_700_000_009_999)),
            hold: Some(Duration::from_millis(60)),
            deadline: Some(Duration::from_millis(1_700_000_010_999)),
            run_timeout: Some(Duration::from_millis(500)),
            revision: 2,
            returned: 3,
            unique: Some("user-7".to_owned()),
            tick: Some(Box::new(Tick {
                schedule: "report".to_owned(),
                sequence: 7,
                planned: Duration::from_millis(1_700_000_009_000),
                is_triggered: true,
                reports: true,
            })),
            reply_to: Some("here".to_owned()),
            rest: [("tenant", "blue")].into_iter().collect(),
            ..envelope()
        };
        for envelope in [plain, full] {
            assert_eq!(Envelope::open(envelope.clone().seal()).unwrap(), envelope);
        }
    }

    #[test]
    fn what_the_broker_added_does_not_travel_on() {
        let mut message = envelope().seal();
        for header in ["x-death", "x-delivery-count", "CC", SCHEDULE] {
            message.headers.insert(header, 1);
        }
        assert_eq!(Envelope::open(message).unwrap(), envelope());
    }

    #[test]
    fn what_is_revived_is_the_same_tick_and_its_end_is_not_reported_again() {
        let tick = Tick {
            schedule: "report".to_owned(),
            sequence: 7,
            planned: Duration::from_millis(1_700_000_009_000),
            is_triggered: false,
            reports: true,
        };
        let dead = Envelope { tick: Some(Box::new(tick.clone())), ..envelope() };
        assert!(dead.is_awaited());
        let revived = dead.revive(Duration::from_secs(1_700_000_100));
        assert!(!revived.is_awaited());
        assert_eq!(revived.tick, Some(Box::new(Tick { reports: false, ..tick })));
    }

    #[test]
    fn it_is_counted_how_often_a_task_is_revived_also_if_others_have_opened_it_meanwhile() {
        let mut task = envelope();
        for count in 0..3 {
            assert_eq!(task.redriven(), count);
            let retried = task.retry(Duration::from_secs(1), "no").seal();
            let letter = dead_letter(retried, DeadReason::Rejected, "no", "mail", Duration::from_secs(2));
            task = Envelope::open(letter).unwrap().revive(Duration::from_secs(3));
        }
    }

    #[test]
    fn a_message_that_is_not_a_task_says_why() {
        type Spoil = fn(&mut Message);
        let cases: [(Spoil, &str); 8] = [
            (|m| m.content_type = None, "content type \"\": not enqueued by taskhare"),
            (|m| m.content_type = Some("application/vnd.taskhare.v2+msgpack".into()), "this release reads"),
            (|m| m.id = None, "no message-id"),
            (|m| m.id = Some("hare".to_owned()), "not a task id"),
            (|m| m.kind = None, "no type"),
            (|m| m.headers.insert(ATTEMPT, 0), "taskhare-attempt is Int(0)"),
            (|m| m.headers.insert(MAX_ATTEMPTS, "many"), "taskhare-max-attempts is Text"),
            (|m| m.headers.insert(PRIORITY, "high"), "taskhare-priority is Text"),
        ];
        for (spoil, why) in cases {
            let mut message = envelope().seal();
            spoil(&mut message);
            let foreign = Envelope::open(message.clone()).unwrap_err();
            assert!(foreign.why.contains(why), "{:?} should contain {why:?}", foreign.why);
            assert_eq!(foreign.message, message, "it is kept as it came");
        }
    }

    #[test]
    fn it_is_known_when_the_first_attempt_was_due() {
        let second = Duration::from_secs(1);
        let enqueued_at = envelope().enqueued_at;
        for (due, first_due) in [(None, enqueued_at), (Some(enqueued_at + second), enqueued_at + second)] {
            let mut envelope = Envelope { due, ..envelope() };
            for attempt in 1..=3 {
                assert_eq!(envelope.first_due(), first_due, "attempt {attempt}, due {due:?}");
                for minute in 0..2 {
                    envelope.defer(enqueued_at + (attempt * 60 + minute) * 60 * second);
                    envelope = Envelope::open(envelope.seal()).unwrap();
                    assert_eq!(envelope.first_due(), first_due, "attempt {attempt}, deferred");
                }
                let sent = envelope.retry(enqueued_at + attempt * 60 * second, "").seal();
                envelope = Envelope::open(sent).unwrap();
            }
        }
    }

    #[test]
    fn a_turn_holds_for_one_attempt() {
        let mut message = envelope().seal();
        message.headers.insert(TURN, 1_700_000_060_000_i64);
        let mut envelope = Envelope::open(message).unwrap();
        envelope.defer(Duration::from_secs(1_700_000_030));
        let deferred = envelope.clone().seal();
        assert_eq!(milliseconds(&deferred.headers, TURN), Some(Duration::from_secs(1_700_000_060)));
        assert_eq!(due(&deferred), Some((Duration::from_secs(1_700_000_030), None)));
        let next = envelope.retry(Duration::from_secs(1_700_000_070), "").seal();
        assert_eq!(next.headers.get(TURN), None);
    }

    #[test]
    fn a_lease_that_nobody_held_any_more_came_back_and_one_that_was_handed_back_did_not() {
        for (number, death, expected) in [
            (None, None, 1),
            (None, Some("expired"), 1),
            (Some(3), None, 1),
            (Some(3), Some("expired"), 2),
            (Some(3), Some("rejected"), 1),
            // It left the delay wheel.
            (Some(0), Some("expired"), 1),
        ] {
            let mut message = Envelope { returned: 1, ..envelope() }.seal();
            if let Some(number) = number {
                set_lease(&mut message, number);
            }
            if let Some(reason) = death {
                message.headers.insert(FIRST_DEATH, reason);
            }
            assert_eq!((returned(&message), lease(&message)), (expected, number), "{number:?} {death:?}");
            let opened = Envelope::open(message).unwrap();
            assert_eq!((opened.returned, lease(&opened.seal())), (expected, None));
        }
    }

    #[test]
    fn policy_and_failures_travel_with_a_task() {
        let policy = RetryPolicy::fixed(Duration::from_secs(1));
        let attempt = FailedAttempt::new(1, Duration::from_secs(1_700_000_000), Duration::ZERO, "too late");
        let mut envelope = envelope();
        assert_eq!(envelope.policy(), None);
        envelope.set_policy(&policy.to_text().unwrap());
        envelope.remember(&attempt);
        let opened = Envelope::open(envelope.retry(Duration::from_secs(1_700_000_001), "").seal()).unwrap();
        assert_eq!(opened.policy(), Some(policy));
        assert_eq!(failures::read(opened.rest.get(FAILURES)), [attempt]);
    }
}
