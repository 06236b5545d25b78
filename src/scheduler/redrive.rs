//! [`Redrive`]: dead letters that get another chance, by policy.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::dead::DeadLetter;
use crate::error::Error;
use crate::error::Result;
use crate::lock::Lock;
use crate::outcome::DeadReason;
use crate::topology::QueueName;

/// How long to wait before the dead letters are looked at again, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// … at most, for letters that somebody else looked at meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// … and after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Dead letters that get another chance: the active [`Scheduler`](crate::Scheduler) requeues them once they are old enough.
///
/// ```
/// # use std::time::Duration;
/// # use taskhare::{Broker, DeadReason, Redrive, Scheduler};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
/// # let broker = Broker::in_process();
/// let hourly = Redrive::after(Duration::from_secs(3600))
///     .times(5)
///     .queue("mail")
///     .only(|letter| letter.error().is_some_and(|error| error.contains("timed out")));
/// let scheduler = Scheduler::builder(&broker).redrive(hourly).start().await?;
/// # Ok(()) }
/// ```
///
/// A requeued task has all its attempts before it, and no deadline. How often it was requeued travels with it
/// ([`DeadLetter::redriven`]), and what an operator requeues counts too. What has expired is never redriven: it would
/// come even later. Where one letter fits several policies, the first that is ripe takes it.
///
/// A look goes past 10,000 letters that stay, as [`DeadLetters`](crate::DeadLetters) says; what is behind them waits
/// until they are gone.
#[derive(Clone)]
#[must_use = "nothing is redriven until it is given to a scheduler"]
pub struct Redrive {
    after: Duration,
    times: u32,
    queues: BTreeSet<String>,
    filter: Arc<Filter>,
}

type Filter = dyn Fn(&DeadLetter) -> bool + Send + Sync;

/// What becomes of a letter.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Redrive,
    /// It is not old enough until then.
    Ripens(SystemTime),
    Stays,
}

impl Redrive {
    /// Those that have been dead for so long.
    pub fn after(time: Duration) -> Self {
        let filter = |letter: &DeadLetter| {
            matches!(letter.reason(), DeadReason::AttemptsExhausted | DeadReason::TimeExhausted)
        };
        Self { after: time, times: 3, queues: BTreeSet::new(), filter: Arc::new(filter) }
    }

    /// At most so often, then it stays dead. Defaults to 3.
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Those of this queue; said again, of these. There must be one.
    pub fn queue(mut self, queue: &str) -> Self {
        self.queues.insert(queue.to_owned());
        self
    }

    /// Those for which `filter` holds, which may be asked about a letter again and again. Without it, those whose
    /// attempts or time were used up: what a handler has rejected it would reject again, and what has crashed five
    /// consumers would crash five more.
    pub fn only(mut self, filter: impl Fn(&DeadLetter) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Arc::new(filter);
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.queues.is_empty() {
            let reason = "it has no queue; say which with `Redrive::queue`".to_owned();
            return Err(Error::InvalidSetting { setting: "redrive", reason });
        }
        self.queues.iter().try_for_each(|queue| QueueName::new(queue).map(drop))
    }

    fn fate(&self, letter: &DeadLetter, now: SystemTime) -> Fate {
        if letter.reason().is_expiry() || letter.redriven() >= self.times || !(self.filter)(letter) {
            return Fate::Stays;
        }
        match letter.dead_at().and_then(|at| at.checked_add(self.after)) {
            Some(ripe) if ripe > now => Fate::Ripens(ripe),
            _ => Fate::Redrive,
        }
    }

    /// Redrives until it is told to stop.
    pub(super) async fn run(self, broker: Broker, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let mut pause = self.after.min(LONGEST_PAUSE);
            for queue in &self.queues {
                pause = pause.min(self.round(&broker, queue).await);
            }
            let _ = stop.run_until_cancelled(sleep(pause.max(PAUSE))).await;
        }
    }

    /// Redrives what is ripe, and says when to look again.
    async fn round(&self, broker: &Broker, queue: &str) -> Duration {
        let now = UNIX_EPOCH + broker.clock().now();
        let next = Arc::new(Lock::new(None::<SystemTime>));
        let (policy, ripens) = (self.clone(), next.clone());
        let wants = move |letter: &DeadLetter| match policy.fate(letter, now) {
            Fate::Redrive => true,
            Fate::Stays => false,
            Fate::Ripens(at) => {
                let mut next = ripens.lock();
                *next = Some(next.map_or(at, |next| next.min(at)));
                false
            }
        };
        let redriven = async { broker.dead_letters(queue)?.requeue_where(wants).await };
        match redriven.await {
            Ok(0) => {}
            Ok(count) => tracing::info!(queue, count, "dead letters are redriven"),
            Err(error) => {
                tracing::warn!(queue, %error, "dead letters cannot be redriven now");
                return AFTER_FAILURE;
            }
        }
        let next = *next.lock();
        next.map_or(LONGEST_PAUSE, |at| at.duration_since(now).unwrap_or_default())
    }
}

impl fmt::Debug for Redrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, times, queues, filter: _ } = self;
        f.debug_struct("Redrive")
            .field("after", after)
            .field("times", times)
            .field("queues", queues)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::envelope;
    use crate::envelope::Envelope;
    use crate::message::Message;
    use crate::task::TaskId;

    /// A letter that died at the tenth second, after having been redriven so often.
    fn letter(reason: DeadReason, redriven: u32) -> DeadLetter {
        let task = Envelope::new(TaskId::new(), "send", Duration::ZERO, Vec::new());
        let task = (0..redriven).fold(task, |task, _| task.revive(Duration::ZERO));
        let queue = QueueName::new("mail").unwrap();
        let message: Message = task.seal();
        let message = envelope::dead_letter(message, reason, "no", "mail", Duration::from_secs(10));
        DeadLetter::read(message, &queue)
    }

    #[test]
    fn a_letter_is_redriven_once_it_is_old_enough_and_not_too_often() {
        use DeadReason::*;
        let at = |s| UNIX_EPOCH + Duration::from_secs(s);
        let policy = Redrive::after(Duration::from_secs(5)).times(2);
        let all = policy.clone().only(|_| true);
        for (policy, reason, redriven, now, expected) in [
            (&policy, AttemptsExhausted, 0, 14, Fate::Ripens(at(15))),
            (&policy, AttemptsExhausted, 0, 15, Fate::Redrive),
            (&policy, TimeExhausted, 1, 15, Fate::Redrive),
            (&policy, AttemptsExhausted, 2, 15, Fate::Stays),
            (&policy, AttemptsExhausted, 2, 14, Fate::Stays),
            (&policy, Rejected, 0, 15, Fate::Stays),
            (&all, Rejected, 0, 15, Fate::Redrive),
            (&all, Crashed, 0, 14, Fate::Ripens(at(15))),
            (&all, ExpiredInQueue, 0, 15, Fate::Stays),
            (&all, ExpiredRunning, 0, 15, Fate::Stays),
        ] {
            let letter = letter(reason, redriven);
            assert_eq!(policy.fate(&letter, at(now)), expected, "{reason} {redriven} {now}");
        }
    }

    #[test]
    fn a_policy_is_for_queues_that_can_be() {
        let policy = Redrive::after(Duration::ZERO);
        assert!(policy.check().is_err());
        assert!(policy.clone().queue("mail").check().is_ok());
        assert!(policy.queue("").check().is_err());
    }
}
