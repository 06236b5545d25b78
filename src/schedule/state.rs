//! [`State`]: how far a schedule has come. Pure.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use super::Definition;
use super::definition::whole;
use crate::task::TaskId;
use crate::tick::Tick;

/// How many of the last commands an entry remembers: more than can be on their way between a scheduler and its
/// successor.
const REMEMBERED: usize = 8;
/// How many tenures it remembers: more than there are while a link is cut and somebody waits to tell of a doubt.
const TENURES: usize = 4;
/// How many ticks are followed to their end at most. More than one only if somebody triggers them.
const MOST_RUNNING: usize = 16;

/// How far a schedule has come. Times are since the Unix epoch, in whole milliseconds: what is in memory is what was
/// written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// The command that made it: tells it from an earlier schedule of the same name.
    pub(crate) origin: TaskId,
    /// Of two entries of one schedule the one with the greater version counts.
    pub(crate) version: u64,
    /// From when its interval counts.
    pub(crate) anchor: Duration,
    /// What was planned up to then is dealt with.
    pub(crate) passed: Duration,
    /// How many ticks were fired.
    pub(crate) sequence: u64,
    pub(crate) last: Option<LastTick>,
    /// Who has fired the last ones, in turn.
    pub(crate) fired_by: Vec<FiredBy>,
    pub(crate) is_paused: bool,
    /// The ticks whose end is awaited.
    pub(crate) running: Vec<Running>,
    /// The last commands that changed it, so that none is carried out twice.
    pub(crate) recent: Vec<u64>,
    /// When a tick last ended, as far as this process knows.
    pub(crate) free_since: Duration,
}

/// From which tick on a tenure has fired all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FiredBy {
    pub(crate) tenure: u64,
    pub(crate) since: u64,
}

/// The tick that a schedule fired last: see [`ScheduleStatus::last_tick`](crate::ScheduleStatus::last_tick).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastTick {
    /// Since the Unix epoch, as all times here.
    pub(crate) planned: Duration,
    pub(crate) fired: Duration,
}

impl LastTick {
    /// When it was planned, without its [`jitter`](crate::Schedule::jitter). For one that was
    /// [triggered](crate::Schedules::trigger): when that was.
    #[must_use]
    pub fn planned_at(&self) -> SystemTime {
        UNIX_EPOCH + self.planned
    }

    /// When it was fired, by the clock of the scheduler that did it.
    #[must_use]
    pub fn fired_at(&self) -> SystemTime {
        UNIX_EPOCH + self.fired
    }
}

/// A tick that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) sequence: u64,
    pub(crate) since: Duration,
}

impl Running {
    /// When it is taken to have ended, if nobody reports it.
    fn presumed_end(&self, definition: &Definition) -> Duration {
        self.since.saturating_add(definition.longest_run)
    }
}

impl State {
    /// That of a schedule declared by `command` at that time.
    pub(crate) fn new(command: TaskId, definition: &Definition, declared: Duration) -> Self {
        let declared = whole(declared);
        Self {
            origin: command,
            version: 1,
            anchor: definition.starts.unwrap_or(declared),
            // A single time counts also if it has passed.
            passed: if definition.cadence.is_single() { Duration::ZERO } else { declared },
            sequence: 0,
            last: None,
            fired_by: Vec::new(),
            is_paused: false,
            running: Vec::new(),
            recent: vec![short(command)],
            free_since: Duration::ZERO,
        }
    }

    /// Fires a tick.
    pub(crate) fn fire(
        &mut self,
        definition: &Definition,
        planned: Duration,
        passed: Duration,
        now: Duration,
    ) -> Tick {
        self.passed = whole(passed);
        self.tick(definition, planned, false, whole(now))
    }

    /// The last tick was fired in that tenure.
    pub(crate) fn fired_by(&mut self, tenure: u64) {
        if self.fired_by.last().is_none_or(|by| by.tenure != tenure) {
            let excess = (self.fired_by.len() + 1).saturating_sub(TENURES);
            self.fired_by.drain(..excess);
            self.fired_by.push(FiredBy { tenure, since: self.sequence });
        }
    }

    /// Deals with what is planned up to `passed` without firing it.
    pub(crate) fn pass_over(&mut self, passed: Duration, now: Duration) {
        self.passed = whole(passed);
        // Where the clock was set back, how long they have been running counts from then.
        for running in &mut self.running {
            running.since = running.since.min(whole(now));
        }
    }

    /// Fires one beside those that are planned.
    pub(crate) fn trigger(&mut self, definition: &Definition, now: Duration) -> Tick {
        let now = whole(now);
        self.tick(definition, now, true, now)
    }

