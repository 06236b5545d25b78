//! [`Lookout`]: keeps the live table while this scheduler is active, and tells what somebody should know.
//!
//! Apart from the ticks: whatever becomes of the events, those go on.
//!
//! ```text
//!   {ns}.history ──► Table ──► alerts ──► hook, log
//!                      │         ├──► lost: told in the history
//!                      │         └──► overdue: the consumer's connections are closed, where that can be done
//!                      └──► snapshots
//! ```
//!
//! A consumer that says nothing may be silent, or it is we who hear nothing. So before one is taken for silent, a marker is
//! written into the history: when it is read, all that was told before has been.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::error::Error;
use crate::error::Result;
use crate::event::TaskChange;
use crate::events::EventStream;
use crate::events::Read;
use crate::hook::Hook;
use crate::lock::Lock;
use crate::log::marker;
use crate::task::TaskId;
use crate::watch::Alert;
use crate::watch::Now;
use crate::watch::Table;
use crate::watch::Thresholds;

/// How far back it begins to read: more than two heartbeats.
const LOOK_BACK: Duration = Duration::from_secs(60);
/// How often it looks at the table, at least.
const PERIOD: Duration = Duration::from_secs(1);
/// … and at most, as it may not know what o'clock it will be then.
const LONGEST_REST: Duration = Duration::from_secs(60 * 60);
/// How long a marker may take to be written and read. If it takes longer, consumers could tell nothing either.
const PROMPT: Duration = Duration::from_secs(1);
/// How long one that is not written is tried.
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the broker may take to say what waits in a queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait until it tries to read the history again.
const PAUSE: Duration = Duration::from_secs(5);

/// Closes the connections of a consumer, given what they are called and why: then the broker gives its tasks to others.
pub(super) type CloseConnections = Arc<dyn Fn(Vec<String>, String) -> BoxFuture<'static, ()> + Send + Sync>;

/// The live table, as long as this scheduler is active.
pub(super) type LiveTable = Arc<Lock<Option<Table>>>;

/// What the lookout goes by.
#[derive(Clone, Default)]
pub(super) struct Watch {
    pub(super) thresholds: Thresholds,
    pub(super) hook: Option<Hook<Alert>>,
    pub(super) close: Option<CloseConnections>,
}

/// Reads events and tells alerts.
pub(super) struct Lookout {
    broker: Broker,
    watch: Watch,
    table: LiveTable,
    probe: Option<Probe>,
}

/// A marker on its way.
struct Probe {
    id: String,
    sent: Instant,
    /// When the first one was sent that was to tell the same.
    since: Instant,
}

impl Lookout {
    pub(super) fn new(broker: &Broker, watch: &Watch, table: &LiveTable) -> Self {
        Self { broker: broker.clone(), watch: watch.clone(), table: table.clone(), probe: None }
    }

