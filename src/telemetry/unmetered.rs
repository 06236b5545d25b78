//! The same as `meter.rs` without the feature `metrics`: nothing.

use std::sync::Arc;

use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;

pub(crate) fn describe() {}

pub(super) struct AttemptMeter;

impl AttemptMeter {
    pub(super) fn begin(_: &Arc<str>, _: &'static str, _: &Envelope, _: Clock) -> Self {
        Self
    }

    #[allow(clippy::unused_self, reason = "as with the feature `metrics`")]
    pub(super) fn ran(&self) {}

    pub(super) fn end(self, _: Outcome) {}
}

pub(crate) struct EnqueueMeter;

impl EnqueueMeter {
    pub(crate) fn begin(_: &'static str) -> Self {
        Self
    }

    pub(crate) fn confirmed(self, _: &Arc<str>) {}

    pub(crate) fn merged(self) {}
}

pub(crate) fn tick_confirmed(_: &str, _: &str) {}

pub(crate) fn dead(_: &str, _: &str, _: DeadReason) {}

pub(crate) fn connection_lost(_: &'static str) {}

pub(crate) fn event_missed() {}

#[must_use]
pub(crate) struct Raised;

impl Raised {
    pub(crate) fn slots(_: &str, _: usize) -> Self {
        Self
    }

    pub(crate) fn active_scheduler() -> Self {
        Self
    }
}
