//! [`Verdict`]: what the history of a run proves, for the library or against it. Pure: it reads records, and nothing else.
//!
//! ```text
//!   records ──► lives: all that was done to each task ──┐
//!           ──► faults: all that was done to the system ┴─► judges ──► violations and figures
//! ```
//!
//! | judge | what it holds against the library |
//! | --- | --- |
//! | `ends` | a confirmed task without an end, or with two; a dead letter for a reason that it did not have (G1, G10) |
//! | `attempts` | a start without a recorded cause, one too many, one before its turn (G2, G10) |
//! | `times` | a start before it was due, or after its deadline (G4, G5) |
//! | `decisions` | a start of what was cancelled or rescheduled (G7) |
//! | `story` | an event that is missing, that is not true, or of what nobody did (G3, G11) |
//! | `ticks` | a planned tick that is missing, or run twice (G6) |
//! | `leftovers` | what is left in queues, of connections and of memory (G12, G13) |
//!
//! Nothing is held against it that the documentation announces: see [`Cause`] and each judge.

mod attempts;
mod cause;
mod decisions;
mod ends;
mod fault;
mod leftovers;
mod life;
mod recovery;
mod story;
#[cfg(test)]
mod tests;
mod ticks;
mod times;
mod violation;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use cause::Cause;
pub use recovery::Recovery;
pub use violation::Violation;
pub use violation::Wrong;

use crate::history::Act;
use crate::history::Record;
use crate::history::What;
use crate::load::Load;

use fault::Faults;
use life::Life;

/// What else one has to know to judge.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// How long after it is over a fault may still show: until everybody has noticed, two heartbeats say, and is back.
    pub aftermath: Duration,
    /// How far somebody sets the clocks of processes apart. Records are written by a clock that nobody sets.
    pub clocks: Duration,
    /// How long a busy machine may take from `Invoked` to a producer's look at the clock, and from the library's look at the
    /// deadline to the handler's first line.
    pub pace: Duration,
    /// How long after a confirmed cancellation or rescheduling a consumer may not have heard of it.
    pub news: Duration,
    /// Whether the history on the broker was read.
    pub is_told: bool,
    pub bounds: Bounds,
}

/// How far from where they were things may be at the end.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub connections: u64,
    pub channels: u64,
    pub consumers: u64,
    pub queues: u64,
    /// By how much the memory of a process may have grown, in KiB.
    pub memory: u64,
    /// The same of its tasks,
    pub tasks: u64,
    /// … and its files.
    pub files: u64,
}

impl Default for Scope {
    fn default() -> Self {
        Self {
            aftermath: Duration::from_secs(5),
            clocks: Duration::ZERO,
            pace: Duration::from_millis(250),
            news: Duration::from_millis(500),
            is_told: true,
            bounds: Bounds::default(),
        }
    }
}

impl Default for Bounds {
    /// A process may keep 16 MiB, 16 tasks and 8 files more than it began with: pools and buffers that are filled once.
    fn default() -> Self {
        Self { connections: 0, channels: 0, consumers: 0, queues: 0, memory: 16 * 1024, tasks: 16, files: 8 }
    }
}

/// What a run has proven.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many tasks the load has.
    pub operations: usize,
    /// Those whose enqueuing was confirmed.
    pub confirmed: usize,
    /// Those of which their producer does not know.
    pub unknown: usize,
    /// Those that the broker certainly does not have.
    pub refused: usize,
    pub succeeded: usize,
    /// Those with a dead letter that is not about a deadline.
    pub dead: usize,
    pub expired: usize,
    pub cancelled: usize,
    /// Those confirmed that were in a queue when somebody deleted or purged it, and did not come back.
    pub taken: usize,
    /// Those confirmed that did not end in any way.
    pub lost: usize,
    /// The starts beyond the first of each attempt, by cause.
    pub repeated: BTreeMap<Cause, usize>,
    /// Those without.
    pub unexplained: usize,
    /// Tasks that ended in two ways, or twice in one, by cause.
    pub ended_again: BTreeMap<Cause, usize>,
    /// Events that are not there, as the library announces: their process died before it could tell.
    pub untold: usize,
    /// Ticks that were run, however often.
    pub ticks: usize,
    /// Of those, runs beyond the first, with a cause.
    pub ticks_repeated: usize,
    /// Ticks that are missing as the library announces: the scheduler that fired them died together with the broker, or
    /// their queue was deleted.
    pub ticks_taken: usize,
    /// Of each fault.
    pub recoveries: Vec<Recovery>,
    pub violations: Vec<Violation>,
}

/// What all judges look at.
struct Case<'a> {
    scope: Scope,
    faults: Faults<'a>,
    /// In the order of their times.
    records: Vec<&'a Record>,
    lives: Vec<Life<'a>>,
    /// How many events the history says are missing.
    missed: u64,
}

