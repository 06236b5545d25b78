//! [`Scheduler`]: fires the ticks of schedules. Any number of them share one queue, and one of them is active.
//!
//! ```text
//!   {ns}.schedules ──► Ledger ──► load: all entries, until a marker published at the first delivery is back
//!   (single active                 │
//!    consumer)                     ▼
//!        ▲                       Active ─── plan (pure) ──► what is due
//!        │                         │
//!        └──── next entry ◄────────┴──── one publish ─────► lane of the task
//! ```
//!
//! What there is of a schedule is its entry: one message in the queue, which the active scheduler holds unacknowledged.
//! To change it is to publish the next one and, once that is confirmed, to acknowledge the old one. A tick does both at
//! once: the broker puts the same message into the lane and into the queue of the schedules.

mod active;
mod agenda;
mod builder;
mod commands;
mod held;
mod ledger;
mod load;
mod lookout;
mod queues;
mod redrive;

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::Broker;
use crate::broker::Part;
use crate::error::Error;
use crate::error::Result;
use crate::event::TaskState;
use crate::schedule::Command;
use crate::schedule::Definition;
use crate::schedule::What;
use crate::schedules;
use crate::telemetry::Raised;
use crate::topology::Names;
use crate::transport::Subscribe;
use crate::watch::ConsumerState;
use crate::watch::Table;

use active::Active;
use active::End;
pub use builder::SchedulerBuilder;
use builder::declare;
use ledger::Ledger;
use load::load;
use lookout::LiveTable;
use lookout::Lookout;
use lookout::Watch;
pub use redrive::Redrive;

/// How long a shutdown waits for what is on its way.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the broker to report a tick in doubt: longer than it takes to start anew.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How long until it is told again.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// How many messages the active scheduler may hold: all that AMQP can say. On quorum queues "no limit" means 2,000.
const PREFETCH: u16 = u16::MAX;

/// Fires the ticks of all schedules of a namespace, as long as it is the active one of however many there are.
///
/// ```
/// # use std::time::Duration;
/// # use taskhare::{Broker, Schedule, Scheduler, Task};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Sweep;
/// # impl Task for Sweep { const NAME: &'static str = "sweep"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
/// # let broker = Broker::in_process();
/// let scheduler = Scheduler::builder(&broker)
///     .schedule(Schedule::new("sweep", Duration::from_secs(60), Sweep))
///     .start()
///     .await?;
/// // … and at the end:
/// scheduler.shutdown().await;
/// # Ok(()) }
/// ```
///
/// The active one also watches: it knows who consumes and what runs ([`consumers`](Self::consumers),
/// [`tasks`](Self::tasks)), tells what is wrong ([`on_alert`](SchedulerBuilder::on_alert)), and gives dead letters
/// another chance ([`redrive`](SchedulerBuilder::redrive)). That takes no schedule.
///
/// Run one in each process of a service: the broker chooses which of them is active, and another one when that dies,
/// within milliseconds. One that is frozen, or cut off, is replaced after two to three
/// [heartbeats](crate::BrokerBuilder::heartbeat). Nothing is stored anywhere but in the queue `{namespace}.schedules`. If
/// an operator deletes that, schedulers that run declare it and their own schedules again; what producers have declared,
/// and whether one was paused, is lost with it.
///
/// Dropped, it stops at once, as if its process had died.
pub struct Scheduler {
    shutdown: CancellationToken,
    is_active: watch::Receiver<bool>,
    table: LiveTable,
    candidate: Option<JoinHandle<()>>,
    listener: Option<JoinHandle<()>>,
}

/// What the active scheduler goes by.
#[derive(Clone, Debug)]
struct Settings {
    misfire_after: Duration,
    /// How long the broker lets an entry be held; `None`: for ever.
    consumer_timeout: Option<Duration>,
}

impl Settings {
    /// How long an entry is held before it is stored anew.
    fn refresh_after(&self) -> Option<Duration> {
        self.consumer_timeout.map(|timeout| timeout / 3)
    }
}

impl Scheduler {
    /// A scheduler for the namespace of `broker`.
    pub fn builder(broker: &Broker) -> SchedulerBuilder {
        SchedulerBuilder::new(broker)
    }

    /// Whether it is the active one.
    #[must_use]
    pub fn is_active(&self) -> bool {
        *self.is_active.borrow()
    }

    /// The consumers that are there, or silent for less than an hour, by their names; at most 10,000. None, unless it is
    /// the active one. One that it has not heard of since it became active, which takes a heartbeat at most, is missing.
    #[must_use]
    pub fn consumers(&self) -> Vec<ConsumerState> {
        self.table.lock().as_ref().map(|table| table.consumers(Instant::now())).unwrap_or_default()
    }

