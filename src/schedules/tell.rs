//! [`tell`]: what somebody wants to become of a schedule, on its way into the queue of the schedules.

use std::time::Duration;

use crate::broker::Broker;
use crate::broker::Part;
use crate::error::Error;
use crate::error::Result;
use crate::schedule::Command;
use crate::topology::Names;
use crate::transport::Publish;
use crate::transport::PublishError;

/// Declares the queue of the schedules, and publishes a command there. `Ok` means that it is stored, on a majority of
/// replicas, for the scheduler that is active, now or later. What was deleted meanwhile is declared again, once.
///
/// # Errors
///
/// [`Error::Schedule`], [`Error::Closed`], or a failure to declare.
pub(crate) async fn tell(broker: &Broker, command: Command, timeout: Duration) -> Result<()> {
    broker.declare(Part::Schedules).await?;
    let action = command.what.to_string();
    let publish = to_schedulers(broker, command);
    let mut published = broker.transport().publish(&publish, timeout).await;
    if broker.declares() && published.as_ref().is_err_and(PublishError::is_missing) {
        broker.restore(Part::Schedules).await?;
        published = broker.transport().publish(&publish, timeout).await;
    }
    published.map_err(|error| failed(action, error))
}

/// As [`tell`], where the queue is declared: by whoever fired a tick, or by somebody who may.
pub(crate) async fn tell_undeclared(broker: &Broker, command: Command, timeout: Duration) -> Result<()> {
    let action = command.what.to_string();
    let publish = to_schedulers(broker, command);
    broker.transport().publish(&publish, timeout).await.map_err(|error| failed(action, error))
}

fn to_schedulers(broker: &Broker, command: Command) -> Publish {
    let (exchange, key) = (broker.names().tasks(), Names::schedules_key());
    Publish { exchange, key, mandatory: true, message: command.seal() }
}

fn failed(action: String, error: PublishError) -> Error {
    match error {
        PublishError::Closed => Error::Closed,
        PublishError::Forbidden(reason) => Error::AccessRefused { action, reason },
        error => Error::Schedule { action, source: Box::new(error) },
    }
}
