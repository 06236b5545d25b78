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

    /// `None` if the table does not say all that it must.
    pub(super) fn read(table: &Headers, envelope: Envelope) -> Option<Self> {
        let state = read_state(table)?;
        Some(Self { definition: read_definition(table, envelope)?, state })
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
    let deadline = tick.as_ref().zip(definition.deadline_in).map(|(tick, time)| {
        let planned = tick.planned + time;
        if planned > now { planned } else { now + time }
    });
    let mut envelope = Envelope {
        id,
        name: definition.task.clone().into(),
        enqueued_at: now,
        attempt: 1,
        max_attempts: definition.max_attempts,
        priority: definition.priority,
        due: None,
        hold: None,
        deadline,
        run_timeout: definition.run_timeout,
        revision: 0,
        returned: 0,
        unique: None,
        tick: tick.map(Box::new),
        reply_to: None,
        payload: definition.payload.clone(),
        rest,
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
        table.insert("limit", number(limit));
    }
}

pub(super) fn read_definition(table: &Headers, envelope: Envelope) -> Option<Definition> {
    let text = |name| table.get(name).and_then(Value::as_text);
    let time = |name| table.get(name).and_then(Value::as_milliseconds);
    Some(Definition {
        name: text("name")?.to_owned(),
        cadence: text("cadence")?.parse().ok()?,
        queue: QueueName::new(text("queue")?).ok()?,
        misfire: Misfire::parse(text("misfire")?)?,
        overlap: Overlap::parse(text("overlap")?)?,
        longest_run: time("longest-run")?,
        jitter: time("jitter").unwrap_or_default(),
        deadline_in: time("deadline-in"),
        starts: time("starts"),
        ends: time("ends"),
        limit: table.get("limit").and_then(unsigned),
        retry: envelope.policy_text().map(str::to_owned),
        task: envelope.name.into_owned(),
        priority: envelope.priority,
        run_timeout: envelope.run_timeout,
        max_attempts: envelope.max_attempts,
        payload: envelope.payload,
    })
}

fn write_state(table: &mut Headers, state: &State) {
    table.insert("version", number(state.version));
    table.insert("origin", state.origin.to_string());
    table.insert("anchor", state.anchor);
    table.insert("passed", state.passed);
    table.insert("sequence", number(state.sequence));
    if let Some(last) = state.last {
        table.insert("planned", last.planned);
        table.insert("fired", last.fired);
    }
    if state.is_paused {
        table.insert("paused", true);
    }
    if !state.running.is_empty() {
        let running = state.running.iter();
        let pairs = running.flat_map(|tick| [number(tick.sequence).into(), tick.since.into()]);
        table.insert("running", Value::List(pairs.collect()));
    }
    table.insert("recent", Value::List(state.recent.iter().map(|id| number(*id).into()).collect()));
}

fn read_state(table: &Headers) -> Option<State> {
    let time = |name| table.get(name).and_then(Value::as_milliseconds);
    let running = list(table, "running").chunks_exact(2).filter_map(|pair| {
        Some(Running { sequence: unsigned(&pair[0])?, since: pair[1].as_milliseconds()? })
    });
    Some(State {
        version: unsigned(table.get("version")?)?,
        origin: table.get("origin")?.as_text()?.parse().ok()?,
        anchor: time("anchor")?,
        passed: time("passed")?,
        sequence: unsigned(table.get("sequence")?)?,
        last: time("planned").zip(time("fired")).map(|(planned, fired)| LastTick { planned, fired }),
        is_paused: table.get("paused") == Some(&Value::Bool(true)),
        running: running.collect(),
        recent: list(table, "recent").iter().filter_map(unsigned).collect(),
        free_since: Duration::ZERO,
    })
}

fn list<'a>(table: &'a Headers, name: &str) -> &'a [Value] {
    match table.get(name) {
        Some(Value::List(values)) => values,
        _ => &[],
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_int().and_then(|value| u64::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;
    use crate::task::Task;

    const NOW: Duration = Duration::from_millis(1_700_000_000_123);
    const SECOND: Duration = Duration::from_secs(1);

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Report;

    impl Task for Report {
        const NAME: &'static str = "report";
        type Output = ();
    }

    fn entry() -> Entry {
        let schedule = Schedule::new("nightly", 60 * SECOND, Report)
            .deadline_in(600 * SECOND)
            .limit(100)
            .jitter(SECOND)
            .misfire(Misfire::Skip)
            .overlap(Overlap::Wait);
        let definition = Definition::check(schedule, 1000).unwrap();
        let state = State::new(TaskId::from_u128(42), &definition, NOW);
        Entry { definition, state }
    }

    fn written(message: &Message) -> &Headers {
        match message.headers.get(envelope::SCHEDULE) {
            Some(Value::Table(table)) => table,
            other => panic!("{other:?}"),
        }
    }

    fn read(message: &Message) -> Option<Entry> {
        Entry::read(written(message), Envelope::open(message.clone()).unwrap())
    }

    /// What fails here loses somebody's schedules: whatever changes, this has to be read.
    #[test]
    fn a_tick_and_the_entry_in_it_as_they_are_written() {
        let mut entry = entry();
        entry.state.is_paused = true;
        let planned = NOW + 60 * SECOND;
        let tick = entry.state.fire(&entry.definition, planned, planned, planned + SECOND);
        let message = entry.envelope(Some(tick.clone()), planned + SECOND).seal();
        let expected: Headers = [
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
        assert_eq!(written(&message), &expected);
        let expected: Headers = [
            ("schedule", Value::from("nightly")),
            ("sequence", 1.into()),
            ("planned", 1_700_000_060_123_i64.into()),
            ("reports", true.into()),
        ]
        .into_iter()
        .collect();
        assert_eq!(message.headers.get("taskhare-tick"), Some(&Value::Table(expected)));
        let deadline = Value::Int(1_700_000_660_123);
        assert_eq!(message.headers.get("taskhare-deadline"), Some(&deadline));
        assert_eq!(message.id, Some(tick.task_id(TaskId::from_u128(42)).to_string()));
        assert_eq!((message.kind.as_deref(), &message.body[..]), (Some("report"), &[0x90][..]));
        assert_eq!(read(&message), Some(entry));
    }

    #[test]
    fn an_entry_without_a_tick_is_read_the_same_and_is_no_tick() {
        let message = entry().envelope(None, NOW).seal();
        assert_eq!(read(&message), Some(entry()));
        assert_eq!(message.headers.get("taskhare-tick"), None);
        assert_eq!(message.headers.get("taskhare-deadline"), None);
        assert_eq!(message.id.as_deref(), Some("00000000-0000-0000-0000-00000000002a"));
    }

    #[test]
    fn an_entry_of_which_something_is_missing_is_none() {
        let whole = entry().envelope(None, NOW).seal();
        let Some(Value::Table(table)) = whole.headers.get(envelope::SCHEDULE) else { panic!("no table") };
        let optional = ["deadline-in", "limit", "jitter", "recent"];
        for (name, _) in table.iter() {
            let mut part = table.clone();
            part.remove(name);
            let mut message = whole.clone();
            message.headers.insert(envelope::SCHEDULE, Value::Table(part));
            assert_eq!(read(&message).is_some(), optional.contains(&name), "without {name}");
        }
    }
}
