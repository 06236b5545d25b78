//! [`Entry`]: a schedule and how far it has come, as one message.
//!
//! It is a task's message with one header more, `taskhare-schedule`: a table. A tick is such a message too: the broker
//! puts the same one into the task's lane and into `{ns}.schedules`.
//!
//! | in the table | what |
//! | --- | --- |
//! | `name`, `cadence` | as [`Cadence`](crate::Cadence) is written |
//! | `queue`, `deadline-in`, `starts`, `ends`, `limit`, `jitter`, `misfire`, `overlap`, `longest-run` | the rest of the definition |
//! | `version` | of two the greater counts; absent: it is only [declared](super::What::Declare) |
//! | `origin` | the id of the command that made it |
//! | `anchor`, `passed` | from when an interval counts; up to when ticks are dealt with |
//! | `sequence`, `planned`, `fired` | how many ticks there were; of the last, when it was planned and fired |
//! | `fired-by` | the last tenures that have fired ticks, and the first tick of each, in turns |
//! | `paused` | absent: it is not |
//! | `running` | the ticks that have not ended: sequence and since when, in turns |
//! | `recent` | the last commands that changed it |
//!
//! Times are in milliseconds, since the Unix epoch. The task's name, payload, priority, limits and retry policy are
//! where any task has them.

use std::time::Duration;

use super::Definition;
use super::Misfire;
use super::Overlap;
use super::State;
use super::state::FiredBy;
use super::state::LastTick;
use super::state::Running;
use crate::envelope;
use crate::envelope::Envelope;
use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::task::TaskId;
use crate::tick::Tick;
use crate::topology::QueueName;

/// A schedule and how far it has come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) definition: Definition,
    pub(crate) state: State,
}

impl Entry {
    /// As the task of `tick`; without one, as an entry alone.
    pub(crate) fn envelope(&self, tick: Option<Tick>, now: Duration) -> Envelope {
        let mut table = Headers::new();
        write_definition(&mut table, &self.definition);
        write_state(&mut table, &self.state);
        let id = tick.as_ref().map_or(self.state.origin, |tick| tick.task_id(self.state.origin));
        envelope_of(&self.definition, id, table, tick, now)
    }

    /// Of two entries of one schedule, whether this one counts. Ids sort by time: what was made later is the newer
    /// schedule of that name.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        (self.state.origin, self.state.version) > (other.state.origin, other.state.version)
    }

    pub(crate) fn is_same_version_as(&self, other: &Self) -> bool {
        (self.state.origin, self.state.version) == (other.state.origin, other.state.version)
    }

    /// Or what is wrong with the table.
    pub(super) fn read(table: &Headers, envelope: Envelope) -> Result<Self, String> {
        let state = read_state(table)?;
        Ok(Self { definition: read_definition(table, envelope)?, state })
    }
}

/// A declaration, as it travels to the scheduler.
pub(super) fn declaration(definition: &Definition, id: TaskId, now: Duration) -> Message {
    let mut table = Headers::new();
    write_definition(&mut table, definition);
    envelope_of(definition, id, table, None, now).seal()
}

fn envelope_of(
    definition: &Definition,
    id: TaskId,
    table: Headers,
    tick: Option<Tick>,
    now: Duration,
) -> Envelope {
    let mut rest = Headers::new();
    rest.insert(envelope::SCHEDULE, Value::Table(table));
    let deadline = tick.as_ref().and_then(|tick| definition.deadline(tick, now));
    let (name, payload) = (definition.task.clone(), definition.payload.clone());
    let mut envelope = Envelope {
        max_attempts: definition.max_attempts,
        priority: definition.priority,
        deadline,
        run_timeout: definition.run_timeout,
        tick: tick.map(Box::new),
        rest,
        ..Envelope::new(id, name, now, payload)
    };
    if let Some(policy) = &definition.retry {
        envelope.set_policy(policy);
    }
    envelope
}

fn write_definition(table: &mut Headers, definition: &Definition) {
    table.insert("name", definition.name.as_str());
    table.insert("cadence", definition.cadence.to_string());
    table.insert("queue", definition.queue.as_str());
    table.insert("misfire", definition.misfire.to_string());
    table.insert("overlap", definition.overlap.as_str());
    table.insert("longest-run", definition.longest_run);
    if !definition.jitter.is_zero() {
        table.insert("jitter", definition.jitter);
    }
    let times =
        [("deadline-in", definition.deadline_in), ("starts", definition.starts), ("ends", definition.ends)];
    for (name, time) in times {
        if let Some(time) = time {
            table.insert(name, time);
        }
    }
    if let Some(limit) = definition.limit {
        table.insert("limit", limit);
    }
}

