//! [`Schedules`]: what the schedules of a namespace are, and what one may do to them.
//!
//! ```text
//!   pause("report") ── Command ──► {ns}.schedules ──► the active scheduler ── Answer ──► {ns}.outputs ──► Inbox
//! ```

mod ask;
mod status;
mod tell;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::error::Error;
use crate::error::Result;
use crate::name::Name;
use crate::schedule::Entry;
use crate::schedule::What;

use ask::Desk;
pub use status::ScheduleStatus;
pub(crate) use tell::tell;
pub(crate) use tell::tell_undeclared;

/// The schedules of a namespace: see [`Broker::schedules`]. Cheap to clone; clones share a queue for answers, which is
/// made when the first question is asked.
///
/// ```no_run
/// # use taskhare::Broker;
/// # async fn run(broker: Broker) -> taskhare::Result<()> {
/// let schedules = broker.schedules();
/// for schedule in schedules.list().await? {
///     println!("{} ({}): {} ticks", schedule.name(), schedule.cadence(), schedule.ticks());
/// }
/// schedules.pause("morning-report").await?;
/// # Ok(()) }
/// ```
///
/// # What holds
///
/// - Everything is done, and answered, by the scheduler that is active, in the order in which the broker got it. `Ok`
///   means that it is done, on a majority of replicas.
/// - When none answers in time, that is [`Error::NoScheduler`]. A change is kept on the broker then, and made as soon as
///   a scheduler runs; a question is forgotten.
/// - What fails before is [`Error::Schedule`], or a failure to declare the queue of the schedules or that for answers.
#[derive(Clone)]
pub struct Schedules {
    broker: Broker,
    limit: Duration,
    desk: Arc<Desk>,
}

impl Broker {
    /// The schedules of this namespace.
    #[must_use]
    pub fn schedules(&self) -> Schedules {
        Schedules { broker: self.clone(), limit: Duration::from_secs(10), desk: Arc::default() }
    }
}

impl Schedules {
    /// How long a call waits for its answer. Defaults to 10 s: a scheduler that takes over from one that died answers
    /// within that. Questions ([`list`](Self::list), [`get`](Self::get)) are not answered after a minute.
    #[must_use = "the limit of the handle itself stays"]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// All of them, by name. None of them comes with its payload; ten thousand are some 10 MB on the way.
    ///
    /// # Errors
    ///
    /// [`Error::NoScheduler`], also if its clock and this one differ by more than a minute; [`Error::Schedule`],
    /// [`Error::Closed`].
    pub async fn list(&self) -> Result<Vec<ScheduleStatus>> {
        let entries = self.desk.ask(&self.broker, What::List(None), self.limit).await?;
        Ok(entries.into_iter().map(ScheduleStatus::new).collect())
    }

    /// The schedule of that name, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`list`](Self::list), and [`Error::InvalidName`].
    pub async fn get(&self, name: &str) -> Result<Option<ScheduleStatus>> {
        match self.change(name, |name| What::List(Some(name))).await {
            Ok(mut entries) => Ok(entries.pop().map(ScheduleStatus::new)),
            Err(Error::NoSchedule { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Plans no more ticks of a schedule until it is [resumed](Self::resume). Those that are fired already run. Pausing
    /// it again changes nothing, and declaring it again does not resume it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSchedule`], [`Error::NoScheduler`], [`Error::InvalidName`], [`Error::Schedule`], [`Error::Closed`].
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.change(name, What::Pause).await.map(drop)
    }

    /// Plans ticks again, from now on: what was not fired meanwhile is not made up for.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.change(name, What::Resume).await.map(drop)
    }

    /// Fires a tick now, beside the planned ones: also of a schedule that is paused, and whatever its
    /// [overlap policy](crate::Overlap).
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause), and [`Error::Refused`]: it has fired as many as its
    /// [limit](crate::Schedule::limit) allows, say. After [`Error::NoScheduler`] and [`Error::Schedule`], doing it again
    /// may fire two.
    pub async fn trigger(&self, name: &str) -> Result<()> {
        self.change(name, What::Trigger).await.map(drop)
    }

    /// Removes a schedule, unless somebody declares it again. What it has fired runs.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.change(name, What::Remove).await.map(drop)
    }

    async fn change(&self, name: &str, what: impl FnOnce(String) -> What) -> Result<Vec<Entry>> {
        Name::check("schedule", name)?;
        self.desk.ask(&self.broker, what(name.to_owned()), self.limit).await
    }
}

impl fmt::Debug for Schedules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedules").field("broker", &self.broker).field("limit", &self.limit).finish()
    }
}
