//! [`Record`]: what there is in `{ns}.schedules`. Entries, and what somebody wants to become of them: [`Command`].
//!
//! A command is a message with the `type` `taskhare.schedule.pause`, say, its id as `message-id`, of which the time is
//! when it was given, and in the table `taskhare-schedule` the `name` of the schedule, if it is about one, and the
//! `sequence` of the tick that has ended, or the `tick` that is in doubt. A declaration has the form of an
//! [entry](super::Entry) without a version.

use std::fmt;
use std::time::Duration;

use super::Definition;
use super::Doubt;
use super::Entry;
use super::definition::whole;
use super::entry::declaration;
use super::entry::read_definition;
use crate::envelope;
use crate::envelope::Envelope;
use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::message::since_epoch;
use crate::task::TaskId;

const PREFIX: &str = "taskhare.schedule.";
const PAUSE: &str = "pause";
const RESUME: &str = "resume";
const TRIGGER: &str = "trigger";
const REMOVE: &str = "remove";
const ENDED: &str = "ended";
const DOUBT: &str = "doubt";
const LIST: &str = "list";
const MARKER: &str = "marker";
/// What this release knows.
const KINDS: [&str; 8] = [PAUSE, RESUME, TRIGGER, REMOVE, ENDED, DOUBT, LIST, MARKER];

/// The last message of an answer.
const DONE: &str = "taskhare.schedule.done";
/// The same: there is no such schedule.
const MISSING: &str = "taskhare.schedule.missing";
const ERROR: &str = "taskhare-error";

/// A message in `{ns}.schedules`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Entry(Box<Entry>),
    Command(Box<Command>),
    /// Published only to be received again, by that name.
    Marker(TaskId),
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command {
    pub(crate) id: TaskId,
    pub(crate) what: What,
    /// When, since the Unix epoch, by the clock of whoever wants it.
    pub(crate) at: Duration,
    /// Where the answer goes.
    pub(crate) reply_to: Option<String>,
}

/// What is to become of a schedule, by its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Declare(Box<Definition>),
    Pause(String),
    Resume(String),
    Trigger(String),
    Remove(String),
    /// Nothing: a tick of it has ended.
    Ended(String, u64),
    /// Nothing: it is not known whether the task of a tick is in its lane.
    Doubt(Box<Doubt>),
    /// Nothing: to be told of it, or of all.
    List(Option<String>),
}

impl What {
    /// The schedule that it changes.
    pub(crate) fn schedule(&self) -> Option<&str> {
        match self {
            Self::Declare(definition) => Some(&definition.name),
            Self::Pause(name)
            | Self::Resume(name)
            | Self::Trigger(name)
            | Self::Remove(name)
            | Self::Ended(name, _) => Some(name),
            Self::Doubt(doubt) => Some(&doubt.tick.schedule),
            Self::List(_) => None,
        }
    }

    /// The schedule that it is about, if it is about one.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::List(name) => name.as_deref(),
            other => other.schedule(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            // Written as an entry is.
            Self::Declare(_) => "declare",
            Self::Pause(_) => PAUSE,
            Self::Resume(_) => RESUME,
            Self::Trigger(_) => TRIGGER,
            Self::Remove(_) => REMOVE,
            Self::Ended(..) => ENDED,
            Self::Doubt(..) => DOUBT,
            Self::List(_) => LIST,
        }
    }
}

/// In the words of errors.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.name()) {
            (Self::Ended(name, sequence), _) => {
                write!(f, "report the end of tick {sequence} of schedule {name:?}")
            }
            (Self::Doubt(doubt), _) => {
                let tick = &doubt.tick;
                write!(f, "report that tick {} of schedule {:?} is in doubt", tick.sequence, tick.schedule)
            }
            (Self::List(Some(name)), _) => write!(f, "ask about schedule {name:?}"),
            (_, Some(name)) => write!(f, "{} schedule {name:?}", self.kind()),
            (_, None) => write!(f, "{} schedules", self.kind()),
        }
    }
}

impl Command {
    /// How long a question is worth an answer. Those that were asked while no scheduler ran are not all answered by the
    /// next one. Long enough for clocks that do not quite agree.
    const LONGEST_QUESTION: Duration = Duration::from_secs(60);

    pub(crate) fn new(what: What, at: Duration) -> Self {
        // As ids count.
        let at = whole(at);
        Self { id: TaskId::at(at), what, at, reply_to: None }
    }

    /// Whether nobody waits for it any more: a question that is old. A change never is.
    pub(crate) fn is_stale(&self, now: Duration) -> bool {
        matches!(self.what, What::List(_)) && now.saturating_sub(self.at) > Self::LONGEST_QUESTION
    }

