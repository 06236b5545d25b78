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
use crate::event::RunningTask;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::events::EventStream;
use crate::events::Read;
use crate::events::marker;
use crate::hook::Hook;
use crate::lock::Lock;
use crate::task::TaskId;
use crate::watch::Alert;
use crate::watch::Now;
use crate::watch::Table;
use crate::watch::Thresholds;

/// How far back it begins to read: more than two heartbeats.
const LOOK_BACK: Duration = Duration::from_secs(60);
/// How often it looks at the table, at least.
const PERIOD: Duration = Duration::from_secs(1);
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
        let (silence, is_quiet) = {
            let table = self.table.lock();
            let table = table.as_ref()?;
            (table.next(), table.is_quiet())
        };
        let usual = (!is_quiet).then(|| now.instant + PERIOD);
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
        let (transport, publish) = (self.broker.transport().clone(), marker(&self.broker, id.clone()));
        self.probe = Some(Probe { id, sent: now, since });
        tokio::spawn(async move {
            if let Err(error) = transport.publish(&publish, MARKER_TIMEOUT).await {
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
                    journal.record(self.lost(task, consumer, journal.instance().name()));
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

    fn lost(&self, task: &RunningTask, consumer: &Arc<str>, by: &Arc<str>) -> TaskEvent {
        TaskEvent {
            id: task.id,
            name: task.name.clone().into(),
            queue: task.queue.as_str().into(),
            lane: None,
            attempt: task.attempt,
            at: self.now().time,
            by: by.clone(),
            change: TaskChange::Lost { consumer: consumer.clone() },
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
