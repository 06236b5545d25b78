//! [`Broker`]: the handle that an application holds, and its builder.

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
use crate::lane::Lane;
use crate::lock::Lock;
use crate::log::Place;
use crate::message::LONGEST_TIME_TO_LIVE;
use crate::name::Name;
use crate::route::Route;
use crate::topology;
use crate::topology::Names;
use crate::topology::Namespace;
use crate::topology::QueueDefaults;
use crate::topology::QueueName;
use crate::topology::Replication;
use crate::topology::Topology;
use crate::topology::wheel::Level;
use crate::transport::Transport;
use crate::transport::amqp::Amqp;
use crate::transport::amqp::Options;
use crate::transport::in_process::InProcess;
use crate::unique::Unique;

/// The environment variable that [`Broker::from_env`] reads.
const URL_VARIABLE: &str = "AMQP_URL";

/// A broker: RabbitMQ, or its double inside this process. Cheap to clone; clones share connections.
///
/// Towards RabbitMQ it holds at most four connections, opened when first needed: to publish, to consume, to read streams
/// and to schedule. So an alarm, which stops RabbitMQ from reading a publishing connection, does not hold up
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
    /// 5672 and `/`. Several URLs, separated by commas, are several nodes of one cluster.
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

    /// Closes the connections. Shut consumers down first: what they hold goes back to its queues. Idempotent.
    pub async fn close(&self) {
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

    fn log(&self, name: Name) -> Place {
        Place { transport: self.0.transport.clone(), exchange: name.clone(), stream: name }
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(crate) fn max_payload(&self) -> usize {
        self.0.max_payload
    }

    /// Declares a part, unless this handle has done so already.
    pub(crate) async fn declare(&self, part: Part) -> Result<()> {
        if self.0.declared.lock().contains(&part) {
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

    /// Declares a part, be it again: it is gone.
    pub(crate) async fn restore(&self, part: Part) -> Result<()> {
        self.0.transport.declare(&self.topology(&part)).await?;
        self.0.declared.lock().insert(part);
        Ok(())
    }

    /// Declares everything that `queue` needs, and the delay wheel if this handle uses it: some of it is gone.
    pub(crate) async fn declare_again(&self, queue: &QueueName) -> Result<()> {
        let part = Part::Queue(queue.clone());
        let mut topology = self.topology(&part);
        if self.0.declared.lock().contains(&Part::Wheel) {
            topology.merge(&self.topology(&Part::Wheel));
        }
        self.0.transport.declare(&topology).await?;
        self.0.declared.lock().insert(part);
        Ok(())
    }

    /// Declares the lease queue of `holder`, and returns its name.
    pub(crate) async fn declare_lease(&self, holder: &Name) -> Result<Name> {
        self.0.transport.declare(&topology::of_lease(&self.0.names, self.0.defaults, holder)).await?;
        Ok(self.0.names.lease_queue(holder))
    }

    fn topology(&self, part: &Part) -> Topology {
        const MIB: u64 = 1024 * 1024;
        let (names, defaults) = (&self.0.names, self.0.defaults);
        let log = |name, age, bytes| topology::of_log(&name, defaults.replication, age, bytes);
        match part {
            Part::Queue(queue) => topology::of_queue(names, defaults, queue),
            Part::Wheel => topology::of_wheel(names, defaults),
            Part::Control => log(names.control(), Control::AGE, 32 * MIB),
            Part::Schedules => topology::of_schedules(names, defaults),
            Part::Unique => log(names.unique(), Unique::LONGEST_WINDOW, 64 * MIB),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("transport", &self.0.transport).field("names", &self.0.names).finish()
    }
}

/// Settings of a [`Broker`].
#[must_use = "a builder does nothing until `connect` or `in_process`"]
pub struct BrokerBuilder {
    urls: Vec<String>,
    namespace: String,
    defaults: QueueDefaults,
    max_payload: usize,
    urgent_within: Duration,
    app: Option<String>,
    heartbeat: Option<Duration>,
    confirm_window: Option<usize>,
}

/// Without the URLs, which may hold passwords.
impl fmt::Debug for BrokerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerBuilder")
            .field("namespace", &self.namespace)
            .field("defaults", &self.defaults)
            .field("max_payload", &self.max_payload)
            .finish_non_exhaustive()
    }
}

impl Default for BrokerBuilder {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            namespace: "taskhare".to_owned(),
            defaults: QueueDefaults::default(),
            max_payload: Self::DEFAULT_MAX_PAYLOAD,
            urgent_within: Duration::from_secs(10),
            app: None,
            heartbeat: None,
            confirm_window: None,
        }
    }
}

impl BrokerBuilder {
    /// 1 MiB.
    const DEFAULT_MAX_PAYLOAD: usize = 1024 * 1024;
    /// 15 MiB: RabbitMQ 4 takes messages up to 16 MiB (3.x: 128 MiB) and closes the channel on larger ones.
    const LARGEST_PAYLOAD: usize = 15 * 1024 * 1024;

    /// One more node to connect to, or several separated by commas: see [`Broker::connect`]. Defaults to
    /// `amqp://localhost`.
    pub fn url(mut self, url: &str) -> Self {
        self.urls.push(url.to_owned());
        self
    }

