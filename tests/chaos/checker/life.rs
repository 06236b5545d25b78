//! [`Life`]: all that was done to one task.

use std::collections::BTreeMap;

use super::fault::ACK;
use super::fault::Faults;
use super::fault::later;
use crate::history::Act;
use crate::history::End;
use crate::history::Record;
use crate::history::What;
use crate::load::Load;
use crate::load::Operation;
use crate::load::Then;

/// What there is of tasks that nobody meant to enqueue.
pub type Strangers<'a> = BTreeMap<u32, Vec<&'a Record>>;

/// One task, as far as anybody said.
#[derive(Debug)]
pub struct Life<'a> {
    pub operation: &'a Operation,
    /// What its producers did, in the order in which they began.
    pub deeds: Vec<Deed<'a>>,
    /// In the order of their starts.
    pub runs: Vec<Run<'a>>,
    pub letters: Vec<Letter<'a>>,
    /// In the order of the history on the broker.
    pub told: Vec<Told<'a>>,
}

/// A producer did something about it, or tried.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'a> {
    pub act: Act,
    pub invoked: &'a Record,
    /// `None`: its producer did not live to hear of it.
    pub answer: Option<&'a Record>,
}

/// A handler began an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub copy: u32,
    pub attempt: u32,
    pub started: &'a Record,
    /// Whether it may have been delivered before.
    pub again: bool,
    /// `None`: it did not come to its end. One that goes on though it is told to stop has failed.
    pub ended: Option<(&'a Record, End)>,
}

/// It was among the dead letters.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    pub record: &'a Record,
    pub reason: &'a str,
    pub attempts: u32,
    pub moment: u64,
}

/// The history on the broker told of it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    pub record: &'a Record,
    pub kind: &'a str,
    pub attempt: u32,
    pub moment: u64,
}

impl Deed<'_> {
    pub fn is_confirmed(&self) -> bool {
        self.answer.is_some_and(|it| matches!(it.what, What::Confirmed { .. }))
    }

    pub fn is_refused(&self) -> bool {
        self.answer.is_some_and(|it| matches!(it.what, What::Refused { .. }))
    }

    /// When it was over.
    pub fn until(&self) -> u64 {
        self.answer.map_or(u64::MAX, |it| it.at)
    }
}

impl Run<'_> {
    pub fn is(&self, end: End) -> bool {
        self.ended.is_some_and(|(_, it)| it == end)
    }

    pub fn has_failed(&self) -> bool {
        self.is(End::Failed) || self.is(End::Panicked)
    }

    /// When its message was acknowledged at the latest, if nothing came in between.
    pub fn until(&self) -> u64 {
        self.ended.map_or(u64::MAX, |(it, _)| later(it.at, ACK))
    }

    /// Whether a fault may have kept its message from being acknowledged, or its events from being told.
    pub fn is_hit(&self, faults: &Faults<'_>) -> bool {
        faults.hit(&self.started.who, self.started.at, self.until())
    }
}

impl<'a> Letter<'a> {
    pub fn is_expiry(&self) -> bool {
        self.reason.starts_with("expired-")
    }
}

impl<'a> Life<'a> {
    fn new(operation: &'a Operation) -> Self {
        let (deeds, runs, letters, told) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { operation, deeds, runs, letters, told }
    }

