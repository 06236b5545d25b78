//! [`Violation`]: what the library did that it must not, and the records that prove it.

use std::fmt;
use std::time::Duration;

use crate::history::Record;

/// What the library did that it must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub wrong: Wrong,
    pub proof: Vec<Record>,
}

/// Which rule it broke. A `task` is the number of an operation; `copy` and `attempt` are those of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The run itself has not come to its end.
    Unproven { why: String },
    /// The broker had it, and it has no end.
    Lost { task: u32 },
    /// It has several ends, and no recorded cause accounts for that.
    Contradicted { task: u32, ends: Vec<&'static str> },
    /// There is a trace of a task that nobody enqueued, or that the broker refused.
    Invented { task: u32 },
    /// It is dead for a reason that it did not have.
    Misjudged { task: u32, reason: String, why: &'static str },
    /// An attempt was started once more, and no recorded cause accounts for that.
    Unexplained { task: u32, copy: u32, attempt: u32 },
    /// An attempt was started without a failure of the one before it.
    Skipped { task: u32, attempt: u32 },
    /// An attempt was started beyond the last one.
    Beyond { task: u32, attempt: u32 },
    /// It kills its process, and was started more often than the limit allows.
    Condemned { task: u32, starts: usize },
    /// An attempt was started, or a tick run, before its time.
    Early { what: String, by: Duration },
    /// An attempt was started after its deadline.
    Late { task: u32, by: Duration },
    /// It was started though it was cancelled.
    Cancelled { task: u32 },
    /// A copy of it was started that another one had replaced.
    Superseded { task: u32 },
    /// An event is missing.
    Untold { task: u32, event: String },
    /// An event tells of what nobody did.
    Unfounded { task: u32, event: String },
    /// A planned tick was never run.
    TickMissing { schedule: String, planned: u64 },
    /// A tick was run that was not planned.
    TickUnplanned { schedule: String, planned: u64 },
    /// A tick was run once more, and no recorded cause accounts for that.
    TickRepeated { schedule: String, sequence: u64 },
    /// Two tasks are the same tick.
    TickDoubled { schedule: String, sequence: u64 },
    /// Ticks are not counted by their times: one number is missing, or a later one is of an earlier time.
    TickMiscounted { schedule: String, sequence: u64 },
    /// A queue holds what it ought not to, or does not hold what it ought to.
    Left { queue: String, messages: u64, nominal: u64 },
    /// The broker counts more or less than at first.
    Counted { what: &'static str, before: u64, after: u64 },
    /// A process has grown beyond its bounds.
    Held { who: String, what: &'static str, before: u64, after: u64 },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unproven { why } => write!(f, "the run proves nothing: {why}"),
            Self::Lost { task } => write!(f, "task {task} is lost: the broker had it, and it has no end"),
            Self::Contradicted { task, ends } => {
                write!(f, "task {task} ended more than once without a cause: {}", ends.join(", "))
            }
            Self::Invented { task } => {
                write!(f, "there is a trace of task {task}, which the broker was never given")
            }
            Self::Misjudged { task, reason, why } => {
                write!(f, "task {task} is dead as {reason:?}, but {why}")
            }
            Self::Unexplained { task, copy, attempt } => {
                write!(f, "attempt {attempt} of task {task} (copy {copy}) was started again without a cause")
            }
            Self::Skipped { task, attempt } => {
                write!(f, "attempt {attempt} of task {task} was started without a failure of the one before")
            }
            Self::Beyond { task, attempt } => {
                write!(f, "attempt {attempt} of task {task} is beyond its last one")
            }
            Self::Condemned { task, starts } => {
                write!(f, "task {task}, which kills its process, was started {starts} times")
            }
            Self::Early { what, by } => write!(f, "{what} started {by:?} early"),
            Self::Late { task, by } => write!(f, "task {task} was started {by:?} after its deadline"),
            Self::Cancelled { task } => write!(f, "task {task} was started though it was cancelled"),
            Self::Superseded { task } => {
                write!(f, "the old copy of task {task} was started though another one had replaced it")
            }
            Self::Untold { task, event } => write!(f, "the history does not tell of task {task}: {event}"),
            Self::Unfounded { task, event } => {
                write!(f, "the history tells of task {task}: {event}; but nobody did that")
            }
            Self::TickMissing { schedule, planned } => {
                write!(f, "the tick of {schedule} planned at {planned} was never run")
            }
            Self::TickUnplanned { schedule, planned } => {
                write!(f, "a tick of {schedule} at {planned} was not planned")
            }
            Self::TickRepeated { schedule, sequence } => {
                write!(f, "tick {sequence} of {schedule} was run again without a cause")
            }
            Self::TickDoubled { schedule, sequence } => {
                write!(f, "tick {sequence} of {schedule} is the same as another one")
            }
            Self::TickMiscounted { schedule, sequence } => {
                write!(f, "tick {sequence} of {schedule} is missing, or not in the order of the times")
            }
            Self::Left { queue, messages, nominal } => {
                write!(f, "queue {queue} holds {messages} messages at the end, and ought to hold {nominal}")
            }
            Self::Counted { what, before, after } => {
                write!(f, "there were {before} {what} at first, and are {after} at the end")
            }
            Self::Held { who, what, before, after } => {
                write!(f, "{who} had {before} {what} at first, and has {after} at the end")
            }
        }
    }
}

impl fmt::Display for Violation {
    /// What, and the records, each in its line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.wrong)?;
        self.proof.iter().try_for_each(|record| write!(f, "\n    {record}"))
    }
}