    /// What the names of all exchanges and queues begin with. Applications with different namespaces do not see each
    /// other's tasks. Defaults to `taskhare`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.to_owned();
        self
    }

    /// How queues are kept. Defaults to quorum queues on 3 nodes. All processes of a namespace must agree: a queue that
    /// exists otherwise is [`Error::TopologyConflict`].
    pub fn replication(mut self, replication: Replication) -> Self {
        self.defaults.replication = replication;
        self
    }

    /// How often a task may come back to a queue without having been started, because the consumer that held it was
    /// shut down, crashed or lost its connection, before the broker dead-letters it. Defaults to 100: more than the
    /// processes of a rolling deployment that hand it from one to the next. At least 1. Only quorum queues count. All
    /// processes of a namespace must agree.
    ///
    /// What was started is ended by [`crash_limit`](crate::ConsumerBuilder::crash_limit) long before; this is the last
    /// guard, for what kills a consumer before it can look at it.
    pub fn delivery_limit(mut self, deliveries: u32) -> Self {
        self.defaults.delivery_limit = deliveries.max(1);
        self
    }

    /// How long a dead letter is kept. Defaults to 30 days; from a millisecond to ten years. It goes once it is at the head
    /// of its queue, so a younger one that was put before it keeps it. All processes of a namespace must agree.
    pub fn dead_letter_age(mut self, age: Duration) -> Self {
        self.defaults.dead_letter_age = age;
        self
    }

    /// How many dead letters each queue keeps; for one more the oldest goes. Defaults to 100,000; at least 1. All processes of
    /// a namespace must agree.
    pub fn dead_letter_length(mut self, letters: u64) -> Self {
        self.defaults.dead_letter_length = letters;
        self
    }

    /// The largest payload, in bytes of MessagePack. Defaults to 1 MiB; at most 15 MiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// A task whose deadline is nearer than this when it may start goes to the urgent lane, whatever its priority.
    /// Defaults to 10 s; zero: never.
    pub fn urgent_within(mut self, time: Duration) -> Self {
        self.urgent_within = time;
        self
    }

    /// What the connections are called in RabbitMQ's console, beside host and process. Defaults to the name of the
    /// executable.
    pub fn app_name(mut self, name: &str) -> Self {
        self.app = Some(name.to_owned());
        self
    }

    /// How often both sides say that they are alive; a silent peer is given up after two intervals. Defaults to 10 s;
    /// at least 2 s. The broker's own setting applies if that is shorter.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// How many messages may await their confirm at a time; further ones wait. Defaults to 512; at most 4096.
    pub fn confirm_window(mut self, messages: usize) -> Self {
        self.confirm_window = Some(messages);
        self
    }

    /// Connects to RabbitMQ.
    ///
    /// # Errors
    ///
    /// As for [`Broker::connect`], and [`Error::InvalidName`] or [`Error::InvalidSetting`] for a setting that cannot be.
    pub async fn connect(self) -> Result<Broker> {
        self.check()?;
        let transport = Amqp::connect(self.options()?).await?;
        self.build(Arc::new(transport), Clock::System)
    }

    /// Makes a broker inside this process: see [`Broker::in_process`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] or [`Error::InvalidSetting`].
    pub fn in_process(self) -> Result<Broker> {
        self.check()?;
        self.build(Arc::new(InProcess::new()), Clock::tokio())
    }

    fn options(&self) -> Result<Options> {
        let urls = if self.urls.is_empty() { "amqp://localhost".to_owned() } else { self.urls.join(",") };
        let mut options = Options::from_urls(&urls)?;
        options.app = self.app.clone().or_else(executable).unwrap_or(options.app);
        options.heartbeat = self.heartbeat.unwrap_or(options.heartbeat);
        options.confirm_window = self.confirm_window.unwrap_or(options.confirm_window);
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        if self.max_payload > Self::LARGEST_PAYLOAD {
            return Err(Error::InvalidSetting {
                setting: "max_payload",
                reason: format!("{} bytes; the most is {}", self.max_payload, Self::LARGEST_PAYLOAD),
            });
        }
        let QueueDefaults { dead_letter_age: age, dead_letter_length: length, .. } = self.defaults;
        if age < Duration::from_millis(1) || age > LONGEST_TIME_TO_LIVE {
            let reason = format!("{age:?}; it is from a millisecond to {LONGEST_TIME_TO_LIVE:?}");
            return Err(Error::InvalidSetting { setting: "dead_letter_age", reason });
        }
        if length == 0 || i64::try_from(length).is_err() {
            let reason = format!("{length}; it is at least 1, and less than 2^63");
            return Err(Error::InvalidSetting { setting: "dead_letter_length", reason });
        }
        Ok(())
    }

    fn build(self, transport: Arc<dyn Transport>, clock: Clock) -> Result<Broker> {
        Ok(Broker(Arc::new(Inner {
            transport,
            clock,
            names: Names::new(Namespace::new(&self.namespace)?),
            defaults: self.defaults,
            max_payload: self.max_payload,
            urgent_within: self.urgent_within,
            declared: Lock::default(),
            declaring: tokio::sync::Mutex::default(),
        })))
    }
}

/// The name of this program.
fn executable() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    Some(path.file_name()?.to_string_lossy().chars().take(32).collect())
}
