//! The seam between tasks and brokers: a sealed [`Transport`] trait and its contract.
//!
//! Above it we speak of tasks, below it of messages. Two implementations: [`amqp`] talks to RabbitMQ, [`in_process`]
//! interprets the same topology inside this process. Both pass the same suite, `tests/contract`.
//!
//! Not for applications, and not covered by semantic versioning: it is public only so that the contract suite can
//! reach it.
//!
//! # The contract
//!
//! - **C1 declare** is idempotent, from any number of tasks and processes at once. What exists with other arguments is
//!   [`Error::TopologyConflict`](crate::Error::TopologyConflict), naming the object, the argument and both values; what
//!   exists stays as it was.
//!   A transport that reconnects declares again everything that was declared through it.
//! - **C2 publish** returns `Ok` only when every queue that the message was routed to has stored it. `mandatory` and no
//!   queue: [`PublishError::Unroutable`]. A queue that refuses it (full): [`PublishError::Rejected`]; one that drops
//!   its head when it is full takes it, and its oldest message goes.
//! - **C3 subscribe** hands out at most `prefetch` unsettled deliveries, in queue order, each to one subscriber.
//!   It survives the loss of the connection: deliveries go on, unsettled ones come again.
//! - **C4 settle**: acked is gone; requeued comes again near the head, with `redelivered` set and `returned` one
//!   higher where the queue counts; rejected is dead-lettered if the queue has a dead-letter exchange, else dropped.
//!   A delivery dropped unsettled is requeued. One from before a reconnect settles nothing and harms nothing.
//! - **C5 cancel** stops new deliveries; those at hand can still be settled. **close** (or drop) gives back the rest.
//! - **C6 time to live**: the queue's or the message's own, the shorter; at it the message leaves from the head of the
//!   queue only, to the dead-letter exchange, without its `expiration`.
//! - **C7 alternate exchange**: what an exchange can route nowhere goes to its alternate; that counts as routed.
//! - **C8 delivery limit**: a message returned more often than the queue's limit is dead-lettered.
//! - **C9 single active consumer**: of many subscribers one gets deliveries, until it goes.
//! - **C10 fidelity**: all fields of a [`Message`] arrive as published, headers of every [`Value`] included.
//! - **C11 close**: pending and later publishes end with [`PublishError::Closed`], subscriptions end.
//! - **C12 cancellation**: any future of a transport may be dropped at any await; nothing breaks for others.
//! - **C13 streams**: every subscriber reads everything, in order, from where it starts ([`Start`]), however often
//!   others have read it, and however each delivery is settled: that only makes room for more, and may do so late
//!   (RabbitMQ delivers beyond the prefetch what it stored at once). What is older than the stream's age or beyond its
//!   size goes in due course, the oldest first. A subscriber that reconnects goes on after the last delivery it was
//!   handed, with none left out and none repeated; one that has not had any since its start may then get some from up
//!   to a second before it. A stream that was deleted and made anew meanwhile is read from its start. Its depth is
//!   always 0.
//! - **C14 set_prefetch**: soon after it, up to so many deliveries *more* than are held at that moment may come; those
//!   stay ours to settle, and count no more. Where only one consumer is active, another may take over. In a
//!   stream it may do nothing.
//! - **C15 purge** removes what waits, without dead-lettering it; what subscribers hold stays theirs. No queue:
//!   nothing.
//! - **C16 delete** removes a queue that nobody consumes, with its bindings and all that is in it, which is not
//!   dead-lettered. It is not declared again after a reconnect. No queue: nothing.
//! - **C17 hold**: like subscribe, not of a stream, and over a channel that publishes as well; but it survives nothing.
//!   Once its channel or connection is lost, or the broker cancels its consumer (the queue deleted, a delivery held too
//!   long), deliveries end and those handed out are lost; nothing more is sent; each publish without a confirm is
//!   [`PublishError::Unconfirmed`], and each later one [`PublishError::Unavailable`]: the broker never sees it. A
//!   publish that a queue refuses, perhaps for a moment only, is [`PublishError::Rejected`] at once; one that finds no
//!   exchange or is too large costs the channel, on RabbitMQ. To cancel it is to close it, which gives back all it
//!   holds in one step: where only one consumer is active, the next one gets that before anything published later.
//!   `set_prefetch` does nothing. Up to 65,535 deliveries may be held for long, and settled in any order.
//! - **C18 copies**: the message is routed by its own key and by those in its header `CC`, a list of texts, as one:
//!   each queue stores it once, however many keys lead there, with the header; it is unroutable, or goes to the
//!   alternate exchange, only if no key leads anywhere; rejected if any queue refuses it, though others then hold it.
//! - **C19 health**: once the connection of the consumers of queues is back after a loss, it is told how often that has
//!   happened, why it was lost and how long it was gone. While publishes wait and none is confirmed for 5 s, though there
//!   is a connection, publishing is told to have stalled, until one is confirmed or the connection is lost. Nothing is
//!   told while all is well, and so never in process.