    fn tick(
        &mut self,
        definition: &Definition,
        planned: Duration,
        is_triggered: bool,
        now: Duration,
    ) -> Tick {
        self.sequence += 1;
        self.last = Some(LastTick { planned, fired: now });
        self.free_since = Duration::ZERO;
        let reports = definition.wants_reports();
        if reports {
            self.running.retain(|running| running.presumed_end(definition) > now);
            let excess = (self.running.len() + 1).saturating_sub(MOST_RUNNING);
            self.running.drain(..excess);
            self.running.push(Running { sequence: self.sequence, since: now });
        }
        let (schedule, sequence) = (definition.name.clone(), self.sequence);
        Tick { schedule, sequence, planned, is_triggered, reports }
    }

    /// A tick has ended.
    pub(crate) fn ended(&mut self, sequence: u64, now: Duration) {
        let before = self.running.len();
        self.running.retain(|running| running.sequence != sequence);
        if self.running.len() < before {
            self.free_since = whole(now);
        }
    }

    /// Until when a tick is taken not to have ended; `None`: all have.
    pub(crate) fn busy_until(&self, definition: &Definition, now: Duration) -> Option<Duration> {
        self.running.iter().map(|running| running.presumed_end(definition)).max().filter(|end| *end > now)
    }

    /// When the last one has ended, or is taken to have, as far as this process knows.
    pub(crate) fn free_since(&self, definition: &Definition) -> Duration {
        let ends = self.running.iter().map(|running| running.presumed_end(definition));
        ends.fold(self.free_since, Duration::max)
    }

    /// Whether it has fired all the ticks that it may.
    pub(crate) fn is_spent(&self, definition: &Definition) -> bool {
        definition.limit.is_some_and(|limit| self.sequence >= limit)
    }

    /// Plans no ticks any more.
    pub(crate) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Plans ticks again; those that were not fired meanwhile are not made up for.
    pub(crate) fn resume(&mut self, now: Duration) {
        if self.is_paused {
            self.is_paused = false;
            self.passed = self.passed.max(whole(now));
        }
    }

    /// Goes on by another definition than `old`, which was declared at that time. No time that is dealt with comes again,
    /// unless it is that of a new cadence with one time only.
    pub(crate) fn edit(&mut self, new: &Definition, old: &Definition, declared: Duration) {
        let declared = whole(declared);
        // What it would have fired while it was over was not missed.
        let goes_on = self.is_spent(old) && !self.is_spent(new)
            || new.ends != old.ends && old.ends.is_some_and(|ends| ends < declared);
        let is_single = new.cadence.is_single();
        if is_single && new.cadence != old.cadence {
            self.passed = Duration::ZERO;
        } else if goes_on || !is_single && !new.keeps_time_of(old) {
            self.passed = self.passed.max(declared);
        }
        if !new.keeps_time_of(old) {
            self.anchor = new.starts.unwrap_or(declared);
        }
        if !new.wants_reports() {
            self.running.clear();
        }
    }

    /// Whether that command has changed it already.
    pub(crate) fn knows(&self, command: TaskId) -> bool {
        self.recent.contains(&short(command))
    }

    /// Notes a command that changes it.
    pub(crate) fn remember(&mut self, command: TaskId) {
        let excess = (self.recent.len() + 1).saturating_sub(REMEMBERED);
        self.recent.drain(..excess);
        self.recent.push(short(command));
    }
}

