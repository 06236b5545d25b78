//! RabbitMQ, through amqprs, which is named nowhere else.
//!
//! ```text
//!   Amqp ─┬─ publisher ── confirms (a channel) ─┬─ Link "publish" ── Session ── Session ── … (amqprs' connections)
//!         ├─ declare, depth ────────────────────┤
//!         ├─ teller ── confirms ────────────────── Link "tell" ── Session ── …
//!         └─ subscription ── settle (a channel) ┼─ Link "consume" ── Session ── …
//!                            … of a stream       ├─ Link "read" ── Session ── …
//!         tenure ── both, over one channel ──────┴─ Link "schedule" ── Session ── …
//! ```
//!
//! `session` keeps away what the client library does not survive, `connection` makes connections anew for ever,
//! `confirms` and `settle` hold the two hot paths, `refusal` reads what the broker says.

mod acks;
mod callback;
mod confirms;
mod connection;
mod declare;
mod live;
mod options;
mod position;
mod properties;
mod publisher;
mod refusal;
mod session;
mod settle;
mod stall;
mod subscription;
mod tenure;
mod url;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::error::Error;
use crate::error::Result;
use crate::name::Name;
use crate::topology::Topology;
use crate::transport::Health;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::Tenure;
use crate::transport::Transport;
use crate::transport::amqp::connection::CONSUMES;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::declare::DeclareError;
use crate::transport::amqp::publisher::Publisher;
use crate::transport::amqp::session::Session;
use crate::transport::amqp::subscription::Consumer;
use crate::transport::amqp::tenure::Holder;
use crate::transport::sealed::Sealed;

pub use options::Options;
pub use url::Endpoint;

/// RabbitMQ 3.10 or newer.
pub struct Amqp {
    shared: Arc<Shared>,
    publishing: Arc<Link>,
    consuming: Arc<Link>,
    /// For streams alone: RabbitMQ answers trouble with one by closing the whole connection.
    reading: Arc<Link>,
    /// For channels that consume and publish: under an alarm RabbitMQ does not read it, and acks must still arrive over
    /// the one that only consumes.
    scheduling: Arc<Link>,
    /// For events: one that enqueues keeps its connection busy for longer than a task may wait for its end to be told.
    telling: Arc<Link>,
    publisher: Publisher,
    teller: Publisher,
}

impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Amqp").field("endpoints", &self.shared.options.endpoints).finish_non_exhaustive()
    }
}

impl Amqp {
    /// Connects, trying each broker once. From then on connections are made anew for ever, until
    /// [`close`](Transport::close). Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`], [`Error::Login`], [`Error::VirtualHost`], [`Error::UnsupportedBroker`], or
    /// [`Error::InvalidSetting`] for options out of their range.
    pub async fn connect(options: Options) -> Result<Self> {
        options.check()?;
        let shared = Arc::new(Shared::new(options));
        let publishing = Link::new("publish", shared.clone());
        let consuming = Link::new(CONSUMES, shared.clone());
        let reading = Link::new("read", shared.clone());
        let scheduling = Link::new("schedule", shared.clone());
        let telling = Link::new("tell", shared.clone());
        let publisher = Publisher::new(shared.clone(), publishing.clone());
        let teller = Publisher::new(shared.clone(), telling.clone());
        let amqp = Self { shared, publishing, consuming, reading, scheduling, telling, publisher, teller };
        amqp.publishing.connect().await?;
        Ok(amqp)
    }

    /// Does `work` on a live connection, and again on the next one if that is lost. Not on one that publishes: under an
    /// alarm the broker does not read it.
    async fn control<T, F>(&self, action: &str, work: impl Fn(Arc<Session>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, DeclareError>>,
    {
        let is_apart = self.consuming.is_started() || self.publisher.is_started();
        let link = if is_apart { &self.consuming } else { &self.publishing };
        let limit = self.shared.options.request_timeout;
        let attempts = async {
            loop {
                let session = link.session().await.ok_or(Error::Closed)?;
                match work(session).await {
                    Ok(value) => return Ok(value),
                    Err(DeclareError::Refused(error)) => return Err(error),
                    Err(DeclareError::Lost(why)) => tracing::debug!(action, reason = why, "trying again"),
                }
            }
        };
        match timeout(limit, self.unless_closed(attempts)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout { action: action.to_owned(), waited: limit }),
        }
    }

    async fn unless_closed<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.shared.closing.run_until_cancelled(work).await.unwrap_or(Err(Error::Closed))
    }
}

impl Sealed for Amqp {}

#[async_trait]
impl Transport for Amqp {
    async fn declare(&self, topology: &Topology) -> Result<()> {
        let asked = Arc::new(topology.clone());
        let declare = |session: Arc<Session>| {
            let asked = asked.clone();
            async move { declare::declare(&session, &asked).await }
        };
        self.control("declare", declare).await?;
        self.shared.remember(topology);
        Ok(())
    }

    async fn publish(&self, publish: &Publish, timeout: Duration) -> Result<(), PublishError> {
        self.publisher.publish(publish, timeout).await
    }

    async fn publish_apart(&self, publish: &Publish, timeout: Duration) -> Result<(), PublishError> {
        self.teller.publish(publish, timeout).await
    }

    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>> {
        let link = if subscribe.start.is_some() { &self.reading } else { &self.consuming };
        let start = Consumer::start(self.shared.clone(), link.clone(), subscribe);
        Ok(Box::new(self.unless_closed(start).await?))
    }

    async fn hold(&self, subscribe: Subscribe) -> Result<Box<dyn Tenure>> {
        let start = Holder::start(self.shared.clone(), &self.scheduling, subscribe);
        Ok(Box::new(self.unless_closed(start).await?))
    }

    async fn depth(&self, queue: &Name) -> Result<Option<u64>> {
        let depth = |session: Arc<Session>| {
            let queue = queue.clone();
            async move { declare::depth(&session, &queue).await }
        };
        self.control("count messages", depth).await
    }

    async fn purge(&self, queue: &Name) -> Result<u64> {
        let purge = |session: Arc<Session>| {
            let queue = queue.clone();
            async move { declare::purge(&session, &queue).await }
        };
        self.control("purge a queue", purge).await
    }

    async fn delete(&self, queue: &Name) -> Result<()> {
        self.shared.forget(queue);
        let delete = |session: Arc<Session>| {
            let queue = queue.clone();
            async move { declare::delete(&session, &queue).await }
        };
        self.control("delete a queue", delete).await
    }

    fn connection_names(&self) -> Vec<String> {
        vec![self.consuming.name()]
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.shared.pulse.watch()
    }

    async fn close(&self) {
        // Lets subscriptions send what was settled before their connection ends, and no other channel take the place of
        // the publisher's.
        self.shared.closing.cancel();
        let channels = [self.publisher.close(), self.teller.close()];
        self.shared.settling.close();
        let settled = async {
            let goodbye = async {
                for channel in channels.into_iter().flatten() {
                    channel.close().await;
                }
            };
            tokio::join!(goodbye, self.shared.settling.wait())
        };
        let _ = timeout(Duration::from_secs(1), settled).await;
        self.shared.closed.cancel();
        let finished = async {
            tokio::join!(
                self.publishing.finished(),
                self.consuming.finished(),
                self.reading.finished(),
                self.scheduling.finished(),
                self.telling.finished()
            )
        };
        let _ = timeout(Duration::from_secs(5), finished).await;
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        // In the order of `close`, and for its reasons.
        self.shared.closing.cancel();
        self.publisher.close();
        self.teller.close();
        self.shared.closed.cancel();
    }
}
