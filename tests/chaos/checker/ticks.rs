//! G6: each planned tick of a schedule is run, once, and they are counted in the order of their times.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use super::Case;
use super::Verdict;
use super::Wrong;
use super::fault::ACK;
use super::fault::Fault;
use super::fault::later;
use crate::history::Record;
use crate::history::What;

/// So long after its last confirm a scheduler gives up its channel; what it fired meanwhile is in doubt.
const DOUBT: Duration = Duration::from_secs(10);

/// What was planned.
struct Plan<'a> {
    record: &'a Record,
    queue: &'a str,
    times: BTreeSet<u64>,
}

/// A tick that was run.
#[derive(Clone, Copy)]
struct Tick<'a> {
    record: &'a Record,
    schedule: &'a str,
    sequence: u64,
    planned: u64,
    id: &'a str,
}

impl<'a> Plan<'a> {
    fn of(record: &'a Record) -> Option<(&'a str, Self)> {
        let What::Scheduled { schedule, queue, period, starts, ends } = &record.what else { return None };
        let mut times = BTreeSet::new();
        let mut next = *starts;
        while next <= *ends && *period > 0 {
            times.insert(next);
            next += period;
        }
        Some((schedule, Self { record, queue, times }))
    }
}

impl<'a> Tick<'a> {
    fn of(record: &'a Record) -> Option<Self> {
        let What::Ran { schedule, sequence, planned, id, .. } = &record.what else { return None };
        Some(Self { record, schedule, sequence: *sequence, planned: *planned, id })
    }
}

impl Verdict {
    pub(super) fn judge_ticks(&mut self, case: &Case<'_>) {
        // Each scheduler may declare it.
        let plans: BTreeMap<&str, Plan<'_>> =
            case.records.iter().rev().filter_map(|it| Plan::of(it)).collect();
        let mut ticks = BTreeMap::<&str, Vec<Tick<'_>>>::new();
        for tick in case.records.iter().filter_map(|it| Tick::of(it)) {
            ticks.entry(tick.schedule).or_default().push(tick);
        }
        for (schedule, plan) in &plans {
            let ran = ticks.remove(schedule).unwrap_or_default();
            self.judge_schedule(schedule, plan, &ran, case);
        }
        for tick in ticks.into_values().flatten() {
            self.find_unplanned(&tick);
        }
    }

