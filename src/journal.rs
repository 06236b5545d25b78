//! [`Journal`]: what this process has to tell of its tasks, on its way into the history, many events in a message.
//!
//! ```text
//!  record ──┐                     at once when idle, at most every 3 ms          ┌─► {ns}.history
//!  settle ──┼─► pending ────────────────────────────────────────► one batch ─────┤
//!  confirm ─┘            what nothing waits for: after 50 ms      at a time      └─ confirmed ─► acks, and who waits
//! ```
//!
//! The end of a task is in the history before the broker forgets its message: its acknowledgement waits for the
//! batch, not its slot. So a crash repeats the end of a task, and never loses it. It never holds up work: a batch
//! that is not confirmed within 2 seconds lets go of what waits for it, and until the journal has caught up again
//! nothing waits at all. What cannot be written meanwhile is kept up to a limit, and counted beyond it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::event::Batch;
use crate::event::ConsumerChange;
use crate::event::ConsumerEvent;
use crate::event::Stamp;
use crate::event::TaskEvent;
use crate::event::announce;
use crate::instance::Instance;
use crate::lock::Lock;
use crate::name::Name;
use crate::telemetry;
use crate::topology::Target;
use crate::topology::Topology;
use crate::transport::Ack;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Transport;

/// How long an event that nothing waits for is kept back for others.
const LINGER: Duration = Duration::from_millis(50);
/// How far apart batches are that something waits for, if much does: so that they are few.
const PACE: Duration = Duration::from_millis(3);
/// So many acknowledgements in a batch are much. Where there are fewer, tasks come one after the other and wait for them.
const CROWD: usize = 4;
/// How many events are in a message at most: some 200 KB.
const BATCH: usize = 2_000;
/// How many events wait to be written at most: some 15 MB.
const LIMIT: usize = 65_536;
/// How many words of consumers wait to be written at most: some 10 MB, if all of them are of long tasks.
const ANNOUNCEMENTS: usize = 1_024;
/// How long a batch may take before what waits for it is let go.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long between two tries to write a batch, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Where events of this process go. Cheap to clone; once all clones are dropped it writes what it has, and ends.
#[derive(Clone)]
pub(crate) struct Journal {
    inner: Arc<Inner>,
    /// Ends the writer.
    _open: Arc<DropGuard>,
}

/// Where the history is, for the journal.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) exchange: Name,
    /// To declare again what somebody has deleted, with all that leads there.
    pub(crate) topology: Lock<Topology>,
    pub(crate) instance: Instance,
}

struct Inner {
    desk: Desk,
    pending: Lock<Pending>,
    /// Something is pending that was not.
    wake: Notify,
    closed: CancellationToken,
    /// The number of the last message.
    sequence: AtomicU64,
    consumers: AtomicU64,
}

#[derive(Default)]
struct Pending {
    events: Vec<TaskEvent>,
    announcements: Vec<ConsumerEvent>,
    /// What waits for these events to be stored.
    waiting: Waiting,
    /// Since when something is to be written.
    since: Option<Instant>,
    /// How many events did not fit.
    missed: u64,
    /// What is on its way, in its order. A writer that takes over begins with the first of it.
    sealed: VecDeque<Arc<Publish>>,
    /// What waits for all that is sealed.
    waiting_for_sealed: Waiting,
    has_writer: bool,
    /// A batch was not confirmed in time: nothing waits.
    is_stuck: bool,
    /// Nothing will ever be published again.
    is_closed: bool,
}

#[derive(Default)]
struct Waiting {
    acks: Vec<Ack>,
    /// Of all of them.
    urgency: f32,
    waiters: Vec<oneshot::Sender<()>>,
}

