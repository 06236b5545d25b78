//! [`Table`]: tasks, consumers and queues together.

use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use tokio::time::Instant;

use super::Alert;
use super::ConsumerState;
use super::Now;
use super::Thresholds;
use super::conditions::Condition;
use super::conditions::Conditions;
use super::consumers::Consumers;
use super::minute::Minute;
use super::tasks::Loss;
use super::tasks::Step;
use super::tasks::Tasks;
use super::tasks::due;
use super::tasks::running_task;
use super::waiting::Waiting;
use crate::event::ConsumerChange;
use crate::event::ConsumerEvent;
use crate::event::Event;
use crate::event::Heartbeat;
use crate::event::RunningTask;
use crate::event::Standing;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::event::TaskState;
use crate::task::TaskId;

/// How many queues are watched.
const MOST_QUEUES: usize = 1_000;
/// How many starts by another consumer may be in doubt.
const MOST_DOUBTS: usize = 10_000;
/// How long after a start by another consumer the one before may tell that it has given the task back.
const DOUBT: Duration = Duration::from_secs(1);
/// How long a lost task is watched for.
const REMEMBERED: Duration = Duration::from_secs(60 * 60);

/// What is known of tasks, consumers and queues.
pub(crate) struct Table {
    thresholds: Thresholds,
    consumers: Consumers,
    tasks: Tasks,
    queues: HashMap<Arc<str>, Queue>,
    conditions: Conditions,
    /// Tasks that run at two consumers: the first has lost it, or has given it back and not told so yet.
    doubts: HashMap<TaskId, Doubt>,
}

#[derive(Default)]
struct Queue {
    /// Attempts that have ended within the last minute,
    ended: Minute,
    /// … those of them that have failed,
    failed: Minute,
    /// … and dead letters.
    dead: Minute,
    waiting: Waiting,
    /// Since when tasks wait and nobody takes any.
    unserved: Option<Instant>,
}

struct Doubt {
    until: Instant,
    task: RunningTask,
    from: Arc<str>,
    to: Arc<str>,
    after: Duration,
}