pub(super) fn read_definition(table: &Headers, envelope: Envelope) -> Result<Definition, String> {
    let optional_time = |name| optional(table, name, Value::as_milliseconds);
    Ok(Definition {
        name: required(table, "name", text)?,
        cadence: required(table, "cadence", |value| value.as_text()?.parse().ok())?,
        queue: required(table, "queue", |value| QueueName::new(value.as_text()?).ok())?,
        misfire: required(table, "misfire", |value| Misfire::parse(value.as_text()?))?,
        overlap: required(table, "overlap", |value| Overlap::parse(value.as_text()?))?,
        longest_run: required(table, "longest-run", Value::as_milliseconds)?,
        jitter: optional_time("jitter")?.unwrap_or_default(),
        deadline_in: optional_time("deadline-in")?,
        starts: optional_time("starts")?,
        ends: optional_time("ends")?,
        limit: optional(table, "limit", Value::as_unsigned)?,
        retry: envelope.policy_text().map(str::to_owned),
        task: envelope.name.into_owned(),
        priority: envelope.priority,
        run_timeout: envelope.run_timeout,
        max_attempts: envelope.max_attempts,
        payload: envelope.payload,
    })
}

fn write_state(table: &mut Headers, state: &State) {
    table.insert("version", state.version);
    table.insert("origin", state.origin.to_string());
    table.insert("anchor", state.anchor);
    table.insert("passed", state.passed);
    table.insert("sequence", state.sequence);
    if let Some(last) = state.last {
        table.insert("planned", last.planned);
        table.insert("fired", last.fired);
    }
    if !state.fired_by.is_empty() {
        let pairs = state.fired_by.iter().flat_map(|by| [by.tenure.into(), by.since.into()]);
        table.insert("fired-by", Value::List(pairs.collect()));
    }
    if state.is_paused {
        table.insert("paused", true);
    }
    if !state.running.is_empty() {
        let running = state.running.iter();
        let pairs = running.flat_map(|tick| [tick.sequence.into(), tick.since.into()]);
        table.insert("running", Value::List(pairs.collect()));
    }
    table.insert("recent", Value::List(state.recent.iter().map(|id| (*id).into()).collect()));
}

fn read_state(table: &Headers) -> Result<State, String> {
    let time = |name| required(table, name, Value::as_milliseconds);
    let planned = optional(table, "planned", Value::as_milliseconds)?;
    let fired = optional(table, "fired", Value::as_milliseconds)?;
    Ok(State {
        version: required(table, "version", Value::as_unsigned)?,
        origin: required(table, "origin", |value| value.as_text()?.parse().ok())?,
        anchor: time("anchor")?,
        passed: time("passed")?,
        sequence: required(table, "sequence", Value::as_unsigned)?,
        last: planned.zip(fired).map(|(planned, fired)| LastTick { planned, fired }),
        fired_by: optional(table, "fired-by", fired_by)?.unwrap_or_default(),
        is_paused: optional(table, "paused", truth)?.unwrap_or_default(),
        running: optional(table, "running", running)?.unwrap_or_default(),
        recent: required(table, "recent", |value| list(value)?.iter().map(Value::as_unsigned).collect())?,
        free_since: Duration::ZERO,
    })
}

fn fired_by(value: &Value) -> Option<Vec<FiredBy>> {
    pairs(value, |tenure, since| Some(FiredBy { tenure: tenure.as_unsigned()?, since: since.as_unsigned()? }))
}

fn running(value: &Value) -> Option<Vec<Running>> {
    pairs(value, |sequence, since| {
        Some(Running { sequence: sequence.as_unsigned()?, since: since.as_milliseconds()? })
    })
}

/// What was written in turns.
fn pairs<T>(value: &Value, read: impl Fn(&Value, &Value) -> Option<T>) -> Option<Vec<T>> {
    let pairs = list(value)?.chunks(2).map(|pair| match pair {
        [first, second] => read(first, second),
        _ => None,
    });
    pairs.collect()
}

fn required<T>(table: &Headers, name: &str, read: impl FnOnce(&Value) -> Option<T>) -> Result<T, String> {
    optional(table, name, read)?.ok_or_else(|| format!("{name:?} is missing in the table of the schedule"))
}

