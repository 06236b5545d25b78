//! [`BrokerBuilder`]: settings of a broker handle.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::Inner;
use super::MIB;
use crate::clock::Clock;
use crate::error::Error;
use crate::error::Result;
use crate::instance::Instance;
use crate::journal::Desk;
use crate::journal::Journal;
use crate::lock::Lock;
use crate::message::LONGEST_TIME_TO_LIVE;
use crate::telemetry;
#[cfg(feature = "tls")]
use crate::tls::Tls;
use crate::topology;
use crate::topology::HistoryLimits;
use crate::topology::Names;
use crate::topology::Namespace;
use crate::topology::QueueDefaults;
use crate::topology::Replication;
use crate::topology::Topology;
use crate::transport::Transport;
use crate::transport::amqp::Amqp;
use crate::transport::amqp::Options;
use crate::transport::in_process::InProcess;

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
    declares: bool,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
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
            declares: true,
            #[cfg(feature = "tls")]
            tls: None,
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

    /// How long the [history](Broker::events) keeps events at least. Defaults to 7 days; from a second to ten years. All
    /// processes of a namespace must agree.
    pub fn history_age(mut self, age: Duration) -> Self {
        self.history().age = age;
        self
    }

    /// How large the [history](Broker::events) may become, in bytes; then its oldest eighth goes, whatever its age.
    /// Defaults to 1 GiB, which is some five million tasks; at least 1 MiB. A dead letter is kept there with its
    /// payload. All processes of a namespace must agree.
    pub fn history_size(mut self, bytes: u64) -> Self {
        self.history().bytes = bytes;
        self
    }

    /// Keeps no history: nothing is told of tasks, and nothing can be asked about them.
    pub fn without_events(mut self) -> Self {
        self.defaults.history = None;
        self
    }

    fn history(&mut self) -> &mut HistoryLimits {
        self.defaults.history.get_or_insert_default()
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

    /// Declares nothing but queues of its own (for outputs, and for tasks that run for long), for a user that may not:
    /// producers, consumers and schedulers take everything for declared, by whoever may
    /// ([`Broker::declare_queues`]). What is missing is then an error where it is needed:
    /// [`Error::Unroutable`], [`Error::Consume`], [`Error::Append`]. Nothing that somebody deletes is declared again.
    ///
    /// Which permissions each role needs is in `docs/security.md`.
    pub fn without_declaring(mut self) -> Self {
        self.declares = false;
        self
    }

    /// How TLS proves who is who, for `amqps://` in the URL; with another it is [`Error::InvalidSetting`]. Defaults to
    /// [`Tls::new`]: what this system trusts.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connects to RabbitMQ.
    ///
    /// # Errors
    ///
    /// As for [`Broker::connect`], and [`Error::InvalidName`] or [`Error::InvalidSetting`] for a setting that cannot be.
    pub async fn connect(self) -> Result<Broker> {
        self.check()?;
        let instance = Instance::new();
        let transport = Amqp::connect(self.options(&instance)?).await?;
        self.build(Arc::new(transport), Clock::System, instance)
    }

    /// Makes a broker inside this process: see [`Broker::in_process`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`] or [`Error::InvalidSetting`].
    pub fn in_process(self) -> Result<Broker> {
        self.check()?;
        self.build(Arc::new(InProcess::new()), Clock::tokio(), Instance::new())
    }

    fn options(&self, instance: &Instance) -> Result<Options> {
        let urls = if self.urls.is_empty() { "amqp://localhost".to_owned() } else { self.urls.join(",") };
        let mut options = Options::from_urls(&urls)?;
        options.app = self.app.clone().or_else(executable).unwrap_or(options.app);
        options.instance = instance.name().clone();
        options.heartbeat = self.heartbeat.unwrap_or(options.heartbeat);
        options.confirm_window = self.confirm_window.unwrap_or(options.confirm_window);
        #[cfg(feature = "tls")]
        {
            let usual = options.endpoints.iter().any(|endpoint| endpoint.is_tls).then(Tls::new);
            options.tls = self.tls.clone().or(usual).map(|tls| tls.secured()).transpose()?;
        }
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
        if let Some(HistoryLimits { age, bytes }) = self.defaults.history {
            if age < Duration::from_secs(1) || age > LONGEST_TIME_TO_LIVE {
                let reason = format!("{age:?}; it is from a second to {LONGEST_TIME_TO_LIVE:?}");
                return Err(Error::InvalidSetting { setting: "history_age", reason });
            }
            if bytes < MIB || i64::try_from(bytes).is_err() {
                let reason = format!("{bytes}; it is at least 1 MiB, and less than 2^63");
                return Err(Error::InvalidSetting { setting: "history_size", reason });
            }
        }
        if length == 0 || i64::try_from(length).is_err() {
            let reason = format!("{length}; it is at least 1, and less than 2^63");
            return Err(Error::InvalidSetting { setting: "dead_letter_length", reason });
        }
        Ok(())
    }

    fn build(self, transport: Arc<dyn Transport>, clock: Clock, instance: Instance) -> Result<Broker> {
        let names = Names::new(Namespace::new(&self.namespace)?);
        telemetry::describe();
        let journal = self.defaults.history.map(|_| {
            let topology =
                if self.declares { topology::of_history(&names, self.defaults) } else { Topology::default() };
            let topology = Lock::new(topology);
            let exchange = names.events();
            Journal::new(Desk { transport: transport.clone(), exchange, topology, instance })
        });
        Ok(Broker(Arc::new(Inner {
            transport,
            clock,
            names,
            journal,
            defaults: self.defaults,
            max_payload: self.max_payload,
            urgent_within: self.urgent_within,
            declares: self.declares,
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