impl Table {
    pub(crate) fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            consumers: Consumers::default(),
            tasks: Tasks::default(),
            queues: HashMap::new(),
            conditions: Conditions::default(),
            doubts: HashMap::new(),
        }
    }

    /// Takes an event that is read now, and says what there is to tell at once.
    pub(crate) fn apply(&mut self, event: &Event, now: Now) -> Vec<Alert> {
        match event {
            Event::Task(event) => self.task(event, now),
            Event::Consumer(event) => self.consumer(event, now),
            // What has started or ended meanwhile is not known.
            Event::Missed(_) => {
                for queue in self.queues.values_mut() {
                    for id in queue.waiting.clear() {
                        self.tasks.remove(id);
                    }
                }
                Vec::new()
            }
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let settled = self.doubts.extract_if(|_, doubt| doubt.until <= now.instant);
        for (_, Doubt { task, from, to, after, .. }) in settled {
            alerts.push(Alert::TaskLost { task: task.clone(), consumer: from.clone() });
            alerts.push(Alert::TaskRedelivered { task, from, to, after });
        }
        self.overdue(now, &mut alerts);
        self.look_at_queues(now, &mut alerts);
        alerts
    }

    /// How long it may be until the next [`tick`](Self::tick), if nothing is told; `None`: for ever.
    pub(crate) fn rest(&self, now: SystemTime) -> Option<Duration> {
        if !self.doubts.is_empty() || !self.conditions.is_empty() || self.tasks.any_running() {
            return Some(Duration::ZERO);
        }
        let first = self.queues.values().filter_map(|queue| queue.waiting.first()).min()?;
        Some(first.duration_since(now).unwrap_or_default())
    }

    /// When the next consumer is silent, if it says nothing until then.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.consumers.next()
    }

    /// All that was told until now has been read, so who has said nothing for long is silent.
    pub(crate) fn silence(&mut self, now: Now) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for (consumer, heard) in self.consumers.silence(now.instant) {
            let ago = now.instant.saturating_duration_since(heard);
            alerts.push(Alert::ConsumerSilent { consumer: consumer.clone(), heard: ago });
            let mut ids: Vec<TaskId> = self.consumers.tasks(&consumer).collect();
            ids.sort_unstable();
            for id in ids {
                self.consumers.ends(&consumer, id);
                let Some(row) = self.tasks.get_mut(id) else { continue };
                let task = row.task(now.time);
                row.state.lose(now.time);
                row.loss = Some(Loss { consumer: consumer.clone(), heard });
                alerts.push(Alert::TaskLost { task, consumer: consumer.clone() });
            }
        }
        alerts
    }

    /// Nobody could tell anything for a while until now: so nobody was silent.
    pub(crate) fn pardon(&mut self, now: Instant) {
        self.consumers.pardon(now);
    }

    /// Nothing waits in that queue, as the broker says: what was thought to was missed. Nor will it have been told.
    pub(crate) fn nothing_waits(&mut self, queue: &Arc<str>) {
        let Some(found) = self.queues.get_mut(queue) else { return };
        for id in found.waiting.clear() {
            self.tasks.remove(id);
        }
        self.conditions.withdraw(queue, Condition::OldestWaiting);
        self.conditions.withdraw(queue, Condition::NoConsumer);
    }

    /// Whether consumers say that tasks of that queue wait where they are.
    pub(crate) fn has_prefetched(&self, queue: &str) -> bool {
        self.consumers.has_prefetched(queue)
    }

    /// What the connections of a consumer are called.
    pub(crate) fn connections(&self, consumer: &str) -> Vec<String> {
        self.consumers.connections(consumer)
    }

    pub(crate) fn consumers(&self, now: Instant) -> Vec<ConsumerState> {
        self.consumers.snapshot(now)
    }

    pub(crate) fn tasks(&self) -> Vec<TaskState> {
        self.tasks.snapshot()
    }

    fn task(&mut self, event: &TaskEvent, now: Now) -> Vec<Alert> {
        let mut alerts = Vec::new();
        self.count(event, now);
        match &event.change {
            TaskChange::Started { .. } | TaskChange::Progress { .. } => {
                alerts.extend(self.consumers.heard(&event.by, now.instant));
            }
            TaskChange::HandedBack
                if self.doubts.get(&event.id).is_some_and(|doubt| doubt.from == event.by) =>
            {
                self.doubts.remove(&event.id);
            }
            // By another scheduler, or it is back meanwhile.
            TaskChange::Lost { consumer } if self.consumers.is_there(consumer) => return alerts,
            _ => {}
        }
        alerts.extend(self.step(event, now));
        alerts
    }

    /// What is counted by the minute.
    fn count(&mut self, event: &TaskEvent, now: Now) {
        let (ended, failed, dead) = match event.change {
            TaskChange::Succeeded { .. } => (true, false, false),
            TaskChange::Failed { .. } => (true, true, false),
            TaskChange::Dead { .. } | TaskChange::Expired { .. } => (false, false, true),
            _ => return,
        };
        let Some(queue) = self.queue(&event.queue) else { return };
        let ago = now.since(event.at);
        for (is_one, minute) in
            [(ended, &mut queue.ended), (failed, &mut queue.failed), (dead, &mut queue.dead)]
        {
            if is_one {
                minute.count(ago, now.instant);
            }
        }
    }

    fn queue(&mut self, name: &Arc<str>) -> Option<&mut Queue> {
        if !self.queues.contains_key(name) {
            if name.is_empty() || self.queues.len() >= MOST_QUEUES {
                return None;
            }
            self.queues.insert(name.clone(), Queue::default());
        }
        self.queues.get_mut(name)
    }

    /// Moves a task to where an event says that it stands. What there is to tell if it was lost and runs again.
    fn step(&mut self, event: &TaskEvent, now: Now) -> Option<Alert> {
        let Step { before, after } = self.tasks.apply(event);
        self.wait(event, before.as_ref(), after.as_ref());
        let runs_at = |state: &Option<TaskState>| match state.as_ref().map(|state| &state.standing) {
            Some(Standing::Running { consumer, since, .. }) => Some((consumer.clone(), *since)),
            _ => None,
        };
        let (from, to) = (runs_at(&before), runs_at(&after));
        if let TaskChange::Lost { consumer } = &event.change {
            self.lost_by_another(event.id, consumer, now);
        }
        if from == to {
            return None;
        }
        if let Some((consumer, _)) = &from {
            self.consumers.ends(consumer, event.id);
        }
        let (to, _) = to?;
        self.consumers.begins(&to, event.id);
        let (before, row) = (before?, self.tasks.get_mut(event.id)?);
        row.is_overdue = false;
        let loss = row.loss.take();
        if before.attempt != row.state.attempt {
            return None;
        }
        let after =
            |heard: Option<Instant>| now.instant.saturating_duration_since(heard.unwrap_or(now.instant));
        if let Some(Loss { consumer: from, heard }) = loss.filter(|loss| loss.consumer != to) {
            let task = row.task(now.time);
            return Some(Alert::TaskRedelivered { task, from, to, after: after(Some(heard)) });
        }
        let (from, _) = from.filter(|(from, _)| *from != to)?;
        if self.doubts.len() < MOST_DOUBTS {
            let (task, until) = (running_task(&before, now.time), now.instant + DOUBT);
            let after = after(self.consumers.last(&from));
            self.doubts.insert(event.id, Doubt { until, task, from, to, after });
        }
        None
    }

    /// A scheduler that was active before has told that a task is lost: it is traced to its redelivery.
    fn lost_by_another(&mut self, id: TaskId, consumer: &Arc<str>, now: Now) {
        let heard = self.consumers.last(consumer).unwrap_or(now.instant);
        if let Some(row) = self.tasks.get_mut(id)
            && matches!(row.state.standing, Standing::Lost { .. })
        {
            row.loss.get_or_insert_with(|| Loss { consumer: consumer.clone(), heard });
        }
    }

    /// Keeps the oldest that wait.
    fn wait(&mut self, event: &TaskEvent, before: Option<&TaskState>, after: Option<&TaskState>) {
        if let Some((state, due)) = before.and_then(|state| Some((state, due(state)?)))
            && let Some(queue) = self.queues.get_mut(&state.queue)
        {
            queue.waiting.remove(due, state.id);
        }
        if let TaskChange::Started { waited, .. } = event.change
            && let Some(began) = event.at.checked_sub(waited)
            && let Some(queue) = self.queues.get_mut(&event.queue)
        {
            queue.waiting.started(began);
        }
        if let Some((state, due)) = after.and_then(|state| Some((state, due(state)?))) {
            let dropped = match self.queue(&state.queue) {
                Some(queue) => queue.waiting.add(due, state.id),
                None => Some(state.id),
            };
            if let Some(id) = dropped {
                self.tasks.remove(id);
            }
        }
    }

    fn consumer(&mut self, event: &ConsumerEvent, now: Now) -> Vec<Alert> {
        let ConsumerEvent { consumer, change, .. } = event;
        let mut alerts = Vec::from_iter(self.consumers.heard(consumer, now.instant));
        match change {
            ConsumerChange::Started(heartbeat) | ConsumerChange::Alive(heartbeat) => {
                self.consumers.tells(consumer, heartbeat);
                for task in &heartbeat.running {
                    alerts.extend(self.runs(task, event, now));
                }
                self.reconcile(heartbeat, event);
            }
            ConsumerChange::Draining => {
                self.consumers.drains(consumer);
                self.doubts.retain(|_, doubt| doubt.from != *consumer);
            }
            ConsumerChange::Stopped { .. } => {
                for id in self.consumers.remove(consumer) {
                    self.tasks.remove(id);
                }
                self.doubts.retain(|_, doubt| doubt.from != *consumer);
            }
            _ => {}
        }
        alerts
    }

    /// A consumer says that it runs a task: its start may have been told before this scheduler was active.
    fn runs(&mut self, task: &RunningTask, event: &ConsumerEvent, now: Now) -> Option<Alert> {
        let at = event.at.checked_sub(task.age)?;
        if let Some(row) = self.tasks.get(task.id) {
            let is_known = matches!(&row.state.standing,
                Standing::Running { consumer, .. } if *consumer == event.consumer)
                && row.state.attempt >= task.attempt;
            // What was told after the heartbeat was written counts.
            if is_known || row.state.since >= event.at {
                return None;
            }
        }
        let change = TaskChange::Started {
            waited: Duration::ZERO,
            delayed: false,
            redelivered: false,
            limit: task.limit,
        };
        self.step(&task.event(at, &event.consumer, change), now)
    }

    /// What a consumer does not run any more, by its own word, has ended without that being told, or was given up.
    fn reconcile(&mut self, heartbeat: &Heartbeat, event: &ConsumerEvent) {
        if heartbeat.running.len() >= Heartbeat::MOST_RUNNING {
            return;
        }
        let told: HashSet<TaskId> = heartbeat.running.iter().map(|task| task.id).collect();
        let is_old = |id: &TaskId| {
            let row = self.tasks.get(*id);
            row.is_some_and(|row| row.state.since + 2 * heartbeat.interval < event.at)
        };
        let unknown = self.consumers.tasks(&event.consumer).filter(|id| !told.contains(id) && is_old(id));
        for id in unknown.collect::<Vec<_>>() {
            self.consumers.ends(&event.consumer, id);
            self.tasks.remove(id);
        }
    }

    /// Tasks that run for too long; and lost ones that are not watched any longer.
    fn overdue(&mut self, now: Now, alerts: &mut Vec<Alert>) {
        let mut forgotten = Vec::new();
        for row in self.tasks.iter_mut() {
            match &row.state.standing {
                Standing::Running { consumer, since, limit: Some(limit) } if !row.is_overdue => {
                    let by = now.since(*since).saturating_sub(*limit);
                    if by >= self.thresholds.overdue && self.consumers.is_there(consumer) {
                        let consumer = consumer.clone();
                        row.is_overdue = true;
                        alerts.push(Alert::TaskOverdue { task: row.task(now.time), consumer, by });
                    }
                }
                Standing::Lost { .. } if now.since(row.state.since) > REMEMBERED => {
                    forgotten.push(row.state.id);
                }
                _ => {}
            }
        }
        for id in forgotten {
            self.tasks.remove(id);
        }
    }

    fn look_at_queues(&mut self, now: Now, alerts: &mut Vec<Alert>) {
        let Self { thresholds, consumers, queues, conditions, .. } = self;
        let served = consumers.served();
        queues.retain(|name, queue| {
            let (ended, failed) = (queue.ended.sum(now.instant), queue.failed.sum(now.instant));
            let dead = queue.dead.sum(now.instant);
            let oldest = queue.waiting.oldest(now.time);
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let rate = failed as f64 / ended.max(1) as f64;
            let rate = (ended >= Thresholds::FEW).then_some(rate);
            let age = oldest.map(|since| now.since(since));
            let is_unserved = oldest.is_some() && !served.contains(&**name);
            queue.unserved = is_unserved.then(|| queue.unserved.unwrap_or(now.instant));
            let unserved = queue.unserved.map(|since| now.instant.saturating_duration_since(since));
            let wrong = [
                (
                    Condition::FailureRate,
                    over(rate, thresholds.failure_rate)
                        .map(|rate| Alert::FailureRate { queue: name.clone(), rate }),
                ),
                (
                    Condition::OldestWaiting,
                    over(age, thresholds.oldest_waiting)
                        .map(|age| Alert::OldestWaiting { queue: name.clone(), age }),
                ),
                (
                    Condition::DeadLetters,
                    over(Some(dead), thresholds.dead_letters)
                        .map(|count| Alert::DeadLetters { queue: name.clone(), count }),
                ),
                (
                    Condition::NoConsumer,
                    over(unserved, thresholds.no_consumer).map(|_| Alert::NoConsumer { queue: name.clone() }),
                ),
            ];
            for (condition, alert) in wrong {
                alerts.extend(conditions.see(name, condition, alert));
            }
            ended + dead > 0 || !queue.waiting.is_empty() || conditions.any(name)
        });
    }
}

