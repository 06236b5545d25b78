//! G1 and the end of G10: each task that the broker has ends once, and for a reason.

use std::time::Duration;

use taskhare::Priority;

use super::Case;
use super::Verdict;
use super::Wrong;
use super::cause::cause_of_second_end;
use super::fault::later;
use super::life::Letter;
use super::life::Life;
use crate::history::Act;
use crate::history::End;
use crate::history::Record;
use crate::load::ATTEMPTS;
use crate::load::BACKOFF;
use crate::load::CRASHES;
use crate::load::Fate;

/// So many of the starts after which a task is taken for a crashed one may have been returns without a start.
const RETURNS: usize = 2;
/// How long a task waits for its turn at most, once it may start.
const WAIT: Duration = Duration::from_secs(10);
/// What the broker says of itself is to the second.
const SECOND: Duration = Duration::from_secs(1);
/// Times travel in whole milliseconds.
const MILLISECOND: Duration = Duration::from_millis(1);

/// What became of a task, in the words of its events.
pub const SUCCEEDED: &str = "succeeded";
pub const DEAD: &str = "dead";
pub const EXPIRED: &str = "expired";
pub const CANCELLED: &str = "cancelled";

/// In which ways a task has truly ended. That it did is what its handlers say and what is in the dead letters; only that
/// it was cancelled the history alone can tell, if somebody did cancel it.
pub fn ends(life: &Life<'_>, case: &Case<'_>) -> Vec<&'static str> {
    let is_told = life.told.iter().any(|it| it.kind == CANCELLED) || !case.scope.is_told;
    let may_be_cancelled = life.deeds(Act::Cancel).any(|it| !it.is_refused());
    let others = [
        (SUCCEEDED, life.runs.iter().any(|it| it.is(End::Succeeded))),
        (DEAD, life.letters.iter().any(|it| !it.is_expiry())),
        (EXPIRED, life.letters.iter().any(Letter::is_expiry)),
    ];
    let mut ends: Vec<_> = others.into_iter().filter_map(|(end, is_so)| is_so.then_some(end)).collect();
    let is_cancelled = match ends.is_empty() {
        // It is gone, as was wished; that this is not told is another matter.
        true => is_told || life.confirmed(Act::Cancel).is_some(),
        false => is_told && case.scope.is_told,
    };
    if may_be_cancelled && is_cancelled {
        ends.push(CANCELLED);
    }
    ends
}

impl Verdict {
    pub(super) fn judge_ends(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let task = life.operation.number;
        let ends = ends(life, case);
        match ends.first() {
            Some(&SUCCEEDED) => self.succeeded += 1,
            Some(&DEAD) => self.dead += 1,
            Some(&EXPIRED) => self.expired += 1,
            Some(_) => self.cancelled += 1,
            None => self.judge_loss(life, case),
        }
        if ends.len() + life.letters.len().saturating_sub(1) > 1 {
            match cause_of_second_end(life, &case.faults) {
                Some(cause) => *self.ended_again.entry(cause).or_default() += 1,
                None => {
                    let second =
                        life.letters.iter().skip(1).map(|it| if it.is_expiry() { EXPIRED } else { DEAD });
                    let all = ends.iter().copied().chain(second).collect();
                    self.find(Wrong::Contradicted { task, ends: all }, &end_records(life));
                }
            }
        }
        for letter in &life.letters {
            if let Some(why) = flaw(life, letter, case) {
                let reason = letter.reason.to_owned();
                self.find(Wrong::Misjudged { task, reason, why }, &[letter.record]);
            }
        }
    }

