//! [`Tasks`]: what runs where, what waits and what was lost; and what has ended lately, so that it stays ended.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::event::RunningTask;
use crate::event::Standing;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::event::TaskState;
use crate::task::TaskId;

/// How many of those that run or are lost are watched.
const MOST_RUNNING: usize = 100_000;
/// How many of those that have ended are remembered.
const MOST_ENDED: usize = 65_536;

/// The tasks that are known.
#[derive(Default)]
pub(super) struct Tasks {
    live: HashMap<TaskId, Row>,
    /// How many of those run, or are lost.
    running: usize,
    ended: HashMap<TaskId, TaskState>,
    /// The order in which they have ended.
    endings: VecDeque<TaskId>,
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

    /// Those that have not ended.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.live.values_mut()
    }

    /// Takes an event.
    pub(super) fn apply(&mut self, event: &TaskEvent) -> Step {
        if let Some(row) = self.live.get_mut(&event.id) {
            let before = row.state.clone();
            if !row.state.apply(event) {
                return Step { before: Some(before.clone()), after: Some(before) };
            }
            let after = row.state.clone();
            self.count(Some(&before), Some(&after));
            if after.standing.is_done() {
                self.live.remove(&event.id);
                self.end(after.clone());
            } else if self.running > MOST_RUNNING && !is_running(&before) {
                self.remove(event.id);
                return Step { before: Some(before), after: None };
            }
            return Step { before: Some(before), after: Some(after) };
        }
        let state = match self.ended.get_mut(&event.id) {
            Some(state) => {
                if !state.apply(event) {
                    return Step::default();
                }
                state.clone()
            }
            // How far something is that is not known, or that an attempt of it has failed, says nothing of what follows.
            None if matches!(event.change, TaskChange::Failed { .. }) => return Step::default(),
            None => TaskState::new(event),
        };
        if state.standing.is_done() {
            self.end(state.clone());
        } else if is_running(&state) && self.running >= MOST_RUNNING {
            return Step::default();
        } else {
            self.ended.remove(&event.id);
            self.count(None, Some(&state));
            self.live.insert(event.id, Row::new(state.clone()));
        }
        Step { before: None, after: Some(state) }
    }

    /// Knows nothing more of a task that has not ended.
    pub(super) fn remove(&mut self, id: TaskId) -> Option<TaskState> {
        let state = self.live.remove(&id)?.state;
        self.count(Some(&state), None);
        Some(state)
    }

    /// Those that run, or are lost: the oldest first.
    pub(super) fn snapshot(&self) -> Vec<TaskState> {
        let states = self.live.values().map(|row| &row.state);
        let mut running: Vec<TaskState> = states.filter(|state| is_running(state)).cloned().collect();
        running.sort_by_key(|state| (state.since, state.id));
        running
    }

    fn end(&mut self, state: TaskState) {
        if self.ended.contains_key(&state.id) {
            self.ended.insert(state.id, state);
            return;
        }
        self.endings.push_back(state.id);
        self.ended.insert(state.id, state);
        while self.endings.len() > MOST_ENDED
            && let Some(oldest) = self.endings.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    fn count(&mut self, before: Option<&TaskState>, after: Option<&TaskState>) {
        self.running += usize::from(after.is_some_and(is_running));
        self.running -= usize::from(before.is_some_and(is_running));
    }
}
