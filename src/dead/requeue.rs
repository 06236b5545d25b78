//! [`Requeue`], the builder that is a future.

use std::fmt;
use std::future::IntoFuture;

use futures_util::future::BoxFuture;

use super::DeadLetter;
use super::DeadLetters;
use super::sweep::Sweep;
use crate::error::Result;

/// Dead letters about to be requeued: see [`DeadLetters::requeue_all`].
#[must_use = "nothing is requeued until this is awaited"]
pub struct Requeue(Sweep);

impl Requeue {
    pub(super) fn new(
        letters: &DeadLetters,
        filter: impl FnMut(&DeadLetter) -> bool + Send + 'static,
    ) -> Self {
        Self(Sweep::requeue(letters, filter))
    }

    /// At most so many a second, so that what comes back does not overrun what it failed at. At least 1; without it, as
    /// fast as the broker confirms. A broker that is slower is not caught up with afterwards.
    pub fn rate(self, per_second: u32) -> Self {
        Self(self.0.rate(per_second))
    }
}

impl IntoFuture for Requeue {
    type Output = Result<u64>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.run())
    }
}

impl fmt::Debug for Requeue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requeue").field(&self.0).finish()
    }
}
