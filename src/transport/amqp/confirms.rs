//! [`Confirms`]: one channel in confirm mode, and who waits for which of its confirms.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use amqprs::BasicProperties;
use amqprs::Return;
use amqprs::channel::BasicPublishArguments;
use amqprs::channel::Channel;
use amqprs::channel::ConfirmSelectArguments;
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::Lock;
use crate::transport::Publish;
use crate::transport::amqp::callback::Callback;
use crate::transport::amqp::declare::Closing;
use crate::transport::amqp::properties;
use crate::transport::amqp::refusal::Closed;
use crate::transport::amqp::session::Failure;
use crate::transport::amqp::session::InRuntime;
use crate::transport::amqp::session::Session;
use crate::transport::amqp::session::open_channel;
use crate::transport::amqp::stall::Stall;

/// How many publishes of one channel may be without a confirm, those included whose callers have given up. Well below
/// the client's queue of 8192 frames, so that a publish never has to wait there.
///
/// Once so many are, publishing stops until the broker confirms again. Another channel would not help: a queue that has
/// lost its majority makes the broker stop reading from the whole connection after a few dozen publishes, just as an
/// alarm does, and so would the next connection, once the same publishes are on it.
const MOST_UNCONFIRMED: usize = 4096;

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acked,
    Nacked,
    Returned,
    /// The broker closed the channel, because of this publish or another.
    Closed(Closed),
    /// The connection was lost.
    Lost,
    /// The caller's time is up.
    Expired,
}

/// Why nothing was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The channel is dead.
    Dead,
    /// The client's queue is full: the socket is stuck.
    Stuck,
}

/// The unconfirmed publishes of a channel in the order of their tags. Pure.
#[derive(Debug, Default)]
struct Ledger {
    /// The tag before the first pending one.
    base: u64,
    pending: VecDeque<Pending>,
    /// How many confirms have come.
    confirms: u64,
    is_dead: bool,
}

#[derive(Debug)]
struct Pending {
    /// Gone once the caller has its answer.
    reply: Option<oneshot::Sender<Outcome>>,
    /// When the caller gives up.
    deadline: Instant,
    /// The broker has confirmed it, which may be out of order.
    is_settled: bool,
    /// Of a mandatory publish, to find it when it is returned: a return carries no tag.
    fingerprint: Option<u64>,
    is_returned: bool,
}

impl Ledger {
    /// Gives the next tag to a publish.
    fn push(&mut self, reply: oneshot::Sender<Outcome>, deadline: Instant, fingerprint: Option<u64>) {
        let reply = Some(reply);
        let pending = Pending { reply, deadline, is_settled: false, fingerprint, is_returned: false };
        self.pending.push_back(pending);
    }

    /// Takes the last tag back: nothing was sent with it.
    fn pop(&mut self) {
        self.pending.pop_back();
    }

    /// The broker returned a message; its ack follows.
    fn returned(&mut self, fingerprint: u64) {
        let matches =
            |it: &&mut Pending| it.fingerprint == Some(fingerprint) && !it.is_returned && !it.is_settled;
        if let Some(pending) = self.pending.iter_mut().find(matches) {
            pending.is_returned = true;
        }
    }

    /// The broker confirmed `tag`, or all up to it.
    fn confirmed(&mut self, tag: u64, multiple: bool, outcome: &Outcome) {
        self.confirms += 1;
        let Some(last) = tag.checked_sub(self.base + 1).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let first = if multiple { 0 } else { last };
        for index in first..=last {
            let Some(pending) = self.pending.get_mut(index) else { break };
            pending.is_settled = true;
            let outcome = if pending.is_returned { Outcome::Returned } else { outcome.clone() };
            if let Some(reply) = pending.reply.take() {
                // Whoever has given up has dropped the other end.
                let _ = reply.send(outcome);
            }
        }
        while self.pending.front().is_some_and(|pending| pending.is_settled) {
            self.pending.pop_front();
            self.base += 1;
        }
    }

    /// Tells those whose time is up. Their tags stay taken until the broker confirms them.
    fn expire(&mut self, now: Instant) {
        for pending in &mut self.pending {
            if pending.deadline <= now
                && let Some(reply) = pending.reply.take()
            {
                let _ = reply.send(Outcome::Expired);
            }
        }
    }

    /// The channel is gone, and nobody knows what became of the rest.
    fn die(&mut self, outcome: &Outcome) {
        self.is_dead = true;
        for pending in self.pending.drain(..) {
            if let Some(reply) = pending.reply {
                let _ = reply.send(outcome.clone());
            }
        }
    }
}

