//! How events travel: [`Batch`], many events of tasks in a message, and a message for each of a consumer.
//!
//! | where | what |
//! | --- | --- |
//! | `type` | `taskhare.events`, or `taskhare.consumer` |
//! | `taskhare-source` | the process |
//! | `taskhare-sequence` | the number of the message among those of that process, from 1. One that is sent again, because it was not confirmed, has the same |
//! | `taskhare-missed` | how many events before these were never written; absent: none |
//! | body | MessagePack: a list of entries with short names, or a [`ConsumerEvent`] |
//!
//! A reader leaves out entries and messages of a kind that it does not know, fields, and names; a reason that it does not
//! know reads as foreign. Of a list that it cannot read it tells how long it is.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;
use serde::de::IgnoredAny;
use serde::ser::SerializeSeq;

use super::Event;
use super::consumer::ConsumerEvent;
use super::task::Kind;
use super::task::TaskChange;
use super::task::TaskEvent;
use super::times::at_epoch;
use super::times::since_epoch;
use super::times::to_micros;
use crate::envelope;
use crate::lane::Lane;
use crate::lane::Priority;
use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::outcome::DeadReason;
use crate::task::TaskId;

const TASKS: &str = "taskhare.events";
const CONSUMER: &str = "taskhare.consumer";
const SOURCE: &str = "taskhare-source";
const SEQUENCE: &str = "taskhare-sequence";
const MISSED: &str = "taskhare-missed";

/// Which message it is of all that say something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The process.
    pub(crate) source: Arc<str>,
    /// From 1, and each one larger than those before.
    pub(crate) sequence: u64,
}

/// Events that travel together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) stamp: Stamp,
    pub(crate) events: Vec<Event>,
}

/// An event of a task, field by field. What has no field is absent.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    /// Its [`Kind`].
    #[serde(rename = "k", borrow)]
    kind: Cow<'a, str>,
    #[serde(rename = "i")]
    id: TaskId,
    #[serde(rename = "n", borrow)]
    name: Cow<'a, str>,
    #[serde(rename = "q", borrow)]
    queue: Cow<'a, str>,
    /// Microseconds since the Unix epoch, like all times of day here.
    #[serde(rename = "t")]
    at: u64,
    #[serde(rename = "a", default = "first", skip_serializing_if = "is_first")]
    attempt: u32,
    /// What follows the source in the name of who says so.
    #[serde(rename = "c", borrow, default, skip_serializing_if = "str::is_empty")]
    by: Cow<'a, str>,
    #[serde(rename = "l", borrow, default, skip_serializing_if = "Option::is_none")]
    lane: Option<&'a str>,
    #[serde(rename = "p", borrow, default, skip_serializing_if = "Option::is_none")]
    priority: Option<&'a str>,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(rename = "s", borrow, default, skip_serializing_if = "Option::is_none")]
    schedule: Option<Cow<'a, str>>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    waited: Option<u64>,
    #[serde(rename = "y", default, skip_serializing_if = "is_false")]
    delayed: bool,
    #[serde(rename = "r", default, skip_serializing_if = "is_false")]
    redelivered: bool,
    #[serde(rename = "g", default, skip_serializing_if = "is_false")]
    again: bool,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    done: Option<u64>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// A note, an error, the consumer that is lost.
    #[serde(rename = "e", borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    #[serde(rename = "f", borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    ran: Option<u64>,
    /// When the attempt began, if this is its end and that it began is told here too.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    begun: Option<u64>,
}

/// Events of tasks as entries: the beginning of an attempt and its end are one, where they come together.
struct Entries<'a> {
    events: &'a [TaskEvent],
    source: &'a str,
}

/// How many bytes an entry takes, about.
const USUAL_ENTRY: usize = 112;

