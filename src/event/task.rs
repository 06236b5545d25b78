//! [`TaskEvent`]: a change in the life of a task.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use crate::lane::Lane;
use crate::lane::Priority;
use crate::outcome::DeadReason;
use crate::task::TaskId;

/// A change in the life of a task.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskEvent {
    /// The task.
    pub id: TaskId,
    /// Its name: [`Task::NAME`](crate::Task::NAME).
    pub name: Cow<'static, str>,
    /// Its queue.
    pub queue: Arc<str>,
    /// The lane it was in, where that is known: not of what waits in quarantine or is in the dead letters.
    pub lane: Option<Lane>,
    /// The attempt under way, ended or, of an accepted task, to come: 1 is the first.
    pub attempt: u32,
    /// When, by the clock of whoever says so, to the microsecond; to the second where only the broker says so.
    pub at: SystemTime,
    /// Who says so: a consumer, or the process of a producer or a scheduler; the broker says nothing of itself.
    pub by: Arc<str>,
    /// What has changed.
    pub change: TaskChange,
}

/// What has changed for a task.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TaskChange {
    /// The broker has it. Told by its enqueuer, so it may come after what a consumer tells of the same task.
    Accepted {
        /// As it was enqueued.
        priority: Priority,
        /// When it may start; `None`: at once.
        due: Option<SystemTime>,
        /// When it is too late to start.
        deadline: Option<SystemTime>,
        /// The schedule that it is a tick of.
        schedule: Option<String>,
        /// Whether it was enqueued before: it is rescheduled.
        again: bool,
    },
    /// An attempt has begun.
    Started {
        /// How long it has waited since it could have started: since it was enqueued or, of a delayed task or a retry,
        /// due.
        waited: Duration,
        /// Whether it was delayed, by its enqueuer or as a retry: then `waited` is how late it was.
        delayed: bool,
        /// Whether it may have been started before and not ended.
        redelivered: bool,
        /// How long it may run at most, with the time it has to stop.
        limit: Option<Duration>,
    },
    /// Its handler says how far it is.
    Progress {
        /// How much is done.
        done: u64,
        /// Of how much.
        total: Option<u64>,
        /// What it is doing.
        note: String,
    },
    /// It is done.
    Succeeded {
        /// How long its last attempt took.
        ran: Duration,
        /// How long after it was enqueued, or first due.
        total: Duration,
    },
    /// An attempt has failed; what becomes of the task follows.
    Failed {
        /// How long the attempt took.
        ran: Duration,
        /// Its error, at most 256 bytes of it.
        error: String,
    },
    /// It will be tried again.
    Retrying {
        /// When.
        due: SystemTime,
    },
    /// It is too late, and in the dead letters.
    Expired {
        /// Where its deadline found it.
        reason: DeadReason,
        /// How long after it was enqueued, or first due.
        total: Option<Duration>,
    },
    /// It is in the dead letters.
    Dead {
        /// Why.
        reason: DeadReason,
        /// Its last error.
        error: Option<String>,
        /// How long after it was enqueued, or first due.
        total: Option<Duration>,
    },
    /// It was cancelled, and is gone.
    Cancelled,
    /// Its consumer was shut down and has given it back; the attempt does not count.
    HandedBack,
    /// Its consumer is silent. The broker gives it to another one, who tells that it has started.
    Lost {
        /// The consumer.
        consumer: Arc<str>,
    },
    /// It is taken out of the dead letters, and enqueued again with all its attempts before it. Told just before that.
    Redriven,
}

/// Which kind of change: a [`TaskChange`] without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// [`TaskChange::Accepted`].
    Accepted,
    /// [`TaskChange::Started`].
    Started,
    /// [`TaskChange::Progress`].
    Progress,
    /// [`TaskChange::Succeeded`].
    Succeeded,
    /// [`TaskChange::Failed`].
    Failed,
    /// [`TaskChange::Retrying`].
    Retrying,
    /// [`TaskChange::Expired`].
    Expired,
    /// [`TaskChange::Dead`].
    Dead,
    /// [`TaskChange::Cancelled`].
    Cancelled,
    /// [`TaskChange::HandedBack`].
    HandedBack,
    /// [`TaskChange::Lost`].
    Lost,
    /// [`TaskChange::Redriven`].
    Redriven,
}

impl TaskChange {
    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Accepted { .. } => Kind::Accepted,
            Self::Started { .. } => Kind::Started,
            Self::Progress { .. } => Kind::Progress,
            Self::Succeeded { .. } => Kind::Succeeded,
            Self::Failed { .. } => Kind::Failed,
            Self::Retrying { .. } => Kind::Retrying,
            Self::Expired { .. } => Kind::Expired,
            Self::Dead { .. } => Kind::Dead,
            Self::Cancelled => Kind::Cancelled,
            Self::HandedBack => Kind::HandedBack,
            Self::Lost { .. } => Kind::Lost,
            Self::Redriven => Kind::Redriven,
        }
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Accepted,
        Self::Started,
        Self::Progress,
        Self::Succeeded,
        Self::Failed,
        Self::Retrying,
        Self::Expired,
        Self::Dead,
        Self::Cancelled,
        Self::HandedBack,
        Self::Lost,
        Self::Redriven,
    ];

    /// As it is written on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Retrying => "retrying",
            Self::Expired => "expired",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::HandedBack => "handed-back",
            Self::Lost => "lost",
            Self::Redriven => "redriven",
        }
    }

    /// Whether the task has come to its end.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Expired | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
