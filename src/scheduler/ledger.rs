//! [`Ledger`]: the queue `{ns}.schedules`, as long as it is ours.
//!
//! What is published goes over the channel that the deliveries come on, so a scheduler that the broker has given up can
//! publish nothing any more. And what is published to the ledger comes back to whom it is delivered: who gets its own
//! message back was the active one when it sent it.

use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::message::Message;
use crate::name::Name;
use crate::schedule::Record;
use crate::task::TaskId;
use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Tenure;

/// How long after a message that came back was sent ticks may be fired. Less than any broker takes to make another
/// consumer active while this one still believes to be.
const LEASE: Duration = Duration::from_secs(3);

/// How long one that was sent may take to come back, and how long a confirm may.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The ledger, while it is ours.
pub(super) struct Ledger {
    tenure: Box<dyn Tenure>,
    exchange: Name,
    key: Name,
    confirms: FuturesUnordered<Confirm>,
    /// The marker on its way back, and when it was sent.
    marker: Option<(TaskId, Instant)>,
    /// When the last message was sent that has come back.
    proof: Option<Instant>,
    /// Bytes published so far, about.
    written: u64,
    /// The last marker that was delivered. Held, so that who is next learns of it even if there are no schedules.
    pin: Option<(Delivery, Instant)>,
    /// What is of a later release, kept for a scheduler that can read it.
    unread: Vec<Delivery>,
    /// Something in it was delivered before, to whoever had it then.
    has_past: bool,
}

/// A publish on its way.
type Confirm = Pin<Box<dyn Future<Output = Fate> + Send>>;

/// What became of a publish.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) schedule: Arc<str>,
    pub(super) version: u64,
    pub(super) result: Result<(), PublishError>,
}

/// Something from the broker.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(super) enum Event {
    Delivered(Record, Delivery),
    /// A marker of ours is back: all that was in the ledger before it has been delivered.
    Marked,
    /// A marker of another: the ledger is ours.
    Roused,
    Confirmed(Fate),
}

impl Ledger {
    /// `exchange` and `key` lead to the queue that is held.
    pub(super) fn new(tenure: Box<dyn Tenure>, exchange: Name, key: Name) -> Self {
        Self {
            tenure,
            exchange,
            key,
            confirms: FuturesUnordered::new(),
            marker: None,
            proof: None,
            written: 0,
            pin: None,
            unread: Vec::new(),
            has_past: false,
        }
    }

    /// The next event; `None` once it is not ours any more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(Some(fate)) = self.confirms.poll_next_unpin(cx) {
            return Poll::Ready(Some(Event::Confirmed(fate)));
        }
        loop {
            let Poll::Ready(delivery) = self.tenure.poll_next(cx) else { return Poll::Pending };
            let Some(mut delivery) = delivery else { return Poll::Ready(None) };
            self.has_past |= delivery.redelivered;
            let may_be_newer = Record::may_be_newer(&delivery.message);
            match Record::read(std::mem::take(&mut delivery.message)) {
                Ok(Record::Marker(id)) => {
                    if let Some((older, _)) = self.pin.replace((delivery, Instant::now())) {
                        older.ack();
                    }
                    let Some((_, sent)) = self.marker.take_if(|(ours, _)| *ours == id) else {
                        return Poll::Ready(Some(Event::Roused));
                    };
                    self.prove(sent);
                    return Poll::Ready(Some(Event::Marked));
                }
                Ok(record) => return Poll::Ready(Some(Event::Delivered(record, delivery))),
                Err(why) if may_be_newer => {
                    tracing::error!(broker.queue = %self.key, reason = why, "a schedule, or a command, that this release does not understand: it is left alone");
                    self.leave_alone(delivery);
                }
                Err(why) => {
                    tracing::error!(broker.queue = %self.key, reason = why, "message is nothing of a scheduler's: dead-lettered");
                    delivery.reject();
                }
            }
        }
    }

    /// Publishes to the ledger, alone or beside a lane.
    pub(super) fn publish(&mut self, schedule: &Arc<str>, version: u64, publish: &Publish) {
        self.written += (publish.message.body.len() + OVERHEAD) as u64;
        let (schedule, sending) = (schedule.clone(), self.tenure.publish(publish, PATIENCE));
        self.confirms.push(Box::pin(async move { Fate { schedule, version, result: sending.await } }));
    }

    /// What leads a message into the ledger alone.
    pub(super) fn only(&self, message: Message) -> Publish {
        Publish { exchange: self.exchange.clone(), key: self.key.clone(), mandatory: true, message }
    }

    /// The routing key of the ledger.
    pub(super) fn key(&self) -> &Name {
        &self.key
    }

    /// Sends a marker, unless one is on its way.
    pub(super) fn mark(&mut self) {
        if self.marker.is_none() {
            let id = TaskId::new();
            self.marker = Some((id, Instant::now()));
            // Its confirm tells nothing that its return does not.
            let publish = self.only(Record::marker(id));
            drop(self.tenure.publish(&publish, PATIENCE));
        }
    }

    /// Rouses whoever's the ledger is, which otherwise does not know as long as it is empty.
    pub(super) fn rouse(&self) {
        let publish = self.only(Record::marker(TaskId::new()));
        drop(self.tenure.publish(&publish, PATIENCE));
    }

    /// Since when a marker is held.
    pub(super) fn pinned(&self) -> Option<Instant> {
        self.pin.as_ref().map(|(_, since)| *since)
    }

    /// Whether nobody has had it before. Who had it held a marker or an entry at least.
    pub(super) fn is_new(&self) -> bool {
        !self.has_past && self.unread.is_empty()
    }

    /// Keeps what is of a later release: to give it back is to get it again at once.
    pub(super) fn leave_alone(&mut self, unread: Delivery) {
        self.unread.push(unread);
    }

    /// A message of ours that was sent then has come back.
    pub(super) fn prove(&mut self, sent: Instant) {
        self.proof = self.proof.max(Some(sent));
    }

    /// Whether something that was sent then, or later, has come back.
    pub(super) fn is_proven_since(&self, sent: Instant) -> bool {
        self.proof >= Some(sent)
    }

    /// Until when ticks may be fired.
    pub(super) fn lease(&self) -> Option<Instant> {
        Some(self.proof? + LEASE)
    }

    /// Whether a marker should long be back: nobody knows any more whose the ledger is.
    pub(super) fn is_silent(&self) -> bool {
        self.marker.is_some_and(|(_, sent)| sent.elapsed() > PATIENCE)
    }

    /// How many publishes are without a confirm.
    pub(super) fn unconfirmed(&self) -> usize {
        self.confirms.len()
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the broker has dealt with all that was published.
    pub(super) fn is_orderly(&self) -> bool {
        self.tenure.is_orderly()
    }

    /// Carries out what was settled, and hands over what is held.
    pub(super) async fn close(mut self) {
        self.tenure.close().await;
    }
}

/// Of a message beside its payload, in bytes, about.
const OVERHEAD: usize = 1024;
