//! [`InProcessTenure`]: a subscriber that publishes, for as long as it is one.

use std::future::ready;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::transport::Delivery;
use crate::transport::Publish;
use crate::transport::PublishError;
use crate::transport::Subscription;
use crate::transport::Tenure;

use super::subscription::InProcessSubscription;

#[derive(Debug)]
pub(super) struct InProcessTenure(pub(super) InProcessSubscription);

#[async_trait]
impl Subscription for InProcessTenure {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.0.poll_next(cx)
    }

    fn set_prefetch(&mut self, _: u16) {}

    async fn cancel(&mut self) {
        self.0.close().await;
    }

    async fn close(&mut self) {
        self.0.close().await;
    }
}

impl Tenure for InProcessTenure {
    fn is_orderly(&self) -> bool {
        true
    }

    /// Confirms at once; needs no timeout.
    fn publish(&self, publish: &Publish, _: Duration) -> BoxFuture<'static, Result<(), PublishError>> {
        Box::pin(ready(self.0.publish(publish)))
    }
}