impl Journal {
    pub(crate) fn new(desk: Desk) -> Self {
        let closed = CancellationToken::new();
        let inner = Inner {
            desk,
            pending: Lock::default(),
            wake: Notify::new(),
            closed: closed.clone(),
            sequence: AtomicU64::new(0),
            consumers: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner), _open: Arc::new(closed.drop_guard()) }
    }

    pub(crate) fn instance(&self) -> &Instance {
        &self.inner.desk.instance
    }

    /// What was declared: some of it may lead into the history.
    pub(crate) fn remember(&self, declared: &Topology) {
        let events = Target::Exchange(self.inner.desk.exchange.clone());
        if declared.bindings.iter().any(|binding| binding.to == events) {
            self.inner.desk.topology.lock().merge(declared);
        }
    }

    /// A name for the next consumer of this process.
    pub(crate) fn name_consumer(&self) -> Arc<str> {
        self.instance().part(self.inner.consumers.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Writes an event, some time within 50 ms.
    pub(crate) fn record(&self, event: TaskEvent) {
        self.add(|pending| pending.push(event));
    }

    /// Writes what a consumer says, some time within 50 ms.
    pub(crate) fn announce(&self, event: ConsumerEvent) {
        self.add(|pending| pending.announce(event));
    }

    /// Writes events, the last one of which is the end of a task, and acknowledges its message after that.
    ///
    /// That waits up to 3 ms for others if there are many, until the `urgency` of all that wait comes to 1.
    pub(crate) fn settle(&self, ack: Ack, urgency: f32, events: impl IntoIterator<Item = TaskEvent>) {
        let mut unwaiting = None;
        self.add(|pending| {
            events.into_iter().for_each(|event| pending.push(event));
            if pending.is_stuck {
                unwaiting = Some(ack);
            } else {
                pending.waiting.acks.push(ack);
                pending.waiting.urgency += urgency;
            }
        });
        if let Some(ack) = unwaiting {
            ack.send();
        }
    }

    /// Writes events, and returns when they are written or the broker takes none.
    pub(crate) async fn confirm(&self, events: impl IntoIterator<Item = TaskEvent>) {
        let (waiter, written) = oneshot::channel();
        self.add(|pending| {
            events.into_iter().for_each(|event| pending.push(event));
            if !pending.is_stuck {
                pending.waiting.waiters.push(waiter);
            }
        });
        // An error: nobody waits.
        let _ = written.await;
    }

    /// Returns when all that was to be written is written, its messages are acknowledged, or the broker takes none.
    pub(crate) async fn flush(&self) {
        let is_done = {
            let pending = self.inner.pending.lock();
            pending.is_empty() && !pending.is_under_way()
        };
        if !is_done {
            self.confirm([]).await;
        }
    }

    fn add(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.inner.pending.lock();
        let (was_empty, had_waiting) = (pending.is_empty(), !pending.waiting.is_empty());
        let was_urgent = pending.waiting.is_urgent();
        change(&mut pending);
        if pending.is_closed {
            return pending.give_up();
        }
        pending.since.get_or_insert_with(Instant::now);
        let has_writer = std::mem::replace(&mut pending.has_writer, true);
        let is_waiting = !had_waiting && !pending.waiting.is_empty();
        let is_urgent = !was_urgent && pending.waiting.is_urgent();
        let is_more = is_waiting || is_urgent || pending.events.len() == BATCH;
        drop(pending);
        if !has_writer {
            let writer = Writer(self.inner.clone());
            // Without the lock, because a runtime that ends drops it here and now. Without any the next one writes.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(writer.run());
            }
        }
        if was_empty || is_more {
            self.inner.wake.notify_one();
        }
    }
}

impl Pending {
    fn push(&mut self, event: TaskEvent) {
        if self.events.len() < LIMIT {
            self.events.push(event);
        } else {
            self.missed += 1;
            telemetry::event_missed();
        }
    }

    /// That a consumer is alive takes the place of what it said so before: nobody wants to know that any more.
    fn announce(&mut self, event: ConsumerEvent) {
        let is_alive = |event: &ConsumerEvent| matches!(event.change, ConsumerChange::Alive(_));
        if is_alive(&event) {
            self.announcements.retain(|it| !is_alive(it) || it.consumer != event.consumer);
        }
        if self.announcements.len() < ANNOUNCEMENTS {
            self.announcements.push(event);
        } else {
            self.missed += 1;
            telemetry::event_missed();
        }
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.announcements.is_empty() && self.waiting.is_empty() && self.missed == 0
    }

    fn is_under_way(&self) -> bool {
        !self.sealed.is_empty() || !self.waiting_for_sealed.is_empty()
    }

