//! [`Tally`]: what a consumer has of one queue, and what has become of it, counted as it goes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Semaphore;

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
}

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
        }
    }

    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    pub(super) fn prefetch(&self) -> u16 {
        self.prefetch
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
    pub(super) fn succeeds(&self) {
        self.succeeded.fetch_add(1, Relaxed);
    }

    /// An attempt has failed.
    pub(super) fn fails(&self) {
        self.failed.fetch_add(1, Relaxed);
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
}
