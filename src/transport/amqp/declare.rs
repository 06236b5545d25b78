//! A [`Topology`] as requests, in its order, on a channel of their own.

use std::sync::Arc;
use std::time::Duration;

use amqprs::Ack;
use amqprs::BasicProperties;
use amqprs::Cancel;
use amqprs::CloseChannel;
use amqprs::FieldTable;
use amqprs::Nack;
use amqprs::Return;
use amqprs::callbacks::ChannelCallback;
use amqprs::channel::Channel;
use amqprs::channel::ExchangeBindArguments;
use amqprs::channel::ExchangeDeclareArguments;
use amqprs::channel::QueueBindArguments;
use amqprs::channel::QueueDeclareArguments;
use amqprs::channel::QueueDeleteArguments;
use amqprs::channel::QueuePurgeArguments;
use amqprs::error::Error as ClientError;
use async_trait::async_trait;

use crate::error::Error;
use crate::lock::Lock;
use crate::message::Headers;
use crate::name::Name;
use crate::topology::Binding;
use crate::topology::Exchange;
use crate::topology::Queue;
use crate::topology::Target;
use crate::topology::Topology;
use crate::transport::amqp::properties;
use crate::transport::amqp::refusal;
use crate::transport::amqp::refusal::Closed;
use crate::transport::amqp::session::Failure;
use crate::transport::amqp::session::Health;
use crate::transport::amqp::session::Session;
use crate::transport::amqp::session::open_channel;

/// How often a refusal that may pass is tried again, with a pause that doubles from 50 ms: 1.5 seconds in all.
const RETRIES: u32 = 5;

/// Why declaring failed.
#[derive(Debug)]
pub(super) enum DeclareError {
    /// The connection was lost meanwhile: to be done again on the next.
    Lost(String),
    /// The broker refused.
    Refused(Error),
}

#[derive(Clone, Debug)]
enum Object {
    Exchange(Exchange),
    Queue(Queue),
    Binding(Binding),
}

/// Creates what is missing of `topology`.
pub(super) async fn declare(session: &Session, topology: &Topology) -> Result<(), DeclareError> {
    let exchanges = topology.exchanges.iter().cloned().map(Object::Exchange);
    let queues = topology.queues.iter().cloned().map(Object::Queue);
    let bindings = topology.bindings.iter().cloned().map(Object::Binding);
    let objects: Arc<[Object]> = exchanges.chain(queues).chain(bindings).collect();
    let Stopped { closed, .. } = declare_from(session, objects.clone(), 0, Pace::Together).await?;
    if closed.is_none() {
        return Ok(());
    }
    // Once more, to see which of them the broker refuses.
    let (mut done, mut retries) = (0, 0);
    while done < objects.len() {
        let Stopped { at, closed } = declare_from(session, objects.clone(), done, Pace::OneByOne).await?;
        let Some(closed) = closed else { return Ok(()) };
        retries = if at > done { 0 } else { retries };
        done = at;
        if retries == RETRIES || !refusal::is_transient(&closed) {
            return Err(DeclareError::Refused(refusal::declare(&objects[at].to_string(), &closed)));
        }
        let pause = Duration::from_millis(50) * 2_u32.pow(retries);
        retries += 1;
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
    }
    Ok(())
}

/// How the broker is asked. There may be hundreds of objects, and most often all of them exist: without an answer to
/// each that takes a fifth of the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// It answers to the last only, if it refuses none.
    Together,
    /// It answers to each.
    OneByOne,
}

/// How far it came, and why no further.
struct Stopped {
    at: usize,
    closed: Option<Closed>,
}

async fn declare_from(
    session: &Session,
    objects: Arc<[Object]>,
    from: usize,
    pace: Pace,
) -> Result<Stopped, DeclareError> {
    let closing = Closing::new(session.health().clone());
    let (client, callback) = (session.client(), closing.clone());
    let work = async move {
        let channel = open_channel(&client, callback).await?;
        for (at, object) in objects.iter().enumerate().skip(from) {
            let no_wait = pace == Pace::Together && at + 1 < objects.len();
            if object.declare(&channel, no_wait).await.is_err() {
                return Ok(Some(at));
            }
        }
        channel.close().await;
        Ok(None)
    };
    match session.request("declare", work).await {
        Ok(None) => Ok(Stopped { at: usize::MAX, closed: None }),
        Ok(Some(at)) => match closing.reason() {
            Some(closed) => Ok(Stopped { at, closed: Some(closed) }),
            None => Err(lost(session.health().why())),
        },
        Err(Failure::Lost(why) | Failure::Refused(why)) => Err(lost(why)),
    }
}

fn lost(why: String) -> DeclareError {
    refusal::disabled(&why).map_or(DeclareError::Lost(why), DeclareError::Refused)
}

