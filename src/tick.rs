//! [`Tick`]: which tick of a schedule a task is.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::message::Headers;
use crate::message::Value;
use crate::task::TaskId;

const SCHEDULE: &str = "schedule";
const SEQUENCE: &str = "sequence";
const PLANNED: &str = "planned";
const TRIGGERED: &str = "triggered";
const REPORTS: &str = "reports";

/// One tick of a schedule, as the handler of its task sees it: see [`TaskContext::tick`](crate::TaskContext::tick).
///
/// The task's id is derived from it: the same tick has the same id, whichever scheduler fired it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    pub(crate) schedule: String,
    pub(crate) sequence: u64,
    /// Since the Unix epoch, in whole milliseconds.
    pub(crate) planned: Duration,
    pub(crate) is_triggered: bool,
    /// Whether the schedule wants to know of its end.
    pub(crate) reports: bool,
}

impl Tick {
    /// The name of the schedule.
    #[must_use]
    pub fn schedule(&self) -> &str {
        &self.schedule
    }

    /// How many ticks the schedule has fired, this one included: 1 is the first. No two have the same.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was planned, to the millisecond, without its [`jitter`](crate::Schedule::jitter). For one that was
    /// [triggered](Self::is_triggered): when that was.
    #[must_use]
    pub fn planned_at(&self) -> SystemTime {
        UNIX_EPOCH + self.planned
    }

    /// Whether somebody asked for it, beside the planned ones.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.is_triggered
    }

    /// The id of its task, which says when it was planned. `origin` tells a schedule from an earlier one of the same name.
    pub(crate) fn task_id(&self, origin: TaskId) -> TaskId {
        let Self { schedule, sequence, planned, is_triggered, reports: _ } = self;
        let what = format!("{schedule}\n{sequence}\n{}\n{is_triggered}", planned.as_millis());
        TaskId::derived(origin, what.as_bytes(), *planned)
    }

    /// As a header.
    pub(crate) fn to_value(&self) -> Value {
        let mut table = Headers::new();
        table.insert(SCHEDULE, self.schedule.as_str());
        table.insert(SEQUENCE, self.sequence);
        table.insert(PLANNED, self.planned);
        for (name, is_set) in [(TRIGGERED, self.is_triggered), (REPORTS, self.reports)] {
            if is_set {
                table.insert(name, true);
            }
        }
        Value::Table(table)
    }

    /// The inverse of [`to_value`](Self::to_value).
    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        let Value::Table(table) = value else { return None };
        Some(Self {
            schedule: table.get(SCHEDULE)?.as_text()?.to_owned(),
            sequence: table.get(SEQUENCE)?.as_unsigned()?,
            planned: table.get(PLANNED)?.as_milliseconds()?,
            is_triggered: table.get(TRIGGERED) == Some(&Value::Bool(true)),
            reports: table.get(REPORTS) == Some(&Value::Bool(true)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick() -> Tick {
        Tick {
            schedule: "report".to_owned(),
            sequence: 7,
            planned: Duration::from_millis(1_700_000_000_123),
            is_triggered: false,
            reports: false,
        }
    }

    #[test]
    fn what_is_written_is_read_the_same() {
        for tick in [tick(), Tick { is_triggered: true, reports: true, ..tick() }] {
            assert_eq!(Tick::from_value(&tick.to_value()), Some(tick));
        }
        for other in [Value::Null, Value::Int(1), Value::Table(Headers::new())] {
            assert_eq!(Tick::from_value(&other), None);
        }
    }

    #[test]
    fn a_tick_has_one_id_and_no_two_have_the_same() {
        let origin = TaskId::from_u128(1);
        let others = [
            Tick { schedule: "other".to_owned(), ..tick() },
            Tick { sequence: 8, ..tick() },
            Tick { planned: Duration::from_millis(1), ..tick() },
            Tick { is_triggered: true, ..tick() },
        ];
        assert_eq!(tick().task_id(origin), Tick { reports: true, ..tick() }.task_id(origin));
        assert_eq!(tick().task_id(origin).time(), Some(tick().planned));
        assert_ne!(tick().task_id(origin), tick().task_id(TaskId::from_u128(2)));
        for other in others {
            assert_ne!(other.task_id(origin), tick().task_id(origin), "{other:?}");
        }
    }
}