fn first() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Batch {
    /// A message with these events, and the word that `missed` others before them were never written.
    pub(crate) fn seal(stamp: &Stamp, events: &[TaskEvent], missed: u64) -> Message {
        let entries = Entries { events, source: &stamp.source };
        // Nothing in it can fail to be encoded.
        let body = envelope::encode_sized(&entries, events.len() * USUAL_ENTRY).unwrap_or_default();
        let mut message = sealed(TASKS, stamp, body);
        if missed > 0 {
            message.headers.insert(MISSED, missed);
        }
        message
    }

    /// `None` if the message is something else. What a later release may add has no events.
    pub(crate) fn open(message: &Message) -> Option<Self> {
        let headers = &message.headers;
        let source: Arc<str> = headers.get(SOURCE)?.as_text()?.into();
        let stamp = Stamp { source, sequence: headers.get(SEQUENCE)?.as_unsigned()? };
        let missed = headers.get(MISSED).and_then(Value::as_unsigned).map(Event::Missed);
        let events = match message.kind.as_deref()? {
            TASKS => match envelope::decode::<Vec<Entry<'_>>>(&message.body) {
                Ok(entries) => {
                    let tasks = entries.into_iter().flat_map(|entry| entry.events(&stamp.source));
                    missed.into_iter().chain(tasks.map(Event::Task)).collect()
                }
                Err(_) => missed.into_iter().chain([Event::Missed(length(&message.body))]).collect(),
            },
            CONSUMER => {
                let said = envelope::decode(&message.body).map(Event::Consumer);
                missed.into_iter().chain(said).collect()
            }
            _ => Vec::new(),
        };
        Some(Self { stamp, events })
    }
}

/// How many entries there are, whatever they are; at least 1.
fn length(body: &[u8]) -> u64 {
    envelope::decode::<Vec<IgnoredAny>>(body).map_or(1, |entries| entries.len().max(1) as u64)
}

/// A message with what a consumer says.
pub(crate) fn announce(stamp: &Stamp, event: &ConsumerEvent) -> Message {
    // Nothing in it can fail to be encoded.
    sealed(CONSUMER, stamp, envelope::encode(event).unwrap_or_default())
}

fn sealed(kind: &'static str, stamp: &Stamp, body: Vec<u8>) -> Message {
    let mut headers = Headers::new();
    headers.insert(SOURCE, &*stamp.source);
    headers.insert(SEQUENCE, stamp.sequence);
    Message { kind: Some(kind.into()), headers, body, ..Message::default() }
}

impl Entries<'_> {
    /// What each entry tells of: that an attempt has begun, perhaps, and an event.
    fn iter(&self) -> impl Iterator<Item = (Option<&TaskEvent>, &TaskEvent)> {
        let mut events = self.events.iter().peekable();
        std::iter::from_fn(move || {
            let event = events.next()?;
            let end = events.next_if(|next| is_end_of(next, event));
            Some(end.map_or((None, event), |end| (Some(event), end)))
        })
    }
}

/// Whether an attempt ends that began with the event before, and that one can be told with it.
fn is_end_of(event: &TaskEvent, before: &TaskEvent) -> bool {
    let attempt = |event: &TaskEvent| (event.id, event.attempt, event.lane);
    matches!(before.change, TaskChange::Started { .. })
        && matches!(event.change, TaskChange::Succeeded { .. } | TaskChange::Failed { .. })
        && attempt(event) == attempt(before)
        && event.by == before.by
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.iter().count()))?;
        for (begin, event) in self.iter() {
            list.serialize_element(&Entry::of(begin, event, self.source))?;
        }
        list.end()
    }
}

impl<'a> Entry<'a> {
    /// `begin`: of the attempt that has ended.
    fn of(begin: Option<&'a TaskEvent>, event: &'a TaskEvent, source: &str) -> Self {
        let TaskEvent { id, name, queue, lane, attempt, at, by, change } = event;
        let mut entry = Self {
            kind: change.kind().as_str().into(),
            id: *id,
            name: name.as_ref().into(),
            queue: queue.as_ref().into(),
            at: since_epoch(*at),
            attempt: *attempt,
            by: by.strip_prefix(source).unwrap_or(by).into(),
            lane: lane.map(Lane::as_str),
            priority: None,
            due: None,
            deadline: None,
            schedule: None,
            waited: None,
            delayed: false,
            redelivered: false,
            again: false,
            limit: None,
            done: None,
            total: None,
            text: None,
            reason: None,
            ran: None,
            begun: None,
        };
        if let Some(begin) = begin {
            entry.begun = Some(since_epoch(begin.at));
            entry.set(&begin.change);
        }
        entry.set(change);
        entry
    }