    /// The tasks that run or are lost, the oldest first; at most 100,000. None, unless it is the active one. What began
    /// more than a minute before it became active is known from heartbeats, which tell of the oldest 64 of each consumer.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskState> {
        self.table.lock().as_ref().map(Table::tasks).unwrap_or_default()
    }

    /// Stops: waits up to 5 s for what it has published, and hands over.
    pub async fn shutdown(mut self) {
        self.shutdown.cancel();
        if let Some(candidate) = self.candidate.take() {
            // It panics only by a mistake of ours, and then it has stopped too.
            let _ = candidate.await;
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.await;
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Some(candidate) = &self.candidate {
            candidate.abort();
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("is_active", &self.is_active()).finish_non_exhaustive()
    }
}

/// Tells it again as long as it is refused: 3.10 was seen to nack for seconds after the node of the ledger's leader died.
async fn tell_at_last(broker: &Broker, what: What) -> Result<()> {
    let command = Command::new(what, broker.clock().now());
    loop {
        match schedules::tell(broker, command.clone(), REPORT_TIMEOUT).await {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "a tick in doubt is not reported yet");
                sleep(REPORT_PAUSE).await;
            }
            told => return told,
        }
    }
}

/// Stands for election, for ever.
struct Candidate {
    broker: Broker,
    settings: Settings,
    /// What it has declared.
    definitions: Vec<Definition>,
    redrives: Vec<Redrive>,
    watch: Watch,
    table: LiveTable,
    active: watch::Sender<bool>,
    shutdown: CancellationToken,
}

impl Candidate {
    async fn run(self) {
        let mut failures = 0;
        while !self.shutdown.is_cancelled() {
            let started = Instant::now();
            match self.serve().await {
                Ok(End::Shutdown) => break,
                Ok(End::Lost(why)) => {
                    tracing::warn!(reason = why, "this scheduler is not active any more");
                    // One that ends at once, again and again, is not worth so many tries.
                    failures = if started.elapsed() > Duration::from_secs(1) { 0 } else { failures + 1 };
                }
                Err(Error::Closed) => break,
                Err(error) => {
                    tracing::warn!(%error, "the queue of the schedules cannot be consumed");
                    failures += 1;
                }
            }
            self.active.send_replace(false);
            let pause = Duration::from_millis(50) * 2_u32.pow(failures.min(6));
            let _ = self.shutdown.run_until_cancelled(sleep(pause)).await;
        }
        self.active.send_replace(false);
    }