impl Object {
    async fn declare(&self, channel: &Channel, no_wait: bool) -> Result<(), ClientError> {
        match self {
            Self::Exchange(exchange) => {
                let mut arguments =
                    ExchangeDeclareArguments::new(exchange.name.as_str(), exchange.kind.as_str());
                arguments.durable(true).no_wait(no_wait);
                if let Some(alternate) = &exchange.alternate {
                    let table: Headers = [("alternate-exchange", alternate.as_str())].into_iter().collect();
                    arguments.arguments(properties::table(&table));
                }
                channel.exchange_declare(arguments).await
            }
            Self::Queue(queue) => {
                let mut arguments = QueueDeclareArguments::durable_client_named(queue.name.as_str());
                arguments.no_wait(no_wait).arguments(properties::table(&queue.arguments()));
                channel.queue_declare(arguments).await.map(drop)
            }
            Self::Binding(Binding { exchange, key, to: Target::Queue(queue) }) => {
                let mut arguments = QueueBindArguments::new(queue.as_str(), exchange.as_str(), key.as_str());
                arguments.no_wait(no_wait);
                channel.queue_bind(arguments).await
            }
            Self::Binding(Binding { exchange, key, to: Target::Exchange(target) }) => {
                let mut arguments =
                    ExchangeBindArguments::new(target.as_str(), exchange.as_str(), key.as_str());
                arguments.no_wait(no_wait);
                channel.exchange_bind(arguments).await
            }
        }
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchange(exchange) => write!(f, "exchange '{}'", exchange.name),
            Self::Queue(queue) => write!(f, "queue '{}'", queue.name),
            Self::Binding(Binding { exchange, key, to }) => {
                let (kind, to) = match to {
                    Target::Queue(name) => ("queue", name),
                    Target::Exchange(name) => ("exchange", name),
                };
                write!(f, "binding of exchange '{exchange}' to {kind} '{to}' by key '{key}'")
            }
        }
    }
}

/// How many messages are ready in `queue`; `None` if there is none.
pub(super) async fn depth(session: &Session, queue: &Name) -> Result<Option<u64>, DeclareError> {
    ask(session, queue, Question::Depth).await
}

/// Removes what is ready in `queue`, and returns how many messages that were.
pub(super) async fn purge(session: &Session, queue: &Name) -> Result<u64, DeclareError> {
    Ok(ask(session, queue, Question::Purge).await?.unwrap_or(0))
}

/// Deletes `queue`; nothing if there is none.
pub(super) async fn delete(session: &Session, queue: &Name) -> Result<(), DeclareError> {
    ask(session, queue, Question::Delete).await.map(drop)
}

/// What a queue answers with a number of messages.
#[derive(Clone, Copy)]
enum Question {
    Depth,
    Purge,
    Delete,
}

impl Question {
    fn as_str(self) -> &'static str {
        match self {
            Self::Depth => "count messages",
            Self::Purge => "purge a queue",
            Self::Delete => "delete a queue",
        }
    }

    async fn of(self, channel: &Channel, queue: &Name) -> Result<u64, ClientError> {
        let count = match self {
            Self::Depth => {
                let mut arguments = QueueDeclareArguments::new(queue.as_str());
                arguments.passive(true).arguments(FieldTable::new());
                channel.queue_declare(arguments).await?.map(|(_, ready, _)| ready)
            }
            Self::Purge => channel.queue_purge(QueuePurgeArguments::new(queue.as_str())).await?,
            Self::Delete => channel.queue_delete(QueueDeleteArguments::new(queue.as_str())).await?,
        };
        Ok(count.map_or(0, u64::from))
    }
}

/// On a channel of its own; `None` if there is no such queue.
async fn ask(session: &Session, queue: &Name, question: Question) -> Result<Option<u64>, DeclareError> {
    let closing = Closing::new(session.health().clone());
    let (client, callback) = (session.client(), closing.clone());
    let name = queue.clone();
    let work = async move {
        let channel = open_channel(&client, callback).await?;
        let answer = question.of(&channel, &name).await;
        channel.close().await;
        Ok(answer)
    };
    match session.request(question.as_str(), work).await {
        Ok(Ok(messages)) => Ok(Some(messages)),
        Ok(Err(_)) => match closing.reason() {
            Some(Closed { code: 404, text }) if text.contains("no queue") => Ok(None),
            Some(closed) => {
                Err(DeclareError::Refused(refusal::declare(&format!("queue '{queue}'"), &closed)))
            }
            None => Err(DeclareError::Lost(session.health().why())),
        },
        Err(Failure::Lost(why) | Failure::Refused(why)) => Err(DeclareError::Lost(why)),
    }
}

/// Remembers why the broker closed a channel. Awaits nothing: it runs in the task that answers the channel's requests.
#[derive(Clone)]
pub(super) struct Closing {
    health: Arc<Health>,
    reason: Arc<Lock<Option<Closed>>>,
}

impl Closing {
    pub(super) fn new(health: Arc<Health>) -> Self {
        Self { health, reason: Arc::default() }
    }

    pub(super) fn reason(&self) -> Option<Closed> {
        self.reason.lock().clone()
    }

    /// Whether the broker has dealt with all that was sent: it is there still, or said that it closes the channel or the
    /// connection, and lives on.
    pub(super) fn is_orderly(&self) -> bool {
        !self.health.is_lost() || self.health.is_dismissed() || self.reason().is_some()
    }

    /// Why the channel has ended.
    pub(super) fn why(&self) -> String {
        match self.reason() {
            Some(closed) => closed.text,
            None if self.health.is_lost() => self.health.why(),
            None => "the consumer was closed or cancelled".to_owned(),
        }
    }

    pub(super) fn note(&self, close: &CloseChannel) -> Closed {
        let closed = Closed { code: close.reply_code(), text: close.reply_text().clone() };
        *self.reason.lock() = Some(closed.clone());
        self.health.channel_lost();
        closed
    }
}

#[async_trait]
impl ChannelCallback for Closing {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), ClientError> {
        self.note(&close);
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, _: Cancel) -> Result<(), ClientError> {
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, ClientError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, _: Ack) {}

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}