    pub(crate) fn seal(self) -> Message {
        let mut table = Headers::new();
        match &self.what {
            What::Declare(definition) => {
                return Message { reply_to: self.reply_to, ..declaration(definition, self.id, self.at) };
            }
            What::Pause(name) | What::Resume(name) | What::Trigger(name) | What::Remove(name) => {
                table.insert("name", name.as_str());
            }
            What::Ended(name, sequence) => {
                table.insert("name", name.as_str());
                table.insert("sequence", *sequence);
            }
            What::Doubt(doubt) => doubt.write(&mut table),
            What::List(name) => {
                if let Some(name) = name {
                    table.insert("name", name.as_str());
                }
            }
        }
        let mut message = bare(self.what.kind(), self.id);
        message.timestamp = Some(self.at.as_secs());
        message.reply_to = self.reply_to;
        message.headers.insert(envelope::SCHEDULE, Value::Table(table));
        message
    }
}

/// A message that is only a kind and an id.
fn bare(kind: &str, id: TaskId) -> Message {
    Message { id: Some(id.to_string()), kind: Some(format!("{PREFIX}{kind}").into()), ..Message::default() }
}

impl Record {
    /// The marker of that name.
    pub(crate) fn marker(id: TaskId) -> Message {
        bare(MARKER, id)
    }

    /// Whether a message that cannot be [read](Self::read) is a schedule, a declaration or a command all the same: one of
    /// a later release.
    pub(crate) fn may_be_newer(message: &Message) -> bool {
        if envelope::is_any_version(message) {
            return matches!(message.headers.get(envelope::SCHEDULE), Some(Value::Table(_)));
        }
        let kind = message.kind.as_deref().and_then(|kind| kind.strip_prefix(PREFIX));
        message.content_type.is_none() && kind.is_some_and(|kind| !kind.is_empty() && !KINDS.contains(&kind))
    }

    /// What a message is, or why it is nothing of ours.
    pub(crate) fn read(mut message: Message) -> Result<Self, String> {
        let table = match message.headers.remove(envelope::SCHEDULE) {
            Some(Value::Table(table)) => Some(table),
            Some(_) => return Err(format!("its header {} is no table", envelope::SCHEDULE)),
            None => None,
        };
        // A task has one.
        if message.content_type.is_some() {
            let table = table.ok_or("a task, and of no schedule")?;
            return Self::read_entry(&table, message);
        }
        let id = message
            .id
            .as_deref()
            .and_then(|id| id.parse().ok())
            .ok_or("no message-id that is one of ours")?;
        let kind =
            message.kind.as_deref().and_then(|kind| kind.strip_prefix(PREFIX)).ok_or("no type of ours")?;
        if kind == MARKER {
            return Ok(Self::Marker(id));
        }
        let table = table.unwrap_or_default();
        let name = table.get("name").and_then(Value::as_text).map(str::to_owned);
        let what = match (kind, name) {
            (LIST, name) => What::List(name),
            (PAUSE, Some(name)) => What::Pause(name),
            (RESUME, Some(name)) => What::Resume(name),
            (TRIGGER, Some(name)) => What::Trigger(name),
            (REMOVE, Some(name)) => What::Remove(name),
            (ENDED, Some(name)) => {
                let sequence = table.get("sequence").and_then(Value::as_unsigned);
                What::Ended(name, sequence.ok_or("no sequence")?)
            }
            (DOUBT, _) => What::Doubt(Box::new(Doubt::read(&table)?)),
            _ => return Err(format!("type {kind:?}, or the name of a schedule is missing")),
        };
        let at = id.time().unwrap_or(since_epoch(message.timestamp.unwrap_or_default()));
        Ok(Self::Command(Box::new(Command { id, what, at, reply_to: message.reply_to })))
    }

    fn read_entry(table: &Headers, mut message: Message) -> Result<Self, String> {
        let reply_to = message.reply_to.take();
        let envelope = Envelope::open(message).map_err(|foreign| foreign.why)?;
        if table.get("version").is_some() {
            return Ok(Self::Entry(Box::new(Entry::read(table, envelope)?)));
        }
        let (id, at) = (envelope.id, envelope.enqueued_at);
        let definition = read_definition(table, envelope)?;
        Ok(Self::Command(Box::new(Command { id, what: What::Declare(Box::new(definition)), at, reply_to })))
    }
}

/// A message of the answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// One of those that were asked for; others follow.
    Entry(Box<Entry>),
    /// It is done, and this was the last message.
    Done,
    /// There is no schedule of that name.
    Missing,
    /// It cannot be done.
    Refused(String),
}

