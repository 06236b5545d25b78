//! [`DeclareSchedule`], the builder that is a future.

use std::fmt;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Producer;
use crate::cadence::Cadence;
use crate::error::Result;
use crate::schedule::Command;
use crate::schedule::Definition;
use crate::schedule::Schedule;
use crate::schedule::What;
use crate::schedule::schedule_options;
use crate::schedules::tell;
use crate::task::Task;

impl Producer {
    /// Declares a schedule, as [`Schedule`] says: a task that is enqueued again and again, at an interval or by a
    /// [`Cadence`]. A builder, and a future. `name` identifies it in its namespace; 1 to 255 bytes.
    ///
    /// `Ok` means that the declaration is stored, on a majority of replicas. It counts as soon as a
    /// [`Scheduler`](crate::Scheduler) runs, in any process, and its time counts from now on.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use taskhare::{Broker, Cadence, Overlap, Producer, Task};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Report { region: String }
    /// # impl Task for Report { const NAME: &'static str = "report"; type Output = (); }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let producer = Producer::builder(&Broker::in_process()).build().await?;
    /// let weekdays = Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin");
    /// producer.schedule("morning-report", weekdays, Report { region: "eu".into() }).await?;
    ///
    /// let minute = Duration::from_secs(60);
    /// producer.schedule("report", minute, Report { region: "eu".into() }).overlap(Overlap::Skip).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// - Never declared: [`Error::InvalidName`](crate::Error::InvalidName),
    ///   [`Error::InvalidCadence`](crate::Error::InvalidCadence),
    ///   [`Error::InvalidSetting`](crate::Error::InvalidSetting), [`Error::Encode`](crate::Error::Encode),
    ///   [`Error::TooLarge`](crate::Error::TooLarge), [`Error::Closed`](crate::Error::Closed), or a failure to declare its
    ///   queue or that of the schedules.
    /// - [`Error::Schedule`](crate::Error::Schedule): its source tells. Without a confirm it may be declared or not.
    ///   Declare it again.
    pub fn schedule<T: Task>(&self, name: &str, cadence: impl Into<Cadence>, task: T) -> DeclareSchedule<'_> {
        DeclareSchedule {
            producer: self,
            schedule: Schedule::new(name, cadence, task),
            timeout: self.0.timeout,
        }
    }
}

/// A schedule about to be declared: see [`Producer::schedule`].
#[must_use = "nothing is declared until this is awaited"]
pub struct DeclareSchedule<'a> {
    producer: &'a Producer,
    schedule: Schedule,
    timeout: Duration,
}

impl DeclareSchedule<'_> {
    schedule_options!(schedule.options);

    /// How long to wait for the broker, instead of what the producer's [`timeout`](crate::ProducerBuilder::timeout) says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn declare(self) -> Result<()> {
        let Self { producer, schedule, timeout } = self;
        let broker = &producer.0.broker;
        let definition = Definition::check(schedule, broker.max_payload())?;
        producer.route(definition.queue.as_str()).await?;
        let command = Command::new(What::Declare(Box::new(definition)), broker.clock().now());
        tell(broker, command, timeout).await
    }
}

impl<'a> IntoFuture for DeclareSchedule<'a> {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.declare())
    }
}

impl fmt::Debug for DeclareSchedule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DeclareSchedule").field(&self.schedule).finish()
    }
}
