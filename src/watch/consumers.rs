//! [`Consumers`]: who is there, and who is silent.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Alert;
use crate::event::Heartbeat;
use crate::task::TaskId;

/// How many are watched.
const MOST: usize = 10_000;
/// How long a silent one is remembered, and one that never told anything but of tasks.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// What a scheduler knows of a consumer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConsumerState {
    /// Which: its host, its process and its number there.
    pub consumer: Arc<str>,
    /// Whether it is there.
    pub presence: Presence,
    /// How long ago it was last heard of.
    pub heard: Duration,
    /// What it last said of itself; `None`: nothing yet, but a task of it was seen.
    pub heartbeat: Option<Heartbeat>,
}

/// Whether a consumer is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// It takes tasks.
    Alive,
    /// It shuts down.
    Draining,
    /// It has said nothing for 1.8 of its heartbeats.
    Silent,
}

/// Who is there. Those that have stopped are not.
#[derive(Default)]
pub(super) struct Consumers {
    known: HashMap<Arc<str>, Seen>,
}

struct Seen {
    presence: Presence,
    heard: Instant,
    heartbeat: Option<Box<Heartbeat>>,
    /// Which tasks it runs.
    tasks: HashSet<TaskId>,
}

impl Seen {
    /// When it is silent, if it says nothing until then: before two of its heartbeats are missing, so that its death is
    /// known within two. `None`: it is already, or has not told when it will say something.
    fn patience(&self) -> Option<Instant> {
        let heartbeat = self.heartbeat.as_ref().filter(|_| self.presence != Presence::Silent)?;
        Some(self.heard + heartbeat.interval * 9 / 5)
    }
}

impl Consumers {
    /// A sign of life; what there is to tell if it was silent.
    pub(super) fn heard(&mut self, consumer: &Arc<str>, now: Instant) -> Option<Alert> {
        if !self.known.contains_key(consumer) && self.known.len() >= MOST {
            return None;
        }
        let seen = self.known.entry(consumer.clone()).or_insert_with(|| Seen {
            presence: Presence::Alive,
            heard: now,
            heartbeat: None,
            tasks: HashSet::new(),
        });
        let after = now.saturating_duration_since(seen.heard);
        seen.heard = seen.heard.max(now);
        if seen.presence != Presence::Silent {
            return None;
        }
        seen.presence = Presence::Alive;
        Some(Alert::ConsumerBack { consumer: consumer.clone(), after })
    }

    /// What a known one says of itself.
    pub(super) fn tells(&mut self, consumer: &str, heartbeat: &Heartbeat) {
        if let Some(seen) = self.known.get_mut(consumer) {
            seen.heartbeat = Some(Box::new(heartbeat.clone()));
        }
    }

    /// It takes no more tasks.
    pub(super) fn drains(&mut self, consumer: &str) {
        if let Some(seen) = self.known.get_mut(consumer) {
            seen.presence = Presence::Draining;
        }
    }

    /// It is gone, and has given back what it had: these, as far as one knows.
    pub(super) fn remove(&mut self, consumer: &str) -> HashSet<TaskId> {
        self.known.remove(consumer).map(|seen| seen.tasks).unwrap_or_default()
    }

    pub(super) fn begins(&mut self, consumer: &str, task: TaskId) {
        if let Some(seen) = self.known.get_mut(consumer) {
            seen.tasks.insert(task);
        }
    }

    pub(super) fn ends(&mut self, consumer: &str, task: TaskId) {
        if let Some(seen) = self.known.get_mut(consumer) {
            seen.tasks.remove(&task);
        }
    }

    /// What it runs.
    pub(super) fn tasks(&self, consumer: &str) -> impl Iterator<Item = TaskId> {
        self.known.get(consumer).into_iter().flat_map(|seen| seen.tasks.iter().copied())
    }

    /// When it was last heard of.
    pub(super) fn last(&self, consumer: &str) -> Option<Instant> {
        Some(self.known.get(consumer)?.heard)
    }

    pub(super) fn is_there(&self, consumer: &str) -> bool {
        self.known.get(consumer).is_some_and(|seen| seen.presence != Presence::Silent)
    }

    /// What the connections of a consumer are called.
    pub(super) fn connections(&self, consumer: &str) -> Vec<String> {
        let heartbeat = self.known.get(consumer).and_then(|seen| seen.heartbeat.as_ref());
        heartbeat.map(|it| it.connections.clone()).unwrap_or_default()
    }

    /// Whether somebody has tasks of that queue that wait for a slot.
    pub(super) fn has_prefetched(&self, queue: &str) -> bool {
        let heartbeats = self.known.values().filter_map(|seen| seen.heartbeat.as_ref());
        heartbeats.flat_map(|it| &it.queues).any(|load| load.queue == queue && load.waiting > 0)
    }

