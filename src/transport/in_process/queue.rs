//! [`Queue`]: one queue as a state machine. It is told the time, and says whom to wake.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;

use tokio::time::Instant;

use crate::message::Message;
use crate::topology;
use crate::topology::QueueKind;
use crate::transport::Settlement;

use super::death::Reason;
use super::exchange::Origin;

/// How many dead letters of an at-least-once queue may wait for a target at a time, as in RabbitMQ: so many that no
/// target takes hold up all behind them.
const DEAD_LETTER_WINDOW: usize = 32;

/// Which subscriber; unique in the broker.
pub(super) type SubscriberId = u64;

#[derive(Debug)]
pub(super) struct Queue {
    declared: topology::Queue,
    /// By place, so that what comes back is again where it was.
    ready: BTreeMap<u64, Entry>,
    next_place: u64,
    subscribers: HashMap<SubscriberId, Subscriber>,
    /// Those who want deliveries, the next one first.
    turns: VecDeque<SubscriberId>,
    /// What is on its way to the dead-letter exchange.
    dead: VecDeque<Dead>,
}

/// A message in a queue.
#[derive(Debug)]
struct Entry {
    place: u64,
    origin: Origin,
    message: Message,
    expires: Option<Instant>,
    redelivered: bool,
    returned: u32,
}

/// A message that left its queue and goes to the dead-letter exchange.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) origin: Origin,
    pub(super) message: Message,
    pub(super) reason: Reason,
}

#[derive(Debug)]
struct Subscriber {
    prefetch: usize,
    cancelled: bool,
    next_tag: u64,
    unsettled: BTreeMap<u64, Entry>,
    /// The tags of `unsettled` that it has not looked at yet.
    arrived: VecDeque<u64>,
}

/// What a subscriber finds.
#[derive(Debug)]
pub(super) enum Next {
    Message { tag: u64, message: Message, redelivered: bool, returned: u32 },
    Nothing,
    End,
}

impl Queue {
    pub(super) fn new(declared: topology::Queue) -> Self {
        Self {
            declared,
            ready: BTreeMap::new(),
            next_place: 0,
            subscribers: HashMap::new(),
            turns: VecDeque::new(),
            dead: VecDeque::new(),
        }
    }

    pub(super) fn declared(&self) -> &topology::Queue {
        &self.declared
    }

    /// The messages that wait, in order.
    pub(super) fn ready(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.ready.values().map(|entry| &entry.message)
    }

    /// Whether it refuses messages. What is unsettled does not count.
    pub(super) fn is_full(&self) -> bool {
        let held = self.ready.len() + self.dead.len();
        self.declared.max_length.is_some_and(|most| held as u64 >= most)
    }

