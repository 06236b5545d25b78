//! [`Delivery::intercepted`]: what becomes of a delivery is decided by whoever lent it.

use std::sync::Arc;

use crate::lock::Lock;
use crate::transport::Delivery;
use crate::transport::Settle;
use crate::transport::Settlement;

impl Delivery {
    /// The same delivery to its holder; how it is settled there is told to `settle`, together with the one that came.
    pub(crate) fn intercepted(self, settle: impl FnOnce(Self, Settlement) + Send + 'static) -> Self {
        let Self { redelivered, returned, offset, arrived, tag, .. } = self;
        let message = self.message.clone();
        let settle = Intercept(Lock::new(Some((self, settle))));
        let settle: Option<Arc<dyn Settle>> = Some(Arc::new(settle));
        Self { message, redelivered, returned, offset, exchange: None, arrived, tag, settle }
    }
}

/// The one that came, until it is settled.
struct Intercept<F>(Lock<Option<(Delivery, F)>>);

impl<F: FnOnce(Delivery, Settlement) + Send> Settle for Intercept<F> {
    fn settle(&self, _: u64, settlement: Settlement) {
        let intercepted = self.0.lock().take();
        if let Some((delivery, settle)) = intercepted {
            settle(delivery, settlement);
        }
    }

    fn is_lost(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|(delivery, _)| delivery.is_lost())
    }
}