    /// When it is to be written, if the last batch, written at `last`, was one of a crowd; `None`: nothing is.
    fn due(&self, last: Option<Instant>) -> Option<Instant> {
        let since = self.since.filter(|_| !self.is_empty())?;
        if self.waiting.is_urgent() || self.events.len() >= BATCH {
            return Some(since);
        }
        if !self.waiting.is_empty() {
            return Some(last.map_or(since, |last| since.max(last + PACE)));
        }
        Some(since + LINGER)
    }

    /// What goes into the next batch: consumers' word, events, and how many were missed.
    fn take(&mut self) -> (Vec<ConsumerEvent>, Vec<TaskEvent>, u64) {
        let rest = match self.events.len() {
            usual @ ..=BATCH => Vec::with_capacity(usual),
            _ => self.events.split_off(BATCH),
        };
        let events = std::mem::replace(&mut self.events, rest);
        let announcements = std::mem::take(&mut self.announcements);
        if !self.events.is_empty() {
            return (announcements, events, 0);
        }
        // What waits may wait for any of the events: so for the last. What was missed came after all of them.
        self.waiting_for_sealed = std::mem::take(&mut self.waiting);
        self.since = None;
        (announcements, events, std::mem::take(&mut self.missed))
    }

    /// Lets go of what waits.
    fn release(&mut self) {
        self.waiting.release();
        self.waiting_for_sealed.release();
    }

    /// Nobody writes any more: nothing is kept, and nothing waits.
    fn give_up(&mut self) {
        self.release();
        *self = Self { is_stuck: true, is_closed: true, has_writer: self.has_writer, ..Self::default() };
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.waiters.is_empty()
    }

    fn is_urgent(&self) -> bool {
        self.urgency >= 1.0
    }

    fn release(&mut self) {
        self.acks.drain(..).for_each(Ack::send);
        self.urgency = 0.0;
        self.waiters.clear();
    }
}

/// Writes until the journal is closed and empty, or the runtime ends; in another one a new writer goes on.
struct Writer(Arc<Inner>);