/// What is more than it may be.
fn over<T: PartialOrd>(value: Option<T>, limit: Option<T>) -> Option<T> {
    let (value, limit) = (value?, limit?);
    (value > limit).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::event::QueueLoad;
    use crate::lane::Priority;
    use crate::outcome::DeadReason;

    const SECOND: Duration = Duration::from_secs(1);

    /// Milliseconds after the beginning.
    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(after: Duration) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + after
    }

    /// A task by its number.
    fn id(number: u8) -> TaskId {
        format!("0190163d-8694-739b-aea5-966c26f8ad{number:02x}").parse().unwrap()
    }

    /// A table and its time.
    struct Lab {
        table: Table,
        start: Instant,
    }

    impl Lab {
        fn new(thresholds: Thresholds) -> Self {
            Self { table: Table::new(thresholds), start: Instant::now() }
        }

        fn now(&self, after: Duration) -> Now {
            Now { instant: self.start + after, time: at(after) }
        }

        fn task(
            &mut self,
            after: u64,
            number: u8,
            attempt: u32,
            by: &str,
            change: TaskChange,
        ) -> Vec<String> {
            let event = TaskEvent {
                id: id(number),
                name: "send".into(),
                queue: "mail".into(),
                lane: None,
                attempt,
                at: at(ms(after)),
                by: by.into(),
                change,
            };
            texts(&self.table.apply(&Event::Task(event), self.now(ms(after))))
        }

        fn starts(&mut self, after: u64, number: u8, by: &str) -> Vec<String> {
            self.task(after, number, 1, by, started(None))
        }

        fn consumer(&mut self, after: u64, consumer: &str, change: ConsumerChange) -> Vec<String> {
            let event = ConsumerEvent { consumer: consumer.into(), at: at(ms(after)), change };
            texts(&self.table.apply(&Event::Consumer(event), self.now(ms(after))))
        }

        fn beats(&mut self, after: u64, consumer: &str, running: &[(u8, u32)]) -> Vec<String> {
            let running = running.iter().map(|(number, attempt)| RunningTask {
                id: id(*number),
                name: "send".to_owned(),
                queue: "mail".to_owned(),
                attempt: *attempt,
                age: SECOND,
                limit: None,
            });
            let load = QueueLoad { queue: "mail".to_owned(), ..QueueLoad::default() };
            let heartbeat = Heartbeat {
                interval: SECOND,
                running: running.collect(),
                queues: vec![load],
                ..Heartbeat::default()
            };
            self.consumer(after, consumer, ConsumerChange::Alive(Box::new(heartbeat)))
        }

        fn tick(&mut self, after: u64) -> Vec<String> {
            let now = self.now(ms(after));
            let mut alerts = self.table.silence(now);
            alerts.extend(self.table.tick(now));
            texts(&alerts)
        }

        fn running(&self) -> Vec<String> {
            let text = |state: TaskState| match state.standing {
                Standing::Running { consumer, .. } => format!("{}@{consumer}", number(state.id)),
                Standing::Lost { consumer } => format!("{} lost by {consumer}", number(state.id)),
                other => format!("{other:?}"),
            };
            let mut all: Vec<String> = self.table.tasks().into_iter().map(text).collect();
            all.sort();
            all
        }
    }

    fn number(id: TaskId) -> u8 {
        let text = id.to_string();
        u8::from_str_radix(&text[text.len() - 2..], 16).unwrap()
    }

    /// Alerts, as one reads them.
    fn texts(alerts: &[Alert]) -> Vec<String> {
        let text = |alert: &Alert| match alert {
            Alert::ConsumerSilent { consumer, heard } => format!("{consumer} silent {heard:?}"),
            Alert::ConsumerBack { consumer, after } => format!("{consumer} back {after:?}"),
            Alert::TaskLost { task, consumer } => format!("{} lost by {consumer}", number(task.id)),
            Alert::TaskRedelivered { task, from, to, after } => {
                format!("{} from {from} to {to} {after:?}", number(task.id))
            }
            Alert::TaskOverdue { task, consumer, by } => {
                format!("{} overdue at {consumer} {by:?}", number(task.id))
            }
            Alert::FailureRate { queue, rate } => format!("{queue} fails {rate}"),
            Alert::OldestWaiting { queue, age } => format!("{queue} waits {age:?}"),
            Alert::DeadLetters { queue, count } => format!("{queue} dead {count}"),
            Alert::NoConsumer { queue } => format!("{queue} unserved"),
            Alert::Resolved(alert) => format!("resolved: {}", texts(&[(**alert).clone()]).concat()),
        };
        alerts.iter().map(text).collect()
    }

    fn accepted() -> TaskChange {
        TaskChange::Accepted {
            priority: Priority::Normal,
            due: None,
            deadline: None,
            schedule: None,
            again: false,
        }
    }

    fn started(limit: Option<Duration>) -> TaskChange {
        TaskChange::Started { waited: Duration::ZERO, delayed: false, redelivered: false, limit }
    }

    fn succeeded() -> TaskChange {
        TaskChange::Succeeded { ran: Duration::ZERO, total: Duration::ZERO }
    }

    fn failed() -> TaskChange {
        TaskChange::Failed { ran: Duration::ZERO, error: "no".to_owned() }
    }

    fn dead() -> TaskChange {
        TaskChange::Dead { reason: DeadReason::Rejected, error: None, total: None }
    }

    fn none() -> Vec<String> {
        Vec::new()
    }

    #[test]
    fn the_tasks_of_a_silent_consumer_are_lost_and_traced_to_where_they_run_again() {
        let mut lab = Lab::new(Thresholds::default());
        lab.beats(0, "a", &[]);
        lab.starts(100, 1, "a");
        lab.starts(100, 2, "a");
        lab.task(200, 2, 1, "a", succeeded());
        assert_eq!(lab.tick(1_800), none());
        assert_eq!(lab.tick(1_900), ["a silent 1.8s", "1 lost by a"]);
        assert_eq!(lab.running(), ["1 lost by a"]);
        assert_eq!(lab.tick(3_000), none());
        assert_eq!(lab.starts(4_000, 1, "b"), ["1 from a to b 3.9s"]);
        assert_eq!(lab.running(), ["1@b"]);
        assert_eq!(lab.task(4_100, 1, 1, "b", succeeded()), none());
        assert_eq!(lab.tick(5_100), none());
        assert_eq!(lab.running(), none());
    }

    #[test]
    fn a_task_that_the_broker_gives_to_another_one_at_once_was_lost_too() {
        let mut lab = Lab::new(Thresholds::default());
        lab.beats(0, "a", &[]);
        lab.starts(100, 1, "a");
        assert_eq!(lab.starts(300, 1, "b"), none(), "it may have been given back");
        assert_eq!(lab.tick(1_300), ["1 lost by a", "1 from a to b 200ms"]);
        assert_eq!(lab.tick(1_900), ["a silent 1.8s"]);
        assert_eq!(lab.running(), ["1@b"]);
    }

    #[test]
    fn what_is_given_back_is_not_lost() {
        for is_told_late in [false, true] {
            let mut lab = Lab::new(Thresholds::default());
            lab.beats(0, "a", &[]);
            lab.starts(100, 1, "a");
            if is_told_late {
                lab.starts(300, 1, "b");
                lab.task(350, 1, 1, "a", TaskChange::HandedBack);
            } else {
                lab.task(250, 1, 1, "a", TaskChange::HandedBack);
                lab.starts(300, 1, "b");
            }
            assert_eq!(lab.tick(1_500), none());
            assert_eq!(lab.running(), ["1@b"]);
        }
    }

    #[test]
    fn a_consumer_that_has_stopped_is_not_silent_and_has_lost_nothing() {
        let mut lab = Lab::new(Thresholds::default());
        lab.beats(0, "a", &[]);
        lab.starts(100, 1, "a");
        lab.consumer(200, "a", ConsumerChange::Draining);
        lab.starts(250, 1, "b");
        lab.consumer(300, "a", ConsumerChange::Stopped { finished: 0, unstarted: 0, aborted: 1 });
        assert_eq!(lab.tick(2_000), none());
        assert_eq!(lab.running(), ["1@b"]);
    }

    #[test]
    fn a_retry_elsewhere_is_not_a_loss() {
        let mut lab = Lab::new(Thresholds::default());
        lab.starts(100, 1, "a");
        lab.task(200, 1, 1, "a", failed());
        lab.task(200, 1, 1, "a", TaskChange::Retrying { due: at(ms(300)) });
        lab.task(300, 1, 2, "b", started(None));
        assert_eq!(lab.tick(1_500), none());
        assert_eq!(lab.running(), ["1@b"]);
    }

    #[test]
    fn a_silent_consumer_that_comes_back_has_its_tasks_unless_another_has() {
        let mut lab = Lab::new(Thresholds::default());
        lab.beats(0, "a", &[]);
        lab.starts(100, 1, "a");
        lab.starts(100, 2, "a");
        assert_eq!(lab.tick(1_900), ["a silent 1.8s", "1 lost by a", "2 lost by a"]);
        assert_eq!(lab.starts(2_500, 2, "b"), ["2 from a to b 2.4s"]);
        assert_eq!(lab.beats(3_000, "a", &[(1, 1), (2, 1)]), ["a back 2.9s"]);
        assert_eq!(lab.running(), ["1@a", "2@b"]);
    }

    #[test]
    fn what_runs_is_known_from_heartbeats_too() {
        let mut lab = Lab::new(Thresholds::default());
        lab.beats(5_000, "a", &[(1, 2)]);
        assert_eq!(lab.running(), ["1@a"]);
        lab.task(5_100, 1, 2, "a", succeeded());
        // A heartbeat that was written before.
        lab.beats(5_050, "a", &[(1, 2)]);
        assert_eq!(lab.running(), none());
        // One whose end was never told.
        lab.beats(6_000, "a", &[(2, 1)]);
        lab.beats(7_000, "a", &[]);
        assert_eq!(lab.running(), ["2@a"]);
        lab.beats(8_000, "a", &[]);
        assert_eq!(lab.running(), none());
    }

    #[test]
    fn a_late_start_does_not_bring_back_what_has_ended() {
        let mut lab = Lab::new(Thresholds::default());
        lab.starts(500, 1, "b");
        lab.task(600, 1, 1, "b", succeeded());
        lab.starts(100, 1, "a");
        assert_eq!(lab.running(), none());
        lab.task(5_000, 1, 1, "o", TaskChange::Redriven);
        lab.starts(5_100, 1, "a");
        assert_eq!(lab.running(), ["1@a"]);
    }

    #[test]
    fn what_another_scheduler_has_lost_is_traced_as_well() {
        let mut lab = Lab::new(Thresholds::default());
        lab.task(0, 1, 1, "s", TaskChange::Lost { consumer: "a".into() });
        assert_eq!(lab.starts(2_000, 1, "b"), ["1 from a to b 2s"]);
        // One that says so of a consumer that is there is wrong.
        lab.task(2_100, 1, 1, "s", TaskChange::Lost { consumer: "b".into() });
        assert_eq!(lab.running(), ["1@b"]);
    }

    #[test]
    fn a_task_is_overdue_once_for_each_attempt() {
        let mut lab = Lab::new(Thresholds::default().overdue(2 * SECOND));
        let limit = Some(SECOND);
        lab.beats(0, "a", &[]);
        lab.task(0, 1, 1, "a", started(limit));
        lab.starts(0, 2, "a");
        for time in [1_000, 2_000, 3_000, 4_000] {
            lab.beats(time, "a", &[(1, 1), (2, 1)]);
            let expected = if time == 3_000 { vec!["1 overdue at a 2s".to_owned()] } else { none() };
            assert_eq!(lab.tick(time), expected, "{time}");
        }
        lab.task(4_500, 1, 1, "a", TaskChange::Retrying { due: at(ms(4_500)) });
        lab.task(4_500, 1, 2, "a", started(limit));
        lab.beats(6_000, "a", &[(1, 2), (2, 1)]);
        lab.beats(7_500, "a", &[(1, 2), (2, 1)]);
        assert_eq!(lab.tick(7_500), ["1 overdue at a 2s"]);
    }

    #[test]
    fn a_failure_rate_needs_some_attempts_and_is_told_when_it_is_crossed() {
        let mut lab = Lab::new(Thresholds::default().failure_rate(0.25));
        for number in 0..19 {
            lab.task(0, number, 1, "a", failed());
        }
        assert_eq!(lab.tick(0), none());
        lab.task(0, 19, 1, "a", succeeded());
        assert_eq!(lab.tick(1_000), ["mail fails 0.95"]);
        assert_eq!(lab.tick(2_000), none());
        assert_eq!(lab.tick(61_000), ["resolved: mail fails 0.95"]);
        assert_eq!(lab.tick(62_000), none());
    }

    #[test]
    fn dead_letters_of_a_minute_are_counted() {
        let mut lab = Lab::new(Thresholds::default().dead_letters(1));
        lab.task(0, 1, 1, "a", dead());
        assert_eq!(lab.tick(0), none());
        lab.task(1_000, 2, 1, "a", dead());
        assert_eq!(lab.tick(1_000), ["mail dead 2"]);
        assert_eq!(lab.tick(61_000), ["resolved: mail dead 2"]);
    }

    #[test]
    fn the_oldest_that_waits_may_be_too_old() {
        let mut lab = Lab::new(Thresholds::default().oldest_waiting(5 * SECOND));
        lab.beats(0, "a", &[]);
        lab.task(0, 1, 1, "p", accepted());
        lab.task(3_000, 2, 1, "p", accepted());
        for (time, expected) in
            [(5_000, none()), (5_500, vec!["mail waits 5.5s".to_owned()]), (6_000, none())]
        {
            lab.beats(time, "a", &[]);
            assert_eq!(lab.tick(time), expected, "{time}");
        }
        lab.starts(6_100, 1, "a");
        assert_eq!(lab.tick(6_100), ["resolved: mail waits 5.5s"]);
        lab.beats(8_500, "a", &[]);
        assert_eq!(lab.tick(8_500), ["mail waits 5.5s"]);
        lab.table.nothing_waits(&"mail".into());
        assert_eq!(lab.tick(8_600), none());
    }

    #[test]
    fn tasks_that_nobody_takes_are_told_of_after_a_while() {
        let mut lab = Lab::new(Thresholds::default().no_consumer(5 * SECOND));
        lab.task(0, 1, 1, "p", accepted());
        lab.tick(0);
        assert_eq!(lab.tick(5_000), none());
        assert_eq!(lab.tick(5_001), ["mail unserved"]);
        lab.beats(6_000, "a", &[]);
        assert_eq!(lab.tick(6_000), ["resolved: mail unserved"]);
        lab.consumer(6_500, "a", ConsumerChange::Draining);
        lab.tick(7_000);
        lab.consumer(8_000, "a", ConsumerChange::Stopped { finished: 0, unstarted: 0, aborted: 0 });
        assert_eq!(lab.tick(12_001), ["mail unserved"]);
    }

    #[test]
    fn after_a_gap_nothing_is_thought_to_wait() {
        let mut lab = Lab::new(Thresholds::default().oldest_waiting(5 * SECOND));
        lab.task(0, 1, 1, "p", accepted());
        let now = lab.now(ms(10));
        lab.table.apply(&Event::Missed(3), now);
        assert_eq!(lab.tick(6_000), none());
    }
}
