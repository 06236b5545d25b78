//! [`Lane`]: which of a queue's three levels a task waits in, and in what proportion they are drained.
//!
//! Lanes are separate queues on the broker because priorities inside a queue mean three different things in RabbitMQ
//! 3.10 (none on quorum queues), 4.0 (two classes) and 4.3 (32 strict ones).

use std::fmt;
use std::time::Duration;

/// How much a task matters beside the others of its queue. [`Normal`](Self::Normal) by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Overtakes everything else.
    Urgent,
    /// The usual.
    #[default]
    Normal,
    /// When there is room; it still moves while there is none.
    Low,
}

impl Priority {
    /// As it is written on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        Lane::of(self).as_str()
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Urgent, Self::Normal, Self::Low].into_iter().find(|priority| priority.as_str() == text)
    }
}

/// One priority level of a queue, and one queue on the broker. A task's [`Priority`] chooses it, or its deadline, if that
/// is near: see [`urgent_within`](crate::BrokerBuilder::urgent_within).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Overtakes the others.
    Urgent,
    /// The usual.
    Normal,
    /// When there is room.
    Low,
}

impl Lane {
    /// Most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Low];

    /// The lane for a priority.
    pub(crate) fn of(priority: Priority) -> Self {
        match priority {
            Priority::Urgent => Self::Urgent,
            Priority::Normal => Self::Normal,
            Priority::Low => Self::Low,
        }
    }

    /// The lane for a task of that priority whose deadline, if any, is `left` after it may start.
    pub(crate) fn choose(priority: Priority, left: Option<Duration>, urgent_within: Duration) -> Self {
        match left {
            Some(left) if left < urgent_within => Self::Urgent,
            _ => Self::of(priority),
        }
    }

    /// The inverse of [`as_str`](Self::as_str).
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text)
    }

    /// As it is written in the names of queues.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Chooses the lane to take the next task from: smooth weighted round robin over the lanes that have one, or strictly
/// the most urgent of them.
///
/// By the weights 16, 4, 1 and while all three have work, of 21 tasks 16 are urgent, 4 normal and 1 low, evenly spread;
/// an empty lane's share goes to the others. So a lane with work is served at least once in as many tasks as the
/// weights add up to, and none is starved.
#[derive(Clone, Debug)]
pub(crate) struct Picker {
    /// `None`: strictly.
    weights: Option<[i32; 3]>,
    credit: [i32; 3],
}

impl Default for Picker {
    fn default() -> Self {
        Self::weighted([16, 4, 1])
    }
}

impl Picker {
    /// By these weights, each taken as at least 1.
    pub(crate) fn weighted(weights: [u16; 3]) -> Self {
        Self { weights: Some(weights.map(|weight| i32::from(weight.max(1)))), credit: [0; 3] }
    }

    /// A lane is served only while all more urgent ones are empty.
    pub(crate) fn strict() -> Self {
        Self { weights: None, credit: [0; 3] }
    }

    /// The index in [`Lane::ALL`] of the next lane, among those with `waiting` set.
    pub(crate) fn pick(&mut self, waiting: [bool; 3]) -> Option<usize> {
        let Some(weights) = self.weights else {
            return waiting.iter().position(|is_waiting| *is_waiting);
        };
        let mut total = 0;
        let mut best = None;
        for lane in (0..3).filter(|&lane| waiting[lane]) {
            total += weights[lane];
            self.credit[lane] += weights[lane];
            if best.is_none_or(|best: usize| self.credit[lane] > self.credit[best]) {
                best = Some(lane);
            }
        }
        let best = best?;
        self.credit[best] -= total;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(mut picker: Picker, waiting: [bool; 3]) -> [usize; 3] {
        let mut served = [0; 3];
        for _ in 0..210 {
            served[picker.pick(waiting).unwrap()] += 1;
        }
        served
    }

    #[test]
    fn lanes_are_drained_by_weight_and_an_empty_lane_gives_its_share_away() {
        for (waiting, expected) in [
            ([true, true, true], [160, 40, 10]),
            ([true, true, false], [168, 42, 0]),
            ([false, true, true], [0, 168, 42]),
            ([false, false, true], [0, 0, 210]),
        ] {
            assert_eq!(served(Picker::default(), waiting), expected, "{waiting:?}");
        }
        assert_eq!(Picker::default().pick([false; 3]), None);
    }

    #[test]
    fn other_weights_are_other_shares_and_none_is_nothing() {
        for (weights, expected) in
            [([1, 1, 1], [70, 70, 70]), ([4, 2, 1], [120, 60, 30]), ([0, 0, 5], [30, 30, 150])]
        {
            assert_eq!(served(Picker::weighted(weights), [true; 3]), expected, "{weights:?}");
        }
    }

    #[test]
    fn strictly_the_most_urgent_lane_with_work_is_served() {
        for (waiting, expected) in [
            ([true, true, true], [210, 0, 0]),
            ([false, true, true], [0, 210, 0]),
            ([false, false, true], [0, 0, 210]),
        ] {
            assert_eq!(served(Picker::strict(), waiting), expected, "{waiting:?}");
        }
        assert_eq!(Picker::strict().pick([false; 3]), None);
    }

    #[test]
    fn a_lane_with_work_waits_for_fewer_others_than_the_weights_add_up_to() {
        for weights in [[16, 4, 1], [1, 1, 1], [7, 5, 2], [100, 10, 1], [1, 4, 16], [1000, 1, 1]] {
            let mut picker = Picker::weighted(weights);
            // Whatever happened before …
            for turn in 0..1000 {
                picker.pick([turn % 3 == 0, turn % 2 == 0, turn % 7 == 0]);
            }
            // … each lane comes within one round of the weights' sum.
            let round: u16 = weights.iter().sum();
            let mut since = [0; 3];
            for _ in 0..5000 {
                let picked = picker.pick([true; 3]).unwrap();
                for (lane, since) in since.iter_mut().enumerate() {
                    *since = if lane == picked { 0 } else { *since + 1 };
                    assert!(*since < round, "{weights:?}: lane {lane} waited for {since} others");
                }
            }
        }
    }

    #[test]
    fn priority_and_a_near_deadline_choose_the_lane() {
        let s = Duration::from_secs;
        for (priority, left, within, expected) in [
            (Priority::Normal, None, s(10), Lane::Normal),
            (Priority::Low, Some(s(11)), s(10), Lane::Low),
            (Priority::Low, Some(s(10)), s(10), Lane::Low),
            (Priority::Low, Some(s(9)), s(10), Lane::Urgent),
            (Priority::Urgent, Some(s(99)), s(10), Lane::Urgent),
            (Priority::Low, Some(s(0)), s(0), Lane::Low),
        ] {
            assert_eq!(Lane::choose(priority, left, within), expected, "{priority:?} {left:?}");
        }
    }

    #[test]
    fn a_priority_is_read_back_as_written() {
        for priority in [Priority::Urgent, Priority::Normal, Priority::Low] {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::parse("high"), None);
    }
}
