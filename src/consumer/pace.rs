//! [`Pace`]: whether attempts are so quick that handing each to another thread would cost more than it gains.
//!
//! A handler that is done at its first poll, in microseconds, is run by the dispatcher itself, which saves a task, its
//! wake-up and often a switch between threads. Anything else gets a task of its own at once: what computes for long
//! must not hold up its queue, and what waits is not faster anywhere.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

/// How the first polls of a queue's attempts went.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many were quick since the last that was not, at most [`TRUST`](Self::TRUST).
    quick: AtomicU32,
}

impl Pace {
    /// Less than what it takes to wake another thread, about.
    const QUICK: Duration = Duration::from_micros(20);
    /// So many quick ones in a row make the next one likely to be so.
    const TRUST: u32 = 64;

    pub(super) fn is_quick(&self) -> bool {
        self.quick.load(Ordering::Relaxed) >= Self::TRUST
    }

    fn record(&self, first_poll: Duration) {
        if first_poll > Self::QUICK {
            self.quick.store(0, Ordering::Relaxed);
        } else if !self.is_quick() {
            self.quick.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An attempt whose first poll is timed.
pub(super) struct Paced<F> {
    attempt: Pin<Box<F>>,
    /// Until the first poll.
    pace: Option<Arc<Pace>>,
}

impl<F: Future> Paced<F> {
    pub(super) fn new(attempt: F, pace: &Arc<Pace>) -> Self {
        Self { attempt: Box::pin(attempt), pace: Some(pace.clone()) }
    }
}

impl<F: Future> Future for Paced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(pace) = self.pace.take() else { return self.attempt.as_mut().poll(cx) };
        let begun = Instant::now();
        let polled = self.attempt.as_mut().poll(cx);
        // What waits gains nothing from being begun elsewhere than where it goes on.
        pace.record(if polled.is_ready() { begun.elapsed() } else { Duration::MAX });
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_earned_by_many_and_lost_by_one() {
        let (quick, slow) = (Duration::from_micros(1), Duration::from_millis(1));
        let pace = Pace::default();
        for _ in 0..63 {
            pace.record(quick);
        }
        assert!(!pace.is_quick());
        pace.record(quick);
        assert!(pace.is_quick());
        pace.record(slow);
        assert!(!pace.is_quick());
    }
}
