//! [`Quarantine`]: the way into quarantine, back into it, and out of it to the dead letters. Confirmed first; then the
//! old message may go.

use std::sync::Arc;
use std::time::Duration;

use super::receipt::Report;
use super::sequel::Sequel;
use super::suspicion::RETURNS_FROM_LANES;
use super::suspicion::Suspicion;
use super::suspicion::came_back;
use super::suspicion::is_convicted;
use super::suspicion::suspicion;
use crate::broker::Broker;
use crate::envelope;
use crate::envelope::Envelope;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;
use crate::route::Route;
use crate::topology::QueueName;
use crate::transport::Delivery;

/// How long a shutdown waits until a task is back in quarantine uncounted; after that its return counts.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The quarantine of one queue.
pub(super) struct Quarantine {
    broker: Broker,
    queue: QueueName,
    route: Route,
    sequel: Arc<Sequel>,
    crash_limit: u32,
}

impl Quarantine {
    pub(super) fn new(broker: &Broker, queue: QueueName, sequel: Arc<Sequel>, crash_limit: u32) -> Self {
        Self { route: broker.route(queue.clone()), sequel, broker: broker.clone(), queue, crash_limit }
    }

    pub(super) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The time of day.
    pub(super) fn now(&self) -> Duration {
        self.broker.clock().now()
    }

    pub(super) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Whether a task whose turn in its lane has come must be [moved on](Self::move_on) instead of started.
    pub(super) fn suspects(&self, delivery: &Delivery) -> bool {
        let may_have_returned = delivery.redelivered || envelope::returned(&delivery.message) > 0;
        may_have_returned && self.suspicion(delivery) != Suspicion::None && !self.is_too_late(delivery)
    }

    /// What is too late is not started anyway.
    fn is_too_late(&self, delivery: &Delivery) -> bool {
        envelope::deadline(&delivery.message).is_some_and(|deadline| deadline <= self.now())
    }

    fn suspicion(&self, delivery: &Delivery) -> Suspicion {
        let noted = envelope::returned(&delivery.message);
        suspicion(self.broker.counts_returns(), delivery.redelivered, delivery.returned, noted)
    }

    /// Into quarantine, or back into its lane with a note.
    pub(super) async fn move_on(&self, mut delivery: Delivery) -> Report {
        let suspicion = self.suspicion(&delivery);
        let mut envelope = match Envelope::open(std::mem::take(&mut delivery.message)) {
            Ok(envelope) => envelope,
            Err(foreign) => return self.sequel.turn_away(delivery, *foreign).await,
        };
        let (id, name, now) = (envelope.id, envelope.name.clone(), self.now());
        let next = match suspicion {
            Suspicion::Strong => {
                tracing::warn!(task.id = %id, task.name = %name, queue = %self.queue, "task came back twice without an end: into quarantine");
                envelope.returned = RETURNS_FROM_LANES;
                self.route.quarantine(envelope, now)
            }
            Suspicion::Noted | Suspicion::None => {
                envelope.returned += 1;
                self.route.publish(envelope, now)
            }
        };
        self.sequel.replace(delivery, &next).await;
        Report { id: Some(id), name, outcome: Outcome::Deferred }
    }

    /// Whether a task in quarantine has been started often enough.
    pub(super) fn convicts(&self, delivery: &Delivery) -> bool {
        is_convicted(starts(delivery), self.crash_limit)
    }

    /// Publishes the dead letter of a task that never ended.
    pub(super) async fn bury(&self, mut delivery: Delivery) -> Report {
        let starts = starts(&delivery);
        let envelope = match Envelope::open(std::mem::take(&mut delivery.message)) {
            Ok(envelope) => envelope,
            Err(foreign) => return self.sequel.turn_away(delivery, *foreign).await,
        };
        let (id, name) = (Some(envelope.id), envelope.name.clone());
        let error = format!("started {starts} times, and each time its consumer died or lost its connection");
        let outcome = self.sequel.bury(delivery, envelope, DeadReason::Crashed, &error).await;
        Report { id, name, outcome }
    }

    /// Back into quarantine, without counting what the broker would: that it was not ended.
    pub(super) async fn hand_back(&self, mut delivery: Delivery) {
        let starts = starts(&delivery);
        let Ok(mut envelope) = Envelope::open(std::mem::take(&mut delivery.message)) else { return };
        envelope.returned = starts;
        let again = self.route.quarantine(envelope, self.now());
        match self.broker.transport().publish(&again, HAND_BACK_TIMEOUT).await {
            Ok(()) => delivery.ack(),
            Err(error) => {
                tracing::warn!(queue = %self.queue, %error, "a task went back to quarantine as if it had crashed");
            }
        }
    }
}

/// How often a task in quarantine was started without an end.
fn starts(delivery: &Delivery) -> u32 {
    let noted = envelope::returned(&delivery.message);
    came_back(true, delivery.redelivered, delivery.returned, noted)
}
