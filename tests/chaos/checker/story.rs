//! G3 and G11: what the history on the broker tells is what was done, all of it, and the first end that it tells is true.
//!
//! The start of an attempt is told up to 50 ms after it, its end before its message is acknowledged, or after 2 s without.
//! So a process that dies, or that the broker takes nothing from, may leave them untold. That is announced
//! (`src/journal.rs`), and counted here. What the history says it has missed is anything.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Case;
use super::Verdict;
use super::Wrong;
use super::ends;
use super::ends::CANCELLED;
use super::ends::DEAD;
use super::ends::EXPIRED;
use super::ends::SUCCEEDED;
use super::fault::ACK;
use super::fault::later;
use super::life::Letter;
use super::life::Life;
use super::life::Told;
use crate::history::Act;
use crate::history::End;
use crate::history::Record;

const STARTED: &str = "started";

/// How long a process may take from the library's start of an attempt to its handler's first line: if it dies meanwhile
/// the attempt is told, and never was.
const BEGINNING: Duration = Duration::from_secs(1);

impl Verdict {
    pub(super) fn judge_story(&mut self, life: &Life<'_>, case: &Case<'_>) {
        if !case.scope.is_told {
            return;
        }
        self.judge_starts(life, case);
        self.judge_first_end(life, case);
        let task = life.operation.number;
        for told in &life.told {
            match is_founded(life, told, case) {
                Some(true) | None => {}
                Some(false) => {
                    let event = format!("{} (attempt {})", told.kind, told.attempt);
                    self.find(Wrong::Unfounded { task, event }, &[told.record]);
                }
            }
        }
    }

    /// Each attempt that was started is told to have been.
    fn judge_starts(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let starts = life.told.iter().filter(|it| it.kind == STARTED);
        let told: BTreeSet<u32> = starts.map(|it| it.attempt).collect();
        let attempts: BTreeSet<u32> = life.runs.iter().map(|it| it.attempt).collect();
        for attempt in attempts.difference(&told) {
            let mut runs = life.runs.iter().filter(|it| it.attempt == *attempt);
            let Some(first) = runs.clone().next() else { continue };
            let is_announced = case.missed > 0 || runs.all(|it| it.is_hit(&case.faults));
            let event = format!("attempt {attempt} has started");
            self.miss(life, event, &[first.started], is_announced);
        }
    }

    fn judge_first_end(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let truth = ends::ends(life, case);
        let first = life.told.iter().find(|it| [SUCCEEDED, DEAD, EXPIRED, CANCELLED].contains(&it.kind));
        match first {
            None if truth.is_empty() => {}
            None => {
                let (is_announced, proof) = untold(life, case);
                let is_announced = is_announced || case.missed > 0;
                self.miss(life, format!("it is {}", truth.join(", ")), &proof, is_announced);
            }
            // Whether it is true is asked of each event, see below.
            Some(_) => {}
        }
    }

    fn miss(&mut self, life: &Life<'_>, event: String, proof: &[&Record], is_announced: bool) {
        if is_announced {
            self.untold += 1;
        } else {
            self.find(Wrong::Untold { task: life.operation.number, event }, proof);
        }
    }
}

/// Whether an end that nobody tells of is announced not to be told, and the records of it. A dead letter always is told:
/// one publish makes both.
fn untold<'a>(life: &Life<'a>, case: &Case<'_>) -> (bool, Vec<&'a Record>) {
    if let Some(letter) = life.letters.first() {
        return (false, vec![letter.record]);
    }
    let mut successes = life.runs.iter().filter(|it| it.is(End::Succeeded)).peekable();
    if let Some(first) = successes.peek() {
        let proof = first.ended.map(|(record, _)| record);
        return (successes.all(|it| it.is_hit(&case.faults)), proof.into_iter().collect());
    }
    // Whoever took it when its turn came dropped it, and told of that first.
    let Some(cancelled) = life.confirmed(Act::Cancel) else { return (true, Vec::new()) };
    let delay = life.delay(0).unwrap_or_default();
    let mut turns = life.publishes(0).map(|it| later(it.invoked.at, delay).max(cancelled.at));
    let is_hit = |turn: u64| case.faults.any(turn, later(turn, ACK), |_| true);
    (turns.any(is_hit), vec![cancelled])
}

/// Whether somebody did what an event tells; `None`: nobody but the library could know.
fn is_founded(life: &Life<'_>, told: &Told<'_>, case: &Case<'_>) -> Option<bool> {
    let mut runs = life.runs.iter().filter(|it| it.attempt == told.attempt);
    match told.kind {
        STARTED => {
            let (from, to) = (told.moment, later(told.moment, BEGINNING));
            Some(runs.next().is_some() || case.faults.any(from, to, |_| true))
        }
        SUCCEEDED => Some(runs.any(|it| it.is(End::Succeeded))),
        DEAD => Some(life.letters.iter().any(|it| !it.is_expiry())),
        EXPIRED => Some(life.letters.iter().any(Letter::is_expiry)),
        CANCELLED => Some(life.deeds(Act::Cancel).any(|it| !it.is_refused())),
        _ => None,
    }
}
