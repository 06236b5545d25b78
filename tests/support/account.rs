//! [`Account`]: what the processes said they did.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use crate::ticks::Ran;
use crate::worker::TASKS;

/// Of tasks by their numbers.
#[derive(Debug, Default)]
pub struct Account {
    confirmed: HashSet<u32>,
    /// How often each was done, from messages that had not been delivered before.
    done: HashMap<u32, usize>,
    /// The same from messages that had.
    again: HashMap<u32, usize>,
    /// Of tasks that are tried again, in the order in which we read of them.
    pub attempts: Vec<Attempt>,
    /// How often each was started, of those that say so.
    started: HashMap<u32, usize>,
    /// The ticks of schedules that were run, in the order in which we read of them.
    pub ran: Vec<Ran>,
    /// The schedulers that say they are active, the last to say so last.
    pub active: Vec<u32>,
    /// What they logged, and their panics.
    pub log: Vec<String>,
}

/// One attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    pub task: u32,
    pub number: u32,
    /// When it started, since the Unix epoch.
    pub at: Duration,
    /// The process that ran it.
    pub process: u32,
}

impl Attempt {
    fn parse(line: &str) -> Self {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [task, number, at, process] = numbers[..] else { panic!("{line}") };
        let small = |number: u64| u32::try_from(number).unwrap();
        let at = Duration::from_micros(at);
        Self { task: small(task), number: small(number), at, process: small(process) }
    }
}

impl fmt::Display for Attempt {
    /// As [`parse`](Self::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.task, self.number, self.at.as_micros(), self.process)
    }
}

impl Account {
    /// One line of a process's standard output; others than ours are libtest's.
    pub fn enter(&mut self, line: &str) {
        let Some((word, number)) = line.split_once(' ') else { return };
        if word == "attempt" {
            self.attempts.push(Attempt::parse(number));
            return;
        }
        if word == "ran" {
            self.ran.push(Ran::parse(number));
            return;
        }
        let Ok(number) = number.parse() else { return };
        match word {
            "active" => self.active.push(number),
            "inactive" => self.active.retain(|process| *process != number),
            "confirmed" => drop(self.confirmed.insert(number)),
            "done" => *self.done.entry(number).or_default() += 1,
            "started" => *self.started.entry(number).or_default() += 1,
            "again" => *self.again.entry(number).or_default() += 1,
            _ => {}
        }
    }

    /// How many tasks the broker has confirmed.
    pub fn confirmed(&self) -> usize {
        self.confirmed.len()
    }

    /// How many tasks are done, however often.
    pub fn done(&self) -> usize {
        self.done.len() + self.again.keys().filter(|number| !self.done.contains_key(number)).count()
    }

    /// How often a task was started, if its handler says so.
    pub fn starts(&self, number: u32) -> usize {
        self.started.get(&number).copied().unwrap_or(0)
    }

    /// How many runs there were beyond the first of each task.
    pub fn repeats(&self) -> usize {
        self.done.values().chain(self.again.values()).sum::<usize>() - self.done()
    }

    /// How many runs were of messages that had been delivered before.
    pub fn redelivered(&self) -> usize {
        self.again.values().sum()
    }

    /// Confirmed and not done.
    pub fn lost(&self) -> Vec<u32> {
        let is_done = |number: &u32| self.done.contains_key(number) || self.again.contains_key(number);
        let mut lost: Vec<u32> = self.confirmed.iter().copied().filter(|it| !is_done(it)).collect();
        lost.sort_unstable();
        lost
    }

    /// Whether a process panicked. The client library panics instead of returning some errors, in tasks of its own:
    /// that is caught, and counts as a lost connection.
    pub fn panicked(&self) -> bool {
        self.log.iter().any(|line| line.contains("panicked at") && !line.contains("/amqprs-"))
    }

    /// Done by a task that was never enqueued.
    pub fn invented(&self) -> usize {
        self.done.keys().chain(self.again.keys()).filter(|number| **number >= TASKS).count()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} confirmed, {} done, {} repeats, {} runs of redelivered messages",
            self.confirmed(),
            self.done(),
            self.repeats(),
            self.redelivered()
        )
    }
}
