//! [`Queue`]: one queue as a state machine. It is told the time, and says whom to wake.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::Message;
use crate::topology;
use crate::topology::Overflow;
use crate::topology::QueueKind;
use crate::transport::Settlement;
use crate::transport::Start;

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
    /// By place, so that what comes back is again where it was. In a stream the place is the offset, and what is
    /// delivered stays here.
    ready: BTreeMap<u64, Entry>,
    next_place: u64,
    /// How large the bodies in a stream are together.
    stream_bytes: u64,
    subscribers: HashMap<SubscriberId, Subscriber>,
    /// Those who want deliveries, the next one first.
    turns: VecDeque<SubscriberId>,
    /// What is on its way to the dead-letter exchange.
    dead: VecDeque<Dead>,
}

/// A message in a queue.
#[derive(Clone, Debug)]
struct Entry {
    place: u64,
    origin: Origin,
    message: Message,
    stored: Instant,
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
    /// How many deliveries may be unsettled, not counting those from before [`since`](Self::since).
    prefetch: usize,
    /// The first tag that counts.
    since: u64,
    /// How many are unsettled that do not count.
    before: usize,
    cancelled: bool,
    /// The offset it reads next, in a stream.
    offset: u64,
    next_tag: u64,
    unsettled: BTreeMap<u64, Entry>,
    /// The tags of `unsettled` that it has not looked at yet.
    arrived: VecDeque<u64>,
    /// Gone when the subscriber is.
    presence: Arc<()>,
}

/// What a subscriber finds.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub(super) enum Next {
    Message { tag: u64, message: Message, redelivered: bool, returned: u32, offset: Option<u64> },
    Nothing,
    End,
}

impl Queue {
    pub(super) fn new(declared: topology::Queue) -> Self {
        Self {
            declared,
            ready: BTreeMap::new(),
            next_place: 0,
            stream_bytes: 0,
            subscribers: HashMap::new(),
            turns: VecDeque::new(),
            dead: VecDeque::new(),
        }
    }

    pub(super) fn declared(&self) -> &topology::Queue {
        &self.declared
    }

    fn is_stream(&self) -> bool {
        matches!(self.declared.kind, QueueKind::Stream { .. })
    }

    /// How many messages wait: none in a stream, where RabbitMQ does not say it either.
    pub(super) fn depth(&self) -> u64 {
        if self.is_stream() { 0 } else { self.ready.len() as u64 }
    }

    /// The messages that wait, in order.
    pub(super) fn ready(&self) -> impl ExactSizeIterator<Item = &Message> {
        self.ready.values().map(|entry| &entry.message)
    }

    /// Whether it refuses messages. What is unsettled does not count.
    pub(super) fn is_full(&self) -> bool {
        let held = self.ready.len() + self.dead.len();
        self.declared.overflow == Overflow::Reject
            && self.declared.max_length.is_some_and(|most| held as u64 >= most)
    }

    /// Appends a message. Whoever calls it has looked at [`is_full`](Self::is_full).
    pub(super) fn push(&mut self, origin: Origin, message: Message, now: Instant) {
        let place = self.next_place;
        self.next_place += 1;
        let limits = match self.declared.kind {
            QueueKind::Stream { max_age, .. } => {
                self.stream_bytes += message.body.len() as u64;
                [Some(max_age), None]
            }
            QueueKind::Quorum { .. } | QueueKind::Classic => [self.declared.message_ttl, message.expiration],
        };
        // A time to live beyond what the clock can count is none.
        let expires = limits.into_iter().flatten().min().and_then(|ttl| now.checked_add(ttl));
        let entry = Entry { place, origin, message, stored: now, expires, redelivered: false, returned: 0 };
        self.ready.insert(place, entry);
    }