impl Answer {
    pub(crate) fn seal(self, to: TaskId, now: Duration) -> Message {
        let mut message = match self {
            Self::Entry(entry) => {
                let mut message = entry.envelope(None, now).seal();
                // Whoever asks for a thousand schedules does not want a thousand payloads.
                message.body = Vec::new();
                message
            }
            Self::Done => Message { kind: Some(DONE.into()), ..Message::default() },
            Self::Missing => Message { kind: Some(MISSING.into()), ..Message::default() },
            Self::Refused(reason) => {
                let mut message = Message { kind: Some(DONE.into()), ..Message::default() };
                message.headers.insert(ERROR, reason);
                message
            }
        };
        message.correlation_id = Some(to.to_string());
        message
    }

    /// To which command it answers, and what; `None` if the message is something else.
    pub(crate) fn open(message: Message) -> Option<(TaskId, Self)> {
        let to = message.correlation_id.as_deref()?.parse().ok()?;
        let answer = match (message.content_type.is_some(), message.kind.as_deref()) {
            (false, Some(DONE)) => {
                let error = message.headers.get(ERROR).and_then(Value::as_text);
                error.map_or(Self::Done, |error| Self::Refused(error.to_owned()))
            }
            (false, Some(MISSING)) => Self::Missing,
            _ => match Record::read(message) {
                Ok(Record::Entry(entry)) => Self::Entry(entry),
                _ => return None,
            },
        };
        Some((to, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::definition::tests::samples;
    use crate::schedule::entry::tests::entries;

    const NOW: Duration = Duration::from_nanos(1_800_000_000_123_456_789);

    fn all() -> Vec<What> {
        let name = || "morning".to_owned();
        let Entry { definition, mut state } = entries().remove(0);
        let tick = state.trigger(&definition, NOW);
        let mut all = vec![
            What::Pause(name()),
            What::Resume(name()),
            What::Trigger(name()),
            What::Remove(name()),
            What::Ended(name(), 0),
            What::Ended(name(), i64::MAX as u64),
            What::Doubt(Box::new(Doubt { tick, origin: TaskId::from_u128(7), tenure: 8 })),
            What::List(None),
            What::List(Some(name())),
            What::List(Some(String::new())),
        ];
        all.extend(samples().into_iter().map(|definition| What::Declare(Box::new(definition))));
        all
    }

    #[test]
    fn a_command_is_read_as_it_was_written() {
        for what in all() {
            for reply_to in [None, Some("answers".to_owned())] {
                let command = Command { reply_to, ..Command::new(what.clone(), NOW) };
                assert_eq!(Record::read(command.clone().seal()), Ok(Record::Command(Box::new(command))));
            }
        }
        let id = TaskId::new();
        assert_eq!(Record::read(Record::marker(id)), Ok(Record::Marker(id)));
    }

    #[test]
    fn a_declaration_that_has_travelled_changes_nothing_when_it_is_declared_again() {
        for definition in samples() {
            let declared = Command::new(What::Declare(Box::new(definition.clone())), NOW);
            let Ok(Record::Command(command)) = Record::read(declared.seal()) else { panic!("a declaration") };
            assert_eq!(command.what, What::Declare(Box::new(definition)));
        }
    }

    #[test]
    fn a_task_is_an_entry_even_if_its_name_is_that_of_a_command() {
        for mut entry in entries() {
            for kind in [PAUSE, REMOVE, MARKER, "done"] {
                entry.definition.task = format!("{PREFIX}{kind}");
                let message = entry.envelope(None, NOW).seal();
                assert_eq!(Record::read(message), Ok(Record::Entry(Box::new(entry.clone()))));
            }
        }
    }

    #[test]
    fn what_is_foreign_or_broken_is_refused_with_a_reason() {
        let sealed = |what| Command::new(what, NOW).seal();
        let pause = || sealed(What::Pause("morning".to_owned()));
        let ended = || sealed(What::Ended("morning".to_owned(), 1));
        let entry = || entries().remove(0).envelope(None, NOW).seal();
        let with = |mut message: Message, table: Value| {
            message.headers.insert(envelope::SCHEDULE, table);
            message
        };
        let empty = || Value::Table(Headers::new());
        let named = || Value::Table([("name", "morning")].into_iter().collect());
        let without = |mut message: Message| {
            message.headers.remove(envelope::SCHEDULE);
            message
        };
        let kind_of = |kind: &str| Message { kind: Some(format!("{PREFIX}{kind}").into()), ..pause() };
        for (broken, reason) in [
            (Message::default(), "message-id"),
            (Message { id: None, ..pause() }, "message-id"),
            (Message { id: Some("7".to_owned()), ..pause() }, "message-id"),
            (Message { kind: None, ..pause() }, "type"),
            (Message { kind: Some("pause".into()), ..pause() }, "type"),
            (Message { kind: Some("taskhare.schedule.".into()), ..pause() }, "type"),
            (Message { kind: Some("taskhare.schedule.explode".into()), ..pause() }, "explode"),
            (Message { kind: Some("taskhare.schedule.declare".into()), ..pause() }, "declare"),
            (without(pause()), "name"),
            (with(pause(), empty()), "name"),
            (with(pause(), Value::Int(1)), "taskhare-schedule"),
            (with(sealed(What::List(None)), "all".into()), "taskhare-schedule"),
            (with(ended(), named()), "sequence"),
            (with(kind_of("doubt"), named()), "tick"),
            (without(entry()), "of no schedule"),
            (with(entry(), empty()), "name"),
            (Message { content_type: Some("text/plain".into()), ..entry() }, "text/plain"),
            (Message { content_type: Some("text/plain".into()), ..pause() }, "text/plain"),
            (Message { id: None, ..entry() }, "message-id"),
            (Message { kind: None, ..entry() }, "type"),
        ] {
            let why = Record::read(broken.clone()).map(|_| ()).unwrap_err();
            assert!(why.contains(reason), "{reason}: {why}: {broken:?}");
        }
    }

    #[test]
    fn what_a_later_release_may_have_written_is_told_from_what_is_broken() {
        let pause = || Command::new(What::Pause("morning".to_owned()), NOW).seal();
        let entry = || entries().remove(0).envelope(None, NOW).seal();
        let declaration = || {
            let definition = samples().remove(0);
            Command::new(What::Declare(Box::new(definition)), NOW).seal()
        };
        let kind = |text: &'static str| Message { kind: Some(text.into()), ..pause() };
        let content = |text: &'static str, message| Message { content_type: Some(text.into()), ..message };
        let with = |name: &'static str, mut message: Message| {
            let Some(Value::Table(table)) = message.headers.get(envelope::SCHEDULE) else {
                panic!("a table")
            };
            let mut table = table.clone();
            table.insert(name, "of a later release");
            message.headers.insert(envelope::SCHEDULE, Value::Table(table));
            message
        };
        const NEWER: &str = "application/vnd.taskhare.v2+msgpack";
        for (message, expected) in [
            (with("misfire", entry()), true),
            (with("misfire", declaration()), true),
            (content(NEWER, entry()), true),
            (content(NEWER, declaration()), true),
            (kind("taskhare.schedule.explode"), true),
            (kind("taskhare.schedule."), false),
            (kind("explode"), false),
            (content("text/plain", entry()), false),
            (content("text/plain", kind("taskhare.schedule.explode")), false),
            (content(NEWER, Message::default()), false),
            (Message { headers: Headers::new(), ..pause() }, false),
            (Message::default(), false),
        ] {
            assert!(Record::read(message.clone()).is_err(), "{message:?}");
            assert_eq!(Record::may_be_newer(&message), expected, "{message:?}");
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written_but_for_the_payload() {
        let to = TaskId::new();
        for answer in [Answer::Done, Answer::Missing, Answer::Refused("no such schedule".to_owned())] {
            assert_eq!(Answer::open(answer.clone().seal(to, NOW)), Some((to, answer)));
        }
        for mut entry in entries() {
            let message = Answer::Entry(Box::new(entry.clone())).seal(to, NOW);
            entry.definition.payload = Vec::new();
            assert_eq!(Answer::open(message), Some((to, Answer::Entry(Box::new(entry)))));
        }
        let unrelated = Message { correlation_id: Some(to.to_string()), ..Record::marker(to) };
        for other in [Message::default(), Record::marker(to), unrelated] {
            assert_eq!(Answer::open(other), None);
        }
    }

    #[test]
    fn a_command_says_what_it_is() {
        let name = || "nightly".to_owned();
        for (what, text) in [
            (What::Pause(name()), "pause schedule \"nightly\""),
            (What::Ended(name(), 7), "report the end of tick 7 of schedule \"nightly\""),
            (What::List(Some(name())), "ask about schedule \"nightly\""),
            (What::List(None), "list schedules"),
        ] {
            assert_eq!(what.to_string(), text);
        }
    }

    #[test]
    fn a_question_goes_stale_and_a_change_does_not() {
        for (what, after, is_stale) in [
            (What::List(None), 59, false),
            (What::List(None), 61, true),
            (What::List(Some("nightly".to_owned())), 61, true),
            (What::Pause("nightly".to_owned()), 1_000_000, false),
        ] {
            let command = Command::new(what, NOW);
            assert_eq!(command.is_stale(NOW + Duration::from_secs(after)), is_stale, "{command:?}");
        }
        let ahead = Command::new(What::List(None), NOW + Duration::from_secs(1000));
        assert!(!ahead.is_stale(NOW));
    }
}
