//! [`ScheduleStatus`].

use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::cadence::Cadence;
use crate::cadence::Times;
use crate::schedule;
use crate::schedule::Entry;
use crate::schedule::LastTick;

/// A schedule and how far it has come, as the active scheduler knew it: see [`Schedules`](crate::Schedules).
#[derive(Clone, Debug)]
pub struct ScheduleStatus {
    entry: Entry,
    next_tick: Option<SystemTime>,
}

impl ScheduleStatus {
    pub(super) fn new(entry: Entry) -> Self {
        let Entry { definition, state } = &entry;
        // One that this release cannot plan has no next tick here.
        let times = Times::of(&definition.cadence).ok().filter(|_| !state.is_paused);
        let next = times.and_then(|times| schedule::next(definition, &times, state));
        Self { next_tick: next.map(|next| UNIX_EPOCH + next), entry }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.definition.name
    }

    /// The name of its task.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.entry.definition.task
    }

    /// The queue of its tasks.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.entry.definition.queue.as_str()
    }

    /// When its ticks are planned.
    #[must_use]
    pub fn cadence(&self) -> &Cadence {
        &self.entry.definition.cadence
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.entry.state.is_paused
    }

    /// How many ticks it has fired, those that were triggered included.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.entry.state.sequence
    }

    /// The tick fired last.
    #[must_use]
    pub fn last_tick(&self) -> Option<LastTick> {
        self.entry.state.last
    }

    /// When the next tick is planned, without its [`jitter`](crate::Schedule::jitter); in the past if it is late. `None`:
    /// there will be none, or none while it is paused.
    #[must_use]
    pub fn next_tick(&self) -> Option<SystemTime> {
        self.next_tick
    }

    /// How many ticks have not ended, as far as anybody has reported. Always 0 where ticks may
    /// [overlap](crate::Overlap::Allow): nobody reports there.
    #[must_use]
    pub fn running(&self) -> usize {
        self.entry.state.running.len()
    }
}
