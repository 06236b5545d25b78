//! [`Callback`]: what the broker says on a channel unasked, passed on to whom it concerns.

use std::sync::Arc;

use amqprs::Ack;
use amqprs::BasicProperties;
use amqprs::Cancel;
use amqprs::CloseChannel;
use amqprs::Nack;
use amqprs::Return;
use amqprs::callbacks::ChannelCallback;
use amqprs::channel::Channel;
use amqprs::error::Error as ClientError;
use async_trait::async_trait;

use crate::transport::amqp::confirms::Outcome;
use crate::transport::amqp::confirms::Unconfirmed;
use crate::transport::amqp::declare::Closing;
use crate::transport::amqp::settle::Outstanding;

/// Of a channel that consumes, publishes, or both. Awaits nothing: it runs in the task that also hands out deliveries
/// and confirms.
pub(super) struct Callback {
    pub(super) closing: Closing,
    pub(super) deliveries: Option<Arc<Outstanding>>,
    pub(super) publishes: Option<Arc<Unconfirmed>>,
}

impl Callback {
    /// Nothing is sent on the channel any more.
    fn die(&self, outcome: &Outcome) {
        if let Some(outstanding) = &self.deliveries {
            outstanding.die();
        }
        if let Some(unconfirmed) = &self.publishes {
            unconfirmed.die(outcome);
        }
    }
}

#[async_trait]
impl ChannelCallback for Callback {
    /// Dead before the client answers the close: whatever follows that answer costs the whole connection.
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), ClientError> {
        let closed = self.closing.note(&close);
        if self.deliveries.is_some() {
            tracing::warn!(
                broker.code = closed.code,
                reason = closed.text,
                "the broker closed a consuming channel"
            );
        }
        self.die(&Outcome::Closed(closed));
        Ok(())
    }

    /// The queue is gone, or (4.3) a delivery took too long: then the consumer stays registered without deliveries
    /// until its channel is closed. What was handed out can still be settled, unless the channel publishes as well:
    /// whoever may publish only while it consumes must not go on.
    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), ClientError> {
        match &self.deliveries {
            Some(outstanding) if self.publishes.is_none() => outstanding.go_stale(),
            _ => self.die(&Outcome::Lost),
        }
        tracing::warn!(broker.consumer = cancel.consumer_tag(), "the broker cancelled a consumer");
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, ClientError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        if let Some(unconfirmed) = &self.publishes {
            unconfirmed.confirmed(ack.delivery_tag(), ack.mutiple(), &Outcome::Acked);
        }
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        if let Some(unconfirmed) = &self.publishes {
            unconfirmed.confirmed(nack.delivery_tag(), nack.multiple(), &Outcome::Nacked);
        }
    }

    async fn publish_return(
        &mut self,
        _: &Channel,
        ret: Return,
        properties: BasicProperties,
        content: Vec<u8>,
    ) {
        if let Some(unconfirmed) = &self.publishes {
            unconfirmed.returned(&ret, &properties, content.len());
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        self.die(&Outcome::Lost);
    }
}
