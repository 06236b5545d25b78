//! [`Stall`]: whether the broker confirms what it is sent. Pure.
//!
//! RabbitMQ tells of an alarm (`connection.blocked`) only whom the client library has announced to understand it, and
//! amqprs announces nothing. So all one sees is that no confirms come.

use std::time::Duration;

use tokio::time::Instant;

/// A channel's confirms over time.
#[derive(Debug)]
pub(super) struct Stall {
    /// How many confirms had come when last looked at.
    confirms: u64,
    /// When one came last, or nothing was without one.
    well: Instant,
}

impl Stall {
    /// How long no confirm may come while some are missing. Longer than a queue takes to elect a leader.
    pub(super) const AFTER: Duration = Duration::from_secs(5);

    pub(super) fn new(now: Instant) -> Self {
        Self { confirms: 0, well: now }
    }

    /// Whether it is stalled, now that so many confirms have come; `is_waiting` if some are missing.
    pub(super) fn look(&mut self, confirms: u64, is_waiting: bool, now: Instant) -> bool {
        if confirms != self.confirms || !is_waiting {
            (self.confirms, self.well) = (confirms, now);
        }
        now.saturating_duration_since(self.well) >= Self::AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stalled_while_something_waits_and_no_confirm_has_come_for_a_while() {
        // When it is looked at, how many confirms have come, whether some are missing; whether it is stalled.
        type Look = (u64, u64, bool, bool);
        let table: [&[Look]; 5] = [
            &[(0, 0, false, false), (60, 0, false, false), (61, 0, true, false), (64, 0, true, false)],
            &[(0, 0, true, false), (4, 0, true, false), (5, 0, true, true), (60, 0, true, true)],
            // A confirm, of whatever it is, means that the broker reads.
            &[(0, 1, true, false), (4, 2, true, false), (8, 3, true, false), (13, 3, true, true)],
            &[(0, 0, true, false), (5, 0, true, true), (6, 1, true, false), (10, 1, true, false)],
            &[(0, 0, true, false), (5, 0, true, true), (6, 1, false, false), (20, 1, false, false)],
        ];
        for looks in table {
            let start = Instant::now();
            let mut stall = Stall::new(start);
            for (seconds, confirms, is_waiting, expected) in looks {
                let found = stall.look(*confirms, *is_waiting, start + Duration::from_secs(*seconds));
                assert_eq!(found, *expected, "after {seconds} s of {looks:?}");
            }
        }
    }
}
