//! [`Journal`]: what this process has to tell of its tasks, on its way into the history, many events in a message.
//!
//! ```text
//!  record ──┐                     at once when idle, at most every 2 ms          ┌─► {ns}.history
//!  settle ──┼─► pending ────────────────────────────────────────► one batch ─────┤
//!  confirm ─┘            what nothing waits for: after 50 ms      at a time      └─ confirmed ─► acks, and who waits
//! ```
//!
//! The end of a task is in the history before the broker forgets its message: its acknowledgement waits for the
//! batch, not its slot. So a crash repeats the end of a task, and never loses it. It never holds up work: a batch
//! that is not confirmed within 2 seconds lets go of what waits for it, and until one is confirmed again nothing waits
//! at all. What cannot be written meanwhile is kept up to a limit, and counted beyond it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

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
use crate::message::Message;
use crate::name::Name;
use crate::telemetry;
use crate::topology::Topology;
use crate::transport::Ack;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Transport;

/// How long an event that nothing waits for is kept back for others.
const LINGER: Duration = Duration::from_millis(50);
/// How far apart batches are that something waits for, unless much does.
const PACE: Duration = Duration::from_millis(2);
/// So many acknowledgements wait for no others.
const EAGER: usize = 16;
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
    /// To declare again what somebody has deleted.
    pub(crate) topology: Topology,
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
    acks: Vec<Ack>,
    waiters: Vec<oneshot::Sender<()>>,
    /// Since when something is.
    since: Option<Instant>,
    /// How many events did not fit.
    missed: u64,
    has_writer: bool,
    /// A batch is on its way.
    is_under_way: bool,
    /// The last batch was not confirmed in time: nothing waits.
    is_stuck: bool,
    /// Nothing will ever be published again.
    is_closed: bool,
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
    pub(crate) fn settle(&self, ack: Ack, events: impl IntoIterator<Item = TaskEvent>) {
        let mut unwaiting = None;
        self.add(|pending| {
            events.into_iter().for_each(|event| pending.push(event));
            if pending.is_stuck {
                unwaiting = Some(ack);
            } else {
                pending.acks.push(ack);
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
                pending.waiters.push(waiter);
            }
        });
        // An error: nobody waits.
        let _ = written.await;
    }

    /// Returns when all that was to be written is written, its messages are acknowledged, or the broker takes none.
    pub(crate) async fn flush(&self) {
        let is_done = {
            let pending = self.inner.pending.lock();
            pending.is_empty() && !pending.is_under_way
        };
        if !is_done {
            self.confirm([]).await;
        }
    }

    fn add(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.inner.pending.lock();
        if pending.is_closed {
            change(&mut pending);
            pending.events.clear();
            pending.announcements.clear();
            return pending.release();
        }
        let (was_empty, had_waiting) = (pending.is_empty(), pending.is_awaited());
        change(&mut pending);
        pending.since.get_or_insert_with(Instant::now);
        if !pending.has_writer {
            pending.has_writer = true;
            tokio::spawn(Writer(self.inner.clone()).run());
        }
        let is_awaited = pending.is_awaited() && (!had_waiting || pending.acks.len() == EAGER);
        let is_more = is_awaited || pending.events.len() == BATCH;
        drop(pending);
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
        }
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.announcements.is_empty() && !self.is_awaited() && self.missed == 0
    }

    fn is_awaited(&self) -> bool {
        !self.acks.is_empty() || !self.waiters.is_empty()
    }

    /// When it is to be written, if the last batch was written at `last`; `None`: nothing is.
    fn due(&self, last: Option<Instant>) -> Option<Instant> {
        let since = self.since.filter(|_| !self.is_empty())?;
        if self.acks.len() >= EAGER || self.events.len() >= BATCH {
            return Some(since);
        }
        if self.is_awaited() {
            return Some(last.map_or(since, |last| since.max(last + PACE)));
        }
        Some(since + LINGER)
    }

    /// What goes into the next batch, and what waits for it.
    fn take(&mut self) -> Self {
        let rest = if self.events.len() > BATCH { self.events.split_off(BATCH) } else { Vec::new() };
        let mut taken = Self { events: std::mem::replace(&mut self.events, rest), ..Self::default() };
        std::mem::swap(&mut taken.announcements, &mut self.announcements);
        taken.missed = std::mem::take(&mut self.missed);
        self.is_under_way = true;
        if self.events.is_empty() {
            // What waits may wait for any of the events: so for the last.
            std::mem::swap(&mut taken.acks, &mut self.acks);
            std::mem::swap(&mut taken.waiters, &mut self.waiters);
            self.since = None;
        }
        taken
    }

    /// Lets go of what waits.
    fn release(&mut self) {
        self.acks.drain(..).for_each(Ack::send);
        self.waiters.clear();
    }
}

/// Writes until the journal is closed and empty, or the runtime ends; in another one a new writer goes on.
struct Writer(Arc<Inner>);

impl Writer {
    async fn run(self) {
        let Inner { pending, wake, closed, desk, .. } = &*self.0;
        let mut last = None;
        loop {
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
                    let mut batch = pending.lock().take();
                    last = Some(Instant::now());
                    for message in desk.seal(&batch, &self.0.sequence) {
                        if !self.0.store(message, &mut batch).await {
                            return self.0.end();
                        }
                    }
                    batch.release();
                    pending.lock().is_under_way = false;
                }
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.pending.lock().has_writer = false;
    }
}

impl Inner {
    /// Publishes until it is confirmed. What waits for it is let go when it takes long. False when nothing will ever
    /// be published again.
    async fn store(&self, message: Message, batch: &mut Pending) -> bool {
        let publish = Publish {
            exchange: self.desk.exchange.clone(),
            key: self.desk.exchange.clone(),
            mandatory: true,
            message,
        };
        let [mut pause, longest] = PAUSES;
        loop {
            let error = match self.desk.transport.publish(&publish, PATIENCE).await {
                Ok(()) => {
                    self.pending.lock().is_stuck = false;
                    return true;
                }
                Err(PublishError::Closed) => return false,
                Err(error @ PublishError::Refused(_)) if !error.is_missing() => {
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
            batch.release();
            if !was_stuck {
                tracing::warn!(%error, "the history takes no events; tasks go on without");
            }
            if error.is_missing() {
                // Somebody deleted it; if this fails too, the next round tells.
                let _ = self.desk.transport.declare(&self.desk.topology).await;
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

    /// Nobody writes any more: nothing waits.
    fn end(&self) {
        let mut pending = self.pending.lock();
        pending.is_stuck = true;
        pending.release();
        pending.events.clear();
        pending.announcements.clear();
        pending.is_closed = true;
    }
}

impl Desk {
    /// The messages with that, in the order in which they are to be stored.
    fn seal(&self, batch: &Pending, last: &AtomicU64) -> Vec<Message> {
        let stamp = || {
            let sequence = last.fetch_add(1, Ordering::Relaxed) + 1;
            Stamp { source: self.instance.name().clone(), sequence }
        };
        let mut messages: Vec<Message> =
            batch.announcements.iter().map(|event| announce(&stamp(), event)).collect();
        if !batch.events.is_empty() || batch.missed > 0 {
            messages.push(Batch::seal(&stamp(), &batch.events, batch.missed));
        }
        messages
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("instance", &self.inner.desk.instance).finish_non_exhaustive()
    }
}
