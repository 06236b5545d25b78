//! G4 and G5: no attempt starts before its time, none after its deadline.
//!
//! Both count from when the library read the clock, some time between `Invoked` and the answer. So a start is provably
//! early only by what it lies before `Invoked` and the delay, and late by what it lies after the answer and the deadline.

use std::time::Duration;

use super::Case;
use super::Verdict;
use super::Wrong;
use super::fault::later;
use super::fault::micros;
use super::life::Life;
use super::life::Run;
use crate::history::Record;
use crate::load::BACKOFF;

/// Times travel in whole milliseconds.
const MILLISECOND: Duration = Duration::from_millis(1);

impl Verdict {
    pub(super) fn judge_times(&mut self, life: &Life<'_>, case: &Case<'_>) {
        for run in &life.runs {
            self.judge_start(life, run, case);
            self.judge_deadline(life, run, case);
        }
    }

    fn judge_start(&mut self, life: &Life<'_>, run: &Run<'_>, case: &Case<'_>) {
        let Some((from, wait)) = due(life, run) else { return };
        let start = later(run.started.at, MILLISECOND + case.scope.clocks);
        let by = later(from.at, wait).saturating_sub(start);
        if by > 0 {
            let what = format!("attempt {} of task {}", run.attempt, life.operation.number);
            let wrong = Wrong::Early { what, by: Duration::from_micros(by) };
            self.find(wrong, &[from, run.started]);
        }
    }

    fn judge_deadline(&mut self, life: &Life<'_>, run: &Run<'_>, case: &Case<'_>) {
        let Some(deadline) = life.operation.deadline.filter(|_| run.copy == 0) else { return };
        // Enqueued again, it has a later one. Of a producer that died nobody knows when it began.
        let Some(answer) =
            life.publishes(0).map(|it| it.answer).max_by_key(|it| it.map_or(u64::MAX, |it| it.at))
        else {
            return;
        };
        let Some(answer) = answer else { return };
        let latest = later(answer.at, deadline);
        let by = run.started.at.saturating_sub(later(latest, case.scope.pace + case.scope.clocks));
        let who = &run.started.who;
        // It was frozen between the library's look at the clock and the handler's first line.
        let was_frozen = || case.faults.any(latest, run.started.at, |it| it.whom == who);
        if by > 0 && !was_frozen() {
            let by = Duration::from_micros(by + micros(case.scope.pace + case.scope.clocks));
            self.find(Wrong::Late { task: life.operation.number, by }, &[answer, run.started]);
        }
    }
}

/// From when a start has to wait, and how long.
fn due<'a>(life: &Life<'a>, run: &Run<'a>) -> Option<(&'a Record, Duration)> {
    if run.attempt <= 1 {
        let invoked = life.publishes(run.copy).map(|it| it.invoked).min_by_key(|it| it.at)?;
        return Some((invoked, life.delay(run.copy).unwrap_or_default()));
    }
    let before = life.causing(run.copy, run.attempt);
    let ended = before.iter().map(|it| it.ended.map_or(it.started, |(end, _)| end));
    Some((ended.min_by_key(|it| it.at)?, BACKOFF))
}