/// One channel in confirm mode.
pub(super) struct Confirms {
    channel: InRuntime<Channel>,
    unconfirmed: Arc<Unconfirmed>,
}

/// What the publishes of a channel and its callback share.
pub(super) struct Unconfirmed {
    /// Held while a tag is given and its frame queued, so that tags follow the order on the wire; and while the channel
    /// is declared dead, so that nothing is queued after that.
    ledger: Lock<Ledger>,
    dead: CancellationToken,
    /// The same, for a look that takes no lock.
    is_dead: AtomicBool,
}

impl Unconfirmed {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            ledger: Lock::default(),
            dead: CancellationToken::new(),
            is_dead: AtomicBool::new(false),
        })
    }

    pub(super) fn confirmed(&self, tag: u64, multiple: bool, outcome: &Outcome) {
        self.ledger.lock().confirmed(tag, multiple, outcome);
    }

    /// The broker returned a message; its ack follows.
    pub(super) fn returned(&self, ret: &Return, properties: &BasicProperties, size: usize) {
        let id = properties.message_id().map(String::as_str);
        self.ledger.lock().returned(fingerprint(ret.exchange(), ret.routing_key(), id, size));
    }

    /// Nothing is sent from now on, and everyone who waits hears `outcome`. Called before the client answers the
    /// broker's close: a publish after that answer costs the whole connection.
    pub(super) fn die(&self, outcome: &Outcome) {
        self.ledger.lock().die(outcome);
        self.is_dead.store(true, Ordering::Release);
        self.dead.cancel();
    }
}

impl Confirms {
    pub(super) async fn open(session: &Session) -> Result<Self, Failure> {
        let unconfirmed = Unconfirmed::new();
        let closing = Closing::new(session.health().clone());
        let callback = Callback { closing, deliveries: None, publishes: Some(unconfirmed.clone()) };
        let client = session.client();
        let work = async move {
            let channel = open_channel(&client, callback).await?;
            channel.confirm_select(ConfirmSelectArguments::default()).await?;
            Ok(channel)
        };
        let channel = session.request("open a channel to publish", work).await?;
        Ok(Self { channel, unconfirmed })
    }

    /// Over a channel that is in confirm mode already, and whose callback knows `unconfirmed`.
    pub(super) fn over(channel: Channel, unconfirmed: Arc<Unconfirmed>) -> Self {
        Self { channel: InRuntime::new(channel), unconfirmed }
    }

    /// Nobody waits for confirms any more.
    pub(super) fn abandon(&self) {
        self.unconfirmed.die(&Outcome::Lost);
    }

    /// Closes the channel, at the end of everything.
    pub(super) async fn close(self: &Arc<Self>) {
        let confirms = self.clone();
        let _ = tokio::spawn(async move { confirms.channel.close().await }).await;
    }

    /// Returns once the channel is dead.
    pub(super) async fn dead(&self) {
        self.unconfirmed.dead.cancelled().await;
    }

    pub(super) fn is_dead(&self) -> bool {
        self.unconfirmed.is_dead.load(Ordering::Acquire)
    }

    /// Tells those whose time is up. Whether the broker confirms nothing.
    pub(super) fn expire(&self, stall: &mut Stall, now: Instant) -> bool {
        let mut ledger = self.unconfirmed.ledger.lock();
        ledger.expire(now);
        stall.look(ledger.confirms, !ledger.pending.is_empty(), now)
    }