fn optional<T>(
    table: &Headers,
    name: &str,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, String> {
    let Some(value) = table.get(name) else { return Ok(None) };
    let unreadable = || format!("{name:?} in the table of the schedule is {value:?}, which cannot be read");
    read(value).map(Some).ok_or_else(unreadable)
}

fn text(value: &Value) -> Option<String> {
    value.as_text().map(str::to_owned)
}

fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(is_so) => Some(*is_so),
        _ => None,
    }
}

fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::List(values) => Some(values),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::schedule::Record;
    use crate::schedule::definition::tests::samples;

    const NOW: Duration = Duration::from_nanos(1_800_000_000_123_456_789);

    fn new(definition: Definition) -> Entry {
        Entry { state: State::new(TaskId::at(NOW), &definition, NOW), definition }
    }

    /// In the states that a schedule can be in.
    pub(in crate::schedule) fn entries() -> Vec<Entry> {
        let fresh = samples().into_iter().map(new);
        let fired = samples().into_iter().map(|definition| {
            let mut entry = new(definition);
            entry.state.fire(&entry.definition, NOW, NOW, NOW);
            entry.state.trigger(&entry.definition, NOW);
            entry.state.fired_by(7);
            entry
        });
        let paused = samples().into_iter().map(|definition| {
            let mut entry = new(definition);
            entry.state.pause();
            (0..20).for_each(|id| entry.state.remember(TaskId::from_u128(u128::MAX - id)));
            entry.state.version = i64::MAX as u64;
            entry
        });
        fresh.chain(fired).chain(paused).collect()
    }

    fn read(message: Message) -> Result<Entry, String> {
        match Record::read(message)? {
            Record::Entry(entry) => Ok(*entry),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_the_same_with_a_tick_or_without() {
        for entry in entries() {
            let tick = entry.state.clone().trigger(&entry.definition, NOW);
            for tick in [None, Some(tick)] {
                let mut message = entry.envelope(tick.clone(), NOW).seal();
                message.headers.insert("CC", Value::List(vec!["schedules".into()]));
                message.headers.insert("x-delivery-count", 3);
                assert_eq!(read(message).as_ref(), Ok(&entry), "{tick:?}");
            }
        }
    }

    #[test]
    fn the_task_of_a_tick_carries_what_was_said_about_it_and_not_its_schedule() {
        for entry in entries() {
            let tick = entry.state.clone().trigger(&entry.definition, NOW);
            let task = Envelope::open(entry.envelope(Some(tick.clone()), NOW).seal()).unwrap();
            let Definition {
                task: name,
                payload,
                priority,
                run_timeout,
                max_attempts,
                retry,
                deadline_in,
                ..
            } = entry.definition;
            assert_eq!((&*task.name, &task.payload, task.priority), (&*name, &payload, priority));
            assert_eq!((task.run_timeout, task.max_attempts), (run_timeout, max_attempts));
            assert_eq!(task.policy_text(), retry.as_deref());
            assert_eq!(task.deadline.is_some(), deadline_in.is_some());
            assert_eq!(task.id, tick.task_id(entry.state.origin));
            assert_eq!(task.tick.as_deref(), Some(&tick));
            assert_eq!(task.rest.get(envelope::SCHEDULE), None);
        }
    }

    #[test]
    fn a_deadline_counts_from_the_plan_or_from_now_if_that_is_past() {
        let seconds = Duration::from_secs;
        let mut entry = new(samples().remove(0));
        entry.definition.deadline_in = Some(seconds(60));
        for (planned, now, deadline) in [(100, 100, 160), (100, 159, 160), (100, 160, 220), (100, 900, 960)] {
            let tick =
                entry.state.clone().fire(&entry.definition, seconds(planned), seconds(planned), seconds(now));
            let task = entry.envelope(Some(tick), seconds(now));
            assert_eq!(task.deadline, Some(seconds(deadline)), "{now}");
        }
    }

    #[test]
    fn a_table_that_misses_something_or_says_nonsense_is_refused_by_name() {
        let entry = entries().into_iter().find(|entry| !entry.state.running.is_empty()).unwrap();
        let mut full = entry;
        full.definition.jitter = Duration::from_secs(1);
        full.definition.limit = Some(5);
        full.definition.deadline_in = Some(Duration::from_secs(1));
        full.definition.starts = Some(Duration::ZERO);
        full.definition.ends = Some(NOW);
        full.state.is_paused = true;
        let message = || full.envelope(None, NOW).seal();
        let Some(Value::Table(table)) = message().headers.remove(envelope::SCHEDULE) else {
            panic!("a table")
        };
        let may_miss = [
            "deadline-in",
            "starts",
            "ends",
            "limit",
            "jitter",
            "planned",
            "fired",
            "fired-by",
            "paused",
            "running",
            "version",
        ];
        for (name, _) in table.iter() {
            let mut without = table.clone();
            without.remove(name);
            let changed = |table| {
                let mut message = message();
                message.headers.insert(envelope::SCHEDULE, Value::Table(table));
                Record::read(message)
            };
            match changed(without) {
                Ok(_) => assert!(may_miss.contains(&name), "{name}"),
                Err(why) => assert!(why.contains(name), "{name}: {why}"),
            }
            let nonsense = [
                Value::Null,
                Value::Int(-1),
                Value::Float(1.0),
                Value::Table(Headers::new()),
                Value::Bytes(vec![0xff]),
                Value::List(vec![Value::Null, Value::Null]),
                Value::List(vec![Value::Int(1), Value::Int(1), Value::Int(1), Value::Null]),
                Value::Timestamp(1),
            ];
            for value in nonsense {
                let mut table = table.clone();
                table.insert(name.to_owned(), value.clone());
                let why = changed(table).map(|_| ()).unwrap_err();
                assert!(why.contains(name), "{name}: {value:?}: {why}");
            }
        }
    }

    /// What fails here loses somebody's schedules: whatever changes, this has to be read.
    #[test]
    fn a_tick_and_the_entry_in_it_as_they_are_written() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Report;
        impl crate::task::Task for Report {
            const NAME: &'static str = "report";
            type Output = ();
        }
        let (second, declared) = (Duration::from_secs(1), Duration::from_millis(1_700_000_000_123));
        let schedule = crate::schedule::Schedule::new("nightly", 60 * second, Report)
            .deadline_in(600 * second)
            .limit(100)
            .jitter(second)
            .misfire(Misfire::Skip)
            .overlap(Overlap::Wait);
        let definition = Definition::check(schedule, 1000).unwrap();
        let origin = TaskId::from_u128(42);
        let mut entry = Entry { state: State::new(origin, &definition, declared), definition };
        entry.state.is_paused = true;
        let planned = declared + 60 * second;
        let tick = entry.state.fire(&entry.definition, planned, planned, planned + second);
        let mut message = entry.envelope(Some(tick.clone()), planned + second).seal();
        assert_eq!(message.id, Some(tick.task_id(origin).to_string()));
        assert_eq!((message.kind.as_deref(), &message.body[..]), (Some("report"), &[0x90][..]));
        let table: Headers = [
            ("name", Value::from("nightly")),
            ("cadence", "every 1m".into()),
            ("queue", "default".into()),
            ("deadline-in", 600_000.into()),
            ("limit", 100.into()),
            ("jitter", 1000.into()),
            ("misfire", "skip".into()),
            ("overlap", "wait".into()),
            ("longest-run", 86_400_000.into()),
            ("version", 1.into()),
            ("origin", "00000000-0000-0000-0000-00000000002a".into()),
            ("anchor", 1_700_000_000_123_i64.into()),
            ("passed", 1_700_000_060_123_i64.into()),
            ("sequence", 1.into()),
            ("planned", 1_700_000_060_123_i64.into()),
            ("fired", 1_700_000_061_123_i64.into()),
            ("paused", true.into()),
            ("running", Value::List(vec![1.into(), 1_700_000_061_123_i64.into()])),
            ("recent", Value::List(vec![21.into()])),
        ]
        .into_iter()
        .collect();
        assert_eq!(message.headers.remove(envelope::SCHEDULE), Some(Value::Table(table)));
        let table: Headers = [
            ("schedule", Value::from("nightly")),
            ("sequence", 1.into()),
            ("planned", 1_700_000_060_123_i64.into()),
            ("reports", true.into()),
        ]
        .into_iter()
        .collect();
        assert_eq!(message.headers.remove("taskhare-tick"), Some(Value::Table(table)));
        let deadline = Value::Int(1_700_000_660_123);
        assert_eq!(message.headers.remove("taskhare-deadline"), Some(deadline));
    }
}
