//! [`Term`]: how long a delivery may be held, and what follows from that. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// RabbitMQ's consumer timeout: whoever holds a delivery for longer loses it, with all others of its channel. Brokers
/// before 4.3 look once a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Term(Duration);

impl Term {
    /// A shorter one leaves no time to renew.
    const SHORTEST: Duration = Duration::from_secs(4);

    pub(super) fn new(timeout: Duration) -> Self {
        Self(timeout.max(Self::SHORTEST))
    }

    pub(super) fn timeout(self) -> Duration {
        self.0
    }

    /// At what age a delivery is replaced by a fresh copy. The rest is for whatever goes wrong then.
    pub(super) fn renewal(self) -> Duration {
        self.0 / 2
    }

    /// How often those that wait are looked at, and how soon after a failure one is tried again.
    pub(super) fn tick(self) -> Duration {
        self.0 / 16
    }

    /// How long one try to replace a delivery may take.
    pub(super) fn patience(self) -> Duration {
        (self.0 / 8).min(Duration::from_secs(30))
    }

    /// What waits and came before this would be too old at the next look.
    pub(super) fn oldest(self, now: Instant) -> Instant {
        now.checked_sub(self.renewal() - self.tick()).unwrap_or(now)
    }
}

impl Default for Term {
    /// RabbitMQ's.
    fn default() -> Self {
        Self(Duration::from_secs(30 * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_delivery_is_replaced_by_half_of_the_timeout_and_there_is_time_to_try_again() {
        let now = Instant::now();
        for seconds in [0, 4, 60, 1800, 86_400] {
            let term = Term::new(Duration::from_secs(seconds));
            assert!(term.timeout() >= Duration::from_secs(seconds.max(4)));
            // It came right after a look, and is looked at each tick.
            let (mut age, mut looks) = (Duration::ZERO, 0);
            while now + term.renewal() >= term.oldest(now + term.renewal()) + age + term.tick() {
                age += term.tick();
                looks += 1;
            }
            assert!(age <= term.renewal() && looks >= 6, "{term:?}: replaced at {age:?}");
            let rest = term.timeout() - term.renewal();
            assert!(rest >= 2 * (term.patience() + term.tick()), "{term:?}: two tries");
        }
    }
}