    /// Sends; the outcome comes later, soon after `deadline` at the latest.
    pub(super) fn send(
        &self,
        publish: &Publish,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Outcome>, NotSent> {
        let (reply, outcome) = oneshot::channel();
        let message = &publish.message;
        let fingerprint = publish.mandatory.then(|| {
            let (exchange, key) = (publish.exchange.as_str(), publish.key.as_str());
            fingerprint(exchange, key, message.id.as_deref(), message.body.len())
        });
        let mut arguments = BasicPublishArguments::new(publish.exchange.as_str(), publish.key.as_str());
        arguments.mandatory = publish.mandatory;
        let sending =
            self.channel.basic_publish(properties::encode(message), message.body.clone(), arguments);
        let sending = tokio::task::unconstrained(sending);
        let mut ledger = self.unconfirmed.ledger.lock();
        if ledger.is_dead {
            return Err(NotSent::Dead);
        }
        if ledger.pending.len() >= MOST_UNCONFIRMED {
            return Err(NotSent::Stuck);
        }
        ledger.push(reply, deadline, fingerprint);
        let not_sent = match sending.now_or_never() {
            Some(Ok(())) => return Ok(outcome),
            Some(Err(_)) => NotSent::Dead,
            None => NotSent::Stuck,
        };
        ledger.pop();
        Err(not_sent)
    }
}

/// Tells the publishes of a window apart, well enough and for less than a hash that withstands attacks.
fn fingerprint(exchange: &str, key: &str, id: Option<&str>, size: usize) -> u64 {
    let texts = [exchange, key, id.unwrap_or_default()];
    let bytes = texts.iter().flat_map(|text| text.as_bytes().chunks(8));
    bytes.fold(size as u64, |mixed, chunk| {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        (mixed.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(count: u64) -> (Ledger, Vec<oneshot::Receiver<Outcome>>) {
        let mut ledger = Ledger::default();
        let outcomes = (0..count)
            .map(|id| {
                let (reply, outcome) = oneshot::channel();
                ledger.push(reply, Instant::now(), Some(id));
                outcome
            })
            .collect();
        (ledger, outcomes)
    }

    #[test]
    fn confirms_reach_their_publish_in_any_order_and_number() {
        use Outcome::Acked;
        use Outcome::Nacked;
        type Step = (u64, bool, Outcome);
        // Tag, multiple, outcome, how many are forgotten; then what each of five publishes heard.
        let table: [(Vec<Step>, [Option<Outcome>; 5]); 6] = [
            (vec![(1, false, Acked)], [Some(Acked), None, None, None, None]),
            (vec![(3, true, Acked)], [Some(Acked), Some(Acked), Some(Acked), None, None]),
            (vec![(2, false, Nacked), (1, false, Acked)], [Some(Acked), Some(Nacked), None, None, None]),
            (
                vec![(4, false, Nacked), (5, true, Acked)],
                [Some(Acked), Some(Acked), Some(Acked), Some(Nacked), Some(Acked)],
            ),
            // Tags that were never given, or are settled already.
            (vec![(0, false, Acked), (9, false, Acked)], [None, None, None, None, None]),
            (vec![(1, false, Acked), (1, false, Nacked)], [Some(Acked), None, None, None, None]),
        ];
        for (steps, expected) in table {
            let (mut ledger, mut outcomes) = ledger(5);
            for (tag, multiple, outcome) in steps.clone() {
                ledger.confirmed(tag, multiple, &outcome);
            }
            let heard: Vec<_> = outcomes.iter_mut().map(|outcome| outcome.try_recv().ok()).collect();
            assert_eq!(heard, expected, "{steps:?}");
        }
    }

    #[test]
    fn a_returned_message_is_unroutable_once_it_is_confirmed() {
        let (mut ledger, mut outcomes) = ledger(3);
        ledger.returned(1);
        ledger.returned(77);
        assert!(outcomes[1].try_recv().is_err(), "the confirm is still to come");
        ledger.confirmed(3, true, &Outcome::Acked);
        let heard: Vec<_> = outcomes.iter_mut().map(|outcome| outcome.try_recv().unwrap()).collect();
        assert_eq!(heard, [Outcome::Acked, Outcome::Returned, Outcome::Acked]);
    }

    #[test]
    fn who_is_out_of_time_hears_so_and_the_tag_stays_taken() {
        let (mut ledger, mut outcomes) = ledger(2);
        ledger.expire(Instant::now());
        assert_eq!(outcomes[0].try_recv(), Ok(Outcome::Expired));
        assert_eq!(ledger.pending.len(), 2);
        ledger.confirmed(2, true, &Outcome::Acked);
        assert_eq!((ledger.pending.len(), ledger.base), (0, 2));
    }

    #[test]
    fn the_death_of_the_channel_reaches_everyone_who_waits() {
        let (mut ledger, mut outcomes) = ledger(3);
        ledger.confirmed(2, false, &Outcome::Acked);
        ledger.die(&Outcome::Lost);
        let heard: Vec<_> = outcomes.iter_mut().map(|outcome| outcome.try_recv().unwrap()).collect();
        assert_eq!(heard, [Outcome::Lost, Outcome::Acked, Outcome::Lost]);
        assert!(ledger.is_dead);
    }

    #[test]
    fn a_tag_that_was_taken_back_is_given_again() {
        let (mut ledger, mut outcomes) = ledger(1);
        let (reply, _) = oneshot::channel();
        ledger.push(reply, Instant::now(), None);
        ledger.pop();
        let (reply, outcome) = oneshot::channel();
        ledger.push(reply, Instant::now(), None);
        outcomes.push(outcome);
        ledger.confirmed(2, false, &Outcome::Nacked);
        assert_eq!(outcomes[1].try_recv(), Ok(Outcome::Nacked));
    }
}
