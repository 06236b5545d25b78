//! [`Sequences`]: what was read of each process, so that nothing counts twice and no gap stays unseen. Pure.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::Stamp;

/// The last message of each process, of the 10,000 processes that were heard of first most recently.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    last: HashMap<Arc<str>, u64>,
    /// In the order in which they were first heard of.
    order: VecDeque<Arc<str>>,
}

/// What a message is after those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The next one, after so many that are missing.
    Next(u64),
    /// It was read before: its writer did not hear that it was stored, and sent it again.
    Known,
}

impl Sequences {
    const LIMIT: usize = 10_000;

    pub(super) fn place(&mut self, stamp: &Stamp) -> Place {
        if let Some(last) = self.last.get_mut(&stamp.source) {
            if stamp.sequence <= *last {
                return Place::Known;
            }
            let missing = stamp.sequence - *last - 1;
            *last = stamp.sequence;
            return Place::Next(missing);
        }
        if self.order.len() == Self::LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.order.push_back(stamp.source.clone());
        self.last.insert(stamp.source.clone(), stamp.sequence);
        // What it wrote before is not asked for, or gone.
        Place::Next(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(source: &str, sequence: u64) -> Stamp {
        Stamp { source: source.into(), sequence }
    }

    #[test]
    fn what_comes_again_is_known_and_what_is_missing_is_counted() {
        let mut sequences = Sequences::default();
        for (source, sequence, expected) in [
            ("a", 7, Place::Next(0)),
            ("a", 8, Place::Next(0)),
            ("a", 8, Place::Known),
            ("b", 1, Place::Next(0)),
            ("a", 12, Place::Next(3)),
            ("a", 9, Place::Known),
            ("b", 2, Place::Next(0)),
        ] {
            assert_eq!(sequences.place(&stamp(source, sequence)), expected, "{source} {sequence}");
        }
    }

    #[test]
    fn only_so_many_processes_are_remembered() {
        let mut sequences = Sequences::default();
        for process in 0..=Sequences::LIMIT {
            sequences.place(&stamp(&process.to_string(), 5));
        }
        assert_eq!(sequences.last.len(), Sequences::LIMIT);
        assert_eq!(sequences.place(&stamp("0", 5)), Place::Next(0), "the first is forgotten");
        assert_eq!(sequences.place(&stamp("2", 5)), Place::Known);
    }
}
