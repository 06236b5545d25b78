//! [`ConsumerEvent`]: what a consumer says of itself.

use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use super::task::TaskChange;
use super::task::TaskEvent;
use super::times::microseconds;
use super::times::optional_microseconds;
use super::times::time_of_day;
use crate::task::TaskId;

/// What a consumer says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConsumerEvent {
    /// Which consumer: its host, its process and its number there.
    pub consumer: Arc<str>,
    /// When, by its clock.
    #[serde(with = "time_of_day")]
    pub at: SystemTime,
    /// What it says.
    pub change: ConsumerChange,
}

/// What a consumer says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConsumerChange {
    /// It takes tasks.
    Started(Box<Heartbeat>),
    /// It is alive.
    Alive(Box<Heartbeat>),
    /// It has lost the broker, and found it again.
    Reconnected {
        /// Why it was lost.
        reason: String,
        /// How long it was gone.
        #[serde(with = "microseconds")]
        after: Duration,
    },
    /// The broker takes nothing from it: it is short of memory or disk, say. Tasks go on; their retries wait, and so
    /// does this very event, which can be read once the broker takes something again.
    Blocked {
        /// What waits, and for how long.
        reason: String,
    },
    /// The broker takes again what it has.
    Unblocked,
    /// Its shutdown has begun: it takes no more tasks.
    Draining,
    /// It has stopped. All counts are 0 if it was dropped, and not shut down.
    Stopped {
        /// How many tasks ended within its grace period.
        finished: u64,
        /// How many went back without having been started.
        unstarted: u64,
        /// How many were stopped.
        aborted: u64,
    },
}

/// What a consumer says of itself at regular intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Heartbeat {
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Its release of taskhare.
    pub version: String,
    /// What its connection that brings it tasks is called in RabbitMQ's console, unlike any other there: the
    /// `user_provided_name`. To close it there gives back all its tasks. Empty in process.
    pub connections: Vec<String>,
    /// How long until the next one, at most.
    #[serde(with = "microseconds")]
    pub interval: Duration,
    /// What it has of each of its queues.
    pub queues: Vec<QueueLoad>,
    /// What it runs and has run for longest, at most 64. What has never waited for anything yet is not among them.
    pub running: Vec<RunningTask>,
}

impl Heartbeat {
    /// How many tasks it tells of; with fewer it tells of all that have run for a while.
    pub(crate) const MOST_RUNNING: usize = 64;
}

/// What a consumer has of one queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct QueueLoad {
    /// The queue.
    pub queue: String,
    /// How many of its tasks can run at once.
    pub slots: u64,
    /// How many of those are taken. What runs in quarantine takes none.
    pub running: u64,
    /// How many of its tasks may be unsettled, in each of its lanes.
    pub prefetch: u64,
    /// How many are here and not started; some may have come since that was last counted, at most one heartbeat ago.
    pub waiting: u64,
    /// How many have succeeded here since it started.
    pub succeeded: u64,
    /// How many attempts have failed here since it started.
    pub failed: u64,
    /// How many attempts have ended here per second, since the last heartbeat.
    pub rate: f64,
}

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunningTask {
    /// The task.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Its queue.
    pub queue: String,
    /// Which attempt: 1 is the first.
    pub attempt: u32,
    /// For how long.
    #[serde(with = "microseconds")]
    pub age: Duration,
    /// How long it may run at most, with the time it has to stop.
    #[serde(with = "optional_microseconds")]
    pub limit: Option<Duration>,
}

impl RunningTask {
    /// What has changed for it, as `by` says.
    pub(crate) fn event(&self, at: SystemTime, by: &Arc<str>, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id: self.id,
            name: self.name.clone().into(),
            queue: self.queue.as_str().into(),
            lane: None,
            attempt: self.attempt,
            at,
            by: by.clone(),
            change,
        }
    }
}