    /// Watches for ever.
    pub(super) async fn run(mut self) {
        loop {
            match self.follow().await {
                Ok(()) | Err(Error::Closed | Error::NoHistory) => return,
                Err(error) => tracing::warn!(%error, "the history cannot be read: nothing is watched"),
            }
            sleep(PAUSE).await;
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let since = self.now().time.checked_sub(LOOK_BACK).unwrap_or(UNIX_EPOCH);
        let mut events: EventStream = self.broker.events().since(since).subscribe().await?;
        *self.table.lock() = Some(Table::new(self.watch.thresholds.clone()));
        let mut wake = None;
        loop {
            let rest = async {
                match wake {
                    Some(wake) => sleep_until(wake).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                read = events.read() => match read {
                    None => return Ok(()),
                    Some(Read::Event(event)) => {
                        let now = self.now();
                        self.tell(|table| table.apply(&event, now)).await;
                        wake = wake.into_iter().chain([now.instant + PERIOD]).min();
                    }
                    Some(Read::Marker(id)) => {
                        self.heard(&id).await;
                        wake = Some(Instant::now());
                    }
                },
                () = rest => wake = self.tick().await,
            }
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now(), time: UNIX_EPOCH + self.broker.clock().now() }
    }

    /// Time has passed. When to look again; `None`: once something is told.
    async fn tick(&mut self) -> Option<Instant> {
        let now = self.now();
        self.tell(|table| table.tick(now)).await;
        let (silence, rest) = {
            let table = self.table.lock();
            let table = table.as_ref()?;
            (table.next(), table.rest(now.time))
        };
        let usual = rest.map(|rest| now.instant + rest.clamp(PERIOD, LONGEST_REST));
        if silence.is_some_and(|silence| silence <= now.instant) {
            self.ask(now.instant);
            return Some(now.instant + PERIOD);
        }
        silence.into_iter().chain(usual).min()
    }

    /// Writes a marker, unless one is on its way.
    fn ask(&mut self, now: Instant) {
        if self.probe.as_ref().is_some_and(|probe| now < probe.sent + MARKER_TIMEOUT) {
            return;
        }
        let since = self.probe.take().map_or(now, |probe| probe.since);
        let id = TaskId::new().to_string();
        let (history, marker) = (self.broker.history(), marker(id.clone()));
        self.probe = Some(Probe { id, sent: now, since });
        tokio::spawn(async move {
            if let Err(error) = history.append(marker, MARKER_TIMEOUT).await {
                tracing::debug!(%error, "the history takes nothing");
            }
        });
    }

    /// A marker was read.
    async fn heard(&mut self, id: &str) {
        let Some(Probe { since, .. }) = self.probe.take_if(|probe| probe.id == id) else { return };
        let now = self.now();
        if now.instant.saturating_duration_since(since) <= PROMPT {
            self.tell(|table| table.silence(now)).await;
        } else if let Some(table) = &mut *self.table.lock() {
            table.pardon(now.instant);
        }
    }

    /// Tells what follows from a look at the table.
    async fn tell(&mut self, look: impl FnOnce(&mut Table) -> Vec<Alert>) {
        let alerts = self.table.lock().as_mut().map(look).unwrap_or_default();
        for alert in alerts {
            if !self.holds(&alert).await {
                continue;
            }
            self.act(&alert);
            match &alert {
                Alert::ConsumerBack { .. } | Alert::TaskRedelivered { .. } | Alert::Resolved(_) => {
                    tracing::info!(?alert, "watch");
                }
                _ => tracing::warn!(?alert, "watch"),
            }
            if let Some(hook) = &self.watch.hook {
                hook.tell(alert);
            }
        }
    }

    /// Whether the broker has tasks where they are said to wait: their start or end may have been missed.
    async fn holds(&self, alert: &Alert) -> bool {
        let (Alert::OldestWaiting { queue, .. } | Alert::NoConsumer { queue }) = alert else { return true };
        let is_here = self.table.lock().as_ref().is_some_and(|table| table.has_prefetched(queue));
        if is_here || !matches!(timeout(DEPTH_TIMEOUT, self.broker.waiting(queue)).await, Ok(Ok(0))) {
            return true;
        }
        if let Some(table) = &mut *self.table.lock() {
            table.nothing_waits(queue);
        }
        false
    }

    fn act(&self, alert: &Alert) {
        match alert {
            Alert::TaskLost { task, consumer } => {
                if let Some(journal) = self.broker.journal() {
                    let change = TaskChange::Lost { consumer: consumer.clone() };
                    journal.record(task.event(self.now().time, journal.instance().name(), change));
                }
            }
            Alert::TaskOverdue { task, consumer, by } => {
                let Some(close) = &self.watch.close else { return };
                let table = self.table.lock();
                let connections = table.as_ref().map(|table| table.connections(consumer));
                let reason = format!("task {} is overdue by {} s", task.id, by.as_secs());
                tokio::spawn(close(connections.unwrap_or_default(), reason));
            }
            _ => {}
        }
    }
}

/// Nothing is known any more.
impl Drop for Lookout {
    fn drop(&mut self) {
        *self.table.lock() = None;
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("thresholds", &self.thresholds).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::broker::Part;
    use crate::event::ConsumerChange;
    use crate::event::ConsumerEvent;
    use crate::event::Heartbeat;
    use crate::event::Kind;
    use crate::event::RunningTask;
    use crate::event::Standing;
    use crate::event::TaskEvent;
    use crate::scheduler::Scheduler;

    const SECOND: Duration = Duration::from_secs(1);

    /// A scheduler, and consumers of which there is nothing but what they tell.
    struct Lab {
        broker: Broker,
        scheduler: Scheduler,
        alerts: Arc<Lock<Vec<(Duration, Alert)>>>,
        started: Instant,
    }

    impl Lab {
        async fn new(watch: impl FnOnce(&mut Watch)) -> Self {
            let broker = Broker::in_process();
            broker.declare(Part::History).await.unwrap();
            let (alerts, started) = (Arc::<Lock<Vec<(Duration, Alert)>>>::default(), Instant::now());
            let told = alerts.clone();
            let mut builder = Scheduler::builder(&broker)
                .on_alert(move |alert| told.lock().push((started.elapsed(), alert.clone())));
            watch(builder.watch());
            let scheduler = builder.start().await.unwrap();
            sleep(SECOND / 10).await;
            Self { broker, scheduler, alerts, started }
        }

        fn now(&self) -> std::time::SystemTime {
            UNIX_EPOCH + self.broker.clock().now()
        }

        fn beat(&self, consumer: &str, running: &[TaskId]) {
            let running = running.iter().map(|id| RunningTask {
                id: *id,
                name: "send".to_owned(),
                queue: "mail".to_owned(),
                attempt: 1,
                age: SECOND,
                limit: None,
            });
            let heartbeat = Heartbeat {
                interval: SECOND,
                connections: vec![format!("connection of {consumer}")],
                running: running.collect(),
                ..Heartbeat::default()
            };
            self.broker.journal().unwrap().announce(ConsumerEvent {
                consumer: consumer.into(),
                at: self.now(),
                change: ConsumerChange::Alive(Box::new(heartbeat)),
            });
        }

        fn start(&self, id: TaskId, consumer: &str, limit: Option<Duration>) {
            self.broker.journal().unwrap().record(TaskEvent {
                id,
                name: "send".into(),
                queue: "mail".into(),
                lane: None,
                attempt: 1,
                at: self.now(),
                by: consumer.into(),
                change: TaskChange::Started { waited: SECOND, delayed: false, redelivered: false, limit },
            });
        }

        /// What was told so far, and when at the latest, in whole seconds.
        fn told(&self) -> Vec<(u64, &'static str)> {
            let name = |alert: &Alert| match alert {
                Alert::ConsumerSilent { .. } => "silent",
                Alert::ConsumerBack { .. } => "back",
                Alert::TaskLost { .. } => "lost",
                Alert::TaskRedelivered { .. } => "redelivered",
                Alert::TaskOverdue { .. } => "overdue",
                _ => "other",
            };
            let alerts = self.alerts.lock();
            alerts.iter().map(|(at, alert)| (at.as_secs_f64().ceil() as u64, name(alert))).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_says_nothing_any_more_is_known_within_two_heartbeats_and_its_tasks_are_traced() {
        let lab = Lab::new(|_| {}).await;
        let id = TaskId::new();
        lab.beat("a:1", &[]);
        lab.start(id, "a:1", None);
        let last = lab.started.elapsed();
        sleep(2 * SECOND).await;
        assert_eq!(lab.told(), [(2, "silent"), (2, "lost")]);
        assert!(lab.alerts.lock()[0].0 - last < 2 * SECOND);
        assert_eq!(lab.scheduler.consumers().len(), 1);
        assert!(matches!(lab.scheduler.tasks()[0].standing, Standing::Lost { .. }));
        lab.start(id, "b:1", None);
        sleep(SECOND).await;
        assert_eq!(lab.told()[2..], [(3, "redelivered")]);
        let mut lost =
            lab.broker.events().from_start().kind(Kind::Lost).until_now().subscribe().await.unwrap();
        assert!(lost.next().await.is_some());
        assert!(lost.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_becomes_active_knows_what_was_told_before() {
        let lab = Lab::new(|_| {}).await;
        let second = Scheduler::builder(&lab.broker).start().await.unwrap();
        let id = TaskId::new();
        lab.beat("a:1", &[]);
        lab.start(id, "a:1", None);
        sleep(SECOND / 2).await;
        assert!(second.tasks().is_empty(), "it is not active");
        lab.scheduler.shutdown().await;
        sleep(SECOND / 2).await;
        assert!(second.is_active());
        assert_eq!(second.tasks().len(), 1);
        assert_eq!(second.consumers().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_connections_of_a_consumer_whose_task_is_overdue_are_closed() {
        let closed = Arc::<Lock<Vec<String>>>::default();
        let all = closed.clone();
        let lab = Lab::new(move |watch| {
            watch.thresholds = Thresholds::default().overdue(2 * SECOND);
            watch.close = Some(Arc::new(move |connections, _| {
                all.lock().extend(connections);
                Box::pin(std::future::ready(()))
            }));
        })
        .await;
        let id = TaskId::new();
        lab.start(id, "a:1", Some(SECOND));
        for _ in 0..6 {
            lab.beat("a:1", &[id]);
            sleep(SECOND).await;
        }
        assert_eq!(lab.told().len(), 1, "{:?}", lab.told());
        assert_eq!(*closed.lock(), ["connection of a:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_is_told_time_may_pass_for_nothing() {
        let lab = Lab::new(|_| {}).await;
        let year = 365 * 24 * 60 * 60 * SECOND;
        let (before, real) = (lab.started.elapsed(), std::time::Instant::now());
        sleep(year).await;
        assert!(lab.started.elapsed() - before >= year);
        assert!(real.elapsed() < 20 * SECOND, "it wakes up all the time");
    }
}
