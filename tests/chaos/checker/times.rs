//! G4 and G5: no attempt starts before its time, none after its deadline.
//!
//! Both count from when the producer first tried to enqueue the task, or to reschedule it: it reads the clock once it has
//! written `Invoked`, and says the same times when it tries again. So a start before `Invoked` and the delay is early; one
//! after `Invoked` and the deadline is late if it is so by more than two processes may take from a line to the next one
//! ([`Scope::pace`](super::Scope::pace)).

use std::time::Duration;

use super::Case;
use super::Verdict;
use super::Wrong;
use super::fault::later;
use super::fault::micros;
use super::life::Life;
use super::life::Run;
use crate::history::Act;
use crate::history::Record;
use crate::load::BACKOFF;

/// Times travel in whole milliseconds.
const MILLISECOND: Duration = Duration::from_millis(1);
/// By how much a consumer whose clock is ahead starts a task early, at most: what the delay wheel leaves for it to wait
/// (ARCHITECTURE.md).
const AHEAD: Duration = Duration::from_millis(200);

impl Verdict {
    pub(super) fn judge_times(&mut self, life: &Life<'_>, case: &Case<'_>) {
        for run in &life.runs {
            self.judge_start(life, run, case);
            self.judge_deadline(life, run, case);
        }
    }

    fn judge_start(&mut self, life: &Life<'_>, run: &Run<'_>, case: &Case<'_>) {
        let Some((from, wait)) = due(life, run) else { return };
        let start = later(run.started.at, MILLISECOND + case.scope.clocks.min(AHEAD));
        let by = later(from.at, wait).saturating_sub(start);
        if by > 0 {
            let what = format!("attempt {} of task {}", run.attempt, life.operation.number);
            let wrong = Wrong::Early { what, by: Duration::from_micros(by) };
            self.find(wrong, &[from, run.started]);
        }
    }

    fn judge_deadline(&mut self, life: &Life<'_>, run: &Run<'_>, case: &Case<'_>) {
        let Some(deadline) = life.operation.deadline.filter(|_| run.copy == 0) else { return };
        let Some(invoked) = first(life, run.copy) else { return };
        let latest = later(invoked.at, deadline);
        let by = run.started.at.saturating_sub(later(latest, case.scope.pace + case.scope.clocks));
        let who = &run.started.who;
        // It was frozen between the library's look at the clock and the handler's first line.
        let was_frozen = || case.faults.any(latest, run.started.at, |it| it.whom == who);
        if by > 0 && !was_frozen() {
            let by = Duration::from_micros(by + micros(case.scope.pace + case.scope.clocks));
            self.find(Wrong::Late { task: life.operation.number, by }, &[invoked, run.started]);
        }
    }
}

/// When that copy was first to be published.
fn first<'a>(life: &Life<'a>, copy: u32) -> Option<&'a Record> {
    let act = if copy == 0 { Act::Enqueue } else { Act::Reschedule };
    life.deeds(act).map(|it| it.invoked).min_by_key(|it| it.at)
}

/// From when a start has to wait, and how long.
fn due<'a>(life: &Life<'a>, run: &Run<'a>) -> Option<(&'a Record, Duration)> {
    if run.attempt <= 1 {
        return Some((first(life, run.copy)?, life.delay(run.copy).unwrap_or_default()));
    }
    let before = life.causing(run.copy, run.attempt);
    let ended = before.iter().map(|it| it.ended.map_or(it.started, |(end, _)| end));
    Some((ended.min_by_key(|it| it.at)?, BACKOFF))
}