impl Writer {
    async fn run(self) {
        let Inner { pending, wake, closed, desk, sequence, .. } = &*self.0;
        let mut last = None;
        loop {
            self.store_sealed().await;
            let due = pending.lock().due(last);
            match due {
                None if closed.is_cancelled() => return,
                None => {
                    tokio::select! {
                        () = wake.notified() => {}
                        () = closed.cancelled() => {}
                    }
                }
                Some(due) if due > Instant::now() && !closed.is_cancelled() => {
                    tokio::select! {
                        () = wake.notified() => {}
                        () = closed.cancelled() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                Some(_) => {
                    let (announcements, events, missed) = {
                        let mut pending = pending.lock();
                        last = (pending.waiting.acks.len() >= CROWD).then(Instant::now);
                        pending.take()
                    };
                    let sealed = desk.seal(&announcements, &events, missed, sequence);
                    pending.lock().sealed = sealed;
                }
            }
        }
    }

    /// Publishes what is sealed, each until it is confirmed, and lets go of what waits for it.
    async fn store_sealed(&self) {
        let Inner { pending, .. } = &*self.0;
        loop {
            let first = pending.lock().sealed.front().cloned();
            if let Some(publish) = &first
                && !self.0.store(publish).await
            {
                return pending.lock().give_up();
            }
            let mut done = {
                let mut pending = pending.lock();
                pending.sealed.pop_front();
                if !pending.sealed.is_empty() {
                    continue;
                }
                // Not before it has caught up: what ends now would wait for all that could not be written meanwhile.
                pending.is_stuck &= first.is_none() || pending.events.len() >= BATCH;
                std::mem::take(&mut pending.waiting_for_sealed)
            };
            return done.release();
        }
    }
}

impl Drop for Writer {
    /// In the middle, if its runtime ends. What waits for the order of things only is let go; acknowledgements, for
    /// which something is to be stored, are left to the next writer.
    fn drop(&mut self) {
        let mut pending = self.0.pending.lock();
        pending.has_writer = false;
        pending.waiting.waiters.clear();
        pending.waiting_for_sealed.waiters.clear();
    }
}

impl Inner {
    /// Publishes until it is confirmed. What waits is let go when that takes long. False when nothing will ever be
    /// published again.
    async fn store(&self, publish: &Publish) -> bool {
        let [mut pause, longest] = PAUSES;
        loop {
            let error = match self.desk.transport.publish_apart(publish, PATIENCE).await {
                Ok(()) => return true,
                Err(PublishError::Closed) => return false,
                Err(error @ (PublishError::Forbidden(_) | PublishError::Refused(_)))
                    if !error.is_missing() =>
                {
                    tracing::error!(%error, "the broker refuses events: nothing is told of tasks any more");
                    return false;
                }
                Err(error) => error,
            };
            let was_stuck = {
                let mut pending = self.pending.lock();
                pending.release();
                std::mem::replace(&mut pending.is_stuck, true)
            };
            if !was_stuck {
                tracing::warn!(%error, "the history takes no events; tasks go on without");
            }
            if error.is_missing() {
                // Somebody deleted it; if this fails too, the next round tells.
                let topology = self.desk.topology.lock().clone();
                let _ = self.desk.transport.declare(&topology).await;
            }
            if self.closed.is_cancelled() {
                return false;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.closed.cancelled() => {}
            }
            pause = (pause * 2).min(longest);
        }
    }
}

impl Desk {
    /// The messages with that, in the order in which they are to be stored.
    fn seal(
        &self,
        announcements: &[ConsumerEvent],
        events: &[TaskEvent],
        missed: u64,
        last: &AtomicU64,
    ) -> VecDeque<Arc<Publish>> {
        let stamp = || {
            let sequence = last.fetch_add(1, Ordering::Relaxed) + 1;
            Stamp { source: self.instance.name().clone(), sequence }
        };
        let is_batch = !events.is_empty() || missed > 0;
        let batch = is_batch.then(|| Batch::seal(&stamp(), events, missed));
        let said = announcements.iter().map(|event| announce(&stamp(), event));
        let publish = |message| {
            let (exchange, key) = (self.exchange.clone(), self.exchange.clone());
            Arc::new(Publish { exchange, key, mandatory: true, message })
        };
        batch.into_iter().chain(said).map(publish).collect()
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("instance", &self.inner.desk.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use async_trait::async_trait;
    use tokio::sync::watch;

    use super::*;
    use crate::error::Result;
    use crate::event::Event;
    use crate::event::TaskChange;
    use crate::message::Message;
    use crate::task::TaskId;
    use crate::transport::Delivery;
    use crate::transport::Health;
    use crate::transport::Settle;
    use crate::transport::Settlement;
    use crate::transport::Subscribe;
    use crate::transport::Subscription;
    use crate::transport::Tenure;
    use crate::transport::sealed::Sealed;

    const MS: Duration = Duration::from_millis(1);

    /// A broker that stores what it is sent, as far as it does, and a channel that settles.
    #[derive(Debug, Default)]
    struct Fake {
        answer: Lock<Answer>,
        /// When, and what.
        stored: Lock<Vec<(Instant, Batch)>>,
        acked: Lock<Vec<(Instant, u64)>>,
        publishes: AtomicU64,
        declares: AtomicU64,
    }

    #[derive(Clone, Debug)]
    enum Answer {
        Stores(Duration),
        /// And never says so.
        StoresInSilence,
        Silence,
        Refuses(PublishError),
    }

    impl Default for Answer {
        fn default() -> Self {
            Self::Stores(Duration::ZERO)
        }
    }

    impl Sealed for Fake {}

    #[async_trait]
    impl Transport for Fake {
        fn connection_names(&self) -> Vec<String> {
            Vec::new()
        }

        async fn declare(&self, _: &Topology) -> Result<()> {
            self.declares.fetch_add(1, Ordering::Relaxed);
            *self.answer.lock() = Answer::default();
            Ok(())
        }

        async fn publish(&self, publish: &Publish, timeout: Duration) -> Result<(), PublishError> {
            self.publishes.fetch_add(1, Ordering::Relaxed);
            let store = || {
                let batch = Batch::open(&publish.message).unwrap();
                self.stored.lock().push((Instant::now(), batch));
            };
            let answer = self.answer.lock().clone();
            match answer {
                Answer::Stores(after) => {
                    tokio::time::sleep(after).await;
                    store();
                    return Ok(());
                }
                Answer::StoresInSilence => store(),
                Answer::Silence => {}
                Answer::Refuses(error) => return Err(error),
            }
            tokio::time::sleep(timeout).await;
            Err(PublishError::Unconfirmed { waited: timeout, last_loss: None })
        }

        fn health(&self) -> watch::Receiver<Health> {
            unimplemented!()
        }

        async fn subscribe(&self, _: Subscribe) -> Result<Box<dyn Subscription>> {
            unimplemented!()
        }

        async fn hold(&self, _: Subscribe) -> Result<Box<dyn Tenure>> {
            unimplemented!()
        }

        async fn depth(&self, _: &Name) -> Result<Option<u64>> {
            unimplemented!()
        }

        async fn purge(&self, _: &Name) -> Result<u64> {
            unimplemented!()
        }

        async fn delete(&self, _: &Name) -> Result<()> {
            unimplemented!()
        }

        async fn close(&self) {}
    }

    impl Settle for Fake {
        fn settle(&self, tag: u64, settlement: Settlement) {
            assert_eq!(settlement, Settlement::Ack, "{tag}");
            self.acked.lock().push((Instant::now(), tag));
        }

        fn is_lost(&self) -> bool {
            false
        }
    }

    impl Fake {
        fn answer(&self, answer: Answer) {
            *self.answer.lock() = answer;
        }

        /// The numbers of the events that are stored, those of each message in its place.
        fn numbers(&self) -> Vec<Vec<u64>> {
            let number = |event: &Event| match event {
                Event::Task(event) => Some(u64::from(event.attempt)),
                _ => None,
            };
            self.stored.lock().iter().map(|(_, it)| it.events.iter().filter_map(number).collect()).collect()
        }

        fn times(&self, start: Instant) -> Vec<Duration> {
            self.stored.lock().iter().map(|(at, _)| *at - start).collect()
        }

        fn missed(&self) -> u64 {
            let missed = |event: &Event| if let Event::Missed(count) = event { *count } else { 0 };
            self.stored.lock().iter().flat_map(|(_, it)| &it.events).map(missed).sum()
        }

        fn acked(&self, start: Instant) -> Vec<(u64, Duration)> {
            self.acked.lock().iter().map(|(at, tag)| (*tag, *at - start)).collect()
        }

        fn ack(self: &Arc<Self>, tag: u64) -> Ack {
            Delivery::new(Message::default(), tag, self.clone()).into_ack()
        }
    }

    fn setup() -> (Arc<Fake>, Journal, Instant) {
        let fake = Arc::<Fake>::default();
        let desk = Desk {
            transport: fake.clone(),
            exchange: Name::new("exchange", "events").unwrap(),
            topology: Lock::default(),
            instance: Instance::new(),
        };
        (fake, Journal::new(desk), Instant::now())
    }

    /// Told apart by what it says is its attempt.
    fn event(number: u32) -> TaskEvent {
        TaskEvent {
            id: TaskId::from_u128(number.into()),
            name: "resize".into(),
            queue: "images".into(),
            lane: None,
            attempt: number,
            at: UNIX_EPOCH,
            by: "host:1:c0de".into(),
            change: TaskChange::Cancelled,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_goes_out_when_its_event_is_stored_and_not_before() {
        let (fake, journal, start) = setup();
        fake.answer(Answer::Stores(5 * MS));
        journal.settle(fake.ack(7), 1.0, [event(1), event(2)]);
        tokio::time::sleep(4 * MS).await;
        assert_eq!(fake.acked(start), []);
        journal.settle(fake.ack(8), 1.0, [event(3)]);
        tokio::time::sleep(20 * MS).await;
        assert_eq!(fake.numbers(), [vec![1, 2], vec![3]]);
        assert_eq!(fake.acked(start), [(7, 5 * MS), (8, 10 * MS)], "one batch at a time");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nothing_waits_for_is_written_within_50_ms_with_what_came_meanwhile() {
        let (fake, journal, start) = setup();
        journal.record(event(1));
        tokio::time::sleep(40 * MS).await;
        journal.record(event(2));
        tokio::time::sleep(100 * MS).await;
        assert_eq!((fake.numbers(), fake.times(start)), (vec![vec![1, 2]], vec![50 * MS]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_something_waits_for_is_written_at_once_or_in_a_crowd_every_3_ms_unless_it_is_urgent() {
        let (fake, journal, start) = setup();
        // When so many tasks end that so many others may run meanwhile.
        for (at, count, others) in [
            (0, 1, 8),
            (1, 1, 8),
            (2, CROWD, 8),
            (3, 1, 8),
            (4, 1, 8),
            (20, CROWD, 8),
            (21, 7, 8),
            (22, 1, 8),
            (30, CROWD, 8),
            (31, 1, 1),
        ] {
            tokio::time::sleep_until(start + at * MS).await;
            let urgency = 1.0 / f32::from(u8::try_from(others).unwrap());
            (0..count).for_each(|_| journal.settle(fake.ack(1), urgency, [event(1)]));
        }
        tokio::time::sleep(100 * MS).await;
        let counts: Vec<usize> = fake.numbers().iter().map(Vec::len).collect();
        assert_eq!(counts, [1, 1, CROWD, 2, CROWD, 8, CROWD, 1]);
        assert_eq!(fake.times(start), [0, 1, 2, 5, 20, 22, 30, 31].map(|at| at * MS));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_takes_nothing_holds_up_nothing_for_longer_than_2_s() {
        let (fake, journal, start) = setup();
        fake.answer(Answer::Silence);
        journal.settle(fake.ack(1), 1.0, [event(1)]);
        journal.confirm([event(2)]).await;
        assert_eq!(fake.acked(start), [(1, PATIENCE)]);
        assert_eq!(start.elapsed(), PATIENCE);
        journal.settle(fake.ack(2), 1.0, [event(3)]);
        journal.confirm([event(4)]).await;
        journal.flush().await;
        assert_eq!(fake.acked(start)[1..], [(2, PATIENCE)], "at once from now on");
        assert_eq!(start.elapsed(), PATIENCE);
        fake.answer(Answer::default());
        tokio::time::sleep(6 * PATIENCE).await;
        assert_eq!(fake.numbers().concat(), [1, 2, 3, 4]);
        fake.answer(Answer::Stores(5 * MS));
        let again = Instant::now();
        journal.settle(fake.ack(3), 1.0, [event(5)]);
        tokio::time::sleep(100 * MS).await;
        assert_eq!(fake.acked(again)[2..], [(3, 5 * MS)], "it waits again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_counted_and_told_after_what_was() {
        let (fake, journal, _) = setup();
        fake.answer(Answer::Silence);
        journal.confirm([event(0)]).await;
        let limit = u32::try_from(LIMIT).unwrap();
        (1..=limit + 1_000).for_each(|number| journal.record(event(number)));
        fake.answer(Answer::default());
        tokio::time::sleep(6 * PATIENCE).await;
        let numbers = fake.numbers();
        assert!(numbers.iter().all(|batch| batch.len() <= BATCH));
        assert!(numbers.concat().into_iter().eq(0..=u64::from(limit)), "in their order");
        assert_eq!(fake.missed(), 1_000);
        let sequences: Vec<u64> = fake.stored.lock().iter().map(|(_, batch)| batch.stamp.sequence).collect();
        assert!(sequences.iter().copied().eq(1..=sequences.len() as u64), "no gap beside: {sequences:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_again_says_so() {
        let (fake, journal, _) = setup();
        fake.answer(Answer::StoresInSilence);
        journal.confirm([event(1)]).await;
        fake.answer(Answer::default());
        journal.record(event(2));
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(fake.numbers(), [vec![1], vec![1], vec![2]]);
        let sequences: Vec<u64> = fake.stored.lock().iter().map(|(_, batch)| batch.stamp.sequence).collect();
        assert_eq!(sequences, [1, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_history_that_was_deleted_is_declared_again() {
        let (fake, journal, start) = setup();
        for missing in [
            PublishError::Unroutable,
            PublishError::Refused("NOT_FOUND - no exchange 'events' in vhost '/'".to_owned()),
        ] {
            fake.answer(Answer::Refuses(missing));
            journal.settle(fake.ack(1), 1.0, [event(1)]);
            tokio::time::sleep(PATIENCE).await;
        }
        assert_eq!(fake.declares.load(Ordering::Relaxed), 2);
        assert_eq!(fake.numbers(), [[1], [1]]);
        assert_eq!(fake.acked(start), [(1, Duration::ZERO), (1, PATIENCE)], "without waiting for it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_refuses_events_is_not_asked_again() {
        let (fake, journal, start) = setup();
        let refused = || Answer::Refuses(PublishError::Forbidden("ACCESS_REFUSED".to_owned()));
        fake.answer(refused());
        journal.settle(fake.ack(1), 1.0, [event(1)]);
        journal.confirm([event(2)]).await;
        for number in 0..100 {
            journal.settle(fake.ack(2), 1.0, [event(number)]);
            journal.record(event(number));
            journal.confirm([event(number)]).await;
            journal.flush().await;
            tokio::time::sleep(100 * MS).await;
        }
        assert_eq!(fake.publishes.load(Ordering::Relaxed), 1);
        assert_eq!(fake.acked(start).len(), 101, "nothing is given back");
        assert!(journal.inner.pending.lock().events.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_flush_returns_when_all_is_written_and_acknowledged() {
        let (fake, journal, start) = setup();
        fake.answer(Answer::Stores(5 * MS));
        journal.flush().await;
        assert_eq!(start.elapsed(), Duration::ZERO, "nothing to do");
        journal.record(event(1));
        journal.settle(fake.ack(1), 1.0, [event(2)]);
        tokio::time::sleep(MS).await;
        journal.record(event(3));
        journal.flush().await;
        assert_eq!(fake.numbers().concat(), [1, 2, 3]);
        assert_eq!(fake.acked(start).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_handle_leaves_nothing_unwritten() {
        let (fake, journal, start) = setup();
        fake.answer(Answer::Stores(5 * MS));
        (0..5_000).for_each(|number| journal.record(event(number)));
        journal.clone().settle(fake.ack(1), 1.0, [event(5_000)]);
        drop(journal);
        tokio::time::sleep(40 * MS).await;
        assert!(fake.numbers().concat().into_iter().eq(0..=5_000));
        assert_eq!(fake.acked(start).len(), 1);
    }

    /// Has something to tell when it goes.
    struct Last(Journal);

    impl Drop for Last {
        fn drop(&mut self) {
            self.0.record(event(1));
        }
    }

    #[test]
    fn what_a_runtime_that_ends_has_to_tell_another_one_writes() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(1).enable_time().build().unwrap()
        };
        let first = runtime();
        let (fake, journal, last) = first.block_on(async {
            let (fake, journal, _) = setup();
            let last = Last(journal.clone());
            (fake, journal, last)
        });
        first.spawn(async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
        drop(first);
        drop(Last(journal.clone()));
        runtime().block_on(async { journal.confirm([event(2)]).await });
        assert_eq!(fake.numbers().concat(), [1, 1, 2]);
    }

    #[test]
    fn what_one_runtime_has_not_written_another_one_does() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (fake, journal, start) = setup();
        fake.answer(Answer::Silence);
        let first = runtime();
        first.block_on(async {
            journal.settle(fake.ack(1), 1.0, [event(1)]);
            while fake.publishes.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            journal.record(event(2));
        });
        let second = runtime();
        let waiting = journal.clone();
        let mut confirm = Box::pin(waiting.confirm([event(3)]));
        assert!(second.block_on(async { futures_util::poll!(&mut confirm) }).is_pending());
        drop(first);
        second.block_on(confirm);
        assert_eq!(fake.acked(start), []);
        fake.answer(Answer::default());
        second.block_on(journal.confirm([event(4)]));
        assert_eq!(fake.numbers().concat(), [1, 2, 3, 4]);
        assert_eq!(fake.stored.lock()[0].1.stamp.sequence, 1);
        assert_eq!(fake.acked(start).len(), 1);
    }
}