pub mod amqp;
mod health;
pub mod in_process;
mod intercept;

use std::fmt;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Result;
use crate::topology::Topology;

pub use crate::message::Headers;
pub use crate::message::Message;
pub use crate::message::Value;
pub use crate::name::Name;
pub use health::Health;
pub use health::Outage;
pub(crate) use health::Pulse;

pub(crate) mod sealed {
    /// Only this crate implements [`Transport`](super::Transport).
    pub trait Sealed {}
}

/// A broker, as far as taskhare needs one. Sealed; the contract is in the [module's documentation](self).
#[async_trait]
pub trait Transport: sealed::Sealed + fmt::Debug + Send + Sync + 'static {
    /// Creates what is missing of `topology` (C1).
    async fn declare(&self, topology: &Topology) -> Result<()>;

    /// Publishes and waits for the confirm (C2), at most `timeout`; while there is no connection it waits for the next
    /// one and publishes again, with the same message id. The message is kept by the caller until its fate is known.
    async fn publish(&self, publish: &Publish, timeout: Duration) -> Result<(), PublishError>;

    /// The same beside all other publishes (C2): it waits behind none of them, and holds up none.
    async fn publish_apart(&self, publish: &Publish, timeout: Duration) -> Result<(), PublishError> {
        self.publish(publish, timeout).await
    }

    /// Starts to consume (C3).
    async fn subscribe(&self, subscribe: Subscribe) -> Result<Box<dyn Subscription>>;

    /// Consumes over a channel that publishes as well, and that is never made anew (C17). Waits for a connection no
    /// longer than for any answer of the broker.
    async fn hold(&self, subscribe: Subscribe) -> Result<Box<dyn Tenure>>;

    /// How many messages wait in `queue`, ready to be delivered: 0 in a stream (C13); `None` if there is no such queue.
    async fn depth(&self, queue: &Name) -> Result<Option<u64>>;

    /// Removes what waits in `queue`, ready to be delivered, and returns how many that were (C15).
    async fn purge(&self, queue: &Name) -> Result<u64>;

    /// Deletes `queue` with all that is in it (C16).
    async fn delete(&self, queue: &Name) -> Result<()>;

    /// What the connection is called, in the broker's console, over which queues are consumed (not streams, and not what
    /// [`hold`](Self::hold) consumes): no other handle's is called so, and it keeps the name when it is made anew. Whoever
    /// has the broker close it gives back all that is unsettled (C3), and breaks nothing else. None in process.
    fn connection_names(&self) -> Vec<String>;

    /// How it gets on with its broker, from now on (C19).
    fn health(&self) -> watch::Receiver<Health>;

    /// Ends everything (C11). Idempotent.
    async fn close(&self);
}

/// One message and where it goes.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The exchange.
    pub exchange: Name,
    /// The routing key.
    pub key: Name,
    /// Whether to fail if it reaches no queue. True for everything that may hold a task.
    pub mandatory: bool,
    /// The message.
    pub message: Message,
}