    fn judge_schedule(&mut self, schedule: &str, plan: &Plan<'_>, ran: &[Tick<'_>], case: &Case<'_>) {
        let firsts = self.judge_repeats(ran, case);
        let there: BTreeSet<u64> = ran.iter().map(|it| it.planned).collect();
        let mut is_any_taken = false;
        for planned in plan.times.difference(&there) {
            if is_taken(*planned, plan.queue, case) {
                self.ticks_taken += 1;
                is_any_taken = true;
            } else {
                let wrong = Wrong::TickMissing { schedule: schedule.to_owned(), planned: *planned };
                self.find(wrong, &[plan.record]);
            }
        }
        for tick in &firsts {
            let by = tick.planned.saturating_sub(later(tick.record.at, case.scope.clocks));
            if by > 0 {
                let what = format!("tick {} of {schedule}", tick.sequence);
                self.find(Wrong::Early { what, by: Duration::from_micros(by) }, &[tick.record]);
            }
            if !plan.times.contains(&tick.planned) {
                self.find_unplanned(tick);
            }
        }
        self.judge_count(schedule, plan, &firsts, is_any_taken, case);
    }

    /// One run of each tick: the first one.
    fn judge_repeats<'a>(&mut self, ran: &[Tick<'a>], case: &Case<'_>) -> Vec<Tick<'a>> {
        let mut by_id = BTreeMap::<&str, Vec<Tick<'a>>>::new();
        let mut firsts = Vec::new();
        for tick in ran {
            self.ticks += 1;
            let before = by_id.entry(tick.id).or_default();
            if before.is_empty() {
                firsts.push(*tick);
            } else if is_repeat_of(tick, before, case) {
                self.ticks_repeated += 1;
            } else {
                let (schedule, sequence) = (tick.schedule.to_owned(), tick.sequence);
                let proof: Vec<&Record> = before.iter().chain([tick]).map(|it| it.record).collect();
                self.find(Wrong::TickRepeated { schedule, sequence }, &proof);
            }
            before.push(*tick);
        }
        firsts
    }

    /// Sequences count the ticks from 1, each for another time, a later one for a later time. Where clocks are set, times may
    /// come again.
    fn judge_count(
        &mut self,
        schedule: &str,
        plan: &Plan<'_>,
        firsts: &[Tick<'_>],
        is_any_taken: bool,
        case: &Case<'_>,
    ) {
        let mut ordered = firsts.to_vec();
        ordered.sort_by_key(|it| (it.sequence, it.planned));
        let is_steady = case.scope.clocks.is_zero();
        let mut last: Option<Tick<'_>> = None;
        let mut times = BTreeSet::new();
        for tick in &ordered {
            let (name, sequence) = (schedule.to_owned(), tick.sequence);
            let expected = last.map_or(1, |it| it.sequence + 1);
            let proof: Vec<&Record> = last.iter().chain([tick]).map(|it| it.record).collect();
            let is_again = !times.insert(tick.planned) && is_steady;
            if is_again || last.is_some_and(|it| it.sequence == sequence) {
                self.find(Wrong::TickDoubled { schedule: name, sequence }, &proof);
            } else if is_steady && last.is_some_and(|it| it.planned > tick.planned) {
                self.find(Wrong::TickMiscounted { schedule: name, sequence }, &proof);
            } else if sequence != expected && !is_any_taken && !leaves_out(plan, last, tick) {
                self.find(Wrong::TickMiscounted { schedule: name, sequence: expected }, &proof);
            }
            last = Some(*tick);
        }
    }

    fn find_unplanned(&mut self, tick: &Tick<'_>) {
        let (schedule, planned) = (tick.schedule.to_owned(), tick.planned);
        self.find(Wrong::TickUnplanned { schedule, planned }, &[tick.record]);
    }
}

/// Whether a tick is missing between these, which is found already.
fn leaves_out(plan: &Plan<'_>, last: Option<Tick<'_>>, tick: &Tick<'_>) -> bool {
    let from = last.map_or(0, |it| it.planned + 1);
    from < tick.planned && plan.times.range(from..tick.planned).next().is_some()
}

/// Whether something accounts for one more run of a tick: it was redelivered, once for each run whose consumer was hit, or
/// it was taken from whoever runs it now and has not noticed, or it was in doubt whether it had been fired, and it was fired
/// again.
fn is_repeat_of(tick: &Tick<'_>, before: &[Tick<'_>], case: &Case<'_>) -> bool {
    let hits = |it: &&Tick<'_>| case.faults.hit(&it.record.who, it.record.at, later(it.record.at, ACK));
    let Some(first) = before.first() else { return false };
    let fired = |it: &Fault<'_>| it.is_of_broker() || it.is_of_role("scheduler") || it.whom == "link";
    let was_in_doubt = case.faults.any(first.planned, later(first.record.at, ACK), fired);
    let is_redelivered = |it: &Tick<'_>| matches!(it.record.what, What::Ran { again: true, .. });
    let was_taken =
        before.iter().any(is_redelivered) && case.faults.hit(&tick.record.who, first.planned, tick.record.at);
    was_in_doubt || was_taken || before.iter().filter(hits).count() >= before.len()
}

/// Whether a tick was lost as announced: "only if the scheduler dies together with the broker", or in a queue that somebody
/// deleted (ARCHITECTURE.md).
fn is_taken(planned: u64, queue: &str, case: &Case<'_>) -> bool {
    let any = |is_meant: &dyn Fn(&Fault<'_>) -> bool| {
        case.faults.any(planned, later(planned, DOUBT), |it| is_meant(it))
    };
    let is_of_scheduler = |it: &Fault<'_>| it.is_of_role("scheduler") && !it.whom.starts_with("link");
    case.faults.emptied((queue, "normal"), planned, later(planned, DOUBT))
        || any(&|it| it.is_of_broker() && it.whom != "all") && any(&is_of_scheduler)
}
