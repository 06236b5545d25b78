//! [`ShutdownReceipt`]: what became of each task that a consumer had when it was shut down.

use std::borrow::Cow;

use crate::outcome::Outcome;
use crate::task::TaskId;
use crate::transport::Delivery;

/// How an attempt ended, as the dispatcher hears of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// `None` for a message that is not a task.
    pub(super) id: Option<TaskId>,
    pub(super) name: Cow<'static, str>,
    pub(super) outcome: Outcome,
}

/// What became of each task that a consumer had when its shutdown began.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReceipt {
    /// One entry for each, in no order.
    pub tasks: Vec<ShutdownEntry>,
}

/// One task of a [`ShutdownReceipt`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownEntry {
    /// Its id; `None` for a message that is not a task.
    pub id: Option<TaskId>,
    /// Its name.
    pub name: Cow<'static, str>,
    /// What became of it.
    pub fate: Fate,
}

impl ShutdownEntry {
    pub(super) fn unstarted(delivery: &Delivery) -> Self {
        let message = &delivery.message;
        Self {
            id: message.id.as_deref().and_then(|id| id.parse().ok()),
            name: message.kind.clone().unwrap_or_default(),
            fate: Fate::Unstarted,
        }
    }
}

/// What became of a task in a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It was running, and ended within the grace period.
    Finished(Outcome),
    /// It had not been started, and is back in its queue.
    Unstarted,
    /// It was still running at the end of the grace period: it was stopped, and is back in its queue.
    Aborted,
}

impl ShutdownReceipt {
    /// How many tasks ended within the grace period, whatever way.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.tasks.iter().filter(|task| matches!(task.fate, Fate::Finished(_))).count()
    }

    /// How many went back to their queues without having been started.
    #[must_use]
    pub fn unstarted(&self) -> usize {
        self.tasks.iter().filter(|task| task.fate == Fate::Unstarted).count()
    }

    /// How many were stopped at the end of the grace period.
    #[must_use]
    pub fn aborted(&self) -> usize {
        self.tasks.iter().filter(|task| task.fate == Fate::Aborted).count()
    }
}
