//! [`History`]: what all processes of a run said they did, in lines that can be read again.
//!
//! One JSON object a line, written by whoever did it, when he did it, by the clock of the one machine that all of them are
//! on. The checker reads nothing else: whoever doubts a verdict can judge the same file.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;

use crate::load::Fate;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When, in microseconds since the Unix epoch.
    pub at: u64,
    /// The process: its role and pid (`consumer 4711`), or `run` for the one that sees to all.
    pub who: String,
    #[serde(flatten)]
    pub what: What,
}

/// What was done. A `task` is the number of an [`Operation`](crate::load::Operation).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The first line: what the [`Load`](crate::load::Load) is made of, `time` in microseconds.
    Planned { seed: u64, rate: u32, time: u64, fates: Vec<Fate> },
    /// A producer is about to do it.
    Invoked { task: u32, act: Act },
    /// … and the broker has it.
    Confirmed { task: u32, act: Act },
    /// … and it is certain that the broker does not have it.
    Refused { task: u32, act: Act, error: String },
    /// … and nobody knows.
    Unknown { task: u32, act: Act, error: String },
    /// A handler starts an attempt. `copy` counts how often the task was rescheduled before it was enqueued as it is.
    Started { task: u32, copy: u32, attempt: u32, again: bool },
    /// The handler is about to return.
    Finished { task: u32, copy: u32, attempt: u32, end: End },
    /// A handler is told to stop, and goes on: its attempt has no end, and counts as failed.
    Overran { task: u32, copy: u32, attempt: u32 },
    /// A scheduler has become the active one, or is not any more.
    Leads { active: bool },
    /// A schedule is there, whose ticks go to that queue: the first one at `starts`, none after `ends`. Times in
    /// microseconds, those two since the Unix epoch. Its policies leave out no tick.
    Scheduled { schedule: String, queue: String, period: u64, starts: u64, ends: u64 },
    /// A tick is run. `planned` in microseconds since the Unix epoch; `id` is that of its task.
    Ran { schedule: String, sequence: u64, planned: u64, id: String, again: bool },
    /// Something is done to what is named in `whom`: a process (as in [`who`](Record::who)), the broker or one of its
    /// nodes (`broker`, `node 1`), the links of all processes or of one (`link`, `link consumer 4711`), a queue that loses
    /// what it holds (`queue mail`), or `all`.
    Began { fault: String, whom: String },
    /// It is over, or, of what only ends (a kill), another one is in its place.
    Healed { fault: String, whom: String },
    /// An operator has purged or deleted a queue, in which there were so many messages as far as he knew: what waited there
    /// until now may be gone.
    Emptied { queue: String, messages: u64 },
    /// Something that is no task of the load is put into a queue, with a number that no task has. It must end as a dead
    /// letter, of that reason.
    Strayed { task: u32, reason: String },
    /// All of what is to be enqueued has been, or was given up.
    Loaded,
    /// Found at the end, among the dead letters of a queue or the undeliverable ones. `moment` is when it died, as it
    /// says, in microseconds since the Unix epoch.
    Dead { task: u32, reason: String, attempts: u32, moment: u64 },
    /// What the history on the broker tells of a task, in its order, read at the end. `kind` is that of the event, `moment`
    /// when it happened, as it says.
    Told { task: u32, kind: String, attempt: u32, moment: u64 },
    /// So many events are missing there, as it says itself.
    Missed { count: u64 },
    /// How many messages a queue holds at the end, and how many it ought to.
    Left { queue: String, messages: u64, nominal: u64 },
    /// What the broker counts for the virtual host, `before` there was any load or at the end.
    Counted { before: bool, connections: u64, channels: u64, consumers: u64, queues: u64 },
    /// What a process says of itself, `before` there was any load or at the end: resident memory in KiB, tasks of its
    /// runtime, open files.
    Held { before: bool, memory: u64, tasks: u64, files: u64 },
}

/// What a producer does about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Enqueue,
    Cancel,
    Reschedule,
}

/// How an attempt ends, as far as its handler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Succeeded,
    Failed,
    Rejected,
    Panicked,
}

impl Record {
    /// Of now.
    pub fn now(who: &str, what: What) -> Self {
        Self { at: now().as_micros() as u64, who: who.to_owned(), what }
    }

    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    pub fn at(&self) -> Duration {
        Duration::from_micros(self.at)
    }
}

impl fmt::Display for Record {
    /// As [`parse`](Self::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// All of it. The last line may be cut off: its writer was killed. Any other that is none of ours is an error.
pub fn read(text: &str) -> Result<Vec<Record>, String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut records = Vec::with_capacity(lines.len());
    for (number, line) in lines.iter().enumerate() {
        match Record::parse(line) {
            Some(record) => records.push(record),
            None if number + 1 == lines.len() => {}
            None => return Err(format!("line {}: {line}", number + 1)),
        }
    }
    Ok(records)
}

/// Since the Unix epoch, by a clock that nobody sets: the time of day when this process first asked, and what has passed
/// since.
pub fn now() -> Duration {
    static FIRST: LazyLock<(Duration, Instant)> =
        LazyLock::new(|| (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), Instant::now()));
    FIRST.0 + FIRST.1.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_but_for_a_last_line_that_is_cut_off() {
        let record = |task| Record {
            at: 1_700_000_000_000_000,
            who: "consumer 7".to_owned(),
            what: What::Started { task, copy: 0, attempt: 1, again: false },
        };
        let text = format!("{}\n{}\n", record(1), record(2));
        assert_eq!(read(&text), Ok(vec![record(1), record(2)]));
        assert_eq!(read(&text[..text.len() - 9]), Ok(vec![record(1)]));
        assert!(read(&format!("{{\n{text}")).is_err());
    }
}