    /// Takes what has expired from the head, hands out what subscribers have room for, drops what is too much then, and
    /// returns who got something.
    pub(super) fn dispatch(&mut self, now: Instant) -> Vec<SubscriberId> {
        if let QueueKind::Stream { max_bytes, .. } = self.declared.kind {
            self.forget(max_bytes, now);
            return self.show();
        }
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
                subscriber.give(entry);
                woken.push(id);
            }
        }
        self.drop_head();
        woken
    }

    /// Removes what is too old or too much in a stream.
    fn forget(&mut self, max_bytes: u64, now: Instant) {
        while let Some(oldest) = self.ready.first_entry() {
            let is_too_old = oldest.get().expires.is_some_and(|at| at <= now);
            if !is_too_old && self.stream_bytes <= max_bytes {
                return;
            }
            self.stream_bytes -= oldest.remove().message.body.len() as u64;
        }
    }

    /// Delivers a stream to each subscriber from where it is, as far as it has room, and returns who got something.
    fn show(&mut self) -> Vec<SubscriberId> {
        let mut woken = Vec::new();
        for (id, subscriber) in &mut self.subscribers {
            if subscriber.cancelled {
                continue;
            }
            for (offset, entry) in self.ready.range(subscriber.offset..).take(subscriber.room()) {
                subscriber.offset = offset + 1;
                subscriber.give(entry.clone());
                woken.push(*id);
            }
        }
        woken
    }

    /// Where a subscriber of a stream starts.
    fn offset(&self, start: Start, now: Instant) -> u64 {
        let is_recent = |ago: Duration, entry: &Entry| now.saturating_duration_since(entry.stored) <= ago;
        let first = match start {
            Start::First => self.ready.values().next(),
            Start::Next => None,
            Start::Offset(offset) => self.ready.range(offset..).next().map(|(_, entry)| entry),
            Start::Ago(ago) => self.ready.values().find(|entry| is_recent(ago, entry)),
        };
        first.map_or(self.next_place, |entry| entry.place)
    }

    /// Drops what has waited longest, if more waits than may.
    fn drop_head(&mut self) {
        let (Overflow::DropHead, Some(most)) = (self.declared.overflow, self.declared.max_length) else {
            return;
        };
        while self.ready.len() as u64 > most {
            let Some((_, entry)) = self.ready.pop_first() else { return };
            self.die(entry, Reason::MaxLength);
        }
    }

    /// Forgets what waits, and returns how much that was.
    pub(super) fn purge(&mut self) -> u64 {
        std::mem::take(&mut self.ready).len() as u64
    }

    /// When the message at the head expires. Those behind it wait for it.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.ready.values().next().and_then(|head| head.expires)
    }

    /// Whose turn it is, if anybody has room; then it is the next one's.
    fn take_turn(&mut self) -> Option<SubscriberId> {
        let has_room = |id: &SubscriberId| self.subscribers.get(id).is_some_and(|it| it.room() > 0);
        if self.declared.single_active_consumer {
            return self.turns.front().filter(|id| has_room(id)).copied();
        }
        let index = self.turns.iter().position(has_room)?;
        let id = self.turns.remove(index)?;
        self.turns.push_back(id);
        Some(id)
    }

    /// `start` is for streams. What it returns is alive for as long as the subscriber holds its deliveries.
    pub(super) fn subscribe(
        &mut self,
        id: SubscriberId,
        prefetch: u16,
        start: Start,
        now: Instant,
    ) -> Weak<()> {
        let subscriber = Subscriber {
            prefetch: usize::from(prefetch.max(1)),
            since: 1,
            before: 0,
            cancelled: false,
            offset: self.offset(start, now),
            next_tag: 1,
            unsettled: BTreeMap::new(),
            arrived: VecDeque::new(),
            presence: Arc::default(),
        };
        let presence = Arc::downgrade(&subscriber.presence);
        self.subscribers.insert(id, subscriber);
        self.turns.push_back(id);
        presence
    }

    /// Makes room for so many more than this subscriber holds.
    pub(super) fn set_prefetch(&mut self, id: SubscriberId, prefetch: u16) {
        if let Some(subscriber) = self.subscribers.get_mut(&id) {
            subscriber.prefetch = usize::from(prefetch.max(1));
            (subscriber.since, subscriber.before) = (subscriber.next_tag, subscriber.unsettled.len());
        }
    }

    /// The next message that was handed to this subscriber.
    pub(super) fn next(&mut self, id: SubscriberId) -> Next {
        let Some(subscriber) = self.subscribers.get_mut(&id) else { return Next::End };
        let Some(tag) = subscriber.arrived.pop_front() else {
            return if subscriber.cancelled { Next::End } else { Next::Nothing };
        };
        let entry = subscriber.unsettled.get(&tag).expect("nobody knows its tag yet, so it is unsettled");
        let Entry { place, message, redelivered, returned, .. } = entry;
        let offset = matches!(self.declared.kind, QueueKind::Stream { .. }).then_some(*place);
        let (message, redelivered, returned) = (message.clone(), *redelivered, *returned);
        Next::Message { tag, message, redelivered, returned, offset }
    }

    /// Carries out a settlement; nothing if the subscriber is gone or has settled it before.
    pub(super) fn settle(&mut self, id: SubscriberId, tag: u64, settlement: Settlement) {
        let Some(entry) = self.subscribers.get_mut(&id).and_then(|subscriber| subscriber.take(tag)) else {
            return;
        };
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

    pub(super) fn subscribers(&self) -> Vec<SubscriberId> {
        self.subscribers.keys().copied().collect()
    }

    pub(super) fn close_all(&mut self) {
        self.subscribers().into_iter().for_each(|id| self.close(id));
    }

    /// Puts a message back to its place, unless it came back too often. Only quorum queues count. From a stream it was
    /// never away.
    fn give_back(&mut self, mut entry: Entry) {
        if self.is_stream() {
            return;
        }
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
        self.declared.is_dead_lettering_at_least_once().then_some(DEAD_LETTER_WINDOW)
    }
}

