//! [`SchedulerBuilder`]: the settings of a scheduler, and its start.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Candidate;
use super::Redrive;
use super::Scheduler;
use super::Settings;
use super::lookout::LiveTable;
use super::lookout::Watch;
use crate::broker::Broker;
use crate::broker::Part;
use crate::error::Result;
use crate::hook::Call;
use crate::hook::Hook;
#[cfg(feature = "management")]
use crate::management::Management;
use crate::schedule::Command;
use crate::schedule::Definition;
use crate::schedule::Schedule;
use crate::schedule::What;
use crate::schedules;
use crate::watch::Alert;
use crate::watch::Thresholds;

/// How long a declaration may take.
const DECLARE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many declarations are on their way at a time.
const DECLARATIONS: usize = 256;
/// How long a shutdown waits for `on_alert`.
const GRACE: Duration = Duration::from_secs(5);

/// Settings of a [`Scheduler`].
#[must_use = "a builder does nothing until `start`"]
pub struct SchedulerBuilder {
    broker: Broker,
    schedules: Vec<Schedule>,
    settings: Settings,
    redrives: Vec<Redrive>,
    watch: Watch,
    on_alert: Option<Call<Alert>>,
}

impl SchedulerBuilder {
    pub(super) fn new(broker: &Broker) -> Self {
        let is_real = broker.clock().may_be_set();
        let settings = Settings {
            misfire_after: Duration::from_secs(5),
            consumer_timeout: is_real.then_some(Duration::from_secs(30 * 60)),
        };
        Self {
            broker: broker.clone(),
            schedules: Vec::new(),
            settings,
            redrives: Vec::new(),
            watch: Watch::default(),
            on_alert: None,
        }
    }

    /// Declares a schedule when it starts: see [`Schedule`].
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedules.push(schedule);
        self
    }

    /// How late a tick may be fired without further thought. One that is later is up to the schedule's
    /// [`misfire`](Schedule::misfire) policy. Defaults to 5 s: longer than another scheduler takes to become active when
    /// one dies.
    pub fn misfire_after(mut self, time: Duration) -> Self {
        self.settings.misfire_after = time;
        self
    }

    /// The `consumer_timeout` of the broker, if it is another than RabbitMQ's 30 minutes. Each schedule is stored anew after
    /// a sixth to a third of it, because the broker takes back what is held for longer. At least
    /// 30 s. The broker inside this process has none.
    pub fn consumer_timeout(mut self, timeout: Duration) -> Self {
        self.settings.consumer_timeout = Some(timeout.max(Duration::from_secs(30)));
        self
    }

    /// Requeues dead letters by policy, as long as it is active; said again, by several. Schedulers of one namespace
    /// should have the same.
    pub fn redrive(mut self, policy: Redrive) -> Self {
        self.redrives.push(policy);
        self
    }

    /// Calls `hook` for each [`Alert`], one after the other, on a thread where it may block; as long as this scheduler is
    /// active. 1,024 may wait for it; it is not told of more. Alerts are logged as well.
    ///
    /// What it takes is what consumers and producers tell of their tasks: nothing is told with
    /// [`without_events`](crate::BrokerBuilder::without_events).
    pub fn on_alert(mut self, hook: impl Fn(&Alert) + Send + Sync + 'static) -> Self {
        self.on_alert = Some(Arc::new(hook));
        self
    }

    #[cfg(test)]
    pub(super) fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// From when on there is an [`Alert`].
    pub fn thresholds(mut self, thresholds: Thresholds) -> Self {
        self.watch.thresholds = thresholds;
        self
    }

    /// Cuts off consumers with [overdue](Alert::TaskOverdue) tasks, once for each attempt: their connections are closed,
    /// so that the broker gives all that they have to others. See [`Management::close_consumer`] for what that costs.
    #[cfg(feature = "management")]
    pub fn management(mut self, client: Management) -> Self {
        let client = Arc::new(client);
        self.watch.close = Some(Arc::new(move |connections, reason| {
            let client = client.clone();
            Box::pin(async move {
                match client.close_consumer(&connections, &reason).await {
                    Ok(closed) => tracing::warn!(?connections, closed, reason, "a consumer is cut off"),
                    Err(error) => tracing::error!(?connections, %error, "a consumer cannot be cut off"),
                }
            })
        }));
        self
    }

    /// Declares what it needs, its schedules and their queues, and stands for election.
    ///
    /// # Errors
    ///
    /// What is wrong with a schedule or a policy, that a queue cannot be declared, or that the broker does not answer:
    /// [`InvalidName`](crate::Error::InvalidName), [`InvalidCadence`](crate::Error::InvalidCadence),
    /// [`InvalidSetting`](crate::Error::InvalidSetting), [`Encode`](crate::Error::Encode),
    /// [`TooLarge`](crate::Error::TooLarge), and failures to declare. What was declared before such an error stays declared.
    pub async fn start(self) -> Result<Scheduler> {
        let Self { broker, schedules, settings, redrives, mut watch, on_alert } = self;
        redrives.iter().try_for_each(Redrive::check)?;
        let max_payload = broker.max_payload();
        let checked = schedules.into_iter().map(|schedule| Definition::check(schedule, max_payload));
        let definitions: Vec<Definition> = checked.collect::<Result<_>>()?;
        broker.declare(Part::Schedules).await?;
        broker.declare(Part::History).await?;
        let queues: BTreeSet<_> = definitions.iter().map(|definition| definition.queue.clone()).collect();
        for queue in queues {
            broker.declare(Part::Queue(queue)).await?;
        }
        declare(&broker, &definitions).await?;
        let shutdown = CancellationToken::new();
        let (hook, listener) = on_alert.map(|call| Hook::new("on_alert", call)).unzip();
        watch.hook = hook;
        let listener = listener.map(|listener| tokio::spawn(listener.run(shutdown.clone(), GRACE)));
        let (active, is_active) = watch::channel(false);
        let table = LiveTable::default();
        let candidate = Candidate {
            broker,
            settings,
            definitions,
            redrives,
            watch,
            table: table.clone(),
            active,
            shutdown: shutdown.clone(),
        };
        let candidate = Some(tokio::spawn(candidate.run()));
        Ok(Scheduler { shutdown, is_active, table, candidate, listener })
    }
}

/// Declares schedules, in their order: of two with one name the last counts.
pub(super) async fn declare(broker: &Broker, definitions: &[Definition]) -> Result<()> {
    let command = |definition: &Definition| {
        Command::new(What::Declare(Box::new(definition.clone())), broker.clock().now())
    };
    let commands: Vec<Command> = definitions.iter().map(command).collect();
    let told = stream::iter(commands).map(|command| schedules::tell(broker, command, DECLARE_TIMEOUT));
    told.buffered(DECLARATIONS).try_for_each(|()| std::future::ready(Ok(()))).await
}

impl fmt::Debug for SchedulerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulerBuilder")
            .field("broker", &self.broker)
            .field("schedules", &self.schedules)
            .field("settings", &self.settings)
            .field("redrives", &self.redrives)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}