/// The random part of an id: enough to tell it from eight others.
fn short(id: TaskId) -> u64 {
    // Positive, as headers count.
    (id.as_u128() as u64) >> 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cadence::Cadence;
    use crate::schedule::Overlap;
    use crate::schedule::Schedule;
    use crate::schedule::definition::tests::defined;
    use crate::schedule::definition::tests::schedule;
    use crate::schedule::since_epoch;

    const HOUR: Duration = Duration::from_secs(3600);
    /// A schedule's first hour.
    const START: Duration = Duration::from_secs(1_800_000_000);

    fn hourly() -> Schedule {
        schedule(HOUR)
    }

    fn at(time: Duration) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + time
    }

    fn new(definition: &Definition) -> State {
        State::new(TaskId::from_u128(1), definition, START)
    }

    #[test]
    fn it_begins_when_it_is_declared_or_starts() {
        let once = schedule(Cadence::at(at(START - HOUR)));
        for (schedule, anchor, passed) in [
            (hourly(), START, START),
            (hourly().starting_at(at(START + HOUR)), START + HOUR, START),
            (hourly().starting_at(at(START - HOUR)), START - HOUR, START),
            (once, START, Duration::ZERO),
        ] {
            let state = new(&defined(schedule));
            assert_eq!((state.anchor, state.passed, state.sequence), (anchor, passed, 0));
        }
    }

    #[test]
    fn what_it_knows_of_time_is_in_whole_milliseconds() {
        let odd = START + Duration::from_nanos(1_234_567);
        let milli = START + Duration::from_millis(1);
        let definition = defined(hourly().overlap(Overlap::Wait));
        let mut state = State::new(TaskId::from_u128(1), &definition, odd);
        state.fire(&definition, START, odd, odd);
        state.ended(1, odd);
        assert_eq!((state.anchor, state.passed, state.free_since), (milli, milli, milli));
        let tick = state.trigger(&definition, odd);
        assert_eq!((tick.planned, state.running[0].since), (milli, milli));
        assert_eq!(state.last, Some(LastTick { planned: milli, fired: milli }));
        state.pass_over(odd + HOUR, odd);
        state.pause();
        state.resume(odd + 2 * HOUR);
        assert_eq!(state.passed, milli + 2 * HOUR);
    }

    #[test]
    fn ticks_are_counted_with_those_that_were_triggered_up_to_the_limit() {
        let definition = defined(hourly().limit(3));
        let mut state = new(&definition);
        let first = state.fire(&definition, START + HOUR, START + HOUR, START + HOUR);
        let second = state.trigger(&definition, START + HOUR);
        assert_eq!((first.sequence, first.is_triggered), (1, false));
        assert_eq!((second.sequence, second.is_triggered, second.planned), (2, true, START + HOUR));
        assert_eq!(state.passed, START + HOUR);
        assert!(!state.is_spent(&definition));
        state.pass_over(START + 2 * HOUR, START + 3 * HOUR);
        assert!(!state.is_spent(&definition));
        state.fire(&definition, START + 3 * HOUR, START + 3 * HOUR, START + 3 * HOUR);
        assert!(state.is_spent(&definition));
    }

    #[test]
    fn only_where_ticks_may_not_overlap_is_their_end_awaited() {
        for (overlap, count) in [(Overlap::Allow, 0), (Overlap::Skip, 1), (Overlap::Wait, 1)] {
            let definition = defined(hourly().overlap(overlap));
            let mut state = new(&definition);
            let tick = state.fire(&definition, START, START, START);
            assert_eq!((tick.reports, state.running.len()), (count > 0, count));
        }
    }

    #[test]
    fn it_is_busy_until_the_last_has_ended_or_is_taken_to_have() {
        let definition = defined(hourly().overlap(Overlap::Skip).longest_run(2 * HOUR));
        let mut state = new(&definition);
        assert_eq!(state.busy_until(&definition, START), None);
        state.fire(&definition, START, START, START);
        state.trigger(&definition, START + HOUR);
        assert_eq!(state.busy_until(&definition, START + HOUR), Some(START + 3 * HOUR));
        state.ended(2, START + HOUR);
        assert_eq!(state.busy_until(&definition, START + HOUR), Some(START + 2 * HOUR));
        assert_eq!(state.busy_until(&definition, START + 2 * HOUR), None);
        assert_eq!(state.free_since(&definition), START + 2 * HOUR);
        // The next one makes an end of those that nobody has reported.
        state.fire(&definition, START + 5 * HOUR, START + 5 * HOUR, START + 5 * HOUR);
        assert_eq!(state.running, [Running { sequence: 3, since: START + 5 * HOUR }]);
    }

    #[test]
    fn an_end_counts_once_and_only_of_a_tick_that_runs() {
        let definition = defined(hourly().overlap(Overlap::Wait));
        let mut state = new(&definition);
        state.fire(&definition, START, START, START);
        state.ended(7, START + HOUR);
        assert_eq!((state.running.len(), state.free_since), (1, Duration::ZERO));
        state.ended(1, START + HOUR);
        state.ended(1, START + 2 * HOUR);
        assert_eq!((state.running.len(), state.free_since), (0, START + HOUR));
        state.fire(&definition, START + HOUR, START + HOUR, START + HOUR);
        assert_eq!(state.free_since, Duration::ZERO);
    }

    #[test]
    fn a_clock_set_back_does_not_prolong_what_runs() {
        let definition = defined(hourly().overlap(Overlap::Skip).longest_run(HOUR));
        let mut state = new(&definition);
        state.fire(&definition, START + 100 * HOUR, START + 100 * HOUR, START + 100 * HOUR);
        state.pass_over(START, START);
        assert_eq!(state.busy_until(&definition, START), Some(START + HOUR));
        // Nor does it become shorter if ticks before it are passed over later.
        state.pass_over(START - HOUR, START + HOUR / 2);
        assert_eq!(state.busy_until(&definition, START), Some(START + HOUR));
    }

    #[test]
    fn what_runs_and_which_commands_it_remembers_is_bounded() {
        let definition = defined(hourly().overlap(Overlap::Skip));
        let mut state = new(&definition);
        for number in 1..=100_u64 {
            state.trigger(&definition, START);
            state.remember(TaskId::at(START));
            assert!(state.running.len() <= MOST_RUNNING && state.recent.len() <= REMEMBERED);
            assert_eq!(state.running.last().map(|running| running.sequence), Some(number));
        }
        assert_eq!((state.running.len(), state.recent.len()), (MOST_RUNNING, REMEMBERED));
    }

    #[test]
    fn it_knows_the_last_commands_again() {
        let made_by = TaskId::at(START);
        let mut state = State::new(made_by, &defined(hourly()), START);
        assert!(state.knows(made_by));
        let commands: Vec<_> = (0..REMEMBERED).map(|_| TaskId::at(START)).collect();
        for command in &commands {
            assert!(!state.knows(*command));
            state.remember(*command);
        }
        assert!(commands.iter().all(|command| state.knows(*command)));
        assert!(!state.knows(made_by));
    }

    #[test]
    fn what_was_planned_in_a_pause_is_not_made_up_for() {
        let mut state = new(&defined(hourly()));
        state.resume(START + 9 * HOUR);
        assert_eq!(state.passed, START);
        state.pause();
        assert!(state.is_paused);
        state.resume(START + 9 * HOUR);
        assert_eq!((state.is_paused, state.passed), (false, START + 9 * HOUR));
        state.pause();
        state.resume(START);
        assert_eq!(state.passed, START + 9 * HOUR);
    }

    #[test]
    fn an_edit_counts_on_and_changes_the_time_only_if_it_is_about_time() {
        let (passed, declared) = (START + 2 * HOUR, START + 9 * HOUR);
        let cron = || schedule(Cadence::cron("0 9 * * *"));
        let once = |time| schedule(Cadence::at(at(time)));
        let early = at(START - HOUR);
        // Old, new, and from when it counts and what is dealt with after that.
        for (old, new, anchor, expected) in [
            (hourly(), hourly().queue("other"), START, passed),
            (hourly(), hourly().jitter(HOUR).limit(9).ending_at(at(declared)), START, passed),
            (hourly(), schedule(HOUR / 2), declared, declared),
            (hourly(), hourly().starting_at(early), START - HOUR, declared),
            (hourly(), hourly().starting_at(at(START + 99 * HOUR)), START + 99 * HOUR, declared),
            (hourly(), cron(), declared, declared),
            (cron(), cron().priority(crate::lane::Priority::Low), START, passed),
            (cron(), schedule(Cadence::cron("0 9 * * *").zone("Asia/Tokyo")), declared, declared),
            // A single time that is new counts even if it has passed, and one that was fired is not fired again.
            (hourly(), once(START), declared, Duration::ZERO),
            (once(START), once(START + HOUR), declared, Duration::ZERO),
            (once(START), once(START).starting_at(early), START - HOUR, passed),
            // It was over: what would have been planned meanwhile was not missed.
            (hourly().limit(2), hourly().limit(5), START, declared),
            (hourly().limit(2), hourly(), START, declared),
            (hourly().limit(5), hourly().limit(9), START, passed),
            (hourly().ending_at(at(START + 3 * HOUR)), hourly(), START, declared),
            (hourly().ending_at(at(declared + HOUR)), hourly(), START, passed),
            (
                hourly().ending_at(at(START + 3 * HOUR)),
                hourly().ending_at(at(START + 3 * HOUR)).queue("other"),
                START,
                passed,
            ),
        ] {
            let (old, new) = (defined(old), defined(new));
            let mut state = State { sequence: 2, passed, anchor: START, ..self::new(&old) };
            state.edit(&new, &old, declared);
            assert_eq!((state.anchor, state.passed), (anchor, expected), "{old:?} {new:?}");
            assert_eq!((state.sequence, state.origin, state.version), (2, TaskId::from_u128(1), 1));
        }
    }

    #[test]
    fn an_edit_by_a_clock_that_is_behind_brings_back_nothing() {
        let (old, new) = (defined(hourly()), defined(schedule(HOUR / 2)));
        let mut state = State { passed: START + 2 * HOUR, ..self::new(&old) };
        state.edit(&new, &old, START + HOUR);
        assert_eq!(state.passed, START + 2 * HOUR);
    }

    #[test]
    fn an_edit_awaits_the_end_of_what_runs_only_if_that_still_matters() {
        for (overlap, count) in [(Overlap::Allow, 0), (Overlap::Skip, 1), (Overlap::Wait, 1)] {
            let (old, new) = (defined(hourly().overlap(Overlap::Skip)), defined(hourly().overlap(overlap)));
            let mut state = self::new(&old);
            state.fire(&old, START, START, START);
            state.edit(&new, &old, START);
            assert_eq!(state.running.len(), count);
        }
    }

    #[test]
    fn times_before_1970_are_as_good_as_then() {
        assert_eq!(since_epoch(std::time::UNIX_EPOCH - HOUR), Duration::ZERO);
    }
}