/// Why a publish failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The broker took it and found no queue for it.
    #[error("no queue is bound for it")]
    Unroutable,
    /// A queue refused it: it is full.
    #[error("a queue refused it")]
    Rejected,
    /// The user may not write there.
    #[error("no permission: {0}")]
    Forbidden(String),
    /// The broker refuses such publishes: no such exchange, too large for it.
    #[error("the broker refused it: {0}")]
    Refused(String),
    /// It was sent, perhaps more than once, and no confirm came in time. It may be on the broker or not.
    #[error("no confirm within {waited:?}{}", cause(last_loss.as_deref()))]
    Unconfirmed {
        /// How long we waited.
        waited: Duration,
        /// The last loss of a connection meanwhile.
        last_loss: Option<String>,
    },
    /// It was never sent: no connection, or no room among the unconfirmed ones, in time.
    #[error("not sent within {waited:?}{}", cause(last_loss.as_deref()))]
    Unavailable {
        /// How long we waited.
        waited: Duration,
        /// The last loss of a connection, or why there is none.
        last_loss: Option<String>,
    },
    /// The transport is closed.
    #[error("the broker handle is closed")]
    Closed,
}

impl PublishError {
    /// Whether there is no queue for it or no such exchange: to declare both and publish again may help.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Unroutable => true,
            Self::Refused(reason) => reason.contains("no exchange '"),
            _ => false,
        }
    }
}

fn cause(last_loss: Option<&str>) -> String {
    last_loss.map(|why| format!(" (last connection: {why})")).unwrap_or_default()
}

/// What to consume, and how.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// The queue.
    pub queue: Name,
    /// At most so many unsettled deliveries at a time; at least 1.
    pub prefetch: u16,
    /// The consumer tag shown in RabbitMQ's console, made unique by the transport.
    pub tag: String,
    /// Where to start in a stream; `None` for every other queue.
    pub start: Option<Start>,
    /// How long the broker lets this consumer hold a delivery, at least, on a quorum queue of RabbitMQ 4.3 or later;
    /// `None` for the queue's own limit. Older brokers ignore it, and 4.3 refuses it on a classic queue.
    pub consumer_timeout: Option<Duration>,
}

/// Where in a stream a subscriber starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message there is.
    First,
    /// With what is published from now on.
    Next,
    /// With what was published so long ago. RabbitMQ finds it no more exactly than to the messages stored at once, and
    /// to the second.
    Ago(Duration),
    /// With the message at this place, or the next one there is. At most one beyond the last: further out RabbitMQ may
    /// deliver nothing until the stream is so long.
    Offset(u64),
}

impl Subscribe {
    /// Consumes a queue that is no stream.
    pub fn new(queue: Name, prefetch: u16, tag: impl Into<String>) -> Self {
        Self { queue, prefetch, tag: tag.into(), start: None, consumer_timeout: None }
    }
}

/// A consumer of one queue. Dropping it is [`close`](Self::close) without waiting.
#[async_trait]
pub trait Subscription: fmt::Debug + Send {
    /// The next delivery; `None` after [`cancel`](Self::cancel), when no more is at hand, or when the transport is
    /// closed.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>>;

    /// Makes room for up to `prefetch` (at least 1) deliveries more than are held now (C14). Does nothing after
    /// [`cancel`](Self::cancel).
    fn set_prefetch(&mut self, prefetch: u16);

    /// Stops new deliveries (C5). What had arrived is still handed out by [`poll_next`](Self::poll_next).
    async fn cancel(&mut self);

    /// Carries out what was settled and gives back what was not (C5).
    async fn close(&mut self);
}

impl dyn Subscription {
    /// [`poll_next`](Self::poll_next) as a future. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// A consumer of one queue that publishes over the same channel (C17). When that is lost, so is it:
/// [`poll_next`](Subscription::poll_next) ends.
pub trait Tenure: Subscription + Sync {
    /// Whether the broker has dealt with all that was sent over it, as far as one can tell: it is not lost, or a broker that
    /// lives on has ended it in so many words. Otherwise the broker may have died, and a message without a confirm may be
    /// in some of the queues that it was routed to and not in others. So may one, whatever this says, of which a queue has
    /// no majority.
    fn is_orderly(&self) -> bool;

