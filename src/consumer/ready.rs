//! [`Ready`]: the deliveries of one lane that may start, in the order in which they should: earliest deadline first.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::envelope;
use crate::transport::Delivery;

/// How much later than its arrival a task without a deadline, or with a distant one, ranks as due. Of those with nearer
/// deadlines, only the ones that arrive within this time overtake it: so none starves.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ordered by [`PATIENCE`] after arrival, or by deadline where that is nearer.
///
/// Tasks without deadlines cost nothing for it: the clock is read only while there is one with.
#[derive(Default)]
pub(super) struct Ready {
    /// Those that have patience, in order of arrival, which is also the order of their ranks.
    patient: VecDeque<Patient>,
    /// Those that have none, by deadline.
    pressing: BinaryHeap<Reverse<Pressing>>,
    /// How many were ever pressing.
    arrivals: u64,
}

struct Patient {
    /// Since the Unix epoch; `None` if nothing pressing has been there to be compared with.
    rank: Option<Duration>,
    delivery: Delivery,
}

struct Pressing {
    deadline: Duration,
    /// Of equal deadlines the first to arrive goes first.
    arrival: u64,
    delivery: Delivery,
}

impl Ready {
    pub(super) fn push(&mut self, delivery: Delivery, clock: Clock) {
        let deadline = envelope::deadline(&delivery.message);
        if deadline.is_none() && self.pressing.is_empty() {
            self.patient.push_back(Patient { rank: None, delivery });
            return;
        }
        let rank = clock.now() + PATIENCE;
        match deadline.filter(|deadline| *deadline < rank) {
            None => {
                let rank = (!self.pressing.is_empty()).then_some(rank);
                self.patient.push_back(Patient { rank, delivery });
            }
            Some(deadline) => {
                // They have company now; that they may have been here for a while is forgotten.
                for patient in self.patient.iter_mut().rev().take_while(|patient| patient.rank.is_none()) {
                    patient.rank = Some(rank);
                }
                self.arrivals += 1;
                self.pressing.push(Reverse(Pressing { deadline, arrival: self.arrivals, delivery }));
            }
        }
    }

    /// Whether any may start. What the broker has taken back comes again, here or elsewhere, and is forgotten: started
    /// now, it would run twice.
    pub(super) fn is_waiting(&mut self) -> bool {
        while self.patient.front().is_some_and(|first| first.delivery.is_lost()) {
            self.patient.pop_front();
        }
        while self.pressing.peek().is_some_and(|Reverse(first)| first.delivery.is_lost()) {
            self.pressing.pop();
        }
        !self.patient.is_empty() || !self.pressing.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.patient.len() + self.pressing.len()
    }

    /// The next to start.
    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let is_pressing = self.pressing.peek().is_some_and(|Reverse(pressing)| {
            let rank = self.patient.front().and_then(|patient| patient.rank);
            rank.is_none_or(|rank| pressing.deadline <= rank)
        });
        match is_pressing {
            true => self.pressing.pop().map(|Reverse(pressing)| pressing.delivery),
            false => self.patient.pop_front().map(|patient| patient.delivery),
        }
    }

    /// Those that came before `then`, in no order.
    pub(super) fn take_older(&mut self, then: Instant) -> Vec<Delivery> {
        let is_older = |delivery: &Delivery| delivery.arrived.is_some_and(|arrived| arrived < then);
        let (old, young) = self.pressing.drain().partition(|Reverse(pressing)| is_older(&pressing.delivery));
        self.pressing = young;
        let old: BinaryHeap<Reverse<Pressing>> = old;
        let mut older: Vec<Delivery> = old.into_iter().map(|Reverse(pressing)| pressing.delivery).collect();
        while self.patient.front().is_some_and(|first| is_older(&first.delivery)) {
            older.extend(self.patient.pop_front().map(|patient| patient.delivery));
        }
        older
    }

    /// All of them, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Delivery> {
        let patient = self.patient.drain(..).map(|patient| patient.delivery);
        patient.chain(self.pressing.drain().map(|Reverse(pressing)| pressing.delivery))
    }
}

impl Ord for Pressing {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.deadline, self.arrival).cmp(&(other.deadline, other.arrival))
    }
}

impl PartialOrd for Pressing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pressing {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pressing {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::Message;
    use crate::transport::Settle;
    use crate::transport::Settlement;

    struct Nowhere;

    impl Settle for Nowhere {
        fn settle(&self, _: u64, _: Settlement) {}

        fn is_lost(&self) -> bool {
            false
        }
    }

    /// When it arrives and how long after that its deadline is, if it has one, in seconds.
    type Task = (u64, Option<u64>);

    const NONE: Option<u64> = None;

    /// In what order these start.
    async fn order(tasks: &[Task]) -> Vec<usize> {
        let (clock, mut ready) = (Clock::tokio(), Ready::default());
        let (start, begun) = (tokio::time::Instant::now(), clock.now());
        for (number, (arrival, deadline)) in tasks.iter().enumerate() {
            tokio::time::sleep_until(start + Duration::from_secs(*arrival)).await;
            let mut message = Message { id: Some(number.to_string()), ..Message::default() };
            if let Some(deadline) = deadline {
                let deadline = begun + Duration::from_secs(arrival + deadline);
                message.headers.insert("taskhare-deadline", deadline);
            }
            ready.push(Delivery::new(message, 1, Arc::new(Nowhere)), clock);
        }
        let mut order = Vec::new();
        while ready.is_waiting() {
            order.push(ready.pop().unwrap().message.id.clone().unwrap().parse().unwrap());
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_starts_first_and_none_starves() {
        let table: [(&[Task], &[usize]); 10] = [
            (&[], &[]),
            (&[(0, NONE), (0, NONE), (0, NONE)], &[0, 1, 2]),
            (&[(0, Some(30)), (0, Some(10)), (0, Some(20))], &[1, 2, 0]),
            (&[(0, Some(10)), (0, Some(10)), (0, Some(10))], &[0, 1, 2]),
            (&[(0, NONE), (0, Some(10))], &[1, 0]),
            // Distant deadlines rank by arrival, as none.
            (&[(0, NONE), (1, Some(3600)), (2, NONE), (3, Some(600)), (4, Some(5))], &[4, 0, 1, 2, 3]),
            // A minute after the first comparison a patient one is overtaken no more.
            (&[(0, NONE), (0, Some(50)), (20, Some(50)), (70, Some(1))], &[1, 0, 2, 3]),
            (&[(0, NONE), (59, Some(30)), (100, Some(30))], &[1, 0, 2]),
            (&[(0, NONE), (0, Some(3600)), (0, Some(50)), (70, Some(1))], &[2, 0, 1, 3]),
            // One that has passed is the first: so that it is known to be late.
            (&[(0, NONE), (0, Some(30)), (0, Some(0))], &[2, 1, 0]),
        ];
        for (tasks, expected) in table {
            assert_eq!(order(tasks).await, expected, "{tasks:?}");
        }
    }
}
