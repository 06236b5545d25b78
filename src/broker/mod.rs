//! [`Broker`]: the handle that an application holds. [`builder`] makes it.

mod builder;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;

use crate::clock::Clock;
use crate::control::Control;
use crate::error::Error;
use crate::error::Result;
use crate::journal::Journal;
use crate::lane::Lane;
use crate::lock::Lock;
use crate::log::Place;
use crate::name::Name;
use crate::route::Route;
use crate::topology;
use crate::topology::Names;
use crate::topology::QueueDefaults;
use crate::topology::QueueName;
use crate::topology::Topology;
use crate::topology::wheel::Level;
use crate::transport::Transport;
use crate::unique::Unique;

pub use builder::BrokerBuilder;

const MIB: u64 = 1024 * 1024;
/// The environment variable that [`Broker::from_env`] reads.
const URL_VARIABLE: &str = "AMQP_URL";

/// A broker: RabbitMQ, or its double inside this process. Cheap to clone; clones share connections.
///
/// Towards RabbitMQ it holds at most five connections, opened when first needed: to publish, to consume, to read streams,
/// to schedule, and to tell of tasks, which waits for no other publishes. So an alarm, which stops RabbitMQ from reading a publishing connection, does not hold up
/// acknowledgements, and trouble with a stream, for which it closes the connection, costs no tasks. All are
/// re-established for ever, until [`close`](Self::close).
///
/// ```
/// # async fn run() -> taskhare::Result<()> {
/// use taskhare::{Broker, Replication};
///
/// let broker = Broker::builder()
///     .url("amqp://user:secret@rabbit-1,amqp://user:secret@rabbit-2")
///     .namespace("shop")
///     .replication(Replication::Quorum { group_size: 5 })
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    transport: Arc<dyn Transport>,
    clock: Clock,
    names: Names,
    defaults: QueueDefaults,
    max_payload: usize,
    urgent_within: Duration,
    /// `None`: nothing is told of tasks.
    journal: Option<Journal>,
    /// Whether it declares what it needs; otherwise that is taken for declared.
    declares: bool,
    /// What this handle has declared.
    declared: Lock<HashSet<Part>>,
    /// Held by who declares a part for the first time.
    declaring: tokio::sync::Mutex<()>,
}

/// A part of the topology, which a handle declares when it is first needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Everything that a queue needs.
    Queue(QueueName),
    /// The delay wheel.
    Wheel,
    /// The stream of facts about tasks.
    Control,
    /// The stream of claims to unique keys.
    Unique,
    /// The queue of the schedules.
    Schedules,
    /// The log of all events; nothing where none is kept.
    History,
}