    /// The queues that somebody takes tasks from.
    pub(super) fn served(&self) -> HashSet<&str> {
        let alive = self.known.values().filter(|seen| seen.presence == Presence::Alive);
        let heartbeats = alive.filter_map(|seen| seen.heartbeat.as_ref());
        heartbeats.flat_map(|it| &it.queues).map(|load| load.queue.as_str()).collect()
    }

    /// Nobody could be heard until now.
    pub(super) fn pardon(&mut self, now: Instant) {
        for seen in self.known.values_mut().filter(|seen| seen.presence != Presence::Silent) {
            seen.heard = seen.heard.max(now);
        }
    }

    /// When the next one is silent, if it says nothing until then.
    pub(super) fn next(&self) -> Option<Instant> {
        self.known.values().filter_map(Seen::patience).min()
    }

    /// Those that are silent from now on, each with when it was last heard of.
    pub(super) fn silence(&mut self, now: Instant) -> Vec<(Arc<str>, Instant)> {
        let mut silent = Vec::new();
        self.known.retain(|consumer, seen| {
            match seen.patience() {
                None => return now.saturating_duration_since(seen.heard) < REMEMBERED,
                Some(end) if end <= now => {
                    seen.presence = Presence::Silent;
                    silent.push((consumer.clone(), seen.heard));
                }
                Some(_) => {}
            }
            true
        });
        silent.sort();
        silent
    }

    pub(super) fn snapshot(&self, now: Instant) -> Vec<ConsumerState> {
        let state = |(consumer, seen): (&Arc<str>, &Seen)| ConsumerState {
            consumer: consumer.clone(),
            presence: seen.presence,
            heard: now.saturating_duration_since(seen.heard),
            heartbeat: seen.heartbeat.as_deref().cloned(),
        };
        let mut all: Vec<ConsumerState> = self.known.iter().map(state).collect();
        all.sort_by(|a, b| a.consumer.cmp(&b.consumer));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    fn beats(consumers: &mut Consumers, name: &str, interval: f64, now: Instant) -> Option<Alert> {
        let alert = consumers.heard(&name.into(), now);
        consumers.tells(name, &Heartbeat { interval: seconds(interval), ..Heartbeat::default() });
        alert
    }

    #[test]
    fn a_consumer_is_silent_before_its_second_heartbeat_is_missing() {
        let start = Instant::now();
        // Its interval, when it is looked at, whether it is silent.
        for (interval, after, expected) in
            [(1.0, 1.0, false), (1.0, 1.79, false), (1.0, 1.8, true), (10.0, 17.9, false), (10.0, 18.0, true)]
        {
            let mut consumers = Consumers::default();
            beats(&mut consumers, "a", interval, start);
            let (next, silent) = (consumers.next(), consumers.silence(start + seconds(after)));
            assert_eq!(!silent.is_empty(), expected, "{interval} {after}");
            assert_eq!(next.unwrap() <= start + seconds(after), expected, "{interval} {after}");
            assert_eq!(consumers.is_there("a"), !expected);
        }
    }

    #[test]
    fn it_is_told_once_that_one_is_silent_and_that_it_is_back() {
        let start = Instant::now();
        let mut consumers = Consumers::default();
        let name: Arc<str> = "a".into();
        assert_eq!(beats(&mut consumers, "a", 10.0, start), None);
        let silent = consumers.silence(start + seconds(20.0));
        assert_eq!(silent, [(name.clone(), start)]);
        assert_eq!((consumers.silence(start + seconds(21.0)), consumers.next()), (vec![], None));
        let back = Alert::ConsumerBack { consumer: name.clone(), after: seconds(30.0) };
        assert_eq!(consumers.heard(&name, start + seconds(30.0)), Some(back));
        assert_eq!(consumers.heard(&name, start + seconds(31.0)), None);
    }

    #[test]
    fn who_could_not_be_heard_is_not_taken_for_silent() {
        let start = Instant::now();
        let mut consumers = Consumers::default();
        beats(&mut consumers, "a", 10.0, start);
        consumers.pardon(start + seconds(60.0));
        assert_eq!(consumers.silence(start + seconds(61.0)), []);
        assert_eq!(consumers.silence(start + seconds(78.0)).len(), 1);
    }

    #[test]
    fn there_are_not_more_than_can_be_watched() {
        let start = Instant::now();
        let mut consumers = Consumers::default();
        for number in 0..=MOST {
            consumers.heard(&number.to_string().into(), start);
        }
        assert_eq!(consumers.silence(start + seconds(60.0)), [], "they have told nothing of themselves");
        assert_eq!(consumers.snapshot(start).len(), MOST);
        consumers.silence(start + REMEMBERED);
        assert_eq!(consumers.snapshot(start), []);
    }
}
