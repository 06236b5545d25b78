//! [`Gate`]: whether a task whose turn has come may start now. Without the feature `limits` there is none.

use std::time::Duration;

use crate::message::Message;
use crate::outcome::Outcome;

/// What tasks pass on their way from the intake to a slot.
pub(super) trait Gate: Send + Sync {
    /// Lets a task start; or, as an error, says when it is to ask again, since the Unix epoch. What has to be
    /// remembered until then is written on the message.
    fn enter(&self, message: &mut Message) -> Result<Option<Box<dyn Watch>>, Duration>;
}

/// Whoever wants to know how a task ends that was let in. Dropped, it ended in no way that tells anything.
pub(super) trait Watch: Send {
    fn ended(self: Box<Self>, outcome: Outcome);
}
