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
    let deadline = tick.as_ref().zip(definition.deadline_in).map(|(tick, time)| {
        let planned = tick.planned.saturating_add(time);
        if planned > now { planned } else { now.saturating_add(time) }
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
        limit: optional(table, "limit", unsigned)?,
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

fn read_state(table: &Headers) -> Result<State, String> {
    let time = |name| required(table, name, Value::as_milliseconds);
    let planned = optional(table, "planned", Value::as_milliseconds)?;
    let fired = optional(table, "fired", Value::as_milliseconds)?;
    Ok(State {
        version: required(table, "version", unsigned)?,
        origin: required(table, "origin", |value| value.as_text()?.parse().ok())?,
        anchor: time("anchor")?,
        passed: time("passed")?,
        sequence: required(table, "sequence", unsigned)?,
        last: planned.zip(fired).map(|(planned, fired)| LastTick { planned, fired }),
        is_paused: optional(table, "paused", truth)?.unwrap_or_default(),
        running: optional(table, "running", running)?.unwrap_or_default(),
        recent: required(table, "recent", |value| list(value)?.iter().map(unsigned).collect())?,
        free_since: Duration::ZERO,
    })
}

fn running(value: &Value) -> Option<Vec<Running>> {
    let ticks = list(value)?.chunks(2).map(|pair| match pair {
        [sequence, since] => {
            Some(Running { sequence: unsigned(sequence)?, since: since.as_milliseconds()? })
        }
        _ => None,
    });
    ticks.collect()
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
    let unreadable = || format!("{name:?} in the table of the schedule is {value:.200?}, which cannot be read");
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

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: &Value) -> Option<u64> {
    value.as_int().and_then(|value| u64::try_from(value).ok())
}