    /// Appends a message. Whoever calls it has looked at [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, origin: Origin, message: Message, now: Instant) {
        let place = self.next_place;
        self.next_place += 1;
        let limits = [self.declared.message_ttl, message.expiration];
        // A time to live beyond what the clock can count is none.
        let expires = limits.into_iter().flatten().min().and_then(|ttl| now.checked_add(ttl));
        self.ready.insert(place, Entry { place, origin, message, expires, redelivered: false, returned: 0 });
    }

    /// Takes what has expired from the head, hands out what subscribers have room for, and returns who got something.
    pub(super) fn dispatch(&mut self, now: Instant) -> Vec<SubscriberId> {
        let mut woken = Vec::new();
        while let Some((_, entry)) = self.ready.pop_first() {
            if entry.expires.is_some_and(|at| at <= now) {
                self.die(entry, Reason::Expired);
                continue;
            }
            let Some(id) = self.take_turn() else {
                self.ready.insert(entry.place, entry);
                break;
            };
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.arrived.push_back(subscriber.next_tag);
                subscriber.unsettled.insert(subscriber.next_tag, entry);
                subscriber.next_tag += 1;
                woken.push(id);
            }
        }
        woken
    }

    /// When the message at the head expires. Those behind it wait for it.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.ready.values().next().and_then(|head| head.expires)
    }

    /// Whose turn it is, if anybody has room; then it is the next one's.
    fn take_turn(&mut self) -> Option<SubscriberId> {
        let has_room = |id: &SubscriberId| self.subscribers.get(id).is_some_and(Subscriber::has_room);
        if self.declared.single_active_consumer {
            return self.turns.front().filter(|id| has_room(id)).copied();
        }
        let index = self.turns.iter().position(has_room)?;
        let id = self.turns.remove(index)?;
        self.turns.push_back(id);
        Some(id)
    }

    pub(super) fn subscribe(&mut self, id: SubscriberId, prefetch: u16) {
        let subscriber = Subscriber {
            prefetch: usize::from(prefetch.max(1)),
            cancelled: false,
            next_tag: 1,
            unsettled: BTreeMap::new(),
            arrived: VecDeque::new(),
        };
        self.subscribers.insert(id, subscriber);
        self.turns.push_back(id);
    }

    /// The next message that was handed to this subscriber.
    pub(super) fn next(&mut self, id: SubscriberId) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return Next::End };
        let Some(tag) = subscriber.arrived.pop_front() else {
            return if subscriber.cancelled { Next::End } else { Next::Nothing };
        };
        let entry = subscriber.unsettled.get(&tag).expect("nobody knows its tag yet, so it is unsettled");
        let Entry { message, redelivered, returned, .. } = entry;
        Next::Message { tag, message: message.clone(), redelivered: *redelivered, returned: *returned }
    }

    /// Carries out a settlement; nothing if the subscriber is gone or has settled it before.
    pub(super) fn settle(&mut self, id: SubscriberId, tag: u64, settlement: Settlement) {
        let subscriber = self.subscribers.get_mut(&id);
        let Some(entry) = subscriber.and_then(|subscriber| subscriber.unsettled.remove(&tag)) else { return };
        match settlement {
            Settlement::Ack => {}
            Settlement::Requeue => self.give_back(entry),
            Settlement::Reject => self.die(entry, Reason::Rejected),
        }
    }

    /// No new deliveries to this subscriber.
    pub(super) fn cancel(&mut self, id: SubscriberId) {
        self.turns.retain(|other| *other != id);
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.cancelled = true;
        }
    }

    /// Forgets a subscriber and gives back what it held.
    pub(super) fn close(&mut self, id: SubscriberId) {
        self.turns.retain(|other| *other != id);
        let held = self.subscribers.remove(&id).map(|subscriber| subscriber.unsettled);
        held.into_iter().flat_map(BTreeMap::into_values).for_each(|entry| self.give_back(entry));
    }

    pub(super) fn close_all(&mut self) {
        let ids: Vec<SubscriberId> = self.subscribers.keys().copied().collect();
        ids.into_iter().for_each(|id| self.close(id));
    }

    /// Puts a message back to its place, unless it came back too often. Only quorum queues count.
    fn give_back(&mut self, mut entry: Entry) {
        entry.redelivered = true;
        if let QueueKind::Quorum { delivery_limit, .. } = self.declared.kind {
            entry.returned += 1;
            if entry.returned > delivery_limit {
                self.die(entry, Reason::DeliveryLimit);
                return;
            }
        }
        self.ready.insert(entry.place, entry);
    }

    fn die(&mut self, entry: Entry, reason: Reason) {
        if self.declared.dead_letter.is_some() {
            let Entry { origin, message, .. } = entry;
            self.dead.push_back(Dead { origin, message, reason });
        }
    }

    pub(super) fn take_dead(&mut self) -> VecDeque<Dead> {
        std::mem::take(&mut self.dead)
    }

    /// Puts back the dead letters that have not reached a target.
    pub(super) fn keep_dead(&mut self, dead: VecDeque<Dead>) {
        debug_assert!(self.dead.is_empty(), "they were taken under the same lock");
        self.dead = dead;
    }

    /// Whether a dead letter leaves only once its target has it, and how many may wait for that at a time.
    pub(super) fn dead_letter_window(&self) -> Option<usize> {
        matches!(self.declared.kind, QueueKind::Quorum { .. }).then_some(DEAD_LETTER_WINDOW)
    }
}

impl Subscriber {
    fn has_room(&self) -> bool {
        self.unsettled.len() < self.prefetch
    }
}
