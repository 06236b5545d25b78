//! [`Tally`]: what a consumer has of one queue, and what has become of it, counted as it goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::held::Room;

/// Counts, each right by itself: nothing waits for them, and they are not of one instant.
#[derive(Debug)]
pub(super) struct Tally {
    prefetch: u16,
    concurrency: usize,
    slots: Arc<Semaphore>,
    /// How many wait for a slot.
    waiting: AtomicUsize,
    /// None waits: so the slot that is kept for the next one is free.
    is_idle: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// How long attempts run, in microseconds, on the whole: one weighs a 64th.
    mean: AtomicU32,
    has_short_runs: AtomicBool,
}

/// Attempts that run for less, in microseconds, are short: what they take is not much more than what it takes to store
/// that they have ended.
const SHORT: u32 = 10_000;
/// So long that none is short any more.
const LONG: u32 = 25_000;

impl Tally {
    pub(super) fn new(concurrency: usize, prefetch: u16) -> Self {
        let concurrency = concurrency.min(Semaphore::MAX_PERMITS);
        Self {
            prefetch,
            concurrency,
            slots: Arc::new(Semaphore::new(concurrency)),
            waiting: AtomicUsize::new(0),
            is_idle: AtomicBool::new(true),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            mean: AtomicU32::new(LONG),
            has_short_runs: AtomicBool::new(false),
        }
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// How many of a lane there may be now.
    pub(super) fn room(&self) -> u16 {
        if self.has_short_runs() { self.wide_prefetch() } else { self.prefetch }
    }

    /// How many there may be while most of them have ended and wait for their acknowledgement: enough for all slots not to
    /// wait with them.
    fn wide_prefetch(&self) -> u16 {
        let slots = u16::try_from(self.concurrency).unwrap_or(u16::MAX).min(self.prefetch);
        slots.saturating_mul(4).min(Room::MOST).max(self.prefetch)
    }

    /// Where attempts take their slots.
    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// How many slots are taken.
    pub(super) fn running(&self) -> usize {
        let kept = usize::from(self.is_idle.load(Relaxed));
        self.concurrency.saturating_sub(self.slots.available_permits()).saturating_sub(kept)
    }

    /// How many are here and not started.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// So many are here and not started; if `is_idle`, a slot is free for the next.
    pub(super) fn waits(&self, waiting: usize, is_idle: bool) {
        self.waiting.store(waiting, Relaxed);
        self.is_idle.store(is_idle, Relaxed);
    }

    /// How many attempts have succeeded.
    pub(super) fn succeeded(&self) -> u64 {
        self.succeeded.load(Relaxed)
    }

    /// How many attempts have failed.
    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// An attempt has succeeded.
    pub(super) fn succeeds(&self, ran: Duration) {
        self.succeeded.fetch_add(1, Relaxed);
        self.runs(ran);
    }

    /// An attempt has failed.
    pub(super) fn fails(&self, ran: Duration) {
        self.failed.fetch_add(1, Relaxed);
        self.runs(ran);
    }

    /// Whether attempts take so little time that it matters how long they wait, when they have ended, for their
    /// acknowledgement.
    fn has_short_runs(&self) -> bool {
        self.has_short_runs.load(Relaxed)
    }

    /// How urgent it is, from 0 to 1, that one that has ended is acknowledged: while runs are short there is time until a
    /// quarter of those wait for it that there may be.
    pub(super) fn urgency(&self) -> f32 {
        if self.has_short_runs() { (4.0 / f32::from(self.room())).min(1.0) } else { 1.0 }
    }

    /// Of two at once one may be passed over.
    fn runs(&self, ran: Duration) {
        let mean = mean(self.mean.load(Relaxed), ran);
        self.mean.store(mean, Relaxed);
        if (mean < SHORT) != self.has_short_runs() && !(SHORT..LONG).contains(&mean) {
            self.has_short_runs.store(mean < SHORT, Relaxed);
        }
    }
}

/// The mean, in microseconds, after another run. One counts as a second at most, so that it is soon forgotten.
fn mean(before: u32, ran: Duration) -> u32 {
    let ran = u32::try_from(ran.as_micros()).unwrap_or(u32::MAX).min(1_000_000);
    // Rounded up on the way up, and down on the way down: so that it arrives.
    match ran.checked_sub(before) {
        Some(more) => before + more.div_ceil(64),
        None => before - (before - ran).div_ceil(64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_that_is_kept_for_the_next_task_is_taken_once_there_is_one() {
        // How many slots are held, whether one of them is kept for a task that is still to come, how many are taken.
        for (held, is_idle, expected) in
            [(0, true, 0), (1, true, 0), (1, false, 1), (3, true, 2), (4, false, 4)]
        {
            let tally = Tally::new(4, 8);
            let _held = tally.slots().clone().try_acquire_many_owned(held).expect("there are as many");
            tally.waits(0, is_idle);
            assert_eq!(tally.running(), expected, "{held} {is_idle}");
        }
    }

    #[test]
    fn there_is_room_for_all_slots_and_what_waits_for_acknowledgement() {
        for (concurrency, prefetch, expected) in [
            (1, 1, 4),
            (16, 32, 64),
            (16, 64, 64),
            (4, 128, 128),
            (256, 256, 1_024),
            (256, 32, 128),
            (2_000, 2_000, 4_096),
            (usize::MAX, u16::MAX, u16::MAX),
        ] {
            assert_eq!(
                Tally::new(concurrency, prefetch).wide_prefetch(),
                expected,
                "{concurrency} {prefetch}"
            );
        }
    }

    #[test]
    fn runs_are_short_once_most_were_and_until_most_were_not() {
        let tally = Tally::new(1, 1);
        // How many of how many milliseconds; whether they are short after that.
        for (count, ms, expected) in [
            (1, 0, false),
            (40, 0, false),
            (40, 0, true),
            (1_000, 1, true),
            (1, 900_000, true),
            (1, 900_000, false),
            (1_000, 10, false),
            (1_000, 9, true),
            (1_000, 10, true),
            (1_000, 24, true),
            (1_000, 25, false),
        ] {
            (0..count).for_each(|_| tally.succeeds(Duration::from_millis(ms)));
            assert_eq!(tally.has_short_runs(), expected, "{count} of {ms} ms: {tally:?}");
        }
    }
}