    /// Sends at the call, after everything that was sent before over it; the future tells what became of it, `timeout`
    /// after the call at the latest. It is never sent a second time.
    ///
    /// [`PublishError::Unavailable`] also while 4,096 are without a confirm, those included that have timed out, or the
    /// socket takes no more: then it may be tried again.
    fn publish(&self, publish: &Publish, timeout: Duration) -> BoxFuture<'static, Result<(), PublishError>>;
}

impl dyn Tenure {
    /// [`poll_next`](Subscription::poll_next) as a future. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// A message that is ours to settle, once. Dropped unsettled, it goes back to its queue.
#[must_use = "an unsettled delivery goes back to its queue"]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Whether it was delivered before, to anyone.
    pub redelivered: bool,
    /// How often it came back unsettled, as far as the queue counts that: a classic queue does not (0), a quorum queue
    /// since 4.3 counts failures only.
    pub returned: u32,
    /// Where it lies in its stream, which ascends; `None` if it came from another queue.
    pub offset: Option<u64>,
    /// The exchange it was published to, of what lies in a stream of RabbitMQ.
    pub exchange: Option<Box<str>>,
    /// For its receiver to note when it came, at the latest.
    pub arrived: Option<Instant>,
    tag: u64,
    settle: Option<Arc<dyn Settle>>,
}

/// How a delivery ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Done with.
    Ack,
    /// Back to the queue.
    Requeue,
    /// To the queue's dead-letter exchange.
    Reject,
}

/// The channel a delivery came on. Never blocks; what it does is carried out soon, at the latest by
/// [`Subscription::close`].
pub(crate) trait Settle: Send + Sync {
    fn settle(&self, tag: u64, settlement: Settlement);

    /// Whether the broker has taken back all that came on this channel.
    fn is_lost(&self) -> bool;
}

impl Delivery {
    pub(crate) fn new(message: Message, tag: u64, settle: Arc<dyn Settle>) -> Self {
        Self {
            message,
            redelivered: false,
            returned: 0,
            offset: None,
            exchange: None,
            arrived: None,
            tag,
            settle: Some(settle),
        }
    }

    /// Whether the broker has taken it back, and will give it to somebody again: settling it does nothing.
    pub fn is_lost(&self) -> bool {
        self.settle.as_ref().is_some_and(|settle| settle.is_lost())
    }

    /// It is done: the broker may forget it.
    pub fn ack(self) {
        self.settle(Settlement::Ack);
    }

    /// Its acknowledgement, to be sent later.
    pub(crate) fn into_ack(mut self) -> Ack {
        Ack { tag: self.tag, settle: self.settle.take() }
    }

    /// Somebody else may have it.
    pub fn requeue(self) {
        self.settle(Settlement::Requeue);
    }

    /// The broker shall dead-letter it.
    pub fn reject(self) {
        self.settle(Settlement::Reject);
    }

    fn settle(mut self, settlement: Settlement) {
        self.carry_out(settlement);
    }

    fn carry_out(&mut self, settlement: Settlement) {
        let Some(settle) = self.settle.take() else { return };
        // A stream gives nothing back and keeps everything, and RabbitMQ 3.10 closes the connection of who asks.
        let settlement = if self.offset.is_some() { Settlement::Ack } else { settlement };
        settle.settle(self.tag, settlement);
    }
}

/// The acknowledgement of a delivery. Dropped unsent, the message goes back to its queue.
#[must_use = "an acknowledgement that is not sent gives the message back"]
pub(crate) struct Ack {
    tag: u64,
    settle: Option<Arc<dyn Settle>>,
}

impl Ack {
    pub(crate) fn send(mut self) {
        if let Some(settle) = self.settle.take() {
            settle.settle(self.tag, Settlement::Ack);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.settle(self.tag, Settlement::Requeue);
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("tag", &self.tag).finish_non_exhaustive()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.carry_out(Settlement::Requeue);
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { message, redelivered, returned, offset, exchange: _, arrived: _, tag, settle: _ } = self;
        f.debug_struct("Delivery")
            .field("message", message)
            .field("redelivered", redelivered)
            .field("returned", returned)
            .field("offset", offset)
            .field("tag", tag)
            .finish()
    }
}