impl Verdict {
    /// The records may come in any order, as they do from several processes.
    pub fn of(load: &Load, records: &[Record], scope: Scope) -> Self {
        let mut ordered: Vec<&Record> = records.iter().collect();
        ordered.sort_by_key(|it| it.at);
        let (lives, strangers) = life::lives(load, &ordered);
        let missed = ordered.iter().map(|it| missed(&it.what)).sum();
        let case = Case { scope, faults: Faults::of(&ordered, &scope), records: ordered, lives, missed };
        let mut verdict = Self { operations: load.operations.len(), ..Self::default() };
        for (task, records) in strangers {
            verdict.judge_stranger(task, &records);
        }
        for life in &case.lives {
            verdict.count(life);
            if !life.may_be() {
                verdict.judge_absence(life);
                continue;
            }
            verdict.judge_ends(life, &case);
            verdict.judge_attempts(life, &case);
            verdict.judge_times(life, &case);
            verdict.judge_decisions(life, &case);
            verdict.judge_story(life, &case);
        }
        verdict.judge_course(&case);
        verdict.judge_ticks(&case);
        verdict.judge_leftovers(&case);
        verdict.recoveries = recovery::recoveries(&case);
        verdict
    }

    /// Whether nothing is held against the library.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// A run that has broken off, or in which nobody looked, proves nothing.
    fn judge_course(&mut self, case: &Case<'_>) {
        let untried = case.lives.iter().filter(|it| it.deeds.is_empty()).count();
        let looked = case.records.iter().any(|it| matches!(it.what, What::Left { .. }));
        let ends = (!looked).then_some("nobody has looked at the queues at its end".to_owned());
        let tasks = (untried > 0).then(|| format!("{untried} tasks were never tried to be enqueued"));
        for why in tasks.into_iter().chain(ends) {
            let last: Vec<&Record> = case.records.last().copied().into_iter().collect();
            self.find(Wrong::Unproven { why }, &last);
        }
    }

    fn count(&mut self, life: &Life<'_>) {
        let mut enqueues = life.deeds(Act::Enqueue).peekable();
        if life.confirmed(Act::Enqueue).is_some() {
            self.confirmed += 1;
        } else if enqueues.peek().is_some() {
            let is_refused = enqueues.all(life::Deed::is_refused);
            *(if is_refused { &mut self.refused } else { &mut self.unknown }) += 1;
        }
    }

    /// What is no task of the load is nowhere, unless somebody put it there: then it is a dead letter.
    fn judge_stranger(&mut self, task: u32, records: &[&Record]) {
        let strayed = records.iter().find_map(|it| match &it.what {
            What::Strayed { reason, .. } => Some((*it, reason)),
            _ => None,
        });
        let Some((strayed, expected)) = strayed else {
            return self.find(Wrong::Invented { task }, records);
        };
        let letters = records.iter().filter_map(|it| match &it.what {
            What::Dead { reason, .. } => Some((*it, reason)),
            _ => None,
        });
        let letters: Vec<_> = letters.collect();
        if letters.is_empty() {
            self.lost += 1;
            self.find(Wrong::Lost { task }, &[strayed]);
        }
        for (letter, reason) in letters.into_iter().filter(|(_, reason)| *reason != expected) {
            let (reason, why) = (reason.clone(), "that is not what is wrong with it");
            self.find(Wrong::Misjudged { task, reason, why }, &[strayed, letter]);
        }
    }

    /// What nobody enqueued, or the broker refused, is nowhere.
    fn judge_absence(&mut self, life: &Life<'_>) {
        let runs = life.runs.iter().map(|it| it.started);
        let letters = life.letters.iter().map(|it| it.record);
        let told = life.told.iter().map(|it| it.record);
        if let Some(record) = runs.chain(letters).chain(told).next() {
            let refused = life.deeds.iter().filter_map(|it| it.answer);
            let task = life.operation.number;
            self.find(Wrong::Invented { task }, &refused.chain([record]).collect::<Vec<_>>());
        }
    }

    fn find(&mut self, wrong: Wrong, proof: &[&Record]) {
        let proof = proof.iter().map(|record| (*record).clone()).collect();
        self.violations.push(Violation { wrong, proof });
    }
}

fn missed(what: &What) -> u64 {
    match what {
        What::Missed { count } => *count,
        _ => 0,
    }
}

/// A few lines, and then the violations, one after the other.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 50;
        let by_cause = |counts: &BTreeMap<Cause, usize>| {
            let counts: Vec<String> =
                counts.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
            if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
        };
        let Self { operations, confirmed, unknown, refused, lost, unexplained, .. } = self;
        writeln!(f, "{operations} operations: {confirmed} confirmed, {unknown} unknown, {refused} refused")?;
        let Self { succeeded, dead, expired, cancelled, taken, .. } = self;
        writeln!(
            f,
            "{succeeded} succeeded, {dead} dead, {expired} expired, {cancelled} cancelled, {taken} taken, {lost} lost"
        )?;
        writeln!(f, "repeated: {}; unexplained: {unexplained}", by_cause(&self.repeated))?;
        writeln!(f, "ended twice: {}; events untold: {}", by_cause(&self.ended_again), self.untold)?;
        let Self { ticks, ticks_repeated, ticks_taken, .. } = self;
        writeln!(f, "{ticks} ticks run, {ticks_repeated} repeated, {ticks_taken} taken")?;
        for recovery in &self.recoveries {
            writeln!(f, "{recovery}")?;
        }
        writeln!(f, "{} violations", self.violations.len())?;
        for violation in self.violations.iter().take(MOST) {
            writeln!(f, "- {violation}")?;
        }
        if let Some(more) = self.violations.len().checked_sub(MOST).filter(|more| *more > 0) {
            writeln!(f, "- and {more} more")?;
        }
        Ok(())
    }
}
