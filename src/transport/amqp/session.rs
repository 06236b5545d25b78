//! [`Session`]: one live connection, from its login to its loss.
//!
//! What the client library does not survive is kept away from it here (`tests/rabbitmq/traps.rs` has one test each):
//! a request runs in a task of its own, so that dropping or timing out the caller never drops the library's future; the
//! drop of a callback, which happens however a connection ends, is the signal of its loss; a lost connection is
//! dropped, never closed; and one that has used up too many channel ids is given up before they run out.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amqprs::Close;
use amqprs::callbacks::ChannelCallback;
use amqprs::callbacks::ConnectionCallback;
use amqprs::channel::Channel;
use amqprs::connection::Connection;
use amqprs::connection::OpenConnectionArguments;
use amqprs::error::Error as ClientError;
#[cfg(feature = "tls")]
use amqprs::security::SecurityCredentials;
#[cfg(feature = "tls")]
use amqprs::tls::TlsAdaptor;
use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::lock::Lock;
#[cfg(feature = "tls")]
use crate::tls::Secured;
use crate::transport::amqp::options::Options;
use crate::transport::amqp::refusal;
use crate::transport::amqp::url::Endpoint;

/// The client library never frees the id of a channel that the broker closed, and panics when all 2047 are gone.
const MOST_CHANNELS_LOST: u32 = 500;

/// Whether a connection lives, and why not. Shared with its callbacks, which must not hold the connection.
#[derive(Debug, Default)]
pub(super) struct Health {
    lost: CancellationToken,
    why: Lock<Option<String>>,
    /// The broker said that it closes it, and lives on.
    is_dismissed: AtomicBool,
    channels_lost: AtomicU32,
}

impl Health {
    /// Gives the connection up. The first reason stays.
    pub(super) fn fail(&self, why: impl Into<String>) {
        self.note(why);
        self.lost.cancel();
    }

    /// The broker closed one of its channels.
    pub(super) fn channel_lost(&self) {
        if self.channels_lost.fetch_add(1, Ordering::Relaxed) + 1 == MOST_CHANNELS_LOST {
            self.fail(format!("made anew after the broker closed {MOST_CHANNELS_LOST} of its channels"));
        }
    }

    /// Returns once the connection is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    pub(super) fn why(&self) -> String {
        self.why.lock().clone().unwrap_or_else(|| "still connected".to_owned())
    }

    /// Whether the broker said that it closes it, and lives on: then it has dealt with all that was sent before.
    pub(super) fn is_dismissed(&self) -> bool {
        self.is_dismissed.load(Ordering::Acquire)
    }

    fn note(&self, why: impl Into<String>) {
        self.why.lock().get_or_insert_with(|| why.into());
    }
}

/// A handle of the client library. Its drop spawns a task, which panics outside of a runtime; so it is dropped inside
/// the one it was made in.
pub(super) struct InRuntime<T> {
    inner: Option<T>,
    runtime: Handle,
}

impl<T> InRuntime<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner: Some(inner), runtime: Handle::current() }
    }
}

impl InRuntime<Channel> {
    /// Dropped open, it would be closed by a task of the client library, which panics if the runtime ends before it.
    /// On an error it is closed already. To be called in a task that runs to its end: a request, say.
    pub(super) async fn close(&self) {
        let channel: Channel = (**self).clone();
        let _ = channel.close().await;
    }
}

impl<T> Deref for InRuntime<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("taken only by drop")
    }
}

impl<T> Drop for InRuntime<T> {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.inner.take());
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is gone, or was given up because no answer came.
    Lost(String),
    /// The client library says no, most often because the channel was closed; the channel's callback knows why.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

/// One live connection.
pub(super) struct Session {
    connection: InRuntime<Connection>,
    health: Arc<Health>,
    request_timeout: Duration,
    since: Instant,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("health", &self.health).finish_non_exhaustive()
    }
}

