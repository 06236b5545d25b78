//! G7: what was cancelled does not start, and of what was rescheduled only the newest copy.
//!
//! From some time after the confirm on, in which every consumer hears of it ([`Scope::news`](super::Scope::news)). "Between
//! a lost connection and its successor a consumer may start a task that was cancelled in that instant"
//! (ARCHITECTURE.md): so not while a fault lasts that kept the word from whoever starts it.

use super::Case;
use super::Verdict;
use super::Wrong;
use super::fault::later;
use super::life::Life;
use super::life::Run;
use crate::history::Act;
use crate::history::Record;

impl Verdict {
    pub(super) fn judge_decisions(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let task = life.operation.number;
        if let Some(confirmed) = life.confirmed(Act::Cancel) {
            for run in life.runs.iter().filter(|it| defies(it, confirmed, case)) {
                self.find(Wrong::Cancelled { task }, &[confirmed, run.started]);
            }
        }
        if let Some(confirmed) = life.confirmed(Act::Reschedule) {
            for run in life.runs.iter().filter(|it| it.copy == 0 && defies(it, confirmed, case)) {
                self.find(Wrong::Superseded { task }, &[confirmed, run.started]);
            }
        }
    }
}

/// Whether its consumer must have known better.
fn defies(run: &Run<'_>, confirmed: &Record, case: &Case<'_>) -> bool {
    let (who, started) = (&run.started.who, run.started.at);
    let heard = later(confirmed.at, case.scope.news);
    let is_kept_from = |it: &super::fault::Fault<'_>| {
        it.hits(who) && started <= later(case.faults.is_over(it), case.scope.news)
    };
    started > heard && !case.faults.any(confirmed.at, heard, is_kept_from)
}
