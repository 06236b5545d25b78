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
    pub(crate) is_paused: bool,
    /// The ticks whose end is awaited.
    pub(crate) running: Vec<Running>,
    /// The last commands that changed it, so that none is carried out twice.
    pub(crate) recent: Vec<u64>,
    /// When a tick last ended, as far as this process knows.
    pub(crate) free_since: Duration,
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
