//! [`Held`]: deliveries that are not due yet. They take no slot, and nothing waits behind them.

use std::cmp::Ordering;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

use crate::clock::Clock;
use crate::envelope;
use crate::transport::Delivery;

/// What is to be held longer than this goes back to the delay wheel: what is held counts against the prefetch and
/// RabbitMQ's consumer timeout. The wheel leaves at most a fifth of it.
const LONGEST_HOLD: Duration = Duration::from_secs(1);

/// How many of one lane are held whose time is not theirs but that of a limit.
const MOST_DEFERRED: usize = 1024;

/// What to do with a delivery that has just arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may start.
    Now,
    /// It may start at that time, since the Unix epoch.
    At(Duration),
    /// Not for long, so it is to wait elsewhere.
    TooEarly,
}

impl Turn {
    /// That of `delivery` at `now`.
    pub(super) fn of(delivery: &Delivery, now: impl FnOnce() -> Duration) -> Self {
        match envelope::due(&delivery.message) {
            None => Self::Now,
            Some((due, hold)) => turn(due, hold, now()),
        }
    }
}

/// `due` is by the clock of whoever set it, `arrival` by ours. Should ours be behind, then `hold` after its arrival it
/// is due all the same, for the wait until there was the broker's to measure. Times are since the Unix epoch.
fn turn(due: Duration, hold: Option<Duration>, arrival: Duration) -> Turn {
    let start = hold.map_or(due, |hold| due.min(arrival.saturating_add(hold)));
    match start.checked_sub(arrival) {
        None | Some(Duration::ZERO) => Turn::Now,
        Some(wait) if wait > LONGEST_HOLD => Turn::TooEarly,
        Some(_) => Turn::At(start),
    }
}

/// Deliveries by the time when they may start: by a clock that nobody sets. They are here for a second at most, and
/// the time of day may leap by an hour meanwhile.
pub(super) struct Held {
    heap: BinaryHeap<Reverse<Entry>>,
    /// How many there are of each lane.
    count: [usize; 3],
    timer: Option<Pin<Box<Sleep>>>,
    clock: Clock,
}

struct Entry {
    start: Instant,
    lane: usize,
    delivery: Delivery,
}

impl Held {
    pub(super) fn new(clock: Clock) -> Self {
        Self { heap: BinaryHeap::new(), count: [0; 3], timer: None, clock }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// How many are of that lane.
    pub(super) fn count(&self, lane: usize) -> usize {
        self.count[lane]
    }

    /// Whether one more of that lane, which could start but for a limit, is to be held until then, since the Unix
    /// epoch.
    pub(super) fn has_room(&self, lane: usize, until: Duration) -> bool {
        self.count[lane] < MOST_DEFERRED && until.saturating_sub(self.clock.now()) <= LONGEST_HOLD
    }

    /// Keeps a delivery until `start`, since the Unix epoch, and no longer than it may.
    pub(super) fn hold(&mut self, start: Duration, lane: usize, delivery: Delivery) {
        let wait = start.saturating_sub(self.clock.now()).min(LONGEST_HOLD);
        let start = Instant::now() + wait;
        self.count[lane] += 1;
        self.heap.push(Reverse(Entry { start, lane, delivery }));
    }

    /// The next one that may start, and its lane. If there is none, the task is woken when there may be.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Option<(usize, Delivery)> {
        loop {
            let start = self.heap.peek()?.0.start;
            if start <= Instant::now() {
                let Reverse(Entry { lane, delivery, .. }) = self.heap.pop()?;
                self.count[lane] -= 1;
                return Some((lane, delivery));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(start)));
            timer.as_mut().reset(start);
            if timer.as_mut().poll(cx).is_pending() {
                return None;
            }
        }
    }

    /// All of them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Delivery> {
        self.count = [0; 3];
        self.heap.drain().map(|Reverse(entry)| entry.delivery)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.start.cmp(&other.start)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// How many deliveries one lane may bring, so that those that are held keep no others away, nor those that have ended
/// and wait for their acknowledgement.
///
/// A subscription whose prefetch is set anew counts from there: so many *more* may come.
#[derive(Debug)]
pub(super) struct Room {
    current: u16,
    /// How many were held when it was set.
    before: usize,
}

