//! [`Tasks`]: what runs where, what waits and what was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::event::Effect;
use crate::event::Ends;
use crate::event::RunningTask;
use crate::event::Standing;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::event::TaskState;
use crate::task::TaskId;

/// How many of those that run or are lost are watched.
const MOST_RUNNING: usize = 100_000;

/// The tasks that are known.
#[derive(Default)]
pub(super) struct Tasks {
    live: HashMap<TaskId, Row>,
    /// How many of those run, or are lost.
    running: usize,
    /// Of what is told late it tells what counts.
    ends: Ends,
}

/// A task that has not ended.
pub(super) struct Row {
    pub(super) state: TaskState,
    /// Who had it, if it was lost.
    pub(super) loss: Option<Loss>,
    /// Whether it was told that it is overdue.
    pub(super) is_overdue: bool,
}

/// Who had a task, and when that was last heard of.
#[derive(Clone)]
pub(super) struct Loss {
    pub(super) consumer: Arc<str>,
    pub(super) heard: Instant,
}

/// Where a task stood before an event, and where it stands since then. `None`: nothing is known of it.
#[derive(Default)]
pub(super) struct Step {
    pub(super) before: Option<TaskState>,
    pub(super) after: Option<TaskState>,
}

impl Row {
    fn new(state: TaskState) -> Self {
        Self { state, loss: None, is_overdue: false }
    }

    /// As it would be told by its consumer.
    pub(super) fn task(&self, now: SystemTime) -> RunningTask {
        running_task(&self.state, now)
    }
}

/// A task that runs, or ran until it was lost.
pub(super) fn running_task(state: &TaskState, now: SystemTime) -> RunningTask {
    let (since, limit) = match &state.standing {
        Standing::Running { since, limit, .. } => (*since, *limit),
        _ => (state.since, None),
    };
    RunningTask {
        id: state.id,
        name: state.name.clone().into_owned(),
        queue: state.queue.to_string(),
        attempt: state.attempt,
        age: now.duration_since(since).unwrap_or_default(),
        limit,
    }
}

/// Since when a task waits for its turn, or will.
pub(super) fn due(state: &TaskState) -> Option<SystemTime> {
    match state.standing {
        Standing::Waiting => Some(state.since),
        Standing::Delayed { until: due } | Standing::Retrying { at: due } => Some(due),
        _ => None,
    }
}

fn is_running(state: &TaskState) -> bool {
    matches!(state.standing, Standing::Running { .. } | Standing::Lost { .. })
}

impl Tasks {
    pub(super) fn get(&self, id: TaskId) -> Option<&Row> {
        self.live.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Row> {
        self.live.get_mut(&id)
    }

    pub(super) fn any_running(&self) -> bool {
        self.running > 0
    }

    /// Those that have not ended.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.live.values_mut()
    }

    /// Takes an event.
    pub(super) fn apply(&mut self, event: &TaskEvent) -> Step {
        if self.ends.learn(event) != Effect::Counts {
            let state = self.live.get(&event.id).map(|row| row.state.clone());
            return Step { before: state.clone(), after: state };
        }
        let before = self.live.get(&event.id).map(|row| row.state.clone());
        let after = match self.live.get_mut(&event.id) {
            Some(row) => {
                row.state.apply(event);
                row.state.clone()
            }
            // That an attempt of what is not known has failed says nothing of what follows.
            None if matches!(event.change, TaskChange::Failed { .. }) => return Step::default(),
            None => TaskState::new(event),
        };
        let was_running = before.as_ref().is_some_and(is_running);
        let is_full = self.running >= MOST_RUNNING && is_running(&after) && !was_running;
        if after.standing.is_done() || is_full {
            self.live.remove(&event.id);
            self.running -= usize::from(was_running);
            return Step { before, after: Some(after).filter(|_| !is_full) };
        }
        self.running += usize::from(is_running(&after));
        self.running -= usize::from(was_running);
        if before.is_none() {
            self.live.insert(event.id, Row::new(after.clone()));
        }
        Step { before, after: Some(after) }
    }

    /// Knows nothing more of a task that has not ended.
    pub(super) fn remove(&mut self, id: TaskId) {
        if self.live.remove(&id).is_some_and(|row| is_running(&row.state)) {
            self.running -= 1;
        }
    }

    /// Those that run, or are lost: the oldest first.
    pub(super) fn snapshot(&self) -> Vec<TaskState> {
        let states = self.live.values().map(|row| &row.state);
        let mut running: Vec<TaskState> = states.filter(|state| is_running(state)).cloned().collect();
        running.sort_by_key(|state| (state.since, state.id));
        running
    }
}
