//! [`Feedback`]: what a consumer tells of its attempts, into the [`Journal`].

use std::sync::Arc;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use super::tally::Tally;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::failures::excerpt;
use crate::handler::Tell;
use crate::journal::Journal;
use crate::lane::Lane;
use crate::progress::Report;
use crate::topology::QueueName;
use crate::transport::Delivery;

/// How much of an error an event carries, in bytes.
const LONGEST_ERROR: usize = 256;

/// Tells of the attempts of one consumer and queue.
#[derive(Clone, Debug)]
pub(super) struct Feedback {
    /// `None`: nobody wants to know.
    journal: Option<Journal>,
    by: Arc<str>,
    queue: Arc<str>,
    tally: Arc<Tally>,
    clock: Clock,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// `None`: in quarantine.
    lane: Option<Lane>,
    /// Since the Unix epoch.
    at: Duration,
    redelivered: bool,
    limit: Option<Duration>,
    /// Whether it is told that it has begun.
    is_told: bool,
}

impl Feedback {
    /// `by` is the consumer.
    pub(super) fn new(
        broker: &Broker,
        journal: Option<Journal>,
        by: Arc<str>,
        queue: &QueueName,
        tally: Arc<Tally>,
    ) -> Self {
        Self { journal, by, queue: queue.text(), tally, clock: broker.clock() }
    }

    /// An attempt begins now, which may run for `limit`. That it began is told with its end, unless [`started`](Self::started)
    /// comes before.
    pub(super) fn begin(&self, lane: Option<Lane>, redelivered: bool, limit: Option<Duration>) -> Begun {
        let at = if self.journal.is_some() { self.clock.now() } else { Duration::ZERO };
        Begun { lane, at, redelivered, limit, is_told: false }
    }

    /// Tells that an attempt has begun.
    pub(super) fn started(&self, envelope: &Envelope, begun: &mut Begun) {
        if let Some(journal) = &self.journal
            && let Some(event) = self.start(envelope, begun)
        {
            journal.record(event);
        }
    }

    /// What tells how far attempts are; `None`: nobody wants to know.
    pub(super) fn tell(&self) -> Option<Tell> {
        let Self { journal, by, queue, tally: _, clock } = self.clone();
        let journal = journal?;
        Some(Tell::new(move |attempt, report| {
            let Report { done, total, note, .. } = report;
            journal.record(TaskEvent {
                id: attempt.id,
                name: attempt.name.into(),
                queue: queue.clone(),
                lane: attempt.lane,
                attempt: attempt.number,
                at: UNIX_EPOCH + clock.now(),
                by: by.clone(),
                change: TaskChange::Progress { done: *done, total: *total, note: note.clone() },
            });
        }))
    }

    /// Tells that a task is done, and acknowledges its message when that is written.
    pub(super) async fn succeeded(
        &self,
        delivery: Delivery,
        envelope: &Envelope,
        mut begun: Begun,
        ran: Duration,
    ) {
        let Some(journal) = &self.journal else { return delivery.ack() };
        self.tally.succeeds(ran);
        let now = self.clock.now();
        let total = now.saturating_sub(envelope.first_due());
        let start = self.start(envelope, &mut begun);
        let end = self.event(envelope, begun.lane, now, TaskChange::Succeeded { ran, total });
        let events = start.into_iter().chain([end]);
        if begun.lane.is_some() {
            journal.settle(delivery.into_ack(), self.tally.urgency(), events);
        } else {
            // Whoever reads a quarantine starts the next one only after this is acknowledged.
            journal.confirm(events).await;
            delivery.ack();
        }
    }

    /// Tells that an attempt has failed, and when the next one is due, if there is one. Before that one is published, so
    /// that what is told of a task is in order.
    pub(super) async fn failed(
        &self,
        envelope: &Envelope,
        mut begun: Begun,
        ran: Duration,
        error: &str,
        due: Option<Duration>,
    ) {
        let Some(journal) = &self.journal else { return };
        self.tally.fails(ran);
        let now = self.clock.now();
        let error = excerpt(error, LONGEST_ERROR).to_owned();
        let start = self.start(envelope, &mut begun);
        let failed = self.event(envelope, begun.lane, now, TaskChange::Failed { ran, error });
        let retrying = due.map(|due| {
            let change = TaskChange::Retrying { due: UNIX_EPOCH + due };
            self.event(envelope, begun.lane, now, change)
        });
        journal.confirm(start.into_iter().chain([failed]).chain(retrying)).await;
    }

    /// Tells that a task was cancelled, and acknowledges its message when that is written.
    pub(super) async fn cancelled(&self, delivery: Delivery, envelope: &Envelope) {
        if let Some(journal) = &self.journal {
            journal.confirm([self.event(envelope, None, self.clock.now(), TaskChange::Cancelled)]).await;
        }
        delivery.ack();
    }

    /// Tells that a task goes back to its queue because the consumer shuts down.
    pub(super) fn handed_back(&self, envelope: &Envelope, begun: Begun) {
        if let Some(journal) = self.journal.as_ref().filter(|_| begun.is_told) {
            journal.record(self.event(envelope, begun.lane, self.clock.now(), TaskChange::HandedBack));
        }
    }

    /// Returns when all is written, and all acknowledged that waits for it.
    pub(super) async fn flush(&self) {
        if let Some(journal) = &self.journal {
            journal.flush().await;
        }
    }

    /// That an attempt has begun, if it is not told yet.
    fn start(&self, envelope: &Envelope, begun: &mut Begun) -> Option<TaskEvent> {
        if std::mem::replace(&mut begun.is_told, true) {
            return None;
        }
        let Begun { lane, at, redelivered, limit, is_told: _ } = *begun;
        let change = TaskChange::Started {
            waited: at.saturating_sub(envelope.startable()),
            delayed: envelope.due.is_some(),
            redelivered,
            limit,
        };
        Some(self.event(envelope, lane, at, change))
    }

    fn event(&self, envelope: &Envelope, lane: Option<Lane>, at: Duration, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id: envelope.id,
            name: envelope.name.clone(),
            queue: self.queue.clone(),
            lane,
            attempt: envelope.attempt,
            at: UNIX_EPOCH + at,
            by: self.by.clone(),
            change,
        }
    }
}
