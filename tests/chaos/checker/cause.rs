//! [`Cause`]: why a task was started once more, or ended twice, and the rules by which a recorded fault accounts for it.
//!
//! | cause | the library | accounts for it |
//! | --- | --- | --- |
//! | redelivered | acknowledges a task after its end is stored, so what keeps the acknowledgement away repeats the task | a fault that hit whoever ran it before, between the start of that run and 2.5 s after its end, one repeat for each such run; or, if what ran before had been taken from somebody, a fault that hit whoever starts it now and has not noticed |
//! | published again | publishes what was not confirmed again, with the same id | a fault that hit the publisher in that time; another enqueue of the same task; an attempt before it that was itself repeated; or, of what came back and may have been handed on to quarantine, any fault since it was published |
//! | dead-lettered again | delays tasks and retries in queues with a time limit, from which a broker that crashes may send up to 32 twice | a fault of the broker while it waited |
//! | rescheduled | lets a copy run on that was started before it was rescheduled | a reschedule that is not confirmed yet, or for no longer than every consumer needs to hear of it |
//!
//! A fault lasts from when it began until it is healed, and then for its [aftermath](super::Scope::aftermath).

use std::fmt;

use super::fault::ACK;
use super::fault::Fault;
use super::fault::Faults;
use super::fault::later;
use super::life::Deed;
use super::life::Letter;
use super::life::Life;
use super::life::Run;

/// Why a task was started once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    Redelivered,
    PublishedAgain,
    DeadLetteredAgain,
    Rescheduled,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redelivered => "redelivered",
            Self::PublishedAgain => "published again",
            Self::DeadLetteredAgain => "dead-lettered again",
            Self::Rescheduled => "rescheduled",
        })
    }
}

/// What accounts for repeats of one attempt.
#[derive(Clone, Copy, Debug, Default)]
struct Supply {
    /// Runs whose message may have been delivered again.
    redelivered: usize,
    /// Messages of that attempt, beyond the first, that are known to have been published.
    published: usize,
    /// One of them may have been published any number of times.
    is_published_again: bool,
    /// One of them may have left its wait any number of times.
    is_dead_lettered_again: bool,
}

impl Supply {
    /// The likeliest cause that there is, used up. What is said to have been delivered before (`again`) is likely to have
    /// been.
    fn draw(&mut self, again: bool) -> Option<Cause> {
        if again && take(&mut self.redelivered) {
            Some(Cause::Redelivered)
        } else if take(&mut self.published) {
            Some(Cause::PublishedAgain)
        } else if self.is_dead_lettered_again && !again {
            Some(Cause::DeadLetteredAgain)
        } else if self.is_published_again {
            Some(Cause::PublishedAgain)
        } else if self.is_dead_lettered_again {
            Some(Cause::DeadLetteredAgain)
        } else {
            take(&mut self.redelivered).then_some(Cause::Redelivered)
        }
    }
}

/// One of them, if there is one.
fn take(count: &mut usize) -> bool {
    let is_there = *count > 0;
    *count = count.saturating_sub(1);
    is_there
}

/// Why each but the first of these runs of one attempt was; `None`: nothing recorded accounts for it.
pub fn causes<'r, 'a>(
    life: &Life<'a>,
    runs: &[&'r Run<'a>],
    faults: &Faults<'_>,
) -> Vec<(&'r Run<'a>, Option<Cause>)> {
    let Some((first, repeats)) = runs.split_first() else { return Vec::new() };
    let (since, mut supply) = supply(life, first, faults);
    // Runs of what was taken from somebody who may not have noticed, and may start it yet.
    let mut taken = 0;
    let mut judged = Vec::new();
    let mut before = *first;
    for run in repeats {
        supply.redelivered += usize::from(before.is_hit(faults));
        taken += usize::from(before.again);
        let was_theirs = taken > 0 && faults.hit(&run.started.who, since, run.started.at);
        // Published again after it came back, it would say so.
        let cause = if was_theirs && !run.again { None } else { supply.draw(run.again) };
        let cause = cause.or_else(|| {
            taken -= usize::from(was_theirs);
            was_theirs.then_some(Cause::Redelivered)
        });
        judged.push((*run, cause));
        before = run;
    }
    judged
}

/// Why a task has ended in two ways, or twice in one: whatever could have repeated it.
pub fn cause_of_second_end(life: &Life<'_>, faults: &Faults<'_>) -> Option<Cause> {
    let by_runs = life.attempts().into_values().find_map(|runs| {
        let causes: Vec<_> = causes(life, &runs, faults);
        let is_hit = runs.iter().any(|it| it.is_hit(faults)).then_some(Cause::Redelivered);
        let first = runs.first().and_then(|it| supply(life, it, faults).1.draw(false));
        causes.into_iter().find_map(|(_, cause)| cause).or(is_hit).or(first)
    });
    by_runs.or_else(|| cause_of_second_letter(life, faults))
}

/// A letter is published before the task is acknowledged. So a fault just after that repeats it.
fn cause_of_second_letter(life: &Life<'_>, faults: &Faults<'_>) -> Option<Cause> {
    // What the broker says of itself is to the second.
    let second = std::time::Duration::from_secs(1);
    let is_hit = |it: &Letter<'_>| faults.any(it.moment, later(it.moment, ACK + second), |_| true);
    if life.letters.iter().any(is_hit) {
        return Some(Cause::Redelivered);
    }
    // A broker that crashes may send what it delays twice (README), and both may come too late.
    let died = life.letters.iter().map(|it| it.moment).max().unwrap_or_default();
    let left_twice = |it: &Deed<'_>| faults.any(it.invoked.at, died, super::fault::Fault::is_of_broker);
    if life.delay(0).is_some() && life.publishes(0).any(left_twice) {
        return Some(Cause::DeadLetteredAgain);
    }
    let unstarted = life.publishes(0).any(|it| faults.hit(&it.invoked.who, it.invoked.at, it.until()));
    (unstarted || life.publishes(0).count() > 1).then_some(Cause::PublishedAgain)
}

/// When an attempt was first published, and what accounts for repeats of it, before any of its runs.
fn supply(life: &Life<'_>, first: &Run<'_>, faults: &Faults<'_>) -> (u64, Supply) {
    let Run { copy, attempt, .. } = *first;
    let start = first.started.at;
    // Each message that makes an attempt: when its sender began, how many of them, and whether it may have sent twice.
    let (mut since, mut messages, mut is_hit) = (u64::MAX, 0, false);
    if attempt <= 1 {
        for deed in life.publishes(copy) {
            messages += 1;
            since = since.min(deed.invoked.at);
            is_hit |= faults.hit(&deed.invoked.who, deed.invoked.at, deed.until());
        }
    } else {
        for run in life.causing(copy, attempt) {
            messages += 1;
            let ended = run.ended.map_or(run.started.at, |(it, _)| it.at);
            since = since.min(ended);
            is_hit |= faults.hit(&run.started.who, ended, later(ended, ACK));
        }
    }
    let was_handed_on = first.again && faults.any(since, start, |_| true);
    let has_waited = attempt > 1 || life.delay(copy).is_some();
    let supply = Supply {
        redelivered: 0,
        published: messages.max(1) - 1,
        is_published_again: is_hit || was_handed_on,
        is_dead_lettered_again: has_waited && faults.any(since, later(start, ACK), Fault::is_of_broker),
    };
    (since, supply)
}