    /// Tells whoever is active next of ticks in doubt.
    fn report(&self, doubts: Vec<What>) {
        if doubts.is_empty() {
            return;
        }
        let broker = self.broker.clone();
        tokio::spawn(async move {
            for doubt in doubts {
                let told = timeout(REPORT_TIMEOUT, tell_at_last(&broker, doubt)).await;
                match told {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "a tick may be lost"),
                    Err(error) => tracing::error!(%error, "a tick may be lost"),
                }
            }
        });
    }

    /// Redrives dead letters, until it is told to stop; or at once when what it returns is dropped.
    fn redrive(&self) -> (JoinSet<()>, CancellationToken) {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        for policy in &self.redrives {
            tasks.spawn(policy.clone().run(self.broker.clone(), stop.clone()));
        }
        (tasks, stop)
    }

    /// One turn: from standing by until it is over with being active.
    async fn serve(&self) -> Result<End> {
        let names = self.broker.names();
        let subscribe = Subscribe {
            consumer_timeout: self.settings.consumer_timeout,
            ..Subscribe::new(names.schedules(), PREFETCH, "scheduler")
        };
        let is_gone = self.broker.transport().depth(&names.schedules()).await?.is_none();
        self.broker.restore(Part::Schedules).await?;
        if is_gone {
            tracing::warn!(
                "the queue of the schedules was deleted: those of this scheduler are declared again"
            );
            declare(&self.broker, &self.definitions).await?;
        }
        let tenure = self.broker.transport().hold(subscribe).await?;
        let mut ledger = Ledger::new(tenure, names.tasks(), Names::schedules_key());
        ledger.rouse();
        let Some(loaded) = self.shutdown.run_until_cancelled(load(&mut ledger)).await else {
            ledger.close().await;
            return Ok(End::Shutdown);
        };
        let Some(loaded) = loaded else { return Ok(End::Lost("the channel was lost")) };
        // What it had declared would be there, if only as a command.
        if ledger.is_new() && loaded.entries.is_empty() && loaded.commands.is_empty() {
            if !self.definitions.is_empty() {
                tracing::warn!(
                    "the queue of the schedules was deleted: this scheduler declares its own again"
                );
            }
            declare(&self.broker, &self.definitions).await?;
        }
        self.active.send_replace(true);
        let _active = Raised::active_scheduler();
        let lookout = Lookout::new(&self.broker, &self.watch, &self.table);
        let _lookout = AbortOnDropHandle::new(tokio::spawn(lookout.run()));
        let (redrives, redrives_stop) = self.redrive();
        tracing::info!(schedules = loaded.entries.len(), "this scheduler is active");
        let mut active = Active::take_over(&self.broker, &self.settings, ledger, loaded).await;
        let end = active.run(&self.shutdown).await;
        if end == End::Shutdown {
            redrives_stop.cancel();
            let rest = redrives.join_all();
            let _ = tokio::join!(timeout(LEAVE_TIMEOUT, rest), active.leave(LEAVE_TIMEOUT));
            if let Some(journal) = self.broker.journal() {
                journal.flush().await;
            }
        } else {
            self.report(active.doubts());
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use serde::Deserialize;
    use serde::Serialize;

    use super::*;
    use crate::consumer::Consumer;
    use crate::lock::Lock;
    use crate::schedule::Definition;
    use crate::schedule::Doubt;
    use crate::schedule::Record;
    use crate::schedule::Schedule;
    use crate::task::Task;
    use crate::task::TaskId;
    use crate::tick::Tick;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Serialize, Deserialize)]
    struct Sweep;

    impl Task for Sweep {
        const NAME: &'static str = "sweep";
        type Output = ();
    }

    /// A schedule with a tick each second, and those of its ticks that were run.
    struct Sweeping {
        broker: Broker,
        ran: Arc<Lock<Vec<Tick>>>,
        origin: TaskId,
        _consumer: Consumer,
    }

    impl Sweeping {
        async fn start() -> Self {
            let broker = Broker::in_process();
            let ran = Arc::<Lock<Vec<Tick>>>::default();
            let all = ran.clone();
            let consumer = Consumer::builder(&broker).handler_fn(move |_: Sweep, ctx| {
                all.lock().extend(ctx.tick().cloned());
                async { Ok(()) }
            });
            let definition = Definition::check(Schedule::new("sweep", SECOND, Sweep), 1024).unwrap();
            let declare = Command::new(What::Declare(Box::new(definition)), broker.clock().now());
            let origin = declare.id;
            schedules::tell(&broker, declare, SECOND).await.unwrap();
            Self { _consumer: consumer.start().await.unwrap(), broker, ran, origin }
        }

        async fn scheduler(&self) -> Scheduler {
            Scheduler::builder(&self.broker).start().await.unwrap()
        }

        fn runs(&self, sequence: u64) -> usize {
            self.ran.lock().iter().filter(|tick| tick.sequence == sequence).count()
        }

        /// Whoever has fired the last tick, when nobody is active.
        async fn tenure(&self) -> u64 {
            let subscribe = Subscribe::new(self.broker.names().schedules(), 8, "test");
            let mut ledger = self.broker.transport().subscribe(subscribe).await.unwrap();
            loop {
                let delivery = ledger.next().await.unwrap();
                if let Ok(Record::Entry(entry)) = Record::read(delivery.message.clone()) {
                    return entry.state.fired_by.last().unwrap().tenure;
                }
            }
        }

        /// A scheduler says that it does not know whether that one was fired.
        async fn doubt(&self, sequence: u64, tenure: u64) {
            let tick = self.ran.lock().iter().find(|tick| tick.sequence == sequence).cloned();
            let doubt = Doubt { tick: tick.unwrap(), origin: self.origin, tenure };
            let command = Command::new(What::Doubt(Box::new(doubt)), self.broker.clock().now());
            schedules::tell(&self.broker, command, SECOND).await.unwrap();
            tokio::time::sleep(SECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_in_doubt_is_enqueued_again_if_who_doubts_has_fired_it() {
        let sweeping = Sweeping::start().await;
        let scheduler = sweeping.scheduler().await;
        tokio::time::sleep(3 * SECOND).await;
        scheduler.shutdown().await;
        let tenure = sweeping.tenure().await;
        let _scheduler = sweeping.scheduler().await;
        sweeping.doubt(2, tenure).await;
        assert_eq!((sweeping.runs(1), sweeping.runs(2)), (1, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tick_in_doubt_is_not_enqueued_again_if_another_one_has_fired_it() {
        let sweeping = Sweeping::start().await;
        let _scheduler = sweeping.scheduler().await;
        tokio::time::sleep(3 * SECOND).await;
        sweeping.doubt(2, 1).await;
        assert_eq!((sweeping.runs(1), sweeping.runs(2)), (1, 1));
    }
}