impl Room {
    /// The most that may be held of one lane before its room stops growing.
    pub(super) const MOST: u16 = 4096;

    pub(super) fn new(prefetch: u16) -> Self {
        Self { current: prefetch, before: 0 }
    }

    /// The prefetch to set, if it has to change now that so many are held, and `least` is to be there for others.
    pub(super) fn adjust(&mut self, held: usize, least: u16) -> Option<u16> {
        self.before = self.before.min(held);
        let is_crowded = held.saturating_sub(self.before) * 2 >= usize::from(self.current).max(2);
        if is_crowded && held < usize::from(Self::MOST) {
            self.current = self.current.saturating_mul(2).min(Self::MOST).max(least);
        } else if self.current < least || held == 0 && self.current != least {
            self.current = least;
        } else {
            return None;
        }
        self.before = held;
        Some(self.current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn due_time_hold_and_arrival_decide_the_turn() {
        let day = 86_400_000;
        for (due, hold, arrival, expected, why) in [
            (1000, Some(160), 840, Turn::At(ms(1000)), "as planned"),
            (1000, Some(160), 860, Turn::At(ms(1000)), "the wheel was late"),
            (1000, Some(160), 1000, Turn::Now, "the wheel was very late"),
            (1000, Some(160), 5000, Turn::Now, "nobody was there"),
            (1000, Some(160), 800, Turn::At(ms(960)), "our clock is 40 ms behind"),
            (day, Some(160), 0, Turn::At(ms(160)), "our clock is a day behind"),
            (1000, Some(160), 900, Turn::At(ms(1000)), "our clock is 60 ms ahead"),
            (1000, Some(160), day, Turn::Now, "our clock is a day ahead"),
            (1000, None, 100, Turn::At(ms(1000)), "not through the wheel"),
            (1000, None, 0, Turn::At(ms(1000)), "held for a second"),
            (1001, None, 0, Turn::TooEarly, "held for longer"),
            (day, Some(day), 0, Turn::TooEarly, "a delay beyond the wheel"),
            (day, Some(u64::MAX), day - 10, Turn::At(ms(day)), "nonsense"),
        ] {
            assert_eq!(turn(ms(due), hold.map(ms), ms(arrival)), expected, "{why}");
        }
    }

    #[test]
    fn room_doubles_while_half_of_it_is_held_and_shrinks_when_nothing_is() {
        for (usual, course) in [
            (
                32,
                vec![
                    (0, None),
                    (15, None),
                    (16, Some(64)),
                    (40, None),
                    (48, Some(128)),
                    (1, None),
                    (0, Some(32)),
                ],
            ),
            (1, vec![(0, None), (1, Some(2)), (2, Some(4)), (3, None), (4, Some(8)), (0, Some(1))]),
            (3000, vec![(1500, Some(4096)), (3547, None), (3548, Some(4096)), (4095, None), (9000, None)]),
            (9000, vec![(4499, None), (4500, None), (0, None)]),
        ] {
            let mut room = Room::new(usual);
            for (held, expected) in course {
                assert_eq!(room.adjust(held, usual), expected, "{held} held of {usual}: {room:?}");
            }
        }
    }

    #[test]
    fn room_is_as_wide_as_it_is_to_be_at_least() {
        for (usual, course) in [
            (32, vec![(0, 32, None), (0, 128, Some(128)), (0, 128, None), (0, 32, Some(32))]),
            (1, vec![(0, 4, Some(4)), (2, 4, Some(8)), (2, 1, None), (0, 1, Some(1))]),
            (1, vec![(2, 1, Some(2)), (2, 4, Some(4)), (0, 4, None)]),
            (3000, vec![(0, 4096, Some(4096)), (2048, 4096, Some(4096)), (0, 3000, Some(3000))]),
            (9000, vec![(0, 9000, None)]),
        ] {
            let mut room = Room::new(usual);
            for (held, least, expected) in course {
                assert_eq!(room.adjust(held, least), expected, "{held} held of {least}: {room:?}");
            }
        }
    }
}