    fn set(&mut self, change: &'a TaskChange) {
        match change {
            TaskChange::Accepted { priority, due, deadline, schedule, again } => {
                self.priority = Some(priority.as_str());
                self.due = due.map(since_epoch);
                self.deadline = deadline.map(since_epoch);
                self.schedule = schedule.as_deref().map(Cow::from);
                self.again = *again;
            }
            TaskChange::Started { waited, delayed, redelivered, limit } => {
                self.waited = Some(to_micros(*waited));
                (self.delayed, self.redelivered) = (*delayed, *redelivered);
                self.limit = limit.map(to_micros);
            }
            TaskChange::Progress { done, total, note } => {
                (self.done, self.total) = (Some(*done), *total);
                self.text = (!note.is_empty()).then(|| note.as_str().into());
            }
            TaskChange::Succeeded { ran, total } => {
                (self.ran, self.total) = (Some(to_micros(*ran)), Some(to_micros(*total)));
            }
            TaskChange::Failed { ran, error } => {
                self.ran = Some(to_micros(*ran));
                self.text = Some(error.as_str().into());
            }
            TaskChange::Retrying { due } => self.due = Some(since_epoch(*due)),
            TaskChange::Expired { reason, total } => {
                self.reason = Some(reason.as_str());
                self.total = total.map(to_micros);
            }
            TaskChange::Dead { reason, error, total } => {
                self.reason = Some(reason.as_str());
                self.text = error.as_deref().map(Cow::from);
                self.total = total.map(to_micros);
            }
            TaskChange::Lost { consumer } => self.text = Some(consumer.as_ref().into()),
            TaskChange::Cancelled | TaskChange::HandedBack | TaskChange::Redriven => {}
        }
    }

    /// One event, or two; none if it is of a kind that this release does not know.
    fn events(self, source: &Arc<str>) -> impl Iterator<Item = TaskEvent> + use<> {
        let begin = self.begun.and_then(|at| Some((at, self.started()?)));
        let end = self.change().map(|change| (self.at, change));
        let by: Arc<str> = match &*self.by {
            "" => source.clone(),
            suffix if suffix.starts_with('/') => format!("{source}{suffix}").into(),
            other => other.into(),
        };
        let (id, attempt, lane) = (self.id, self.attempt, self.lane.and_then(Lane::parse));
        let name: Cow<'static, str> = self.name.into_owned().into();
        let queue: Arc<str> = self.queue.into();
        [begin, end].into_iter().flatten().map(move |(at, change)| TaskEvent {
            id,
            name: name.clone(),
            queue: queue.clone(),
            lane,
            attempt,
            at: at_epoch(at),
            by: by.clone(),
            change,
        })
    }