impl Broker {
    /// Connects to the RabbitMQ of `AMQP_URL`, or makes a broker inside this process where that is unset.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self> {
        match std::env::var(URL_VARIABLE) {
            Ok(url) => Self::connect(&url).await,
            Err(std::env::VarError::NotPresent) => {
                tracing::info!("{URL_VARIABLE} is unset: using a broker inside this process");
                Ok(Self::in_process())
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(Error::InvalidUrl { reason: format!("{URL_VARIABLE} is not UTF-8") })
            }
        }
    }

    /// Connects to RabbitMQ: `amqp://user:password@host:port/vhost`. What is left out is `guest`, `guest`, `localhost`,
    /// 5672 and `/`. `amqps://`, with the port 5671, is TLS, which needs the feature `tls`.
    ///
    /// Several URLs, separated by commas, are several nodes of one cluster. Each process tries them in an order of its own, a
    /// random one, so that many processes spread over the nodes; its connections are all to one node, while that lives. One
    /// that is down, or does not answer within 5 s (`?connection_timeout=` in milliseconds), is passed over.
    ///
    /// # Errors
    ///
    /// At once, if no node can be used: [`Error::InvalidUrl`], [`Error::Connect`], [`Error::Login`],
    /// [`Error::VirtualHost`], [`Error::UnsupportedBroker`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder().url(url).connect().await
    }

    /// A broker inside this process, empty. Same semantics; nothing survives the process.
    ///
    /// It runs on tokio's clock, so a test with a paused clock does not wait.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn in_process() -> Self {
        Self::builder().in_process().expect("the defaults are valid")
    }

    /// A broker with other settings than the defaults.
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::default()
    }

    /// Closes the connections, after at most 2 seconds for the events that are still to be written. Shut consumers down
    /// first: what they hold goes back to its queues. Idempotent.
    pub async fn close(&self) {
        if let Some(journal) = self.journal() {
            journal.flush().await;
        }
        self.0.transport.close().await;
    }

    /// How many tasks wait in `queue`, in all its lanes, ready to be delivered.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], or that the broker does not answer.
    pub async fn waiting(&self, queue: &str) -> Result<u64> {
        let queue = QueueName::new(queue)?;
        let mut waiting = 0;
        for lane in Lane::ALL {
            waiting += self.depth(&self.0.names.lane(&queue, lane)).await?;
        }
        Ok(waiting)
    }

    /// How many tasks of `queue` wait in quarantine: they came back twice without an end, and are started one at a time
    /// by each consumer, so that the next crash tells which of them it is. See
    /// [`crash_limit`](crate::ConsumerBuilder::crash_limit).
    ///
    /// # Errors
    ///
    /// As for [`waiting`](Self::waiting).
    pub async fn quarantined(&self, queue: &str) -> Result<u64> {
        self.depth(&self.0.names.quarantine(&QueueName::new(queue)?)).await
    }

    /// How many dead letters `queue` has.
    ///
    /// # Errors
    ///
    /// As for [`waiting`](Self::waiting).
    pub async fn dead(&self, queue: &str) -> Result<u64> {
        self.depth(&self.0.names.dead_queue(&QueueName::new(queue)?)).await
    }

    /// How many tasks wait in the delay wheel, for all queues of the namespace: delayed ones, and retries.
    ///
    /// # Errors
    ///
    /// That the broker does not answer.
    pub async fn delayed(&self) -> Result<u64> {
        let depths = stream::iter(Level::all())
            .map(|level| async move { self.depth(&self.0.names.delay_level(level)).await })
            .buffer_unordered(8);
        depths.try_fold(0, |sum, depth| async move { Ok(sum + depth) }).await
    }

    /// How many messages are ready in that queue on the broker.
    pub(crate) async fn depth(&self, queue: &Name) -> Result<u64> {
        Ok(self.0.transport.depth(queue).await?.unwrap_or(0))
    }

    /// The transport, for the contract suite.
    #[doc(hidden)]
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.0.transport
    }

    pub(crate) fn names(&self) -> &Names {
        &self.0.names
    }

    /// The way into `queue`.
    pub(crate) fn route(&self, queue: QueueName) -> Route {
        Route::new(&self.0.names, queue, self.0.urgent_within)
    }

    /// Whether the lanes count how often a message came back.
    pub(crate) fn counts_returns(&self) -> bool {
        self.0.defaults.replication.counts_returns()
    }

    /// The stream of facts about tasks.
    pub(crate) fn control(&self) -> Place {
        self.log(self.0.names.control())
    }

    /// The stream of claims to unique keys.
    pub(crate) fn unique(&self) -> Place {
        self.log(self.0.names.unique())
    }

    /// The stream of what happens to tasks.
    pub(crate) fn history(&self) -> Place {
        let (exchange, stream) = (self.0.names.events(), self.0.names.history());
        Place { transport: self.0.transport.clone(), exchange, stream }
    }

    fn log(&self, name: Name) -> Place {
        Place { transport: self.0.transport.clone(), exchange: name.clone(), stream: name }
    }

    /// Where to tell of tasks; `None`: nowhere.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.0.journal.as_ref()
    }

    /// The same, for who declares the history with its queues; where this handle may not, that must be there already.
    pub(crate) async fn declared_journal(&self) -> Result<Option<Journal>> {
        if self.0.declares { Ok(self.0.journal.clone()) } else { self.kept_journal().await }
    }

    /// The same, for who declares nothing: the history must be there already.
    pub(crate) async fn kept_journal(&self) -> Result<Option<Journal>> {
        let Some(journal) = &self.0.journal else { return Ok(None) };
        match self.0.transport.depth(&self.0.names.history()).await {
            Ok(None) => {
                tracing::warn!("there is no history: nothing is told of tasks");
                Ok(None)
            }
            // RabbitMQ 4.3 tells it only to those who may do something with the stream; to write there they need not.
            Ok(Some(_)) | Err(Error::AccessRefused { .. }) => Ok(Some(journal.clone())),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(crate) fn max_payload(&self) -> usize {
        self.0.max_payload
    }

    /// Declares these queues, and all else that any process of this namespace needs: for a deployment, when those who
    /// produce and consume [may not](BrokerBuilder::without_declaring). Idempotent. Without it everything is declared
    /// by who needs it first.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
    /// # let broker = taskhare::Broker::in_process();
    /// broker.declare_queues(&["mail", "reports"]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`], [`Error::TopologyConflict`], [`Error::AccessRefused`] and other failures to declare. What
    /// was declared before such an error stays declared.
    pub async fn declare_queues(&self, queues: &[&str]) -> Result<()> {
        let queues: Vec<QueueName> =
            queues.iter().map(|queue| QueueName::new(queue)).collect::<Result<_>>()?;
        let shared = [Part::Wheel, Part::Control, Part::Unique, Part::Schedules, Part::History];
        let mut topology = topology::of_own_queues(&self.0.names);
        for part in shared.into_iter().chain(queues.into_iter().map(Part::Queue)) {
            topology.merge(&self.topology(&part));
        }
        self.declare_all(&topology).await
    }

    /// Whether it declares what it needs.
    pub(crate) fn declares(&self) -> bool {
        self.0.declares
    }

    /// Declares a part, unless this handle has done so already or [declares](Self::declares) nothing.
    pub(crate) async fn declare(&self, part: Part) -> Result<()> {
        if !self.0.declares || self.0.declared.lock().contains(&part) {
            return Ok(());
        }
        // One after the other: a thousand who need the same part at once are not to open a thousand channels. In a task,
        // because whoever has its turn may not be polled until others have had theirs: `enqueue_all` awaits its oldest.
        let broker = self.clone();
        let declare = tokio::spawn(async move {
            let _turn = broker.0.declaring.lock().await;
            if broker.0.declared.lock().contains(&part) { Ok(()) } else { broker.restore(part).await }
        });
        declare.await.unwrap_or(Err(Error::Closed))
    }

    /// Declares a part, be it again: it is gone. Likewise.
    pub(crate) async fn restore(&self, part: Part) -> Result<()> {
        if !self.0.declares {
            return Ok(());
        }
        self.declare_all(&self.topology(&part)).await?;
        self.0.declared.lock().insert(part);
        Ok(())
    }

    /// As [`declare_again`](Self::declare_again), of what was found to be deleted, and not at once.
    pub(crate) async fn replace_deleted(&self, queue: &QueueName) -> Result<()> {
        if self.0.declares {
            tokio::time::sleep(topology::REDECLARE_AFTER).await;
        }
        self.declare_again(queue).await
    }

    /// Declares everything that `queue` needs, and the delay wheel if this handle uses it: some of it is gone. Likewise.
    pub(crate) async fn declare_again(&self, queue: &QueueName) -> Result<()> {
        if !self.0.declares {
            return Ok(());
        }
        let part = Part::Queue(queue.clone());
        let mut topology = self.topology(&part);
        if self.0.declared.lock().contains(&Part::Wheel) {
            topology.merge(&self.topology(&Part::Wheel));
        }
        self.declare_all(&topology).await?;
        self.0.declared.lock().insert(part);
        Ok(())
    }

    async fn declare_all(&self, topology: &Topology) -> Result<()> {
        self.0.transport.declare(topology).await?;
        if let Some(journal) = self.journal() {
            journal.remember(topology);
        }
        Ok(())
    }

    /// Declares the lease queue of `holder`, and returns its name.
    pub(crate) async fn declare_lease(&self, holder: &Name) -> Result<Name> {
        let queue = self.0.names.lease_queue(holder);
        self.declare_own(topology::of_lease(&self.0.names, self.0.defaults, holder), &queue).await?;
        Ok(queue)
    }

    /// Declares the queue for what is sent back to `key`, and returns its name.
    pub(crate) async fn declare_outputs(&self, key: &Name) -> Result<Name> {
        let queue = self.0.names.outputs_queue(key);
        self.declare_own(topology::of_outputs(&self.0.names, &queue, key), &queue).await?;
        Ok(queue)
    }

    /// Declares a queue of our own; what others share with it only if we [declare](Self::declares) that.
    async fn declare_own(&self, topology: Topology, queue: &Name) -> Result<()> {
        let topology = if self.0.declares { topology } else { topology.only(queue) };
        self.0.transport.declare(&topology).await
    }

    fn topology(&self, part: &Part) -> Topology {
        let (names, defaults) = (&self.0.names, self.0.defaults);
        let log = |name, age, bytes| topology::of_log(&name, age, bytes);
        match part {
            Part::Queue(queue) => topology::of_queue(names, defaults, queue),
            Part::Wheel => topology::of_wheel(names, defaults),
            Part::Control => log(names.control(), Control::AGE, 32 * MIB),
            Part::Schedules => topology::of_schedules(names, defaults),
            Part::History => topology::of_history(names, defaults),
            Part::Unique => log(names.unique(), Unique::LONGEST_WINDOW, 64 * MIB),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("transport", &self.0.transport).field("names", &self.0.names).finish()
    }
}
