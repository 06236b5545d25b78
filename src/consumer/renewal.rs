//! [`Renewal`]: keeps the deliveries of running attempts younger than the broker lets them become.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::time::Instant;

use super::lease::LeaseQueue;
use super::suspicion::came_back;
use crate::broker::Broker;
use crate::envelope::Envelope;
use crate::route::Home;
use crate::route::Route;
use crate::topology::QueueName;
use crate::transport::Delivery;

/// How the attempts of one queue, in its lanes or in its quarantine, hold their deliveries.
pub(super) struct Renewal {
    broker: Broker,
    leases: Arc<LeaseQueue>,
    route: Route,
    home: Home,
}

impl Renewal {
    pub(super) fn new(broker: &Broker, queue: QueueName, home: Home, leases: Arc<LeaseQueue>) -> Self {
        Self { broker: broker.clone(), leases, route: broker.route(queue), home }
    }

    /// Replaces `delivery` by a fresh lease whenever it becomes too old. Dropped at any await it leaves one that is
    /// whole.
    pub(super) async fn keep(&self, delivery: &mut Delivery, envelope: &Envelope) -> Infallible {
        let term = self.leases.term();
        let counts = self.home == Home::Quarantine || self.broker.counts_returns();
        let returned = came_back(counts, delivery.redelivered, delivery.returned, envelope.returned);
        let mut next = delivery.arrived.unwrap_or_else(Instant::now) + term.renewal();
        loop {
            tokio::time::sleep_until(next).await;
            if delivery.is_lost() {
                // Somebody else has it, or will.
                return std::future::pending().await;
            }
            let copy = Envelope { returned, ..envelope.clone() };
            let copy = self.route.lease(copy, self.broker.clock().now(), self.leases.holder(), self.home);
            let begun = Instant::now();
            next = match self.leases.lease(copy).await {
                // The broker has taken the older one back meanwhile, so this is one too many.
                Ok(lease) if delivery.is_lost() => {
                    lease.ack();
                    begun
                }
                Ok(lease) => {
                    tracing::debug!(task.id = %envelope.id, task.name = %envelope.name, "lease renewed");
                    std::mem::replace(delivery, lease).ack();
                    begun + term.renewal()
                }
                Err(why) => {
                    tracing::warn!(task.id = %envelope.id, task.name = %envelope.name, reason = why, "lease not renewed yet");
                    Instant::now() + term.tick()
                }
            };
        }
    }
}