impl Session {
    /// Connects, logs in and looks whom it speaks to.
    pub(super) async fn open(endpoint: &Endpoint, options: &Options, name: &str) -> Result<Self, Error> {
        let heartbeat = endpoint.heartbeat.unwrap_or(options.heartbeat).as_secs();
        let limit = endpoint.connect_timeout.unwrap_or(options.connect_timeout);
        let mut arguments = OpenConnectionArguments::new(
            &endpoint.address(),
            endpoint.port,
            &endpoint.user,
            &endpoint.password,
        );
        arguments
            .virtual_host(&endpoint.vhost)
            .connection_name(name)
            .heartbeat(u16::try_from(heartbeat).unwrap_or(u16::MAX));
        #[cfg(feature = "tls")]
        if let Some(Secured { connector, server_name, logs_in }) = options.tls.clone() {
            let name = server_name.unwrap_or_else(|| endpoint.host.clone());
            arguments.tls_adaptor(TlsAdaptor::new(connector, name));
            if logs_in {
                arguments.credentials(SecurityCredentials::new_external());
            }
        }
        let started = Instant::now();
        let connection = match timeout(limit, Connection::open(&arguments)).await {
            Ok(Ok(connection)) => InRuntime::new(connection),
            Ok(Err(error)) => return Err(refusal::connect(endpoint, error, started.elapsed())),
            Err(_) => {
                let source = format!("no answer within {limit:?}").into();
                return Err(Error::Connect { hosts: endpoint.to_string(), source });
            }
        };
        let health = Arc::new(Health::default());
        // On an error the connection is gone already, and the callback was dropped: lost.
        let _ = connection.register_callback(OnConnection(health.clone())).await;
        let properties = connection.server_properties();
        if !is_supported(properties.product(), properties.version()) {
            return Err(Error::UnsupportedBroker {
                host: endpoint.to_string(),
                product: properties.product().to_owned(),
                version: properties.version().to_owned(),
            });
        }
        Ok(Self { connection, health, request_timeout: options.request_timeout, since: Instant::now() })
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Carries out `work`, which must do all requests on a channel in order, to its end. Whoever drops this future
    /// stops waiting, not the work. If no answer comes, the connection is given up.
    pub(super) async fn request<T: Send + 'static>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, ClientError>> + Send + 'static,
    ) -> Result<T, Failure> {
        let (health, limit) = (&self.health, self.request_timeout);
        let task = tokio::spawn(work);
        tokio::select! {
            biased;
            answer = timeout(limit, task) => match answer {
                Ok(Ok(Ok(value))) => Ok(value),
                Ok(Ok(Err(error))) if health.is_lost() => Err(Failure::Lost(format!("{}: {error}", health.why()))),
                Ok(Ok(Err(error))) => Err(Failure::Refused(error.to_string())),
                Ok(Err(panic)) => {
                    health.fail(format!("the client failed to {what}: {panic}"));
                    Err(Failure::Lost(health.why()))
                }
                Err(_) => {
                    health.fail(format!("no answer to {what} within {limit:?}"));
                    Err(Failure::Lost(health.why()))
                }
            },
            () = health.lost() => Err(Failure::Lost(health.why())),
        }
    }

    /// The client's connection, to open channels in a request.
    pub(super) fn client(&self) -> Connection {
        self.connection.clone()
    }

    /// Says goodbye, at the end of everything.
    pub(super) async fn close(&self) {
        self.health.note("closed");
        let connection = self.connection.clone();
        // Any frame that arrives before the answer makes it an error; the connection ends all the same.
        let goodbye = tokio::spawn(async move { connection.close().await });
        let _ = timeout(Duration::from_secs(2), goodbye).await;
        self.health.fail("closed");
    }
}

/// A channel whose callback is in place before anything can arrive. To be called inside a request.
pub(super) async fn open_channel(
    connection: &Connection,
    callback: impl ChannelCallback + Send + 'static,
) -> Result<InRuntime<Channel>, ClientError> {
    let channel = InRuntime::new(connection.open_channel(None).await?);
    channel.register_callback(callback).await?;
    Ok(channel)
}

/// RabbitMQ from 3.10 on: older ones lack at-least-once dead-lettering.
fn is_supported(product: &str, version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    product == "RabbitMQ" && (major, minor) >= (3, 10)
}

/// Awaits nothing: it runs in the task that reads the socket.
struct OnConnection(Arc<Health>);

#[async_trait]
impl ConnectionCallback for OnConnection {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), ClientError> {
        let ends_itself = refusal::is_end_of_broker(close.reply_code(), close.reply_text());
        self.0.is_dismissed.store(!ends_itself, Ordering::Release);
        self.0.note(format!("{} {}", close.reply_code(), close.reply_text()));
        Ok(())
    }

    async fn blocked(&mut self, _: &Connection, _: String) {}

    async fn unblocked(&mut self, _: &Connection) {}

    async fn secret_updated(&mut self, _: &Connection) {}
}

impl Drop for OnConnection {
    fn drop(&mut self) {
        self.0.fail("the socket was closed, or the broker fell silent");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rabbitmq_from_3_10_on_is_supported() {
        let table = [
            ("RabbitMQ", "3.10.0", true),
            ("RabbitMQ", "3.10.8", true),
            ("RabbitMQ", "3.9.29", false),
            ("RabbitMQ", "3.13.7+build", true),
            ("RabbitMQ", "4.0.5", true),
            ("RabbitMQ", "4.3.0-rc.1", true),
            ("RabbitMQ", "4.3-alpha", true),
            ("RabbitMQ", "unknown", false),
            ("LavinMQ", "4.0.0", false),
        ];
        for (product, version, expected) in table {
            assert_eq!(is_supported(product, version), expected, "{product} {version}");
        }
    }

    #[test]
    fn the_first_reason_of_a_loss_stays() {
        let health = Health::default();
        health.note("320 CONNECTION_FORCED");
        health.fail("socket closed");
        assert!(health.is_lost());
        assert_eq!(health.why(), "320 CONNECTION_FORCED");
    }

    #[test]
    fn a_connection_is_given_up_before_its_channel_ids_run_out() {
        let health = Health::default();
        for _ in 1..MOST_CHANNELS_LOST {
            health.channel_lost();
        }
        assert!(!health.is_lost());
        health.channel_lost();
        assert!(health.is_lost());
    }
}