    fn change(&self) -> Option<TaskChange> {
        let time = |micros: Option<u64>| micros.map(at_epoch);
        let span = |micros: Option<u64>| micros.map(Duration::from_micros);
        let text = || self.text.clone().map(Cow::into_owned);
        // As dead letters are read.
        let reason = self.reason.map(|reason| DeadReason::parse(reason).unwrap_or(DeadReason::Foreign));
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == self.kind)?;
        Some(match kind {
            Kind::Accepted => TaskChange::Accepted {
                priority: self.priority.and_then(Priority::parse).unwrap_or_default(),
                due: time(self.due),
                deadline: time(self.deadline),
                schedule: self.schedule.clone().map(Cow::into_owned),
                again: self.again,
            },
            Kind::Started => self.started()?,
            Kind::Progress => {
                TaskChange::Progress { done: self.done?, total: self.total, note: text().unwrap_or_default() }
            }
            Kind::Succeeded => TaskChange::Succeeded { ran: span(self.ran)?, total: span(self.total)? },
            Kind::Failed => TaskChange::Failed { ran: span(self.ran)?, error: text().unwrap_or_default() },
            Kind::Retrying => TaskChange::Retrying { due: time(self.due)? },
            Kind::Expired => TaskChange::Expired { reason: reason?, total: span(self.total) },
            Kind::Dead => TaskChange::Dead { reason: reason?, error: text(), total: span(self.total) },
            Kind::Cancelled => TaskChange::Cancelled,
            Kind::HandedBack => TaskChange::HandedBack,
            Kind::Lost => TaskChange::Lost { consumer: text()?.into() },
            Kind::Redriven => TaskChange::Redriven,
        })
    }

    fn started(&self) -> Option<TaskChange> {
        Some(TaskChange::Started {
            waited: self.waited.map(Duration::from_micros)?,
            delayed: self.delayed,
            redelivered: self.redelivered,
            limit: self.limit.map(Duration::from_micros),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;
    use std::time::UNIX_EPOCH;

    use super::super::ConsumerChange;
    use super::super::Heartbeat;
    use super::super::RunningTask;
    use super::*;

    const AT: SystemTime = UNIX_EPOCH;

    fn stamp() -> Stamp {
        Stamp { source: "host:7:c0de".into(), sequence: 3 }
    }

    fn changes() -> Vec<TaskChange> {
        let (s, us) = (Duration::from_secs, Duration::from_micros);
        vec![
            TaskChange::Accepted {
                priority: Priority::Normal,
                due: None,
                deadline: None,
                schedule: None,
                again: false,
            },
            TaskChange::Accepted {
                priority: Priority::Urgent,
                due: Some(AT + s(5)),
                deadline: Some(AT + s(6)),
                schedule: Some("nightly".into()),
                again: true,
            },
            TaskChange::Started { waited: us(7), delayed: false, redelivered: false, limit: None },
            TaskChange::Started { waited: us(7), delayed: true, redelivered: true, limit: Some(s(1)) },
            TaskChange::Progress { done: 3, total: None, note: String::new() },
            TaskChange::Progress { done: 3, total: Some(4), note: "copying".into() },
            TaskChange::Succeeded { ran: us(12), total: us(99) },
            TaskChange::Failed { ran: us(12), error: "the disk is full".into() },
            TaskChange::Retrying { due: AT + s(9) },
            TaskChange::Expired { reason: DeadReason::ExpiredRunning, total: None },
            TaskChange::Dead { reason: DeadReason::Rejected, error: Some("no".into()), total: Some(s(2)) },
            TaskChange::Cancelled,
            TaskChange::HandedBack,
            TaskChange::Lost { consumer: "host:7:c0de/2".into() },
            TaskChange::Redriven,
        ]
    }

    #[test]
    fn every_change_is_opened_as_it_was_sealed() {
        let events: Vec<TaskEvent> = (1..)
            .zip(changes())
            .map(|(attempt, change)| TaskEvent {
                id: TaskId::new(),
                name: "resize".into(),
                queue: "images".into(),
                lane: Some(Lane::Low).filter(|_| attempt % 2 == 0),
                attempt,
                at: AT + Duration::from_micros(u64::from(attempt)),
                by: if attempt % 3 == 0 { "host:7:c0de/1" } else { "host:7:c0de" }.into(),
                change,
            })
            .collect();
        let kinds: BTreeSet<Kind> = events.iter().map(|it| it.change.kind()).collect();
        assert_eq!(kinds.len(), Kind::ALL.len(), "all kinds are tried");
        let batch = Batch::open(&Batch::seal(&stamp(), &events, 0)).unwrap();
        assert_eq!(batch.stamp, stamp());
        assert_eq!(batch.events, events.iter().cloned().map(Event::Task).collect::<Vec<_>>());
        let batch = Batch::open(&Batch::seal(&stamp(), &[], 5)).unwrap();
        assert_eq!(batch.events, [Event::Missed(5)]);
    }

    #[test]
    fn what_a_consumer_says_is_opened_as_it_was_sealed() {
        let running = RunningTask {
            id: TaskId::new(),
            name: "resize".into(),
            queue: "images".into(),
            attempt: 2,
            age: Duration::from_secs(3),
            limit: None,
        };
        let heartbeat = Heartbeat { pid: 7, running: vec![running], ..Heartbeat::default() };
        for change in [
            ConsumerChange::Alive(Box::new(heartbeat)),
            ConsumerChange::Draining,
            ConsumerChange::Stopped { finished: 1, unstarted: 2, aborted: 3 },
            ConsumerChange::Reconnected { reason: "node down".into(), after: Duration::from_millis(1_500) },
        ] {
            let event = ConsumerEvent { consumer: "host:7:c0de/1".into(), at: AT, change };
            let batch = Batch::open(&announce(&stamp(), &event)).unwrap();
            assert_eq!(batch.events, [Event::Consumer(event)]);
        }
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        #[derive(Serialize)]
        struct Later {
            k: &'static str,
            i: TaskId,
            n: &'static str,
            q: &'static str,
            t: u64,
            later: Vec<u8>,
        }
        let later = |k| Later { k, i: TaskId::new(), n: "resize", q: "images", t: 1, later: vec![1] };
        let body = envelope::encode(&[later("melted"), later("cancelled")]).unwrap();
        let batch = Batch::open(&sealed(TASKS, &stamp(), body)).unwrap();
        let [Event::Task(event)] = &batch.events[..] else { panic!("{batch:?}") };
        assert_eq!(event.change, TaskChange::Cancelled);
        for kind in ["taskhare.later", CONSUMER] {
            let nothing = Batch { stamp: stamp(), events: Vec::new() };
            assert_eq!(Batch::open(&sealed(kind, &stamp(), vec![0xc0])), Some(nothing), "{kind}");
        }
        assert_eq!(Batch::open(&Message::default()), None);
    }

    #[test]
    fn a_list_that_cannot_be_read_tells_how_much_is_missed() {
        for (body, expected) in
            [(envelope::encode(&vec![1, 2, 3]).unwrap(), 3), (vec![0xc1], 1), (Vec::new(), 1)]
        {
            let mut message = sealed(TASKS, &stamp(), body);
            message.headers.insert(MISSED, 7);
            assert_eq!(Batch::open(&message).unwrap().events, [Event::Missed(7), Event::Missed(expected)]);
        }
    }

    #[test]
    fn an_end_for_a_reason_of_a_later_release_is_an_end() {
        let dead = TaskChange::Dead { reason: DeadReason::Rejected, error: None, total: None };
        let mut entry = envelope::encode(&[Entry::of(None, &event(TaskId::new(), 1, dead), "")]).unwrap();
        let at = entry.windows(8).position(|bytes| bytes == b"rejected").unwrap();
        entry[at..at + 8].copy_from_slice(b"boredom!");
        let batch = Batch::open(&sealed(TASKS, &stamp(), entry)).unwrap();
        let [Event::Task(event)] = &batch.events[..] else { panic!("{batch:?}") };
        let foreign = TaskChange::Dead { reason: DeadReason::Foreign, error: None, total: None };
        assert_eq!(event.change, foreign);
    }

    /// An event of the first attempt of a task.
    fn event(id: TaskId, at: u64, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id,
            name: "resize".into(),
            queue: "default".into(),
            lane: Some(Lane::Normal),
            attempt: 1,
            at: AT + Duration::from_secs(at),
            by: "host:7:c0de/1".into(),
            change,
        }
    }

    #[test]
    fn the_beginning_and_the_end_of_an_attempt_travel_as_one() {
        let (one, other) = (TaskId::from_u128(1), TaskId::from_u128(2));
        let started = |waited| TaskChange::Started {
            waited: Duration::from_secs(waited),
            delayed: true,
            redelivered: true,
            limit: Some(Duration::from_secs(9)),
        };
        let second = Duration::from_secs(1);
        let succeeded = TaskChange::Succeeded { ran: second, total: second };
        let failed = TaskChange::Failed { ran: second, error: "no".into() };
        let again = |event: TaskEvent| TaskEvent { attempt: 2, ..event };
        let elsewhere = |event: TaskEvent| TaskEvent { by: "host:8:beef/1".into(), ..event };
        for (events, entries) in [
            (vec![event(one, 1, started(1)), event(one, 2, succeeded.clone())], 1),
            (vec![event(one, 1, started(1)), event(one, 2, failed.clone()), event(other, 3, started(2))], 2),
            (vec![event(one, 1, started(1)), event(one, 1, started(1)), event(one, 2, failed.clone())], 2),
            (vec![event(one, 1, started(1)), event(other, 2, succeeded.clone())], 2),
            (vec![event(one, 1, started(1)), again(event(one, 2, failed.clone()))], 2),
            (vec![event(one, 1, started(1)), elsewhere(event(one, 2, failed))], 2),
            (vec![event(one, 1, started(1)), event(one, 2, TaskChange::HandedBack)], 2),
            (vec![event(one, 1, succeeded.clone()), event(one, 2, succeeded)], 2),
        ] {
            let message = Batch::seal(&stamp(), &events, 0);
            let sealed: Vec<Entry<'_>> = envelope::decode(&message.body).unwrap();
            assert_eq!(sealed.len(), entries, "{events:?}");
            let events: Vec<Event> = events.into_iter().map(Event::Task).collect();
            assert_eq!(Batch::open(&message).unwrap().events, events);
        }
    }

    #[test]
    fn a_short_life_takes_little_room() {
        let second = Duration::from_secs(1);
        let started = TaskChange::Started { waited: second, delayed: false, redelivered: false, limit: None };
        let succeeded = TaskChange::Succeeded { ran: second, total: second };
        let (id, now) = (TaskId::new(), 1_700_000_000);
        for (changes, most) in [
            (vec![started.clone()], 100),
            (vec![succeeded.clone()], 100),
            (vec![started, succeeded], USUAL_ENTRY),
        ] {
            let events: Vec<TaskEvent> = changes.into_iter().map(|change| event(id, now, change)).collect();
            let bytes = Batch::seal(&stamp(), &events, 0).body.len();
            assert!(bytes < most, "{bytes}");
        }
    }
}