    /// What its producers did of that kind.
    pub fn deeds(&self, act: Act) -> impl Iterator<Item = &Deed<'a>> {
        self.deeds.iter().filter(move |it| it.act == act)
    }

    /// Those by which that copy was published, or may have been.
    pub fn publishes(&self, copy: u32) -> impl Iterator<Item = &Deed<'a>> {
        self.deeds.iter().filter(move |it| it.copy() == Some(copy) && !it.is_refused())
    }

    /// When it first was confirmed.
    pub fn confirmed(&self, act: Act) -> Option<&'a Record> {
        self.deeds(act).find(|it| it.is_confirmed())?.answer
    }

    /// Whether the broker may have it.
    pub fn may_be(&self) -> bool {
        [Act::Enqueue, Act::Reschedule].iter().any(|act| self.deeds(*act).any(|it| !it.is_refused()))
    }

    /// How long that copy is delayed, in microseconds.
    pub fn delay(&self, copy: u32) -> Option<std::time::Duration> {
        match self.operation.then {
            Then::Reschedule(_, delay) if copy > 0 => Some(delay),
            _ => self.operation.delay,
        }
    }

    /// Of that copy and attempt.
    pub fn runs(&self, copy: u32, attempt: u32) -> impl Iterator<Item = &Run<'a>> {
        self.runs.iter().filter(move |it| (it.copy, it.attempt) == (copy, attempt))
    }

    /// Those runs of the attempt before it whose failure led to this one. If none is known to have failed: all that may have.
    pub fn causing(&self, copy: u32, attempt: u32) -> Vec<&Run<'a>> {
        let before: Vec<_> = self.runs(copy, attempt.saturating_sub(1)).collect();
        let is_any_known = before.iter().any(|it| it.has_failed());
        let may_cause = |it: &&Run<'_>| if is_any_known { it.has_failed() } else { it.ended.is_none() };
        before.into_iter().filter(may_cause).collect()
    }

    /// All runs, by copy and attempt.
    pub fn attempts(&self) -> BTreeMap<(u32, u32), Vec<&Run<'a>>> {
        let mut attempts = BTreeMap::<_, Vec<_>>::new();
        for run in &self.runs {
            attempts.entry((run.copy, run.attempt)).or_default().push(run);
        }
        attempts
    }

    fn enter(&mut self, record: &'a Record) {
        match &record.what {
            What::Invoked { act, .. } => {
                self.deeds.push(Deed { act: *act, invoked: record, answer: None });
            }
            What::Confirmed { act, .. } | What::Refused { act, .. } | What::Unknown { act, .. } => {
                let is_it = |it: &&mut Deed<'_>| {
                    it.act == *act && it.answer.is_none() && it.invoked.who == record.who
                };
                if let Some(deed) = self.deeds.iter_mut().rev().find(is_it) {
                    deed.answer = Some(record);
                }
            }
            What::Started { copy, attempt, again, .. } => {
                let (copy, attempt, again) = (*copy, *attempt, *again);
                self.runs.push(Run { copy, attempt, started: record, again, ended: None });
            }
            What::Finished { copy, attempt, end, .. } => self.end((*copy, *attempt), record, *end),
            What::Overran { copy, attempt, .. } => self.end((*copy, *attempt), record, End::Failed),
            What::Dead { reason, attempts, moment, .. } => {
                self.letters.push(Letter { record, reason, attempts: *attempts, moment: *moment });
            }
            What::Told { kind, attempt, moment, .. } => {
                self.told.push(Told { record, kind, attempt: *attempt, moment: *moment });
            }
            _ => {}
        }
    }

    fn end(&mut self, which: (u32, u32), record: &'a Record, end: End) {
        let is_it = |it: &&mut Run<'_>| {
            (it.copy, it.attempt) == which && it.ended.is_none() && it.started.who == record.who
        };
        if let Some(run) = self.runs.iter_mut().find(is_it) {
            run.ended = Some((record, end));
        }
    }
}

impl Deed<'_> {
    /// The copy that it publishes.
    fn copy(&self) -> Option<u32> {
        match self.act {
            Act::Enqueue => Some(0),
            Act::Reschedule => Some(1),
            Act::Cancel => None,
        }
    }
}

/// The lives of all tasks of a load, and the records of each task that is not in it. `records` in their order.
pub fn lives<'a>(load: &'a Load, records: &[&'a Record]) -> (Vec<Life<'a>>, Strangers<'a>) {
    let mut lives: Vec<Life<'a>> = load.operations.iter().map(Life::new).collect();
    let mut strangers = Strangers::new();
    for record in records {
        let Some(task) = task(&record.what) else { continue };
        match lives.get_mut(task as usize) {
            Some(life) => life.enter(record),
            None => strangers.entry(task).or_default().push(record),
        }
    }
    (lives, strangers)
}

/// Which task it is about.
fn task(what: &What) -> Option<u32> {
    match what {
        What::Invoked { task, .. }
        | What::Confirmed { task, .. }
        | What::Refused { task, .. }
        | What::Unknown { task, .. }
        | What::Started { task, .. }
        | What::Finished { task, .. }
        | What::Overran { task, .. }
        | What::Strayed { task, .. }
        | What::Dead { task, .. }
        | What::Told { task, .. } => Some(*task),
        _ => None,
    }
}