    /// Without an end: lost, unless nobody knows whether the broker ever had it.
    fn judge_loss(&mut self, life: &Life<'_>, case: &Case<'_>) {
        let confirmed = life.deeds.iter().find(|it| it.act != Act::Cancel && it.is_confirmed());
        let had_it = confirmed.and_then(|it| it.answer);
        let was_seen = life.runs.last().map(|it| it.started).or(life.told.last().map(|it| it.record));
        let proof: Vec<&Record> = had_it.into_iter().chain(was_seen).collect();
        if proof.is_empty() {
            return;
        }
        let lane = lane(life);
        if turns(life).any(|turn| case.faults.emptied(lane, turn, later(turn, WAIT))) {
            self.taken += 1;
            return;
        }
        self.lost += 1;
        self.find(Wrong::Lost { task: life.operation.number }, &proof);
    }
}

/// When it was to be in its queue: as often as it was published, and after each failure.
fn turns(life: &Life<'_>) -> impl Iterator<Item = u64> {
    let copies = [0, 1].into_iter();
    let published = copies.flat_map(|copy| {
        let delay = life.delay(copy).unwrap_or_default();
        life.publishes(copy).map(move |it| later(it.invoked.at, delay))
    });
    let failed = life.runs.iter().filter(|it| it.has_failed()).filter_map(|it| it.ended);
    published.chain(failed.map(|(record, _)| later(record.at, BACKOFF)))
}

/// Its queue, and the lane in that. All deadlines of a load are near enough to make their tasks urgent.
fn lane<'a>(life: &Life<'a>) -> (&'a str, &'static str) {
    let lane = match life.operation.priority {
        _ if life.operation.deadline.is_some() => "urgent",
        Priority::Urgent => "urgent",
        Priority::Low => "low",
        _ => "normal",
    };
    (life.operation.queue, lane)
}

fn end_records<'a>(life: &Life<'a>) -> Vec<&'a Record> {
    let successes = life.runs.iter().filter(|it| it.is(End::Succeeded));
    let runs = successes.filter_map(|it| it.ended).map(|(record, _)| record);
    let told = life.told.iter().filter(|it| it.kind == CANCELLED).map(|it| it.record);
    runs.chain(life.letters.iter().map(|it| it.record)).chain(told).collect()
}

/// What is wrong with a dead letter.
fn flaw(life: &Life<'_>, letter: &Letter<'_>, case: &Case<'_>) -> Option<&'static str> {
    let (operation, attempts) = (life.operation, letter.attempts);
    match letter.reason {
        "rejected" => {
            if operation.fate != Fate::IsRejected || !life.runs.iter().any(|it| it.is(End::Rejected)) {
                return Some("no handler rejected it");
            }
            (attempts != 1).then_some("its handler rejected its first attempt")
        }
        "attempts-exhausted" => {
            let last =
                |it: &super::life::Run<'_>| it.attempt == ATTEMPTS && (it.has_failed() || it.ended.is_none());
            if attempts != ATTEMPTS || !life.runs.iter().any(last) {
                return Some("it has attempts left");
            }
            (operation.fate != Fate::FailsAlways).then_some("its last attempt does not fail")
        }
        "crashed" if life.runs.len() + RETURNS < CRASHES as usize => Some("it was not started so often"),
        "crashed" => None,
        _ if operation.fate == Fate::Kills => Some("it kills its process"),
        "undeliverable" => {
            let is_gone = case.faults.emptied(lane(life), 0, u64::MAX);
            (!is_gone).then_some("nobody deleted its queue")
        }
        reason if letter.is_expiry() => {
            let Some(deadline) = operation.deadline else { return Some("it has no deadline") };
            let invoked = life.publishes(0).map(|it| it.invoked.at).min()?;
            let slack = if reason == "expired-in-queue" { SECOND } else { MILLISECOND };
            let died = later(letter.moment, slack + case.scope.clocks);
            // What cannot be tried again in time dies before.
            let is_known = letter.moment > 0 && reason != "expired-retrying";
            let is_early = is_known && died < later(invoked, deadline);
            is_early.then_some("its deadline had not passed")
        }
        _ => Some("that is none of the reasons there can be"),
    }
}