impl Subscriber {
    /// How many deliveries more it may have.
    fn room(&self) -> usize {
        self.prefetch.saturating_sub(self.unsettled.len() - self.before)
    }

    fn give(&mut self, entry: Entry) {
        self.arrived.push_back(self.next_tag);
        self.unsettled.insert(self.next_tag, entry);
        self.next_tag += 1;
    }

    fn take(&mut self, tag: u64) -> Option<Entry> {
        let entry = self.unsettled.remove(&tag)?;
        if tag < self.since {
            self.before -= 1;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use crate::name::Name;
    use crate::topology::DeadLetter;

    use super::*;

    const QUORUM: QueueKind = QueueKind::Quorum { group_size: 1, delivery_limit: 2 };

    fn name(name: &str) -> Name {
        Name::new("name", name).unwrap()
    }

    fn queue(kind: QueueKind, with: impl FnOnce(&mut topology::Queue)) -> Queue {
        let mut declared = topology::Queue::new(name("queue"), kind);
        declared.dead_letter = Some(DeadLetter { exchange: name("dead"), key: None });
        with(&mut declared);
        Queue::new(declared)
    }

    fn push(queue: &mut Queue, body: &str, expiration: Option<u64>, now: Instant) {
        let origin = Origin { exchange: name("exchange"), key: name("key") };
        let expiration = expiration.map(Duration::from_millis);
        queue.push(origin, Message { body: body.into(), expiration, ..Message::default() }, now);
    }

    fn push_all(queue: &mut Queue, bodies: &str) {
        let now = Instant::now();
        bodies.split_terminator(' ').for_each(|body| push(queue, body, None, now));
        queue.dispatch(now);
    }

    /// Everything that a subscriber finds.
    fn bodies(queue: &mut Queue, id: SubscriberId) -> String {
        let mut found = Vec::new();
        while let Next::Message { message, .. } = queue.next(id) {
            found.push(String::from_utf8(message.body).unwrap());
        }
        found.join(" ")
    }

    fn waiting(queue: &Queue) -> String {
        let bodies = queue.ready().map(|message| String::from_utf8(message.body.clone()).unwrap());
        bodies.collect::<Vec<_>>().join(" ")
    }

    fn reasons(queue: &mut Queue) -> Vec<Reason> {
        queue.take_dead().iter().map(|dead| dead.reason).collect()
    }

    #[test]
    fn subscribers_take_turns_as_far_as_they_have_room() {
        let table: [(bool, &[u16], &[&str]); 4] = [
            (false, &[5, 5], &["a c e", "b d"]),
            (false, &[1, 5], &["a", "b c d e"]),
            (false, &[1, 1], &["a", "b"]),
            (true, &[2, 5], &["a b", ""]),
        ];
        for (single_active_consumer, prefetches, expected) in table {
            let mut queue = queue(QUORUM, |queue| queue.single_active_consumer = single_active_consumer);
            for (id, prefetch) in (0..).zip(prefetches) {
                queue.subscribe(id, *prefetch, Start::First, Instant::now());
            }
            push_all(&mut queue, "a b c d e");
            for (id, expected) in (0..).zip(expected) {
                assert_eq!(bodies(&mut queue, id), *expected, "{prefetches:?}");
            }
        }
    }

    #[test]
    fn what_comes_back_is_where_it_was() {
        let table: [(&[u64], &str); 4] =
            [(&[1], "a d"), (&[2, 1], "a b d"), (&[3], "c d"), (&[3, 2, 1], "a b c d")];
        for (requeued, expected) in table {
            let mut queue = queue(QueueKind::Classic, |_| ());
            queue.subscribe(7, 3, Start::First, Instant::now());
            push_all(&mut queue, "a b c d");
            for tag in requeued {
                queue.settle(7, *tag, Settlement::Requeue);
            }
            assert_eq!(waiting(&queue), expected);
        }
    }

    #[test]
    fn closing_gives_back_everything_in_order() {
        let mut queue = queue(QUORUM, |_| ());
        queue.subscribe(1, 2, Start::First, Instant::now());
        queue.subscribe(2, 2, Start::First, Instant::now());
        push_all(&mut queue, "a b c d e");
        queue.settle(1, 1, Settlement::Ack);
        queue.close_all();
        assert_eq!(waiting(&queue), "b c d e");
        queue.settle(1, 2, Settlement::Ack);
        assert_eq!(waiting(&queue), "b c d e", "a tag from before settles nothing");
    }

    #[test]
    fn only_the_head_expires_and_never_early() {
        let table: [(Option<u64>, Option<u64>, u64, &str); 6] = [
            (Some(100), Some(100), 99, "a b"),
            (Some(100), Some(100), 100, ""),
            (Some(100), Some(10), 50, "a b"),
            (Some(10), Some(100), 50, "b"),
            (None, Some(10), 50, "a b"),
            (Some(10), None, 50, "b"),
        ];
        for (first, second, after, expected) in table {
            let mut queue = queue(QUORUM, |_| ());
            let now = Instant::now();
            push(&mut queue, "a", first, now);
            push(&mut queue, "b", second, now);
            queue.dispatch(now + Duration::from_millis(after));
            assert_eq!(waiting(&queue), expected, "{first:?} {second:?} after {after}");
        }
    }

    #[test]
    fn the_shorter_time_to_live_counts() {
        for (of_queue, of_message, expected) in [
            (Some(5), Some(9), Some(5)),
            (Some(9), Some(5), Some(5)),
            (None, Some(5), Some(5)),
            (None, None, None),
        ] {
            let mut queue = queue(QUORUM, |queue| queue.message_ttl = of_queue.map(Duration::from_millis));
            let now = Instant::now();
            push(&mut queue, "a", of_message, now);
            assert_eq!(queue.expires(), expected.map(|ttl| now + Duration::from_millis(ttl)));
        }
    }

    #[test]
    fn a_time_to_live_beyond_all_clocks_is_none() {
        let mut queue = queue(QUORUM, |queue| queue.message_ttl = Some(Duration::MAX));
        push(&mut queue, "a", None, Instant::now());
        assert_eq!(queue.expires(), None);
    }

    #[test]
    fn a_quorum_queue_has_enough_after_its_limit_and_a_classic_one_never() {
        for (kind, expected) in [(QUORUM, vec![Reason::DeliveryLimit]), (QueueKind::Classic, vec![])] {
            let mut queue = queue(kind, |_| ());
            queue.subscribe(1, 1, Start::First, Instant::now());
            push_all(&mut queue, "a");
            for tag in 1..=3 {
                assert_eq!(bodies(&mut queue, 1), "a");
                queue.settle(1, tag, Settlement::Requeue);
                queue.dispatch(Instant::now());
            }
            assert_eq!(reasons(&mut queue), expected);
        }
    }

    #[test]
    fn what_waits_and_what_is_dead_makes_a_queue_full() {
        let mut queue = queue(QUORUM, |queue| queue.max_length = Some(1));
        queue.subscribe(1, 1, Start::First, Instant::now());
        push_all(&mut queue, "a");
        assert!(!queue.is_full(), "the one is not waiting");
        push_all(&mut queue, "b");
        assert!(queue.is_full());
        queue.settle(1, 1, Settlement::Reject);
        queue.dispatch(Instant::now());
        assert!(queue.is_full(), "the one is still on its way");
        assert_eq!(reasons(&mut queue), [Reason::Rejected]);
        assert!(!queue.is_full());
    }

    #[test]
    fn what_is_held_when_the_prefetch_is_set_counts_no_more() {
        let table: [(u16, &[u64], &str, &str); 5] = [
            (1, &[], "c", ""),
            (3, &[], "c d e", ""),
            (0, &[], "c", ""),
            (1, &[1, 2], "c", ""),
            (1, &[3], "c", "d"),
        ];
        for (prefetch, settled, at_once, later) in table {
            let mut queue = queue(QUORUM, |_| ());
            queue.subscribe(1, 2, Start::First, Instant::now());
            push_all(&mut queue, "a b c d e");
            assert_eq!(bodies(&mut queue, 1), "a b");
            queue.set_prefetch(1, prefetch);
            queue.dispatch(Instant::now());
            assert_eq!(bodies(&mut queue, 1), at_once, "{prefetch}");
            settled.iter().for_each(|tag| queue.settle(1, *tag, Settlement::Ack));
            queue.dispatch(Instant::now());
            assert_eq!(bodies(&mut queue, 1), later, "{prefetch} {settled:?}");
        }
    }

    #[test]
    fn a_stream_forgets_what_is_too_old_or_too_much_and_never_early() {
        let table = [(100, 3, 0, "b c d"), (100, 9, 99, "a b c d"), (100, 9, 100, ""), (100, 0, 0, "")];
        for (max_age, max_bytes, after, expected) in table {
            let max_age = Duration::from_millis(max_age);
            let mut queue = queue(QueueKind::Stream { group_size: 1, max_age, max_bytes }, |_| ());
            let now = Instant::now();
            "a b c d".split(' ').for_each(|body| push(&mut queue, body, Some(1), now));
            queue.dispatch(now + Duration::from_millis(after));
            assert_eq!(waiting(&queue), expected, "{max_bytes} after {after}");
        }
    }

    #[test]
    fn a_reader_starts_where_it_was_asked_to() {
        let table = [
            (Start::First, "a b c"),
            (Start::Next, "c"),
            (Start::Ago(Duration::from_secs(5)), "b c"),
            (Start::Ago(Duration::from_secs(10)), "a b c"),
        ];
        for (start, expected) in table {
            let max_age = Duration::from_secs(3600);
            let mut queue = queue(QueueKind::Stream { group_size: 1, max_age, max_bytes: 9 }, |_| ());
            let now = Instant::now();
            push(&mut queue, "a", None, now);
            push(&mut queue, "b", None, now + Duration::from_secs(5));
            let now = now + Duration::from_secs(10);
            queue.subscribe(1, 9, start, now);
            push(&mut queue, "c", None, now);
            queue.dispatch(now);
            assert_eq!(bodies(&mut queue, 1), expected, "{start:?}");
        }
    }
}
